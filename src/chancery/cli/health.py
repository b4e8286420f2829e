"""Whether each process of one machine is healthy, asked from outside as a monitor would."""

from __future__ import annotations

import ssl
import time

import httpx

from chancery.cli import supervisor
from chancery.cli.layout import PROCESSES, Layout
from chancery.cli.suite import Suite
from chancery.errors import OperatorError

STALE_SECONDS = 10.0


def wait(layout: Layout, suite: Suite, seconds: float) -> None:
    """Return when every process is healthy; after `seconds` raise OperatorError saying which is not and why."""
    deadline = time.monotonic() + seconds
    while True:
        answers = look(layout, suite)
        if not any(answers.values()):
            return
        if time.monotonic() > deadline:
            sick = "; ".join(f"{name}: {answer}" for name, answer in answers.items() if answer)
            raise OperatorError(f"not healthy after {seconds:.0f} s: {sick}", f"look at {layout.log}")
        time.sleep(0.05)


def look(layout: Layout, suite: Suite) -> dict[str, str | None]:
    """Return what is wrong with each process, None where nothing is."""
    if not supervisor.running(layout):
        return dict.fromkeys(PROCESSES, "the supervisor does not run")
    return {
        "worker": _worker(layout),
        "ca": _ask(f"{suite.ca_url}/health", layout),
        "ocsp": _ask(f"{suite.ocsp_url}/health", layout),
        "tsa": _ask(suite.tsa_url.removesuffix("/tsa") + "/health", layout),
    }


def _ask(url: str, layout: Layout) -> str | None:
    try:
        verify: ssl.SSLContext | bool = True
        if url.startswith("https"):
            verify = ssl.create_default_context(cafile=str(layout.pki / "root.pem"))
        answer = httpx.get(url, timeout=5.0, verify=verify, trust_env=False)
    except (httpx.HTTPError, OSError) as error:
        return f"{url} does not answer: {error}"
    return None if answer.is_success else f"{url} answers {answer.status_code} {answer.text[:200]}"


def _worker(layout: Layout) -> str | None:
    """The worker listens on no socket: it touches a file while its loops turn."""
    file = layout.run / "worker" / "health"
    try:
        pid, age = int(file.read_text().split()[0]), time.time() - file.stat().st_mtime  # noqa: TID251 - file times
    except (OSError, ValueError, IndexError):
        return "has not reported yet"
    found = supervisor.state(layout).get("processes")
    known = found.get("worker") if isinstance(found, dict) else None
    if not isinstance(known, dict) or known.get("pid") != pid:
        return "has not reported since it was started"
    return f"last reported {age:.0f} s ago" if age > STALE_SECONDS else None
