"""
What the OCSP responder still signs when far more clients ask than it lets wait, what memory that takes, and how
soon it is as before.

A nonce in every request, so that each needs a signature. Clients that hear tryLater ask again at once: they offer
many times what can be done. The limit is what the same server signs when nobody is refused.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from cryptography import x509

from bench import common
from bench.ocsp_fresh_p256 import CERTIFICATES, check, head, requests

CALM, CROWD = 64, 1800
ROUNDS, SECONDS = 3, 4
# tryLater has a body of five octets. Answers alone are counted: wrk notes one who waits long again and again.
_REFUSALS = """
threads, refused = {}, 0
setup = function(thread) table.insert(threads, thread) end
response = function(status, headers, body)
    if status ~= 200 or #body < 10 then refused = refused + 1 end
end
done = function(summary, latency)
    local bad = 0
    for _, thread in ipairs(threads) do bad = bad + thread:get("refused") end
    io.write(string.format("RESULT %d %d %d %d %d\\n", summary.requests, summary.duration, bad,
        latency:percentile(50), latency:percentile(99)))
end
"""


def resident(pid: int) -> float:
    """Return the most memory (MiB) that a process has had at once."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def measure(port: int, pid: int, lua: Path) -> str:
    """Interleave calm, flood and calm again, and return the last line."""
    common.load(port, lua, 1, CALM)
    memory = resident(pid)
    calm, floods, after = [], [], []
    for number in range(ROUNDS):
        calm.append(common.load(port, lua, SECONDS, CALM).rate)
        floods.append(common.flood(port, lua, SECONDS, CROWD))
        after.append(common.load(port, lua, 1, CALM).rate)
        words = f"calm {calm[-1]:,.0f} answers/s, flooded {floods[-1][0]:,.0f} and {floods[-1][1]:,.0f} refused"
        print(f"round {number + 1}: {words}, then {after[-1]:,.0f}", flush=True)
    granted, refused, p99 = (statistics.median(one) for one in zip(*floods, strict=True))
    limit = statistics.median(calm)
    return common.result(
        "ocsp-overload",
        granted,
        "answers/s",
        limit,
        f"answers/s of the same server with {CALM} clients",
        durable=True,
        clients=CROWD,
        refused_per_s=round(refused, 1),
        p99_ms=round(p99, 1),
        at_once_afterwards=round(statistics.median(after) / limit, 3),
        memory_mib_before=round(memory),
        memory_mib_most=round(resident(pid)),
    )


def main() -> None:
    """Bring everything up, measure, and print one JSON object as the last line."""
    common.need("wrk")
    common.pin(common.LOAD_CORE)
    with common.suite() as running, tempfile.TemporaryDirectory() as name:
        issuer = x509.load_pem_x509_certificate((running.pki / "issuing.pem").read_bytes())
        bodies = requests(issuer, common.issue(running, CERTIFICATES))
        check(running.suite.ocsp_url, bodies[0])
        lua = common.script(Path(name), head(bodies), bodies)
        lua.write_text(lua.read_text() + _REFUSALS)
        pid = common.spread(running, "ocsp")
        last = measure(running.suite.ocsp_port, pid, lua)
    print(last)


if __name__ == "__main__":
    main()
