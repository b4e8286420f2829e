"""Many at once over REST and the command line: shown, confirmed as shown, approved by somebody else (R22)."""

from __future__ import annotations

import json
import re

import pytest
import typer
from cryptography.hazmat.primitives.serialization import Encoding
from typer.testing import CliRunner

from chancery.cli import client
from chancery.ports import Role
from unit.web.served import serving
from unit.web.world import World, make_csr

DER = make_csr().public_bytes(Encoding.DER)
ASKED = {"profile": "tls-server", "reason": "keyCompromise"}
APP = typer.Typer(pretty_exceptions_enable=False)
APP.callback()(lambda: None)
client.register(APP)


@pytest.fixture
def world() -> World:
    world = World()
    world.enrol("olga", Role.OFFICER)
    world.enrol("adam", Role.ADMINISTRATOR)
    for _ in range(3):
        world.memory.issue("rita", DER)
    return world


def _ask(world: World, status: int, who: str = "olga", **body):
    answer = world.ask(who, "POST", "revocations", json={**ASKED, **body})
    assert status == answer.status_code, answer.text
    return answer.json()


def test_first_it_is_shown_then_exactly_that_is_confirmed(world):
    shown = _ask(world, 200)
    assert (3, [{"issuer": "issuing", "profile": "tls-server", "count": 3}], 3) == (
        shown["count"],
        shown["parts"],
        len(shown["sample"]),
    )
    assert {} == world.memory.mass.kept
    world.memory.issue("rita", DER)
    job = _ask(world, 202, confirmation=shown["confirmation"])
    assert (1, "waiting", "olga", "keyCompromise", {"profile": "tls-server"}, 3) == tuple(
        job[name] for name in ("job_id", "state", "requestor", "reason", "selection", "size")
    )
    assert "revocation-job.requested" == world.memory.kinds()[-1]
    assert "changed" in _ask(world, 400, issuer="root", confirmation=shown["confirmation"])["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {"confirmation": "yes"},
        {"confirmation": "1.1.0." + "0" * 64},
        {"reason": "certificateHold"},
        {"profile": None},
        {"spki_sha256": "ab" * 32, "csr": "x"},
        {"invalidity_date": "2999-01-01T00:00:00Z"},
        {"simulate": True, "profile": "none"},
    ],
)
def test_what_cannot_be_is_refused(world, body):
    _ask(world, 400, **body)
    assert {} == world.memory.mass.kept


def test_the_second_person_is_another_one_and_saw_the_same(world):
    job = _ask(world, 202, confirmation=_ask(world, 200)["confirmation"])

    def approve(who: str, digest: str) -> int:
        return world.ask(who, "POST", "revocations/1/approval", json={"digest": digest}).status_code

    statuses = [approve("olga", job["digest"]), approve("adam", "0" * 64), approve("adam", job["digest"])]
    assert [403, 400, 202] == statuses
    assert [(1, "adam")] == world.memory.mass.approvals
    assert 404 == world.ask("adam", "GET", "revocations/99999999999999999999").status_code
    assert 404 == world.ask("adam", "GET", "revocations/2").status_code


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("served")) as found:
        found.enrol("olga", Role.OFFICER)
        text = f'url = "{found.url}"\ncertificate = "olga.pem"\nkey = "olga.key"\nca = "root.pem"\n'
        (found.directory / "olga.toml").write_text(text)
        for _ in range(25):
            found.world.memory.issue("rita", DER)
        yield found


def _run(served, *words: object):
    runner = CliRunner(env={"CHANCERY_CLIENT": str(served.directory / "olga.toml"), "COLUMNS": "200"})
    return runner.invoke(APP, [str(word) for word in words])


def test_the_command_shows_by_default_and_revokes_what_was_shown(served):
    words = ("revoke", "--reason", "superseded", "--profile", "tls-server", "--wait", "0")
    shown = _run(served, *words)
    assert (0, True, True) == (
        shown.exit_code,
        "issuing\ttls-server\t25" in shown.stdout,
        "and more  5" in shown.stdout,
    )
    assert {} == served.world.memory.mass.kept
    confirmation = json.loads(_run(served, *words, "--json").stdout)["confirmation"]
    assert confirmation in shown.stdout
    done = _run(served, *words, "--confirm", confirmation)
    assert (0, ["25"]) == (done.exit_code, re.findall(r"^waiting +(\d+)$", done.stdout, re.MULTILINE))
    assert "superseded" in _run(served, "revocation", "list").stdout
    assert "tls-server" in _run(served, "revocation", "show", "1").stdout
    refused = _run(served, "revocation", "approve", "1", "--digest", "0" * 64)
    assert "somebody else has to approve" in refused.stderr
    simulated = _run(served, *words, "--simulate", "--json")
    assert json.loads(simulated.stdout)["rehearsal"]


def test_a_serial_and_a_query_do_not_go_together(served):
    assert 2 == _run(served, "revoke", "07", "--reason", "superseded", "--profile", "smime").exit_code
    assert 2 == _run(served, "revoke", "--reason", "superseded", "--profile", "none").exit_code
    assert 2 == _run(served, "revoke", "07", "--reason", "certificateHold").exit_code
    assert 1 == _run(served, "revoke", "--reason", "superseded").exit_code
