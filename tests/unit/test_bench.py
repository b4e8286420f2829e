"""What every benchmark prints last, and on which processors it measures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BENCHMARKS = {
    "crl-1m",
    "issuance-10m",
    "issuance-bulk-p256",
    "issuance-rest-p256",
    "issuance-rest-rsa2048",
    "issuing-cpu",
    "ocsp-fresh-p256",
    "ocsp-cached",
    "ocsp-overload",
    "revocation-cost",
    "tsa-overload",
    "tsa-p256",
    "tsa-peers",
    "tsa-rsa2048",
}


def python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    return done.stdout


def test_the_last_line_has_value_limit_and_ratio():
    call = "common.result('x', 50, 'a/s', 200, 'the token alone', durable=True, p99_ms=3)"
    found = json.loads(python(f"from bench import common; print({call})"))
    expected = {"name", "value", "unit", "limit", "limit_what", "ratio", "durable", "machine", "p99_ms"}
    assert expected == set(found)
    assert (50, 200, 0.25, True) == (found["value"], found["limit"], found["ratio"], found["durable"])


def test_every_benchmark_prints_it_under_its_own_name():
    assert BENCHMARKS == set(python("from bench.__main__ import names; print(*names())").split())
    for name in BENCHMARKS:
        text = (ROOT / "bench" / f"{name.replace('-', '_')}.py").read_text()
        assert re.search(rf'return common\.result\(\s+"{name}"', text), name


def test_a_process_of_a_pinned_one_means_the_same_processors():
    show = "from bench import common; print(common.SERVER_CORE, common.LOAD_CORE"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {show + ')'!r}], check=True)"
    one, other = python(f"{show}, flush=True); common.pin(common.LOAD_CORE); {child}").splitlines()
    assert one == other


def test_an_unknown_name_names_the_known_ones():
    done = subprocess.run(
        [sys.executable, "-m", "bench", "nothing"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert 2 == done.returncode
    assert all(name in done.stderr for name in BENCHMARKS)
