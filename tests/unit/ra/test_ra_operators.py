"""Enrolling and removing operators."""

from __future__ import annotations

import asyncio
import datetime
import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from chancery.errors import ErrorType, PKIError
from chancery.ports import NewRevocation, Operator, RevocationReason, Role
from chancery.ra.operators import OperatorWish, add_operator, remove_operator
from unit.web.world import YEAR, World, make_certificate, make_csr

ANNA = Operator(b"a" * 32, "anna", frozenset({Role.ADMINISTRATOR}))
ROLES = frozenset({Role.REQUESTOR})


def _world() -> World:
    world = World()
    world.memory.people[ANNA.fingerprint] = ANNA
    world.memory.issue("anna", make_csr("bob", "bob").public_bytes(Encoding.DER), "tls-client", serial=42)
    return world


def _pem(world: World, label: str = "bob") -> bytes:
    return x509.load_der_x509_certificate(world.certificate(label)).public_bytes(Encoding.PEM)


def _add(world: World, actor: Operator = ANNA, **given) -> Operator:
    wish = OperatorWish(**{"name": "bob", "roles": ROLES, **given})
    return asyncio.run(add_operator(world.ra, actor, wish))


def _refusal(call) -> ErrorType:
    with pytest.raises(PKIError) as caught:
        call()
    return caught.value.type


def test_an_operator_is_enrolled_by_certificate_or_serial_and_journalled_r27():
    for given in (lambda world: {"certificate": _pem(world)}, lambda _: {"serial": b"\x2a", "issuer": "issuing"}):
        world = _world()
        operator = _add(world, **given(world))
        assert hashlib.sha256(world.certificate("bob")).digest() == operator.fingerprint
        assert operator == world.memory.people[operator.fingerprint]
        [event] = world.memory.events
        assert ("operator.enrolled", "anna", "operator:bob") == (event.kind.value, event.actor, event.subject)
        assert (["requestor"], operator.fingerprint.hex()) == (
            event.detail["roles"],
            event.detail["certificate_sha256"],
        )


@pytest.mark.parametrize(
    ("given", "type_"),
    [
        ({"roles": frozenset()}, ErrorType.BAD_REQUEST),
        ({"roles": frozenset({Role.AUDITOR, Role.OFFICER})}, ErrorType.BAD_REQUEST),
        ({"name": ""}, ErrorType.BAD_REQUEST),
        ({"name": "a/b"}, ErrorType.BAD_REQUEST),
        ({"name": "a\nb"}, ErrorType.BAD_REQUEST),
        ({"name": "a\u009b31m"}, ErrorType.BAD_REQUEST),
        ({"name": "\u202eanna"}, ErrorType.BAD_REQUEST),
        ({"name": "anna "}, ErrorType.BAD_REQUEST),
        ({"name": "."}, ErrorType.BAD_REQUEST),
        ({"name": ".."}, ErrorType.BAD_REQUEST),
        ({"name": "anna"}, ErrorType.BAD_REQUEST),
        ({"profiles": frozenset({"no-such"})}, ErrorType.BAD_REQUEST),
        ({"serial": None}, ErrorType.BAD_REQUEST),
        ({"serial": b"\x07"}, ErrorType.BAD_CERT_ID),
        ({"issuer": "root"}, ErrorType.BAD_CERT_ID),
        ({"serial": None, "certificate": b"no PEM"}, ErrorType.BAD_DATA_FORMAT),
        ({"serial": None, "certificate": b"x" * 200_000}, ErrorType.BAD_DATA_FORMAT),
    ],
)
def test_what_cannot_be_is_refused(given, type_):
    world = _world()
    assert type_ is _refusal(lambda: _add(world, **{"serial": b"\x2a", **given}))
    assert [ANNA] == list(world.memory.people.values())


def test_a_certificate_of_another_ca_with_the_same_serial_is_nobody():
    world = _world()
    forged = make_certificate("bob", "elsewhere", serial=42).public_bytes(Encoding.PEM)
    assert ErrorType.BAD_CERT_ID is _refusal(lambda: _add(world, certificate=forged))


def test_a_revoked_or_expired_certificate_is_refused():
    world = _world()
    now = world.clock.now()
    wish = NewRevocation("issuing", b"\x2a", RevocationReason.SUPERSEDED, None, "anna", now)
    world.memory.set_revoked(world.memory.stored[0], wish)
    assert ErrorType.CERT_REVOKED is _refusal(lambda: _add(world, serial=b"\x2a"))
    world = _world()
    world.clock.advance(datetime.timedelta(30 * YEAR.days).total_seconds())
    assert ErrorType.BAD_REQUEST is _refusal(lambda: _add(world, serial=b"\x2a"))


def test_a_certificate_opens_for_one_operator_only():
    world = _world()
    _add(world, serial=b"\x2a")
    assert ErrorType.BAD_REQUEST is _refusal(lambda: _add(world, name="bob2", serial=b"\x2a"))


def test_the_last_administrator_stays():
    world = _world()
    _add(world, serial=b"\x2a")
    assert ErrorType.BAD_REQUEST is _refusal(lambda: asyncio.run(remove_operator(world.ra, ANNA, "anna")))
    asyncio.run(remove_operator(world.ra, ANNA, "bob"))
    assert [ANNA] == list(world.memory.people.values())
    assert ["operator.enrolled", "operator.removed"] == world.memory.kinds()
    assert ErrorType.BAD_CERT_ID is _refusal(lambda: asyncio.run(remove_operator(world.ra, ANNA, "bob")))


@pytest.mark.parametrize("role", [Role.OFFICER, Role.REQUESTOR, Role.AUDITOR])
def test_only_an_administrator_enrols_and_removes(role):
    world = _world()
    actor = Operator(b"x" * 32, "xaver", frozenset({role}))
    assert ErrorType.NOT_AUTHORIZED is _refusal(lambda: _add(world, actor, serial=b"\x2a"))
    assert ErrorType.NOT_AUTHORIZED is _refusal(lambda: asyncio.run(remove_operator(world.ra, actor, "anna")))
