"""A real PostgreSQL for the modules that ask for one, and a database of its own for each test."""

from __future__ import annotations

import pytest

import pg


@pytest.fixture(scope="module")
def server():
    with pg.temporary_postgres() as running:
        yield running


@pytest.fixture
def database(server):
    with server.database() as fresh:
        yield fresh
