"""What the registration core takes, and what it makes of it."""

from __future__ import annotations

import asyncio
import base64
import datetime

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from chancery.asn1 import der
from chancery.errors import ErrorType, PKIError
from chancery.ports import Operator, RequestState, RevocationReason, Role
from chancery.ra import enrolment
from chancery.ra.enrolment import Application, RevocationWish, csr_der, serial_octets, serial_text
from unit.web.world import World, make_csr

OFFICER = Operator(b"o" * 32, "olga", frozenset({Role.OFFICER}))
REQUESTOR = Operator(b"r" * 32, "rita", frozenset({Role.REQUESTOR}))
CSR = make_csr()
DER, PEM = CSR.public_bytes(Encoding.DER), CSR.public_bytes(Encoding.PEM)
# RFC 7468 7 and the name before it.
NEW_PEM = PEM.replace(b"BEGIN CERT", b"BEGIN NEW CERT").replace(b"END CERT", b"END NEW CERT")


def _enrol(world: World, operator: Operator = OFFICER, wait: float = 1, **given):
    application = Application(**{"protocol": "rest", "profile": "tls-server", "csr": DER, **given})
    return asyncio.run(enrolment.enrol(world.ra, operator, application, wait))


def _refusal(call) -> PKIError:
    with pytest.raises(PKIError) as caught:
        call()
    return caught.value


def test_a_csr_is_der_or_one_pem_block():
    assert [DER] * 4 == [csr_der(one) for one in (DER, PEM, NEW_PEM, b"\n" + PEM.replace(b"\n", b"\r\n"))]


def test_anything_else_is_malformed():
    mixed = PEM.replace(b"BEGIN CERT", b"BEGIN NEW CERT")
    no_base64 = b"-----BEGIN CERTIFICATE REQUEST-----\n====\n-----END CERTIFICATE REQUEST-----"
    for data in (b"", b"hello", PEM * 2, mixed, no_base64, b"x" * (3 * der.MAX_SIZE)):
        assert ErrorType.BAD_DATA_FORMAT is _refusal(lambda d=data: csr_der(d)).type


@given(st.integers(min_value=1, max_value=2**159 - 1))
def test_a_serial_reads_as_it_is_written(number):
    octets = der.integer_octets(number)
    assert octets == serial_octets(serial_text(octets))
    assert octets == serial_octets(f"{number:x}")


@pytest.mark.parametrize("text", ["", "-1", "0x1", "zz", "f" * 40, "1" * 43])
def test_a_serial_of_another_shape_is_no_certificate(text):
    assert ErrorType.BAD_CERT_ID is _refusal(lambda: serial_octets(text)).type


def test_a_request_is_journalled_and_answered_r27():
    world = World()
    outcome = _enrol(world, names=("dns:www.example.org",), transaction_id="t-1")
    assert RequestState.DONE is outcome.state
    [event] = world.memory.events
    assert ("request.received", "olga", "transaction:t-1") == (event.kind.value, event.actor, event.subject)
    assert ["dns:www.example.org"] == event.detail["names"]


def test_a_drawn_transaction_id_is_random():
    world = World()
    first, second = _enrol(world), _enrol(world)
    assert first.transaction_id != second.transaction_id
    assert 32 == len(first.transaction_id)


@pytest.mark.parametrize("profile", ["root-ca", "sub-ca"])
def test_a_ca_certificate_is_never_asked_for_online_r8(profile):
    world = World()
    error = _refusal(lambda: _enrol(world, profile=profile))
    assert (ErrorType.NOT_AUTHORIZED, True) == (error.type, "ceremony" in error.detail)
    assert {} == world.memory.requests
    assert ["request.refused"] == world.memory.kinds()


def test_an_issuer_whose_name_no_row_holds_is_refused_at_the_gate():
    world = World()
    assert ErrorType.BAD_CERT_TEMPLATE == _refusal(lambda: _enrol(world, issuer="i" * 201)).type
    assert {} == world.memory.requests


