"""Clients of the timestamping authority over REST and on the command line: who adds them, and what is kept."""

from __future__ import annotations

import hashlib
import json
import stat

import pytest
import typer
from typer.testing import CliRunner

from chancery.cli import commands_timestamp_client as commands
from chancery.ports import EventKind, Role
from unit.web.world import World, key_pem, to_der


@pytest.fixture
def world() -> World:
    made = World()
    made.enrol("anna", Role.ADMINISTRATOR)
    made.enrol("olga", Role.OFFICER)
    made.enrol("rita", Role.REQUESTOR)
    return made


BODY = {"name": "robot", "key_sha256": "ab" * 32}


def add(world, who="anna", **changes):
    return world.ask(who, "POST", "timestamp-clients", json=BODY | changes)


def test_a_client_is_added_listed_and_revoked_with_events(world):
    bounds = {"networks": ["10.0.0.0/8"], "policies": ["1.2.3"], "per_second": 0.5, "burst": 3, "per_day": 10}
    answer = add(world, **bounds)
    assert 201 == answer.status_code
    shown = answer.json()
    assert bounds == {key: shown[key] for key in bounds}
    assert ("robot", "api-key", "ab" * 32, "anna") == tuple(
        shown[key] for key in ("name", "kind", "credential_sha256", "added_by")
    )
    assert [shown] == world.ask("olga", "GET", "timestamp-clients").json()["clients"]
    assert 204 == world.ask("olga", "DELETE", "timestamp-clients/robot").status_code
    assert 404 == world.ask("olga", "DELETE", "timestamp-clients/robot").status_code
    [gone] = world.ask("anna", "GET", "timestamp-clients").json()["clients"]
    assert "revoked_at" in gone
    added, revoked = [one for one in world.memory.events if one.subject == "tsa-client:robot"]
    assert (EventKind.TSA_CLIENT_ADDED, "anna", "0.5") == (added.kind, added.actor, added.detail["per_second"])
    assert (EventKind.TSA_CLIENT_REVOKED, "olga") == (revoked.kind, revoked.actor)


def test_only_an_administrator_adds_and_a_requestor_sees_none(world):
    assert 403 == add(world, "olga").status_code
    assert 403 == world.ask("rita", "GET", "timestamp-clients").status_code
    assert 403 == world.ask("rita", "DELETE", "timestamp-clients/robot").status_code
    assert {} == world.memory.timestamp_clients.kept


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Robot"},
        {"name": "a/b"},
        {"certificate": "x"},
        {"key_sha256": None, "networks": []},
        {"key_sha256": None, "certificate": "no certificate"},
        {"networks": ["10.0.0.1/8"]},
        {"networks": ["nowhere"]},
        {"policies": ["1.2.x"]},
        {"policies": []},
        {"per_second": 0},
        {"per_day": 0},
        {"unknown": 1},
    ],
)
def test_what_cannot_be_is_refused(world, changes):
    assert 400 == add(world, **changes).status_code
    assert {} == world.memory.timestamp_clients.kept


def test_a_certificate_is_known_by_its_hash(world):
    pem = world.memory.issuing
    text = pem.public_bytes(commands_pem()).decode()
    shown = add(world, key_sha256=None, certificate=text).json()
    assert ("certificate", hashlib.sha256(to_der(pem)).hexdigest()) == (shown["kind"], shown["credential_sha256"])


def commands_pem():
    from cryptography.hazmat.primitives.serialization import Encoding

    return Encoding.PEM


class Asked:
    """What the command line would have asked of the management interface."""

    def __init__(self) -> None:
        self.requests = []

    def ask(self, method, path, **options):
        self.requests.append((method, path, options.get("json")))
        return self

    def get(self, path):
        return {"clients": [dict(self.json(), revoked_at="2026-01-01"), self.json()]}

    def json(self):
        return {"name": "robot", "kind": "api-key", "burst": 20, "added_at": "2026-01-01", "added_by": "anna"}


def invoke(*words):
    asked = Asked()
    app = typer.Typer()
    for function in (commands.list_clients, commands.add_client, commands.revoke_client):
        app.command(function.__name__.partition("_")[0])(with_asked(function, asked))
    return CliRunner().invoke(app, [str(word) for word in words]), asked.requests


def with_asked(function, asked):
    import inspect

    def command(**options):
        return function(asked, **options)

    signature = inspect.signature(function, eval_str=True)
    kept = [p.replace(kind=p.KEYWORD_ONLY) for p in signature.parameters.values() if p.name != "client"]
    command.__signature__ = signature.replace(parameters=kept)
    command.__annotations__ = {one.name: one.annotation for one in kept}
    return command


def test_a_key_is_made_here_and_only_its_hash_is_sent(tmp_path):
    file = tmp_path / "robot.key"
    result, [(method, path, body)] = invoke(
        "add", "robot", "--key-out", file, "--per-day", "9", "--policy", "1.2.3"
    )
    assert 0 == result.exit_code, result.output
    key = file.read_bytes().strip()
    assert (64, 0o600) == (len(key), stat.S_IMODE(file.stat().st_mode))
    assert ("POST", "/timestamp-clients") == (method, path)
    assert hashlib.sha256(key).hexdigest() == body["key_sha256"]
    assert ({"per_day": 9, "policies": ["1.2.3"]}) == {name: body[name] for name in ("per_day", "policies")}
    assert key.decode() not in result.output
    # A second key does not take the first one's file.
    again, requests = invoke("add", "other", "--key-out", file)
    assert (2, []) == (again.exit_code, requests)
    assert key == file.read_bytes().strip()


def test_it_has_to_be_said_by_what_a_client_is_known(tmp_path):
    certificate = tmp_path / "c.pem"
    certificate.write_bytes(key_pem("x"))
    for words in ([], ["--key-out", tmp_path / "k", "--certificate", certificate]):
        result, requests = invoke("add", "robot", *words)
        assert (2, []) == (result.exit_code, requests)
    result, [(_, _, body)] = invoke("add", "robot", "--network", "10.0.0.0/8")
    assert (["10.0.0.0/8"], 0) == (body["networks"], result.exit_code)


def test_clients_are_listed_and_revoked():
    shown, _ = invoke("list", "--json")
    assert 1 == len(json.loads(shown.output))
    assert 2 == len(json.loads(invoke("list", "--all", "--json")[0].output))
    assert ["robot", "api-key"] == invoke("list")[0].output.split("\t")[:2]
    result, [(method, path, _)] = invoke("revoke", "a b")
    assert ("DELETE", "/timestamp-clients/a%20b", 0) == (method, path, result.exit_code)
