"""Shards, deltas and CRLs in pieces, on a real server (RFC 5280 5.2.4, 5.2.5; R14-R16)."""

from __future__ import annotations

import datetime

import psycopg
import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st
from pgdata import DAY, NOT_AFTER, SECOND, WORKER, Office, event, intent, serial

from cakit import issuing_issuer
from chancery.asn1.crl import entry
from chancery.ca.crl import CRLMaking, CRLSettings, Timing, make_crl
from chancery.ca.issuer import IssuerURLs
from chancery.ca.revocation import settle_revocations
from chancery.pkix import usage
from chancery.pkix.lint import blocking, lint_crl
from chancery.ports import COMPLETE, CRLScope, CRLSelection, Role
from chancery.postgres import crl as pg_crl
from chancery.postgres import rows
from chancery.postgres.session import connect
from fakes import FakeClock
from pg import AT

DELTAS = CRLSettings(delta=Timing(datetime.timedelta(hours=24)))
BASE = "http://pki.example.org/crl/issuing.crl"


@pytest.fixture
def office(database):
    return Office(database)


def making(office, at=AT, scope=COMPLETE, url=None, settings=DELTAS) -> CRLMaking:
    issuer = issuing_issuer(urls=IssuerURLs(None, BASE, None, deltas=True))
    object.__setattr__(issuer.record, "issuer_id", 1)
    return CRLMaking(issuer, office.revocations, FakeClock(at), WORKER, settings, scope, url)


def made(office, at=AT, scope=COMPLETE, url=None) -> dict[int, str]:
    """Make a CRL and return what it says: the reason by serial."""
    record = make_crl(making(office, at, scope, url))
    if record.tail is not None:
        parts = office.sql(rows.CRL_PARTS, 1, record.number)
        record = rows.joined(record, (bytes(row[0]) for row in parts))
    crl = x509.load_der_x509_crl(record.der)
    assert [] == blocking(lint_crl(record.der, issuer=issuing_issuer().certificate))
    assert crl.is_signature_valid(issuing_issuer().certificate.public_key())
    assert record.entries == len(crl)
    return {one.serial_number: _reason(one) for one in crl}


def _reason(one) -> str:
    try:
        return one.extensions.get_extension_for_class(x509.CRLReason).value.reason.name
    except x509.ExtensionNotFound:
        return "unspecified"


def issued(office, number: int, shard: int = 0, **changes) -> None:
    (request_id,) = office.submit(f"shard {number}")
    office.store.take(WORKER, 1, AT)
    office.store.record_intents(WORKER, [intent(request_id, number, shard=shard, **changes)], [], [])


def number_of(value: int) -> int:
    return int.from_bytes(serial(value))


def test_a_delta_lists_what_was_revoked_since_its_base_and_the_base_with_it_is_the_complete_crl(office):
    for number in (1, 2):
        office.issue(number)
    office.revoke(1)
    base = made(office)
    office.revoke(2, AT + SECOND)
    delta = made(office, AT + 2 * SECOND, CRLScope(delta=True))
    assert {number_of(2)} == delta.keys()
    assert base | delta == made(office, AT + 3 * SECOND)
    # And one about nothing.
    assert {} == made(office, AT + 4 * SECOND, CRLScope(delta=True))


def test_the_extensions_of_a_base_and_its_delta(office):
    base = make_crl(making(office))
    delta = make_crl(making(office, AT + SECOND, CRLScope(delta=True)))
    full, changes = x509.load_der_x509_crl(base.der), x509.load_der_x509_crl(delta.der)
    indicator = changes.extensions.get_extension_for_class(x509.DeltaCRLIndicator)
    assert (True, base.number) == (indicator.critical, indicator.value.crl_number)
    assert base.number < delta.number
    [point] = full.extensions.get_extension_for_class(x509.FreshestCRL).value
    assert ["http://pki.example.org/crl/issuing/delta.crl"] == [one.value for one in point.full_name]
    with pytest.raises(x509.ExtensionNotFound):
        changes.extensions.get_extension_for_class(x509.FreshestCRL)


def test_r15_shards_together_are_the_complete_crl_and_say_their_url(office):
    for number in range(1, 7):
        issued(office, number, shard=number % 3)
        office.revoke(number)
    whole = made(office)
    assert 6 == len(whole)
    shards = [made(office, AT, CRLScope(shard), f"http://pki.example.org/{shard}.crl") for shard in (1, 2)]
    unsharded = {number_of(3), number_of(6)}
    assert whole.keys() == shards[0].keys() | shards[1].keys() | unsharded
    assert 6 == len(shards[0]) + len(shards[1]) + len(unsharded)
    record = office.revocations.latest_crl(1, CRLScope(2))
    point = x509.load_der_x509_crl(record.der).extensions.get_extension_for_class(x509.IssuingDistributionPoint)
    assert point.critical
    assert ["http://pki.example.org/2.crl"] == [one.value for one in point.value.full_name]