def test_a_certificate_of_an_ocsp_delegate_is_not_for_every_requestor():
    world = World()
    for operator in (REQUESTOR, OFFICER):
        error = _refusal(lambda o=operator: _enrol(world, o, profile="ocsp-signing"))
        assert (ErrorType.NOT_AUTHORIZED, True) == (error.type, "own services" in error.detail)
    assert {} == world.memory.requests
    assert ["request.refused"] * 2 == world.memory.kinds()


def _bad_signature() -> bytes:
    return DER[:-1] + bytes((DER[-1] ^ 1,))


@pytest.mark.parametrize(
    ("given", "type_"),
    [
        ({"csr": _bad_signature()}, ErrorType.BAD_POP),
        ({"csr": DER + b"\x00"}, ErrorType.BAD_DATA_FORMAT),
        ({"csr": DER[:-5]}, ErrorType.BAD_DATA_FORMAT),
        ({"csr": b"\x30\x00"}, ErrorType.BAD_DATA_FORMAT),
        ({"profile": "no-such"}, ErrorType.BAD_CERT_TEMPLATE),
        ({"names": ("www.example.org",)}, ErrorType.BAD_CERT_TEMPLATE),
        ({"names": ("dns:under_score.example.org",)}, ErrorType.BAD_CERT_TEMPLATE),
        ({"names": ("dns:a.example.org",) * 101}, ErrorType.BAD_CERT_TEMPLATE),
        ({"transaction_id": ""}, ErrorType.BAD_REQUEST),
        ({"transaction_id": "a b"}, ErrorType.BAD_REQUEST),
        ({"transaction_id": "x" * 201}, ErrorType.BAD_REQUEST),
    ],
)
def test_the_gate_stores_nothing_of_what_it_refuses(given, type_):
    world = World()
    assert type_ is _refusal(lambda: _enrol(world, **given)).type
    assert {} == world.memory.requests
    [event] = world.memory.events
    assert ("request.refused", type_.value) == (event.kind.value, event.detail["error"])


def test_the_same_transaction_gives_the_same_certificate():
    world = World()
    first, again = _enrol(world, transaction_id="t"), _enrol(world, transaction_id="t")
    assert first.certificate == again.certificate
    assert 1 == len(world.memory.requests)
    assert ["request.received"] == world.memory.kinds()
    error = _refusal(lambda: _enrol(world, transaction_id="t", names=("dns:other.example.org",)))
    assert ErrorType.TRANSACTION_ID_IN_USE is error.type
    # Another requestor's ids are its own.
    assert first.certificate != _enrol(world, REQUESTOR, transaction_id="t").certificate


def test_a_requestor_sees_only_its_own_request():
    world = World()
    mine, other = _enrol(world, REQUESTOR), _enrol(world, OFFICER)

    def find(operator, request_id):
        return asyncio.run(enrolment.find_request(world.ra, operator, request_id))

    assert mine.request_id == find(REQUESTOR, mine.request_id).request_id
    assert mine.request_id == find(OFFICER, mine.request_id).request_id
    for request_id in (other.request_id, 99, 0, 2**63):
        assert ErrorType.BAD_CERT_ID is _refusal(lambda r=request_id: find(REQUESTOR, r)).type


def _revoke(world: World, operator: Operator, wish: RevocationWish):
    return asyncio.run(enrolment.revoke(world.ra, operator, wish, 1))


def test_a_requestor_revokes_its_own_certificate_only():
    world = World()
    mine = world.memory.issue("rita", DER)
    other = world.memory.issue("olga", DER)
    wish = RevocationWish(mine.serial, RevocationReason.SUPERSEDED)
    assert RequestState.DONE is _revoke(world, REQUESTOR, wish)[1].state
    other_wish = RevocationWish(other.serial, RevocationReason.SUPERSEDED)
    assert ErrorType.BAD_CERT_ID is _refusal(lambda: _revoke(world, REQUESTOR, other_wish)).type
    assert RequestState.DONE is _revoke(world, OFFICER, other_wish)[1].state
    assert ErrorType.CERT_REVOKED is _refusal(lambda: _revoke(world, OFFICER, other_wish)).type


