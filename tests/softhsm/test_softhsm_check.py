"""`chancery hsm check` on a real SoftHSM2: each failure names its cause and the next step."""

from __future__ import annotations

import json

import pytest
from softhsmkit import KINDS_TRIED, LIBRARY, PIN, Prepared
from typer.testing import CliRunner

from chancery.cli.hsm import app
from chancery.errors import OperatorError
from chancery.pkcs11 import open_token
from chancery.pkcs11.check import check_token

pytestmark = pytest.mark.softhsm


@pytest.fixture
def pin_file(tmp_path):
    path = tmp_path / "pin"
    path.write_bytes(PIN + b"\n")
    path.chmod(0o600)
    return path


def arguments(prepared: Prepared, pin_file, **changed):
    options = {
        "--module": LIBRARY,
        "--label": prepared.label,
        "--pin-file": str(pin_file),
        "--softhsm-conf": str(prepared.conf),
    } | changed
    return ["check", *(text for pair in options.items() for text in pair)]


def run(*args):
    return CliRunner().invoke(app, list(args), env={"COLUMNS": "200"})


def test_a_token_in_order_says_everything_and_exits_0(shared, pin_file):
    done = run(*arguments(shared, pin_file))
    assert 0 == done.exit_code, done.output
    for word in (LIBRARY, "SoftHSM", "slot", "shared", "PIN       set; logged in", "CKM_ECDSA", "in order"):
        assert word in done.output
    for kind in KINDS_TRIED:
        assert kind in done.output
    assert PIN.decode() not in done.output


def test_as_json_it_says_the_same(shared, pin_file):
    done = run(*arguments(shared, pin_file), "--json")
    report = json.loads(done.output)
    assert (0, True, "set", []) == (done.exit_code, report["ok"], report["pin_state"], report["problems"])
    assert dict.fromkeys(KINDS_TRIED, False) == {key["label"]: key["extractable"] for key in report["keys"]}
    signed = {key["label"]: key["signs"] for key in report["keys"]}
    assert ["sha256WithRSAEncryption", "rsassaPss-sha256"] == signed["rsa-2048"]
    assert ["ecdsa-with-SHA384"] == signed["ec-p384"]
    assert ["Ed25519"] == signed["ed25519"]


@pytest.mark.parametrize(
    ("changed", "cause", "next_step"),
    [
        ({"--module": "/nowhere/lib.so"}, "no PKCS#11 library at /nowhere/lib.so", "install"),
        ({"--module": "/usr/bin/env"}, "/usr/bin/env cannot be loaded", "shared library"),
        ({"--label": "absent"}, "no token is labelled `absent`; tokens seen: `shared`", "correct the label"),
        (
            {"--softhsm-conf": "/nowhere/softhsm2.conf"},
            "/nowhere/softhsm2.conf is missing",
            "softhsm2.conf of this",
        ),
        ({"--pin-file": "/nowhere/pin"}, "PIN file /nowhere/pin cannot be read", "check pin_file"),
    ],
)
def test_each_failure_names_its_cause_and_the_next_step(shared, pin_file, changed, cause, next_step):
    done = run(*arguments(shared, pin_file, **changed))
    assert 1 == done.exit_code
    assert cause in done.output
    assert next_step in done.output
    assert "Traceback" not in done.output


def test_a_library_that_is_not_pkcs11_is_called_that(shared, pin_file):
    libc = "/lib/x86_64-linux-gnu/libm.so.6"
    report = json.loads(run(*arguments(shared, pin_file, **{"--module": libc}), "--json").output)
    assert f"{libc} is a library but not a PKCS#11 one" in report["problems"][0]["what"]


def test_a_wrong_pin_is_named_with_token_and_slot(shared, pin_file):
    pin_file.write_bytes(b"wrong-pin")
    done = run(*arguments(shared, pin_file))
    assert 1 == done.exit_code
    assert "PIN of token `shared` (slot" in done.output
    assert "not logged in" in done.output
    pin_file.write_bytes(PIN)
    again = run(*arguments(shared, pin_file))
    assert "a wrong PIN was tried since the last login" in again.output
    assert 0 == again.exit_code


def test_a_token_directory_that_is_gone_is_named(scratch, pin_file):
    (scratch.directory / "tokens").rename(scratch.directory / "elsewhere")
    done = run(*arguments(scratch, pin_file))
    assert 1 == done.exit_code
    assert "does not start" in done.output
    assert str(scratch.conf) in done.output


def test_a_key_the_configuration_names_is_missed(shared):
    report = check_token(shared.settings(), ["ec-p256", "delegate"])
    assert not report.ok
    assert ["delegate" in problem.what for problem in report.problems] == [True]
    assert len(KINDS_TRIED) == len(report.keys)


CONFIG = """
process = "tsa"
deployment = "laptop"
instance = 1
time_source = "trust-system-clock"

[[units]]
key_label = "{key}"
policies = ["1.3.6.1.4.1.99999.1"]

[listen]
port = 8081

[database]
host = "/nowhere"
user = "chancery_tsa"

[token]
module = "{library}"
label = "{label}"
pin_file = "{pin}"
softhsm_conf = "{conf}"
"""


# R25: of the row `tsa`, `tsa-2` … the first may be gone.
@pytest.mark.parametrize(("key", "code"), [("tsu", 0), ("tsa", 0), ("ts", 1), ("missing", 1)])
def test_a_process_configuration_says_which_token_and_which_keys(scratch, pin_file, tmp_path, key, code):
    with open_token(scratch.settings()) as token:
        for label in ("tsu", "tsa-2"):
            if label not in {info.label for info in token.keys()}:  # noqa: SIM118 - a token is no mapping
                token.generate_key(label, "ec-p256")
    config = tmp_path / "tsa.toml"
    config.write_text(
        CONFIG.format(key=key, library=LIBRARY, label=scratch.label, pin=pin_file, conf=scratch.conf)
    )
    done = run("check", "--config", str(config))
    assert code == done.exit_code, done.output
    assert ("which the configuration names" in done.output) == bool(code)


def test_options_that_contradict_or_are_missing_are_refused(tmp_path):
    for options in (["check"], ["check", "--config", "x.toml", "--label", "y"], ["check", "--module", "/x"]):
        failed = run(*options).exception
        assert isinstance(failed, OperatorError)
        assert "give" in failed.next_step
