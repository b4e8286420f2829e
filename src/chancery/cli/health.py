"""Whether each process of one machine is healthy, asked from outside as a monitor would."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Callable

import httpx

from chancery.cli import supervisor
from chancery.cli.layout import PROCESSES, Layout
from chancery.cli.suite import Suite
from chancery.errors import OperatorError
from chancery.offline.media import read_file

STALE_SECONDS = 10.0
MAX_HEALTH = 16 * 1024
_OCSP_WARNINGS = {
    "delegates": "no answers for {issuer}: {detail}",
    "waiting": "no delegate for {issuer} yet: {detail}",
    "ending": "the delegate of {issuer} ends {detail} and has no successor",
}


def wait(layout: Layout, suite: Suite, seconds: float, alive: Callable[[], bool]) -> None:
    """
    Return when every process is healthy; OperatorError says which is not and why.

    Raised after `seconds`, or as soon as the supervisor is not `alive` any more.
    """
    deadline = time.monotonic() + seconds
    while True:
        if not alive():
            raise OperatorError(f"the supervisor has ended: {last_words(layout)}", f"look at {layout.log}")
        answers = look(layout, suite)
        if not any(answers.values()):
            return
        if (name := _hopeless(layout)) is not None:
            raise OperatorError(f"{name} cannot run: {last_words(layout)}", f"look at {layout.log}")
        if time.monotonic() > deadline:
            sick = "; ".join(f"{name}: {answer}" for name, answer in answers.items() if answer)
            raise OperatorError(f"not healthy after {seconds:.0f} s: {sick}", f"look at {layout.log}")
        time.sleep(0.05)


def _hopeless(layout: Layout) -> str | None:
    """Return the name of a process that ended several times in a row, or that was given up at once."""
    found = supervisor.state(layout).get("processes")
    if not isinstance(found, dict):
        return None
    return next((name for name, one in found.items() if one.get("hopeless")), None)


def last_words(layout: Layout) -> str:
    """Return the last thing that a process complained of in the log, for whoever has to find out why it ended."""
    try:
        lines = layout.log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return "it wrote no log"
    complaints = [line.removeprefix("chancery: ") for line in lines if line.startswith("chancery: ")]
    return (complaints or lines or ["it wrote nothing"])[-1][-500:]


def look(layout: Layout, suite: Suite) -> dict[str, str | None]:
    """Return what is wrong with each process, None where nothing is."""
    if not supervisor.running(layout):
        return dict.fromkeys(PROCESSES, "the supervisor does not run")
    found = supervisor.state(layout).get("processes")
    known = found if isinstance(found, dict) else {}

    def ask(name: str, url: str) -> str | None:
        # Somebody else may answer on the port that it could not have.
        running = isinstance(one := known.get(name), dict) and one.get("pid")
        return _ask(url, layout) if running else "does not run"

    return {
        "worker": _worker(layout),
        "ca": ask("ca", f"{suite.ca_url}/healthz"),
        "ocsp": ask("ocsp", f"{suite.ocsp_url}/readyz"),
        "tsa": ask("tsa", suite.tsa_url.removesuffix("/tsa") + "/readyz"),
    }


def warnings(suite: Suite) -> list[str]:
    """Return what keeps the OCSP responder from answering for some issuers, or soon will, as it says itself."""
    with contextlib.suppress(httpx.HTTPError, OSError, ValueError):
        found = httpx.get(f"{suite.ocsp_url}/health", timeout=5.0, trust_env=False).json()
        if not isinstance(found, dict):
            return []
        return [
            f"OCSP: {what.format(issuer=issuer, detail=str(detail)[:200])}"
            for key, what in _OCSP_WARNINGS.items()
            if isinstance(one := found.get(key), dict)
            for issuer, detail in sorted(one.items())
        ]
    return []


def _ask(url: str, layout: Layout) -> str | None:
    try:
        verify: ssl.SSLContext | bool = True
        if url.startswith("https"):
            verify = ssl.create_default_context(cafile=str(layout.pki / "root.pem"))
        answer = httpx.get(url, timeout=5.0, verify=verify, trust_env=False)
    except (httpx.HTTPError, OSError) as error:
        return f"{url} does not answer: {error}"
    return None if answer.is_success else f"{url} answers {answer.status_code} {answer.text[:200]}"


def wait_worker(layout: Layout, seconds: float, alive: Callable[[], bool]) -> None:
    """Return when the worker is healthy; OperatorError after `seconds`, or once it is not `alive` any more."""
    deadline = time.monotonic() + seconds
    while (answer := _worker(layout)) is not None:
        if not alive():
            raise OperatorError(f"the worker has ended: {last_words(layout)}", f"look at {layout.log}")
        if time.monotonic() > deadline:
            raise OperatorError(
                f"the worker is not healthy after {seconds:.0f} s: {answer}", f"look at {layout.log}"
            )
        time.sleep(0.05)


def _worker(layout: Layout) -> str | None:
    """The worker listens on no socket: it writes a file while its loop turns."""
    file = layout.run / "worker" / "health"
    try:
        age = time.time() - file.lstat().st_mtime  # noqa: TID251 - file times
        # The worker's own file: it could be a pipe, or a link to what only we may read.
        pid, _, text = read_file(file, MAX_HEALTH).decode(errors="replace").strip().partition(" ")
    except FileNotFoundError:
        return "has not reported yet"
    except OSError as error:
        return f"is known to its own account and to root only: {file}: {error.strerror}"
    except OperatorError as error:
        return error.what
    found = supervisor.state(layout).get("processes")
    known = found.get("worker") if isinstance(found, dict) else None
    if not isinstance(known, dict) or str(known.get("pid")) != pid:
        return "has not reported since it was started"
    if age > STALE_SECONDS:
        return f"last reported {age:.0f} s ago"
    return None if text == "well" else text
