"""One site for all tests of the lab; they run in one process, in order."""

from __future__ import annotations

import pytest

from lab.building import Lab


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    site = Lab(tmp_path_factory.mktemp("lab")).up()
    yield site
    site.down()
