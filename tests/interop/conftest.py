"""One running suite for all of these tests; they change certificates, never its set-up."""

from __future__ import annotations

import pytest

from suite import bring_up, take_down


@pytest.fixture(scope="session")
def running():
    suite = bring_up()
    try:
        yield suite
    finally:
        take_down(suite)
