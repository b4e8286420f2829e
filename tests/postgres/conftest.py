"""One server per test process; an emptied or a fresh database per test."""

from __future__ import annotations

import pytest

import pg


@pytest.fixture(scope="session")
def server():
    with pg.temporary_postgres() as running:
        yield running


@pytest.fixture(scope="session")
def _shared(server):
    with server.database() as shared:
        yield shared


@pytest.fixture
def database(_shared):
    """A database without a row, for tests that leave the schema as it is."""
    _shared.empty()
    return _shared


@pytest.fixture
def fresh_database(server):
    """A database of its own, for tests that alter the schema."""
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