def test_the_invalidity_date_has_passed():
    world = World()
    stored = world.memory.issue("olga", DER)
    later = world.clock.now() + datetime.timedelta(seconds=1)
    wish = RevocationWish(stored.serial, RevocationReason.KEY_COMPROMISE, None, later)
    assert ErrorType.BAD_REQUEST is _refusal(lambda: _revoke(world, OFFICER, wish)).type


def test_an_invalidity_date_before_all_certificates_is_refused():
    """In UTC it would be in the year before year 1, which the worker could not read back."""
    world = World()
    stored = world.memory.issue("olga", DER)
    east = datetime.timezone(datetime.timedelta(hours=14))
    for first in (
        datetime.datetime(1, 1, 1, tzinfo=east),
        datetime.datetime(1949, 12, 31, 23, 59, 59, tzinfo=datetime.UTC),
    ):
        wish = RevocationWish(stored.serial, RevocationReason.KEY_COMPROMISE, None, first)
        assert ErrorType.BAD_REQUEST is _refusal(lambda wish=wish: _revoke(world, OFFICER, wish)).type
    assert not world.memory.revocations


def test_a_serial_used_by_two_issuers_needs_the_issuer():
    world = World()
    world.memory.issue("olga", DER, serial=77)
    world.memory.issue("olga", DER, serial=77, issuer="root")
    wish = RevocationWish(der.integer_octets(77), RevocationReason.SUPERSEDED)
    assert ErrorType.BAD_REQUEST is _refusal(lambda: _revoke(world, OFFICER, wish)).type
    named = RevocationWish(der.integer_octets(77), RevocationReason.SUPERSEDED, "root")
    assert "root" == _revoke(world, OFFICER, named)[0].issuer


def test_an_officer_may_revoke_a_serial_without_a_certificate():
    """An unconfirmed intent (docs/issuance.md): only the worker knows whether the serial was used."""
    world = World()
    wish = RevocationWish(b"\x05", RevocationReason.KEY_COMPROMISE)
    assert ErrorType.BAD_CERT_ID is _refusal(lambda: _revoke(world, OFFICER, wish)).type
    [(stored, _)] = world.memory.revocations.values()
    assert ("issuing", b"\x05") == (stored.issuer, stored.serial)
    assert ErrorType.BAD_CERT_ID is _refusal(lambda: _revoke(world, REQUESTOR, wish)).type
    assert 1 == len(world.memory.revocations)


def test_a_refused_revocation_says_why():
    world = World()
    stored = world.memory.issue("olga", DER)
    world.memory.revocation_refusal = "the worker will not"
    wish = RevocationWish(stored.serial, RevocationReason.SUPERSEDED)
    error = _refusal(lambda: _revoke(world, OFFICER, wish))
    assert (ErrorType.BAD_REQUEST, "the worker will not") == (error.type, error.detail)


def test_only_an_administrator_asks_for_a_crl():
    world = World()
    error = _refusal(lambda: asyncio.run(enrolment.ask_crl(world.ra, OFFICER, "issuing")))
    assert ErrorType.NOT_AUTHORIZED is error.type
    administrator = Operator(b"a" * 32, "anna", frozenset({Role.ADMINISTRATOR}))
    asyncio.run(enrolment.ask_crl(world.ra, administrator, "issuing"))
    assert [("issuing", "anna")] == world.memory.crl_wishes
    assert ["crl.requested"] == world.memory.kinds()
    error = _refusal(lambda: asyncio.run(enrolment.ask_crl(world.ra, administrator, "nobody")))
    assert ErrorType.BAD_CERT_ID is error.type


@given(st.binary(max_size=600))
def test_no_bytes_make_the_gate_fall_over(data):
    world = World()
    error = _refusal(lambda: _enrol(world, csr=data))
    assert error.type in {ErrorType.BAD_DATA_FORMAT, ErrorType.BAD_ALG, ErrorType.BAD_POP}
    pem = (
        b"-----BEGIN CERTIFICATE REQUEST-----\n" + base64.encodebytes(data) + b"-----END CERTIFICATE REQUEST-----"
    )
    assert ErrorType.SYSTEM_FAILURE is not _refusal(lambda: _enrol(world, csr=pem)).type
