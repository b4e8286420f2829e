"""Revoking, and the CRLs that say so (R14, R15, R16)."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509

from cakit import CA, make_csr
from chancery.asn1.signature import KeySigner
from chancery.ca.crl import CRLMaking, CRLSettings, make_crl
from chancery.ca.crl_schedule import CRLPublishing
from chancery.ca.issuance import issue_batch
from chancery.ca.revocation import settle_revocations
from chancery.errors import ErrorType, PKIError
from chancery.ports import CertificateStatus, EventKind, RevocationReason, StatusState
from checks import account_of, problems
from fakes import START, CountingSigner, Faults, MemoryStore

DAY = datetime.timedelta(days=1)
REASONS = [reason for reason in RevocationReason if reason.final]


def _ca(count: int = 1, **rest) -> CA:
    ca = CA(**rest)
    for _ in range(count):
        ca.ask()
    ca.work()
    return ca


def _serials(ca: CA) -> list[bytes]:
    return [serial for _, serial in ca.store.certificates]


def _settle(ca: CA) -> int:
    return settle_revocations(ca.store, ca.clock, "worker-1")


def _crl(ca: CA, settings: CRLSettings | None = None) -> x509.CertificateRevocationList:
    record = make_crl(CRLMaking(ca.issuer, ca.store, ca.clock, "worker-1", settings or CRLSettings()))
    return x509.load_der_x509_crl(record.der)


def _number(crl: x509.CertificateRevocationList) -> int:
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


# Revocation


def test_a_revocation_that_the_store_refuses_does_not_hold_up_the_others():
    class Choosy(MemoryStore):
        def settle(self, settlements) -> None:
            if any(one.status is not None and one.request.revocation_id == 1 for one in settlements):
                raise PKIError(ErrorType.SYSTEM_FAILURE, "refused")
            super().settle(settlements)

    ca = CA(store=Choosy())
    ca.store = ca.issuing.store
    for _ in range(2):
        ca.ask()
    issue_batch(ca.issuing, ca.store.take("worker-1", 10, START))
    for serial in _serials(ca):
        ca.ask_revocation(serial)
    assert (2, 0) == (_settle(ca), _settle(ca))
    assert {1: "the database refused to record it"} == ca.store.revocation_refusals
    assert [StatusState.GOOD, StatusState.REVOKED] == [ca.store.statuses[2, one].state for one in _serials(ca)]


@pytest.mark.parametrize("reason", REASONS)
def test_the_reason_recorded_is_the_reason_given(reason):
    ca = _ca()
    [serial] = _serials(ca)
    ca.clock.advance(1.75)
    ca.ask_revocation(serial, reason, START)
    assert 1 == _settle(ca)
    status = ca.store.statuses[2, serial]
    assert (StatusState.REVOKED, reason, START) == (status.state, status.reason, status.invalidity_date)
    assert START + datetime.timedelta(seconds=1) == status.revoked_at
    [event] = [one for one in ca.store.events if one.kind is EventKind.CERTIFICATE_REVOKED]
    assert (f"2:{serial.hex()}", reason.name.lower(), "alice") == (
        event.subject,
        event.detail["reason"],
        event.detail["requestor"],
    )


def test_a_revocation_that_is_not_to_be_is_refused_in_words():
    ca = _ca()
    [serial] = _serials(ca)
    for one in (serial, serial, b"\x09" * 17):
        ca.ask_revocation(one)
    # The second request about a serial waits for the first.
    assert [1, 2] == [_settle(ca), _settle(ca)]
    assert {
        2: "already revoked at 2026-11-24 12:00:00 UTC",
        3: "this issuer never used that serial number",
    } == ca.store.revocation_refusals
    ca.store.may_revoke = False
    ca.ask_revocation(serial)
    _settle(ca)
    assert "alice may not revoke this certificate" == ca.store.revocation_refusals[4]
    assert 3 == sum(event.kind is EventKind.REVOCATION_REFUSED for event in ca.store.events)


def test_nobody_learns_of_a_certificate_that_they_may_not_revoke():
    ca = _ca()
    ca.store.may_revoke = False
    ca.ask_revocation(b"\x09" * 17)
    _settle(ca)
    assert "alice may not revoke this certificate" == ca.store.revocation_refusals[1]


def test_reissue_never_revokes():
    ca = _ca()
    ca.ask()
    ca.work()
    assert {StatusState.GOOD} == {one.state for one in ca.store.statuses.values()}


def test_the_limit_leaves_the_rest_waiting():
    ca = _ca(3)
    for serial in _serials(ca):
        ca.ask_revocation(serial)
    assert 2 == settle_revocations(ca.store, ca.clock, "worker-1", 2)
    assert 1 == len(ca.store.revocations)


# CRLs


def test_a_crl_lists_what_is_revoked():
    ca = _ca(3)
    first, second, _ = _serials(ca)
    ca.ask_revocation(first, RevocationReason.KEY_COMPROMISE, START)
    ca.ask_revocation(second, RevocationReason.UNSPECIFIED)
    _settle(ca)
    crl = _crl(ca)
    assert crl.is_signature_valid(ca.issuer.certificate.public_key())
    entries = {one.serial_number: one for one in crl}
    assert {int.from_bytes(one, "big") for one in (first, second)} == set(entries)
    entry = entries[int.from_bytes(first, "big")]
    assert x509.ReasonFlags.key_compromise is entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    invalidity = entry.extensions.get_extension_for_class(x509.InvalidityDate).value
    assert START == invalidity.invalidity_date_utc


def test_r15_reason_code_is_absent_for_unspecified():
    ca = _ca()
    [serial] = _serials(ca)
    ca.ask_revocation(serial, RevocationReason.UNSPECIFIED)
    _settle(ca)
    [entry] = _crl(ca)
    assert 0 == len(entry.extensions)


def test_an_empty_crl_has_no_list_and_both_extensions():
    ca = _ca()
    crl = _crl(ca)
    assert 0 == len(crl)
    assert {"2.5.29.20", "2.5.29.35"} == {one.oid.dotted_string for one in crl.extensions}
    assert not any(one.critical for one in crl.extensions)
    ski = ca.issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    aki = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert ski.digest == aki.key_identifier


def test_r15_numbers_rise_strictly_also_over_one_that_was_not_published():
    ca = _ca()
    first = _number(_crl(ca))
    ca.faults.at, ca.faults.calls = 3 + 1, 0  # latest_crl, revoked_entries, reserve_crl_number, then the token
    with pytest.raises(PKIError):
        _crl(ca)
    assert first + 2 == _number(_crl(ca))
    numbers = [one.number for one in ca.store.crls]
    assert sorted(set(numbers)) == numbers


def test_times_are_whole_seconds_and_the_lifetime_is_the_settings():
    ca = _ca()
    ca.clock.advance(0.25)
    crl = _crl(ca, CRLSettings(lifetime=datetime.timedelta(hours=5)))
    assert (START, START + datetime.timedelta(hours=5)) == (crl.last_update_utc, crl.next_update_utc)
    assert ca.clock.now() == ca.store.crls[-1].covers


@pytest.mark.parametrize("days", [0, 11, 400])
def test_r15_a_lifetime_above_ten_days_is_refused(days):
    with pytest.raises(ValueError, match="R15"):
        CRLSettings(lifetime=days * DAY)


def test_the_crl_of_a_root_may_live_for_as_long_as_its_settings_say():
    ca = _ca()
    crl = _crl(ca, CRLSettings(lifetime=180 * DAY, longest=200 * DAY))
    assert START + 180 * DAY == crl.next_update_utc
    with pytest.raises(ValueError, match="a year"):
        CRLSettings(lifetime=400 * DAY, longest=500 * DAY)


def _expiring(ca: CA, not_after: datetime.datetime) -> bytes:
    serial = b"\x05" * 17
    ca.store.statuses[2, serial] = CertificateStatus(
        2, serial, StatusState.REVOKED, not_after, START, RevocationReason.SUPERSEDED
    )
    return serial


def test_r16_an_entry_stays_until_one_crl_after_its_certificate_expired():
    ca = _ca()
    _expiring(ca, START + DAY)
    assert 1 == len(_crl(ca))
    ca.clock.advance(86400 * 2)
    # Expired since the CRL before: once more.
    assert 1 == len(_crl(ca))
    ca.clock.advance(60)
    assert 0 == len(_crl(ca))


def test_r16_a_crl_made_while_the_clock_was_ahead_takes_no_entry_from_the_next():
    ca = _ca()
    _expiring(ca, START + DAY)
    ca.clock.advance(86400 * 365)
    _crl(ca)
    ca.clock.advance(-86400 * 365)
    assert 1 == len(_crl(ca))


def test_r16_the_entry_of_a_code_signing_certificate_stays_for_ten_years():
    ca = CA()
    ca.ask(make_csr("CN=Example Programs"), profile="code-signing")
    ca.work()
    [serial] = _serials(ca)
    assert ca.store.statuses[2, serial].kept_until is None
    ca.ask_revocation(serial)
    _settle(ca)
    status = ca.store.statuses[2, serial]
    assert status.kept_until >= status.not_after.replace(year=status.not_after.year + 10)
    for days, listed in ((1, 1), (460, 1), (3650, 1), (10, 1), (1, 0)):
        ca.clock.advance(86400 * days)
        assert listed == len(_crl(ca))


def test_r16_the_first_crl_lists_no_certificate_that_expired_before_it():
    ca = CA()
    _expiring(ca, START - DAY)
    assert 0 == len(_crl(ca))


def test_a_crl_that_its_key_did_not_sign_is_not_published():
    class Wrong(CountingSigner):
        def sign(self, data: bytes) -> bytes:
            return super().sign(data + b"\x00")

    ca = CA(signer=Wrong(KeySigner(make_key())))
    with pytest.raises(PKIError) as caught:
        _crl(ca)
    assert ErrorType.SYSTEM_FAILURE is caught.value.type
    assert [] == ca.store.crls
    assert {2: 1} == ca.store.crl_numbers
    assert [EventKind.CRL_INTENT] == [one.kind for one in ca.store.events]


def make_key():
    from cakit import key

    return key("issuing")


def test_a_crl_with_a_finding_is_not_published():
    ca = _ca()
    _expiring(ca, START + DAY)
    _, settings = ca.store, CRLSettings(lifetime=8 * DAY)
    object.__setattr__(settings, "longest", DAY)
    with pytest.raises(PKIError, match=r"crl\.next_update_too_late") as caught:
        _crl(ca, settings)
    assert ErrorType.SYSTEM_FAILURE is caught.value.type
    assert 1 == len(ca.store.crls)


def test_r14_due_at_first_after_a_revocation_and_before_the_end():
    ca = CA()

    def due() -> int:
        publishing = CRLPublishing({2: ca.issuer}, ca.store, ca.clock, "worker-1", CRLSettings())
        return len([publishing.make(one) for one in publishing.due()])

    assert [1, 0] == [due(), due()]
    ca.ask(make_csr("", ("dns:a.example",)))
    ca.work()
    ca.ask_revocation(_serials(ca)[0])
    _settle(ca)
    assert [1, 0] == [due(), due()]
    ca.clock.advance(86400 * 6 - 1)
    assert 0 == due()
    ca.clock.advance(1)
    assert [1, 0] == [due(), due()]
    ca.store.ask_crl(2)
    assert [1, 0] == [due(), due()]
    assert [] == problems(account_of(ca.store), {2: ca.signer.signed}, {2: ca.issuer.certificate})


def test_an_issuer_whose_key_is_elsewhere_gets_no_crl_here():
    ca = CA()
    assert [] == CRLPublishing({}, ca.store, ca.clock, "worker-1", CRLSettings()).due()


def test_the_events_of_a_crl():
    ca = CA()
    _crl(ca)
    intent, published = ca.store.events
    assert (EventKind.CRL_INTENT, {"issuer": "issuing", "scope": "complete"}) == (intent.kind, dict(intent.detail))
    assert (EventKind.CRL_PUBLISHED, 1, "crl:issuing") == (
        published.kind,
        published.detail["number"],
        published.subject,
    )


def test_a_store_that_is_away_leaves_the_crl_before():
    ca = _ca()
    for at in range(1, 5):
        ca.faults = ca.store.faults = Faults(at)
        with pytest.raises(PKIError):
            _crl(ca)
        assert 1 == len(ca.store.crls)
