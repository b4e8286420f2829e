"""R5 over REST: a key is blocked by its hash or by what holds it, and nothing with it is issued any more."""

from __future__ import annotations

import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chancery.errors import ErrorType, PKIError
from chancery.ports import Role, StatusState
from chancery.ra import keys
from unit.web.world import World, csr_pem, key, make_csr, name

PUBLIC = key("leaf").public_key()
SPKI = hashlib.sha256(PUBLIC.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
DER = make_csr().public_bytes(Encoding.DER)


def _world(count: int = 0, *roles: Role) -> World:
    world = World()
    world.enrol("olga", *(roles or (Role.OFFICER,)))
    for _ in range(count):
        world.memory.issue("rita", DER)
    return world


def _block(world: World, status: int = 201, who: str = "olga", **body):
    answer = world.ask(who, "POST", "blocked-keys", json={"reason": "found on a web server", **body})
    assert status == answer.status_code, answer.text
    return answer.json()


def _acts(world: World) -> list[str]:
    return [kind for kind in world.memory.kinds() if kind != "login.accepted"]


def _request(world: World, **more):
    return world.ask("olga", "POST", "certificates", json={"profile": "tls-server", "csr": csr_pem(), **more})


def _given(world: World, form: str) -> dict[str, str]:
    if form == "certificate":
        der = world.memory.issue("rita", DER).der
        return {form: x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()}
    pem = PUBLIC.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return {form: {"spki_sha256": SPKI.upper(), "csr": csr_pem(), "public_key": pem}[form]}


@pytest.mark.parametrize("form", ["spki_sha256", "certificate", "csr", "public_key"])
def test_r5_a_key_in_any_form_is_blocked_and_the_same_request_refused_early(form):
    world = _world()
    assert 201 == _request(world).status_code
    shown = _block(world, **_given(world, form))
    assert (SPKI, True, "found on a web server", "olga") == (
        shown["spki_sha256"],
        shown["blocked"],
        shown["reason"],
        shown["blocked_by"],
    )
    event = next(one for one in world.memory.events if one.kind.value == "key.blocked")
    assert (f"key:{SPKI}", "olga", {"reason": "found on a web server"}) == (
        event.subject,
        event.actor,
        event.detail,
    )
    requests = dict(world.memory.requests)
    answer = _request(world)
    assert (422, "urn:chancery:error:badCertTemplate") == (answer.status_code, answer.json()["type"])
    assert "reported compromised" in answer.json()["detail"]
    assert requests == world.memory.requests
    assert "request.refused" == world.memory.kinds()[-1]


def test_the_same_again_changes_nothing():
    world = _world()
    first = _block(world, spki_sha256=SPKI)
    assert first == _block(world, 200, spki_sha256=SPKI, reason="another")
    assert ["key.blocked"] == _acts(world)


def test_the_answer_has_every_certificate_with_the_key_and_no_other():
    world = _world(3)
    world.memory.set_revoked(
        world.memory.stored[-1],
        _wish(world, world.memory.stored[-1].serial),
    )
    shown = _block(world, spki_sha256=SPKI)["certificates"]
    mine = [one for one in world.memory.stored if one.requestor == "rita"]
    assert [one.serial.hex().upper() for one in reversed(mine)] == [one["serial"] for one in shown]
    assert ["revoked", "good", "good"] == [one["state"] for one in shown]
    assert [] == _block(world, spki_sha256="0b" * 32).get("certificates", [])


def _wish(world: World, serial: bytes):
    from chancery.ports import NewRevocation, RevocationReason

    return NewRevocation("issuing", serial, RevocationReason.SUPERSEDED, None, "x", world.clock.now())


def test_revoke_asks_for_the_revocation_of_every_good_one_as_key_compromise():
    world = _world(3)
    world.memory.set_revoked(world.memory.stored[-1], _wish(world, world.memory.stored[-1].serial))
    assert 2 == _block(world, spki_sha256=SPKI, revoke=True)["revoking"]
    [(number, job)] = world.memory.mass.kept.items()
    assert ("KEY_COMPROMISE", 2) == (job.reason.name, job.size)
    for serial in world.memory.mass.lists[number]:
        stored = next(one for one in world.memory.stored if one.serial == serial)
        world.memory.set_revoked(stored, _wish(world, serial))
    assert {StatusState.REVOKED} == {one.status.state for one in world.memory.stored if one.requestor == "rita"}
    # Once more there is nothing left to do.
    assert "revoking" not in _block(world, 200, spki_sha256=SPKI, revoke=True)


def test_a_dry_run_says_what_there_is_and_does_nothing():
    world = _world(2)
    shown = _block(world, 200, spki_sha256=SPKI, revoke=True, dry_run=True)
    assert (False, 2) == (shown["blocked"], len(shown["certificates"]))
    assert ({}, {}, []) == (world.memory.blocked, world.memory.mass.kept, _acts(world))


def test_an_administrator_blocks_but_does_not_revoke_what_others_asked_for():
    world = _world(1, Role.ADMINISTRATOR)
    assert "notAuthorized" in _block(world, 403, spki_sha256=SPKI, revoke=True)["type"]
    assert {} == world.memory.blocked
    _block(world, spki_sha256=SPKI)
    world.enrol("rita", Role.REQUESTOR)
    _block(world, 403, "rita", spki_sha256="0b" * 32)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"spki_sha256": SPKI, "csr": csr_pem()},
        {"spki_sha256": "00"},
        {"csr": "hello"},
        {"public_key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"},
        {"spki_sha256": SPKI, "reason": ""},
        {"spki_sha256": SPKI, "reason": "x" * 1001},
        {"spki_sha256": SPKI, "unknown": 1},
    ],
)
def test_what_is_no_key_is_refused(body):
    world = _world()
    _block(world, 400, **body)
    assert {} == world.memory.blocked


