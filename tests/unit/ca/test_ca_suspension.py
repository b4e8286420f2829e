"""Suspending and reinstating (RFC 5280 5.3.1): the one way back, and never of a TLS server (R15)."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from cakit import CA, make_csr
from chancery.ca.crl import CRLMaking, CRLSettings, make_crl
from chancery.ca.revocation import settle_revocations
from chancery.pkix.usage import may_serve_tls, not_before
from chancery.ports import EventKind, RevocationReason, StatusState
from checks import account_of, problems
from fakes import START

HOLD, RELEASE = RevocationReason.CERTIFICATE_HOLD, RevocationReason.REMOVE_FROM_CRL
SECOND = datetime.timedelta(seconds=1)
DAY = datetime.timedelta(days=1)


def _ca(profile: str = "tls-client") -> tuple[CA, bytes]:
    ca = CA()
    ca.ask(make_csr("CN=Alice,O=Example,C=XX", ("email:alice@example.org",)), profile)
    ca.ask()
    ca.work()
    [serial] = [serial for (_, serial), one in ca.store.certificates.items() if one.profile == profile][:1]
    return ca, serial


def _do(ca: CA, serial: bytes, *reasons: RevocationReason) -> list[str]:
    """Ask for each, settle it, a second apart; return the refusals."""
    before = set(ca.store.revocation_refusals)
    for reason in reasons:
        ca.clock.advance(1)
        ca.ask_revocation(serial, reason)
        assert 1 == settle_revocations(ca.store, ca.clock, "worker-1")
    return [why for number, why in ca.store.revocation_refusals.items() if number not in before]


def _listed(ca: CA) -> dict[int, datetime.datetime]:
    crl = x509.load_der_x509_crl(make_crl(CRLMaking(ca.issuer, ca.store, ca.clock, "worker-1", CRLSettings())).der)
    return {one.serial_number: one.revocation_date_utc for one in crl}


def _kinds(ca: CA, serial: bytes) -> list[str]:
    kinds = [one.kind for one in ca.store.events if one.subject == f"2:{serial.hex()}"]
    return [one.value.removeprefix("certificate.") for one in kinds if "certificate." in one.value][2:]


def test_suspended_it_is_revoked_and_reinstated_it_is_good():
    ca, serial = _ca()
    assert [] == _do(ca, serial, HOLD)
    status = ca.store.statuses[2, serial]
    assert (StatusState.REVOKED, HOLD, START + SECOND) == (status.state, status.reason, status.revoked_at)
    assert [int.from_bytes(serial)] == list(_listed(ca))
    assert [] == _do(ca, serial, RELEASE)
    status = ca.store.statuses[2, serial]
    assert (StatusState.GOOD, None, None, None) == (
        status.state,
        status.reason,
        status.revoked_at,
        status.invalidity_date,
    )
    assert START + 2 * SECOND == status.released_at
    assert {} == _listed(ca)
    assert ["suspended", "reinstated"] == _kinds(ca, serial)
    assert [] == problems(account_of(ca.store), {2: ca.signer.signed}, {2: ca.issuer.certificate})


def test_revoked_while_suspended_it_is_revoked_since_then_and_the_journal_tells_both():
    ca, serial = _ca()
    assert [] == _do(ca, serial, HOLD, RevocationReason.KEY_COMPROMISE)
    status = ca.store.statuses[2, serial]
    assert (RevocationReason.KEY_COMPROMISE, START + SECOND) == (status.reason, status.revoked_at)
    assert {int.from_bytes(serial): START + SECOND} == _listed(ca)
    [event] = [one for one in ca.store.events if one.kind is EventKind.CERTIFICATE_REVOKED]
    assert (START + 2 * SECOND, (START + SECOND).isoformat()) == (event.at, event.detail["held_since"])
    assert 1 == len(ca.store.blocked_keys)
    [why] = _do(ca, serial, RELEASE)
    assert "only a suspended certificate can be reinstated" in why


def test_what_is_not_suspended_is_not_reinstated_and_what_is_not_twice():
    ca, serial = _ca()
    assert ["it is good: only a suspended certificate can be reinstated"] == _do(ca, serial, RELEASE)
    assert ["already suspended at 2026-11-24 12:00:02 UTC"] == _do(ca, serial, HOLD, HOLD)
    [why, again] = _do(ca, serial, RevocationReason.SUPERSEDED, HOLD, RELEASE)
    assert (True, True) == (why.startswith("already revoked"), again.startswith("already revoked"))


def test_r15_what_may_serve_tls_is_never_suspended():
    ca, serial = _ca("tls-server")
    assert ["a certificate that may serve TLS is never suspended (R15): revoke it instead"] == _do(
        ca, serial, HOLD
    )
    assert StatusState.GOOD is ca.store.statuses[2, serial].state


def test_r15_what_cannot_be_read_counts_as_a_tls_server():
    ca, _ = _ca()
    assert may_serve_tls(b"\x30\x00")
    assert may_serve_tls(ca.issuer.record.certificate)  # without extendedKeyUsage
    assert not_before(b"\x30\x00") is None


def test_only_what_has_a_certificate_is_suspended():
    ca, serial = _ca()
    del ca.store.certificates[2, serial]
    assert ["no certificate is stored for this serial number: revoke it instead"] == _do(ca, serial, HOLD)


def test_who_may_revoke_its_own_may_not_reinstate_it():
    ca, serial = _ca()
    ca.store.may_reinstate = False
    assert ["alice may not reinstate this certificate"] == _do(ca, serial, HOLD, RELEASE)
    ca.store.may_revoke, ca.store.may_reinstate = False, True
    assert [] == _do(ca, serial, RELEASE)
    assert ["alice may not revoke this certificate"] == _do(ca, serial, HOLD)


def test_a_clock_set_back_does_not_keep_it_suspended():
    ca, serial = _ca()
    _do(ca, serial, HOLD)
    ca.clock.advance(-3600)
    assert [] == _do(ca, serial, RELEASE)
    assert START + SECOND == ca.store.statuses[2, serial].released_at


@pytest.mark.parametrize(
    ("date", "why"),
    [
        (START + DAY, "the invalidity date lies in the future"),
        (START - 400 * DAY, "the invalidity date lies before the certificate's notBefore"),
    ],
)
def test_an_impossible_invalidity_date_is_refused_by_the_worker_too(date, why):
    ca, serial = _ca()
    ca.ask_revocation(serial, RevocationReason.KEY_COMPROMISE, date)
    settle_revocations(ca.store, ca.clock, "worker-1")
    [refusal] = ca.store.revocation_refusals.values()
    assert refusal.startswith(why)


def test_many_are_settled_in_one_transaction_and_a_key_is_blocked_once():
    ca = CA()
    for _ in range(3):
        ca.ask(make_csr("CN=Alice,O=Example,C=XX", ("email:alice@example.org",)), "tls-client")
    ca.work()
    for _, serial in ca.store.certificates:
        ca.ask_revocation(serial, RevocationReason.KEY_COMPROMISE)
    before = ca.faults.calls
    assert 3 == settle_revocations(ca.store, ca.clock, "worker-1")
    # take_revocations, standings, blocked, settle
    assert 4 == ca.faults.calls - before
    assert (1, 3) == tuple(
        sum(one.kind is kind for one in ca.store.events)
        for kind in (EventKind.KEY_BLOCKED, EventKind.CERTIFICATE_REVOKED)
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(list(RevocationReason)), max_size=8))
def test_whatever_is_asked_status_goes_forwards_but_for_holds(reasons):
    ca, serial = _ca()
    refusals = _do(ca, serial, *reasons)
    _listed(ca)
    assert [] == problems(account_of(ca.store), {2: ca.signer.signed}, {2: ca.issuer.certificate})
    # What should have happened, told in other words.
    where, refused = "good", 0
    to = {("good", "hold"): "held", ("held", "release"): "good", ("good", "end"): "end", ("held", "end"): "end"}
    for reason in reasons:
        step = {HOLD: "hold", RELEASE: "release"}.get(reason, "end")
        to = {
            ("good", "hold"): "held",
            ("held", "release"): "good",
            ("good", "end"): "end",
            ("held", "end"): "end",
        }
        refused += (where, step) not in to
        where = to.get((where, step), where)
    status = ca.store.statuses[2, serial]
    assert (where, refused) == (
        "good" if status.state is StatusState.GOOD else "held" if status.held else "end",
        len(refusals),
    )
