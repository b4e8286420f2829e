"""How the tests are spread over processes: a file stays together, and files that share a running suite, too."""

from __future__ import annotations

import hypothesis
from xdist.scheduler import LoadScopeScheduling

# The same examples in every run: a run says something about the change, not about luck.
hypothesis.settings.register_profile("fixed", derandomize=True, database=None)
hypothesis.settings.load_profile("fixed")

# The longest come first, so that the last process to finish has little left.
KILLS, RUNNING, CRASH = "tests/interop/test_interop_kills.py", "tests/interop/", "tests/crash/"
FIRST = (KILLS, RUNNING, CRASH, "tests/postgres/", "tests/softhsm/")


def _rank(nodeid: str) -> int:
    return next((rank for rank, prefix in enumerate(FIRST) if nodeid.startswith(prefix)), len(FIRST))


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: _rank(item.nodeid))


class ByRoom(LoadScopeScheduling):
    """Hands out whole files; those that share a server or a suite are one piece."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        shared = (folder for folder in (RUNNING, CRASH) if file.startswith(folder) and file != KILLS)
        return next(shared, file)


def pytest_xdist_make_scheduler(config, log):
    return ByRoom(config, log)