def test_r16_code_signing_entries_stay_for_ten_years_on_every_kind_of_crl(office):
    url = "http://pki.example.org/1.crl"
    office.operator(50, "olga", Role.OFFICER)
    for number, tbs in ((1, b"tbs"), (2, b"tbs " + usage.CODE_SIGNING)):
        issued(office, number, shard=1, tbs=tbs)
        office.ask_revocation(number)
        assert 1 == settle_revocations(office.revocations, FakeClock(AT), WORKER)
    kept = office.sql("SELECT kept_until FROM chancery.certificate_status WHERE state = 'revoked' ORDER BY serial")
    assert [(None,), (NOT_AFTER + usage.KEPT,)] == kept
    assert {number_of(1), number_of(2)} == made(office, NOT_AFTER).keys()
    # Both ended, once more; then the one that is kept, and the delta says that the other went.
    assert {number_of(1), number_of(2)} == made(office, NOT_AFTER + DAY).keys()
    assert {number_of(1): "remove_from_crl"} == made(office, NOT_AFTER + DAY + SECOND, CRLScope(delta=True))
    made(office, NOT_AFTER + 2 * DAY, CRLScope(1), url)
    for at in (NOT_AFTER + 3 * DAY, NOT_AFTER + usage.KEPT - DAY):
        assert {number_of(2)} == made(office, at).keys() == made(office, at, CRLScope(1), url).keys()
    assert {} == made(office, NOT_AFTER + usage.KEPT, CRLScope(delta=True))
    assert {number_of(2)} == made(office, NOT_AFTER + usage.KEPT + SECOND).keys()
    ends = made(office, NOT_AFTER + usage.KEPT + DAY, CRLScope(delta=True))
    assert {number_of(2): "remove_from_crl"} == ends
    assert {} == made(office, NOT_AFTER + usage.KEPT + DAY)


def test_r16_what_an_entry_outlives_is_written_once(office):
    office.issue(1)
    hold = "UPDATE chancery.certificate_status SET state = 'revoked', reason = 6, revoked_at = %s, kept_until = %s"
    with pytest.raises(psycopg.errors.CheckViolation):
        office.sql(hold, AT, NOT_AFTER - DAY)
    office.sql(hold, AT, NOT_AFTER + DAY)
    for other in (None, NOT_AFTER):
        with pytest.raises(psycopg.errors.RestrictViolation):
            office.sql("UPDATE chancery.certificate_status SET reason = 1, kept_until = %s", other)
    office.sql("UPDATE chancery.certificate_status SET reason = 1")


def test_a_crl_in_pieces_is_the_one_that_it_would_be_in_one(office, monkeypatch):
    for number in range(1, 9):
        office.issue(number)
        office.revoke(number)
    whole = made(office)
    monkeypatch.setattr(pg_crl, "PART", 3)
    assert whole == made(office, AT + SECOND)
    assert [(3,), (3,), (2,)] == office.sql("SELECT entries FROM chancery.crl_part ORDER BY part")
    assert office.revocations.latest_crl(1).tail is not None


moments = st.datetimes(
    datetime.datetime(1950, 1, 1), datetime.datetime(2200, 1, 1), timezones=st.just(datetime.UTC)
)


def test_the_database_encodes_an_entry_as_the_template_does(office):
    with connect(office.database.superuser) as superuser:

        @settings(max_examples=100, deadline=None, database=None)
        @given(st.binary(min_size=1, max_size=20), moments, st.integers(0, 10), st.none() | moments)
        def check(number, revoked_at, reason, invalid):
            query = "SELECT chancery.crl_entry(%s, %s, %s, %s)"
            found = superuser.execute(query, (number, revoked_at, reason, invalid), binary=True).fetchone()
            assert entry(number, revoked_at, reason, invalid) == found[0]

        check()


def test_a_draft_that_is_left_stores_nothing(office):
    number = office.revocations.reserve_crl_number(1, [event("reserved")])
    with office.revocations.open_crl(CRLSelection(1, COMPLETE, AT - DAY, number=number)):
        pass
    assert office.revocations.latest_crl(1) is None
