"""R13: problem reports over REST and the command line; their clocks, proofs and decisions."""

from __future__ import annotations

import base64
import datetime
import hashlib

import pytest
import typer
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from typer.testing import CliRunner

from chancery.cli import client
from chancery.errors import ErrorType, PKIError
from chancery.pkix.key import spki_der
from chancery.pkix.proof import check_compromise, statement
from chancery.ports import EventKind, Role
from chancery.ports.reports import Ground
from suite import run
from unit.web.served import serving
from unit.web.world import World, csr_pem, key, make_csr

LEAF = key("leaf")
SPKI = hashlib.sha256(spki_der(LEAF.public_key())).digest()
PEM = LEAF.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
HOURS = datetime.timedelta(hours=1)
APP = typer.Typer(pretty_exceptions_enable=False)
APP.callback()(lambda: None)
client.register(APP)


@pytest.fixture
def world() -> World:
    world = World()
    world.enrol("olga", Role.OFFICER)
    world.enrol("rita", Role.REQUESTOR)
    for _ in range(2):
        world.memory.issue("rita", make_csr().public_bytes(Encoding.DER))
    return world


def _add(world: World, status: int = 201, who: str = "olga", **body):
    told = {"ground": "misuse", "evidence": "it serves malware", "reporter": "eve@example.org", **body}
    answer = world.ask(who, "POST", "reports", json=told)
    assert status == answer.status_code, answer.text
    return answer.json()


def _certificate(world: World) -> dict[str, str]:
    return {"issuer": "issuing", "serial": world.memory.stored[-1].serial.hex()}


def _decide(world: World, status: int = 200, **body):
    answer = world.ask("olga", "POST", "reports/1/decision", json=body)
    assert status == answer.status_code, answer.text
    return answer.json()


def _moment(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


@pytest.mark.parametrize("ground", Ground, ids=lambda one: one.label)
def test_r13_each_ground_has_its_clock_from_when_the_report_came_in(world, ground):
    expected = {"key-compromise": 24, "weak-key": 24, "subscriber-request": 24, "subordinate-ca": 168}
    expected |= {"request-not-authorised": 24, "validation-unreliable": 24}
    came = world.clock.now() - 5 * HOURS
    shown = _add(world, ground=ground.label, received_at=came.isoformat(), **_certificate(world))
    assert (came, came + 24 * HOURS, came + expected.get(ground.label, 120) * HOURS) == tuple(
        _moment(shown[name]) for name in ("received_at", "answer_by", "revoke_by")
    )


def test_r13_an_open_report_is_overdue_unanswered_after_a_day_and_undecided_after_its_time(world):
    world.enrol("uwe", Role.AUDITOR)
    _add(world, **_certificate(world))

    def state() -> tuple[bool, int, int]:
        [shown] = world.ask("olga", "GET", "reports").json()["reports"]
        counts = world.ask("uwe", "GET", "status").json()["counts"]
        return shown["overdue"], counts["reports_open"], counts["reports_overdue"]

    world.clock.advance(86400)
    assert (False, 1, 0) == state()
    world.clock.advance(1)
    assert (True, 1, 1) == state()
    assert not _decide(world, decision="answer", words="we look into it")["overdue"]
    world.clock.advance(4 * 86400)
    assert (True, 1, 1) == state()
    assert _decide(world, decision="reject", words="it serves no malware")["closed"]
    assert [] == world.ask("olga", "GET", "reports").json()["reports"]
    [closed] = world.ask("olga", "GET", "reports", params={"all": "true"}).json()["reports"]
    assert ["answered", "rejected"] == [one["kind"] for one in closed["acts"]]
    assert ["report.received", "report.answered", "report.decided"] == [
        kind for kind in world.memory.kinds() if kind.startswith("report.")
    ]
    for body in ({"decision": "revoke"}, {"decision": "reject", "words": "again"}):
        assert "decided already" in _decide(world, 400, **body)["detail"]


def test_r29_the_journal_holds_a_report_so_that_an_edited_one_is_found(world):
    came = (world.clock.now() - HOURS).astimezone(datetime.timezone(2 * HOURS))
    _add(world, evidence="see\0this", reporter="e\0ve", received_at=came.isoformat(), **_certificate(world))
    [told] = [one for one in world.memory.events if one.kind is EventKind.REPORT_RECEIVED]
    [stored] = world.ask("olga", "GET", "reports").json()["reports"]
    expected = {
        "reporter": "e\ufffdve",
        "evidence_sha256": hashlib.sha256(stored["evidence"].encode()).hexdigest(),
        "received_at": came.astimezone(datetime.UTC).isoformat(),
        "answer_by": (came + 24 * HOURS).astimezone(datetime.UTC).isoformat(),
    }
    assert expected == {key: told.detail[key] for key in expected}
    assert "see\ufffdthis" == stored["evidence"]


def test_a_report_is_decided_by_revoking_its_certificate_for_the_reason_of_its_ground(world):
    _add(world, **_certificate(world))
    assert "revoked as privilege_withdrawn" in _decide(world, decision="revoke")["acts"][0]["words"]
    assert "PRIVILEGE_WITHDRAWN" == world.memory.stored[-1].status.reason.name


def test_what_was_revoked_meanwhile_closes_the_report_too(world):
    about = _certificate(world)
    _add(world, **about)
    world.ask("olga", "POST", f"certificates/{about['serial']}/revocation", json={"reason": "superseded"})
    assert "already revoked" in _decide(world, decision="revoke", reason="keyCompromise")["acts"][0]["words"]
    assert "SUPERSEDED" == world.memory.stored[-1].status.reason.name


def test_a_key_that_is_reported_is_blocked_and_its_certificates_revoked_when_decided(world):
    _add(world, spki_sha256=SPKI.hex(), ground="weak-key")
    assert {} == world.memory.blocked
    assert "2 certificates are being revoked" in _decide(world, decision="revoke")["acts"][0]["words"]
    assert ([SPKI], [2]) == (list(world.memory.blocked), [one.size for one in world.memory.mass.kept.values()])


@pytest.mark.parametrize(("who", "revoked"), [("olga", [2]), ("rita", [])])
def test_a_key_that_signs_that_it_is_compromised_is_blocked_at_once(world, who, revoked):
    proof = base64.b64encode(LEAF.sign(statement(SPKI), ec.ECDSA(hashes.SHA256()))).decode()
    shown = _add(world, who=who, public_key=PEM, proof=proof)
    assert ("key-compromise", True, bool(revoked)) == (shown["ground"], shown["proven"], shown["closed"])
    assert [SPKI] == list(world.memory.blocked)
    assert revoked == [one.size for one in world.memory.mass.kept.values()]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"issuer": "issuing"},
        {"serial": "07"},
        {"issuer": "issuing", "serial": "07", "spki_sha256": "ab" * 32},
        {"spki_sha256": "ab" * 32, "ground": "boredom"},
        {"spki_sha256": "ab" * 32, "evidence": "x" * 20001},
        {"spki_sha256": "ab" * 32, "received_at": "2999-01-01T00:00:00Z"},
        {"spki_sha256": "ab" * 32, "received_at": "0001-01-01T00:00:00+14:00"},
        {"spki_sha256": "ab" * 32, "received_at": "9999-12-31T23:59:59-14:00"},
        {"spki_sha256": "ab" * 32, "received_at": "2001-01-01T00:00:00Z"},
        {"public_key": PEM},
        {"public_key": PEM, "proof": "!"},
        {"public_key": PEM, "proof": "AAAA"},
        {"public_key": "x", "proof": "AAAA"},
        {"public_key": PEM, "proof": "AAAA", "csr": csr_pem()},
    ],
)
def test_what_is_no_report_is_refused(world, body):
    _add(world, 400, **body)
    assert ({}, {}) == (world.memory.reports.kept, world.memory.blocked)


