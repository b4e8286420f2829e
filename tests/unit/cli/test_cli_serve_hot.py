"""The bounds of a server fit into those of its process."""

from __future__ import annotations

import resource

import pytest

from chancery.cli import serve_hot
from chancery.web.hot import Limits


@pytest.mark.parametrize(
    ("hard", "servers", "connections"),
    [(1024, 1, 448), (1024, 2, 224), (100, 1, 1), (1 << 20, 2, 10_000), (-1, 1, 10_000)],
)
def test_connections_are_no_more_than_files_may_be_open(monkeypatch, hard, servers, connections):
    given = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: given.append(pair))
    found = serve_hot.fitting(Limits(), servers)
    assert (connections, [(hard, hard)]) == (found.max_connections, given)
    assert Limits().max_pipelined == found.max_pipelined
