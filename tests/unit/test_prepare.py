"""`scripts/prepare` where something is missing: it says exactly what to run, and makes nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("sh", "dirname", "id")
RUN = {"openssl": "openssl", "curl": "curl", "softhsm2-util": "softhsm2"}
TEST = {
    **RUN,
    "pkcs11-tool": "opensc",
    "nginx": "nginx-light",
    "wrk": "wrk",
    "chromium": "chromium",
    "promtool": "prometheus",
    "nft": "nftables",
    "ss": "iproute2",
    "systemd-analyze": "systemd",
    "stunnel4": "stunnel4",
    "chronyd": "chrony",
    "pg_ctlcluster": "postgresql",
    "setpriv": "util-linux",
    "p11-kit": "p11-kit p11-kit-modules",
}


def prepare(tmp_path, purpose: str, without: str):
    """Run a copy on a machine without apt-get and without one program."""
    home = tmp_path / "checkout"
    (home / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "prepare", home / "scripts" / "prepare")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in {*TOOLS, *TEST, "python3"} - {without}:
        (programs / name).symlink_to(shutil.which(name, path="/usr/bin:/bin:/usr/sbin") or "/bin/true")
    done = subprocess.run(
        [home / "scripts" / "prepare", purpose],
        env={"PATH": str(programs)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done, home


@pytest.mark.parametrize(
    ("purpose", "program", "package"),
    [("run", *one) for one in RUN.items()] + [("test", *one) for one in TEST.items()],
)
def test_a_missing_program_is_named_by_its_package_with_the_command(tmp_path, purpose, program, package):
    done, home = prepare(tmp_path, purpose, program)
    assert 1 == done.returncode
    assert f"missing: {package}\n" in done.stderr
    assert f"apt-get update && apt-get install -y {package}\n" in done.stderr
    assert ["scripts"] == [path.name for path in home.iterdir()]


def test_a_missing_python_is_named(tmp_path):
    done, _ = prepare(tmp_path, "run", "python3")
    assert 1 == done.returncode
    assert "apt-get install -y python3 python3-venv\n" in done.stderr
