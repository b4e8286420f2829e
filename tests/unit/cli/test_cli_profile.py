"""`chancery profile`: files are checked, shown, compared and copied without a CA; a profile is switched at one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from typer.testing import CliRunner

from chancery.cli import main
from chancery.ports import ProfileRecord, Role
from fakes import START
from unit.web.served import serving
from unit.web.world import make_csr

APP = main.command_line(None)
EXAMPLES = Path(__file__).parents[3] / "docs" / "profiles"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("served")) as found:
        for label, role in {"ada": Role.ADMINISTRATOR, "olga": Role.OFFICER}.items():
            found.enrol(label, role)
            text = f'url = "{found.url}"\ncertificate = "{label}.pem"\nkey = "{label}.key"\nca = "root.pem"\n'
            (found.directory / f"{label}.toml").write_text(text)
        yield found


def _run(*words: object, served=None, who: str = "olga"):
    client = "/nowhere/client.toml" if served is None else str(served.directory / f"{who}.toml")
    runner = CliRunner(env={"CHANCERY_CLIENT": client, "COLUMNS": "200"})
    return runner.invoke(APP, [str(word) for word in words])


def test_profiles_in_files_are_linted_each(tmp_path):
    bad = tmp_path / "bad.toml"
    bad.write_text((EXAMPLES / "device.toml").read_text().replace("duration", "durration"))
    done = _run("profile", "lint", EXAMPLES / "device.toml", bad, "--json")
    assert 1 == done.exit_code
    good, refused = json.loads(done.stdout)
    assert ("device", "good") == (good["name"], good["result"])
    assert "durration" in refused["result"]
    assert 0 == _run("profile", "lint", EXAMPLES / "device.toml").exit_code


def test_a_profile_is_shown_in_words_with_what_a_requestor_may_say():
    shown = _run("profile", "show", EXAMPLES / "tls-must-staple.toml").stdout
    assert "wildcards apps.example.org" in shown
    assert "tls feature" in shown
    assert "A requestor may say" in shown
    assert "in the subject is dropped and said, a name is refused, an extension is dropped and said" in shown
    found = json.loads(_run("profile", "show", EXAMPLES / "tls-must-staple.toml", "--json").stdout)
    assert "dns:… ip:…" == found["requestor"]["names"]


def test_two_profiles_are_compared_by_what_they_mean(tmp_path):
    device = EXAMPLES / "device.toml"
    other = tmp_path / "other.toml"
    other.write_text("# a comment\n" + device.read_text().replace('backdate = "5m"', 'backdate = "1m"'))
    [found] = json.loads(_run("profile", "diff", device, other, "--json").stdout)
    assert {"key": "validity.backdate", "old": "5m", "new": "1m"} == found
    other.write_text("# a comment\n" + device.read_text() + "ca = false\n")
    assert "none" in _run("profile", "diff", device, other).stdout


def test_a_copy_has_a_new_name_and_is_version_1(tmp_path):
    out = tmp_path / "mine.toml"
    assert 0 == _run("profile", "clone", EXAMPLES / "esign.toml", "mine", "--out", out).exit_code
    assert "# Replace the policy OID" in out.read_text()
    keys = {
        one["key"] for one in json.loads(_run("profile", "diff", EXAMPLES / "esign.toml", out, "--json").stdout)
    }
    assert {"name"} == keys
    again = _run("profile", "clone", EXAMPLES / "esign.toml", "mine", "--out", out)
    assert 2 == again.exit_code
    assert "exists already" in again.stderr


def test_recorded_versions_are_fetched_by_number(served):
    source = (EXAMPLES / "device.toml").read_text()
    record = ProfileRecord("device", 1, bytes(32), source, START)
    served.world.memory.profiles.append(record)
    shown = _run("profile", "show", "device@1", "--source", served=served).stdout
    assert source == shown
    assert 1 == _run("profile", "show", "device@7", served=served).exit_code
    assert "recorded versions" in _run("profile", "show", "device", served=served).stdout
    assert "none" in _run("profile", "diff", "device@1", EXAMPLES / "device.toml", served=served).stdout


def test_a_deactivated_profile_refuses_at_once_and_an_administrator_activates_it(served, tmp_path):
    csr = tmp_path / "x.csr"
    csr.write_bytes(make_csr().public_bytes(Encoding.PEM))
    ask = ("request", "--profile", "tls-server", "--csr", csr)
    why = ("--reason", "a mistake in it")
    done = _run("profile", "deactivate", "tls-server", *why, "--yes", served=served)
    assert 0 == done.exit_code, done.output
    assert "profile.deactivated" in served.world.memory.kinds()
    again = _run("profile", "deactivate", "tls-server", *why, "--yes", served=served)
    assert "deactivated already" in again.stderr
    refused = _run(*ask, served=served)
    assert "the profile tls-server is deactivated since" in refused.stderr
    assert "a mistake in it" in refused.stderr
    assert "DEACTIVATED since" in _run("profile", "show", "tls-server", served=served).stdout
    assert "tls-server\t2\tdeactivated" in _run("profile", "list", served=served).stdout
    assert 1 == _run("profile", "activate", "tls-server", *why, served=served).exit_code
    assert 0 == _run("profile", "activate", "tls-server", *why, served=served, who="ada").exit_code
    assert 0 == _run(*ask, served=served).exit_code