def test_they_are_listed_in_pages_and_one_is_looked_up():
    world = _world()
    for n in (3, 1, 2):
        _block(world, spki_sha256=f"0{n}" * 32)
    first = world.ask("olga", "GET", "blocked-keys", params={"limit": 2}).json()
    rest = world.ask("olga", "GET", "blocked-keys", params={"limit": 2, "after": first["next"]}).json()
    assert ["01" * 32, "02" * 32, "03" * 32] == [one["spki_sha256"] for one in first["keys"] + rest["keys"]]
    assert "next" not in rest
    for one, found in (("01" * 32, ["01" * 32]), ("0c" * 32, [])):
        listed = world.ask("olga", "GET", "blocked-keys", params={"key": one}).json()["keys"]
        assert found == [shown["spki_sha256"] for shown in listed]


def test_many_certificates_are_all_revoked_and_not_all_shown(monkeypatch):
    monkeypatch.setattr(keys, "MAX_SHOWN", 3)
    monkeypatch.setattr(keys, "_PAGE", 2)
    world = _world(7)
    shown = _block(world, spki_sha256=SPKI, revoke=True)
    assert (7, 3, True) == (shown["revoking"], len(shown["certificates"]), shown["more"])


def test_a_blocklist_that_is_away_refuses_nothing_for_good():
    world = _world()

    async def away(*_: object) -> None:
        raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the database is away")

    world.memory.submit = away
    assert 503 == _request(world).status_code
    assert [] == _acts(world)


def test_r4_r5_a_weak_key_is_refused_before_it_is_stored():
    """Close primes, here 2^1024 - 105 and the next below it of the same kind: Fermat finds them in one round."""
    p = (1 << 1024) - 105
    q = next(n for n in range(p - 2, 0, -2) if pow(3, n - 1, n) == 1)
    world = _world()
    answer = _request(world, csr=_csr_of(p, q))
    assert (422, True) == (answer.status_code, "Fermat" in answer.json()["detail"])
    assert {} == world.memory.requests


def _csr_of(p: int, q: int) -> str:
    e, n = 65537, p * q
    d = pow(e, -1, (p - 1) * (q - 1))
    numbers = rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), rsa.RSAPublicNumbers(e, n))
    builder = x509.CertificateSigningRequestBuilder().subject_name(name("www.example.org"))
    csr = builder.sign(numbers.private_key(), hashes.SHA256())
    return csr.public_bytes(Encoding.PEM).decode()
