"""The bounds of a server fit into those of its process."""

from __future__ import annotations

import resource

import pytest

from chancery.cli import serve_hot
from chancery.web.hot import Limits


@pytest.mark.parametrize(("hard", "connections"), [(1024, 448), (100, 1), (1 << 20, 10_000), (-1, 10_000)])
def test_connections_are_no_more_than_files_may_be_open(monkeypatch, hard, connections):
    given = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: given.append(pair))
    found = serve_hot.fitting(Limits())
    assert (connections, [(hard, hard)]) == (found.max_connections, given)
    assert Limits().max_pipelined == found.max_pipelined
