"""One server per test process, one database per test."""

from __future__ import annotations

import pytest

import pg


@pytest.fixture(scope="session")
def server():
    with pg.temporary_postgres() as running:
        yield running


@pytest.fixture
def database(server):
    with server.database() as fresh:
        yield fresh


@pytest.fixture(scope="module")
def own_server():
    """A server that the module's tests may stop and kill; each leaves it running."""
    with pg.temporary_postgres() as running:
        yield running


@pytest.fixture
def own_database(own_server):
    with own_server.database() as fresh:
        yield fresh
