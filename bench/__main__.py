"""`python -m bench NAME`: run one benchmark, or all of them, and print their last lines together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NOT_BENCHMARKS = {"__init__", "__main__", "common", "filling", "issuance", "tsa"}


LONG = {"issuance-10m"}
"""Takes the better part of an hour, and the disk: by its name alone."""


def names() -> list[str]:
    return sorted(p.stem.replace("_", "-") for p in HERE.glob("*.py") if p.stem not in NOT_BENCHMARKS)


def main(wanted: str) -> int:
    chosen = [one for one in names() if one not in LONG] if wanted == "all" else [wanted]
    if not set(chosen) <= set(names()):
        print(f"no benchmark named {wanted!r}; there are: {', '.join(names())}", file=sys.stderr)
        return 2
    lines, failed = [], 0
    for name in chosen:
        module = f"bench.{name.replace('-', '_')}"
        with subprocess.Popen([sys.executable, "-m", module], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            last = ""
            for line in process.stdout:
                print(line, end="", flush=True)
                last = line.strip() or last
        if process.returncode:
            print(f"{name}: failed with exit code {process.returncode}", file=sys.stderr)
            failed = 1
        else:
            lines.append(last)
    if len(chosen) > 1:
        print("\nsummary")
        print("\n".join(lines))
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "all"))
