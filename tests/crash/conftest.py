"""One server, one token and one installation at rest for the crash tests; a copy of its database for each test."""

from __future__ import annotations

import pytest
from crash_world import World, good

import pg


@pytest.fixture(scope="session")
def world():
    with (
        pg.temporary_directory() as directory,
        pg.temporary_postgres(directory / "pg") as server,
        World(server, directory).started() as started,
    ):
        yield started


@pytest.fixture(scope="session")
def quiet(world):
    """An installation at rest: an officer, another certificate, a CRL."""
    with world.case() as case:
        case.found()
        first = [("officer", good()), ("victim", good())]
        case.submit(*first)
        case.work()
        [officer, _] = case.submit(*first)
        assert [] == case.problems()
        case.add_officer(officer.certificate)
        yield case


@pytest.fixture
def case(world, quiet):
    """A copy of it, for one test."""
    with world.case(quiet) as copy:
        yield copy


@pytest.fixture(scope="session")
def long_lived(world, quiet):
    """Another copy, for tests that do not mind what came before."""
    with world.case(quiet) as copy:
        yield copy