def test_an_unknown_issuer_report_or_word_is_refused(world):
    _add(world, 404, issuer="nobody", serial="07")
    assert 404 == world.ask("olga", "GET", "reports/1").status_code
    assert 404 == world.ask("olga", "GET", "reports/x").status_code
    _decide(world, 404, decision="reject", words="none")
    _add(world, **_certificate(world))
    _decide(world, 400, decision="reject")


def test_a_proof_is_the_keys_own_and_names_it():
    others = [
        (rsa.generate_private_key(65537, 2048), (padding.PKCS1v15(), hashes.SHA256())),
        (ec.generate_private_key(ec.SECP384R1()), (ec.ECDSA(hashes.SHA256()),)),
        (ed25519.Ed25519PrivateKey.generate(), ()),
    ]
    for private, how in others:
        public = private.public_key()
        own = hashlib.sha256(spki_der(public)).digest()
        assert own == check_compromise(public, private.sign(statement(own), *how))
        with pytest.raises(PKIError) as caught:
            check_compromise(public, private.sign(statement(SPKI), *how))
        assert ErrorType.BAD_POP is caught.value.type
    with pytest.raises(PKIError) as caught:
        check_compromise(x25519.X25519PrivateKey.generate().public_key(), b"")
    assert ErrorType.BAD_ALG is caught.value.type


def test_the_command_line_records_a_proof_made_with_openssl_lists_and_decides(tmp_path):
    with serving(tmp_path) as served:
        served.enrol("olga", Role.OFFICER)
        text = f'url = "{served.url}"\ncertificate = "olga.pem"\nkey = "olga.key"\nca = "root.pem"\n'
        (served.directory / "olga.toml").write_text(text)
        runner = CliRunner(env={"CHANCERY_CLIENT": str(served.directory / "olga.toml"), "COLUMNS": "200"})

        def chancery(*words: object):
            return runner.invoke(APP, [str(word) for word in words])

        found, public, proof = (tmp_path / name for name in ("found.key", "found.pub", "found.sig"))
        run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", found)
        run("openssl", "pkey", "-in", found, "-pubout", "-out", public)
        (tmp_path / "said").write_text(chancery("report", "statement", public).stdout)
        run("openssl", "dgst", "-sha256", "-sign", found, "-out", proof, tmp_path / "said")
        evidence = tmp_path / "evidence.txt"
        evidence.write_text("it lies in a public repository")
        words = ("report", "add", "--evidence", evidence, "--reporter", "eve@example.org", "--ground")
        done = chancery(*words, "key-compromise", "--key-of", public, "--proof", proof)
        assert (0, True) == (done.exit_code, "are being revoked" in done.stdout)
        assert 1 == len(served.world.memory.blocked)
        assert 0 == chancery(*words, "misuse", "--spki", "ab" * 32).exit_code
        assert "open" in chancery("report", "list").stdout
        done = chancery("report", "decide", "2", "reject", "--words", "nothing is there")
        assert (0, True) == (done.exit_code, "nothing is there" in done.stdout)
        assert "closed" in chancery("report", "list", "--all").stdout
        assert "eve@example.org" in chancery("report", "show", "2").stdout
        assert 2 == chancery(*words, "misuse", "--spki", "ab" * 32, "--proof", proof).exit_code
