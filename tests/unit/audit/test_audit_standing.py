"""R14-R16, R27, R29: statuses, intents, CRLs, issuers, profiles and operators that are not what was journalled."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json

import pytest
from cryptography import x509

import cakit
from chancery.asn1 import crl as template
from chancery.asn1.signature import KeySigner
from chancery.audit.auditor import audit
from chancery.audit.findings import Kind
from chancery.audit.statuses import GRACE
from chancery.errors import ErrorType, PKIError
from chancery.pkix.usage import CODE_SIGNING, kept_until
from chancery.ports import Event, EventKind, ProfileSwitch
from chancery.ports.auditing import Scope, Stray, StrayKind
from unit.audit.auditworld import honest

SECOND = datetime.timedelta(seconds=1)
DAY = datetime.timedelta(days=1)


@pytest.fixture
def world():
    return honest()


def status(number: int, **changes):
    return lambda world: world.set_status(world.serial(number), **changes)


def event(kind: str, number: int, **detail):
    return lambda world: world.event_of(kind, number)["detail"].update(detail)


def lose(kind: str, number: int = 1):
    return lambda world: world.drop(world.event_of(kind, number))


def good_again(world):
    world.set_status(world.serial(1), state="good", revoked_at=None, reason=None)
    _publish(world, lambda entries: [])


def revoked_by_hand(world):
    row = world.serial(4)
    at = row.status.changed_at.replace(microsecond=0)
    world.set_status(row, state="revoked", revoked_at=at, reason=5, changed_at=world.at)


def an_event_of_revocation(world):
    world.twice(world.event_of("certificate.revoked", 1))
    row = world.serial(4)
    world.events[max(world.events)]["subject"] = f"2:{row.serial.hex()}"


def no_status(world):
    world.put(world.serial(4), status=None)


def unconfirmed_with_certificate(world):
    world.set_status(world.serial(4), state="unconfirmed")


def marked_with_certificate(world):
    world.twice(world.events[world.find("certificate.unconfirmed")[0]])
    world.events[max(world.events)]["subject"] = f"2:{world.serial(4).serial.hex()}"


def the_request_to_revoke(**changes):
    def plant(world):
        row = world.serial(1)
        [request] = row.revocations
        world.put(row, revocations=(dataclasses.replace(request, **changes),))

    return plant


def revoked_before_it_was_intended(world):
    world.swap(world.event_of("certificate.intent", 1), world.event_of("certificate.revoked", 1))


STATUS = [
    (good_again, [Kind.WRONG_STATUS]),
    (revoked_by_hand, [Kind.NOT_JOURNALLED]),
    (an_event_of_revocation, [Kind.WRONG_STATUS]),
    (no_status, [Kind.WRONG_STATUS]),
    (unconfirmed_with_certificate, [Kind.WRONG_STATUS]),
    (marked_with_certificate, [Kind.WRONG_STATUS]),
    (status(4, not_after=datetime.datetime.max.replace(tzinfo=datetime.UTC)), [Kind.WRONG_COLUMN]),
    # R16: kept for longer than its TBSCertificate says.
    (lambda world: world.set_status(world.serial(1), kept_until=world.at), [Kind.WRONG_COLUMN]),
    (lose("certificate.revoked"), [Kind.NOT_JOURNALLED]),
    (lambda world: world.twice(world.event_of("certificate.revoked", 1)), [Kind.JOURNALLED_TWICE]),
    (lose("revocation.requested"), [Kind.NOT_JOURNALLED]),
    (event("revocation.requested", 1, reason="key_compromise"), [Kind.JOURNAL_DIFFERS]),
    (event("certificate.revoked", 1, reason="key_compromise"), [Kind.JOURNAL_DIFFERS]),
    (event("certificate.revoked", 1, revocation=99), [Kind.WRONG_STATUS]),
    (lambda world: world.put(world.serial(1), revocations=()), [Kind.WRONG_STATUS]),
    (the_request_to_revoke(state="refused"), [Kind.WRONG_STATUS]),
    (the_request_to_revoke(serial=bytes(9)), [Kind.WRONG_STATUS]),
    (the_request_to_revoke(invalidity_date=cakit.START), [Kind.WRONG_STATUS]),
    (revoked_before_it_was_intended, [Kind.WRONG_ORDER, Kind.WRONG_ORDER, Kind.NOT_JOURNALLED]),
]


def a_certificate_removed(world):
    world.put(world.serial(4), certificate=None, certificate_id=None)


def not_marked(world):
    world.put(world.unfinished_serial(), status=None)
    world.drop(world.events[world.find("certificate.unconfirmed")[0]])


def mark_removed(world):
    world.put(world.unfinished_serial(), status=None)


def unfinished(**changes):
    return lambda world: world.set_status(world.unfinished_serial(), **changes)


def unfinished_event_lost(kind: str):
    def plant(world):
        row = world.unfinished_serial()
        [found] = world.find(kind, f"2:{row.serial.hex()}")
        world.drop(world.events[found])

    return plant


def another_intent(world):
    row = world.unfinished_serial()
    world.put(row, intent=dataclasses.replace(row.intent, tbs=b"\x30\x00"))


UNFINISHED = [
    (a_certificate_removed, [Kind.MISSING]),
    (not_marked, [Kind.UNFINISHED]),
    (mark_removed, [Kind.UNFINISHED]),
    (unfinished(state="good"), [Kind.WRONG_STATUS]),
    (unfinished(not_after=cakit.START), [Kind.WRONG_COLUMN]),
    (unfinished_event_lost("certificate.unconfirmed"), [Kind.NOT_JOURNALLED]),
    (unfinished_event_lost("certificate.intent"), [Kind.NOT_JOURNALLED]),
    (another_intent, [Kind.JOURNAL_DIFFERS]),
]


def _publish(world, change, *, number=None, signer=None):
    """Sign the newest CRL anew with other entries, row and event in accord."""
    newest = world.crl_rows[-1].record
    row = world.serial(1)
    revoked_at = datetime.datetime.fromisoformat(world.event_of("certificate.revoked", 1)["at"])
    entries = [(row.serial, revoked_at.replace(microsecond=0), 4)]
    issuer = world.ca.issuer
    encoded = b"".join(template.entry(*one) for one in change(entries))
    names, times = (issuer.algorithm.identifier, issuer.subject), (newest.this_update, newest.next_update)
    extensions = template.crl_extensions(number or newest.number, issuer.key_identifier)
    head, tail = template.tbs_ends(names, times, len(encoded), extensions)
    tbs = head + encoded + tail
    from chancery.asn1.x509 import signed

    der = signed(tbs, issuer.algorithm.identifier, (signer or issuer.signer).sign(tbs))
    world.edit_crl(-1, der=der)
    event = world.events[world.find("crl.published", "crl:issuing")[-1]]
    event["detail"]["sha256"] = hashlib.sha256(der).hexdigest()


def crl(change=lambda entries: entries, **options):
    return lambda world: _publish(world, change, **options)


def an_entry_more(entries):
    return sorted([*entries, (b"\x01" + bytes(16), entries[0][1], 0)])


def another_reason(entries):
    return [(serial, at, 1) for serial, at, _ in entries]


def another_time(entries):
    return [(serial, at - SECOND, reason) for serial, at, reason in entries]


def unreadable_crl(world):
    world.edit_crl(-1, der=b"\x30\x00")
    event = world.events[world.find("crl.published", "crl:issuing")[-1]]
    event["detail"]["sha256"] = hashlib.sha256(b"\x30\x00").hexdigest()


def an_older_crl_after(world):
    world.edit_crl(0, this_update=world.crl_rows[-1].record.this_update + DAY)


def crl_event(**detail):
    def plant(world):
        world.events[world.find("crl.published", "crl:issuing")[-1]]["detail"].update(detail)

    return plant


def a_crl_removed(world):
    del world.crl_rows[1]


def a_number_more(world):
    world.numbers[2] += 1


def overdue(world):
    world.ca.clock.advance(8 * 86400)


def never_listed(world):
    _publish(world, lambda entries: [])
    world.edit_crl(-1, covers=cakit.START)
    world.ca.clock.advance(2 * 86400)


CRL = [
    (crl(lambda entries: []), [Kind.WRONG_CRL]),
    (crl(an_entry_more), [Kind.WRONG_CRL]),
    (crl(another_reason), [Kind.WRONG_CRL]),
    (crl(another_time), [Kind.WRONG_CRL]),
    (crl(lambda entries: entries * 2), [Kind.LINT, Kind.BAD_CRL]),
    (crl(number=7), [Kind.WRONG_COLUMN]),
    (crl(signer=KeySigner(cakit.key("somebody"))), [Kind.BAD_CRL]),
    (unreadable_crl, [Kind.BAD_CRL]),
    (an_older_crl_after, [Kind.WRONG_COLUMN, Kind.WRONG_ORDER]),
    (crl_event(sha256="00"), [Kind.JOURNAL_DIFFERS]),
    (crl_event(number=9), [Kind.NOT_JOURNALLED, Kind.STRAY]),
    (a_crl_removed, [Kind.STRAY]),
    (a_number_more, [Kind.NOT_JOURNALLED]),
    (overdue, [Kind.LATE_CRL]),
    (never_listed, [Kind.LATE_CRL]),
]


def issuer(**changes):
    def plant(world):
        world.issuer_rows[1] = dataclasses.replace(world.issuer_rows[1], **changes)

    return plant


def another_parent(world):
    row = world.issuer_rows[1]
    world.issuer_rows[1] = dataclasses.replace(row, record=dataclasses.replace(row.record, parent_id=2))


def an_issuer_nobody_knows_of(world):
    world.drop(world.events[world.find("ca.imported", "issuer:issuing")[0]])


def an_issuer_removed(world):
    world.twice(world.events[world.find("ca.imported", "issuer:issuing")[0]])
    world.events[max(world.events)]["subject"] = "issuer:gone"


def another_text(world):
    world.profile_rows[1] = dataclasses.replace(world.profile_rows[1], source="name = 1")


def another_certificate_in_the_event(world):
    world.events[world.find("ca.imported", "issuer:issuing")[0]]["detail"]["certificate_sha256"] = "00"


def a_profile_removed(world):
    world.twice(world.events[world.find("profile.loaded", "profile:smime")[0]])
    world.events[max(world.events)]["detail"]["sha256"] = "00"


def a_profile_nobody_loaded(world):
    world.drop(world.events[world.find("profile.loaded", "profile:smime")[0]])


def operator(**changes):
    def plant(world):
        world.operator_rows[0] = dataclasses.replace(world.operator_rows[0], **changes)

    return plant


def an_operator_nobody_enrolled(world):
    world.drop(world.events[world.find("operator.enrolled")[0]])


def an_operator_removed(world):
    world.operator_rows.clear()


STANDING = [
    (another_parent, [Kind.WRONG_ISSUER, Kind.LINT, Kind.LINT, Kind.LINT]),
    (issuer(spki_sha256=bytes(32)), [Kind.WRONG_COLUMN]),
    (an_issuer_nobody_knows_of, [Kind.NOT_JOURNALLED]),
    (another_certificate_in_the_event, [Kind.JOURNAL_DIFFERS]),
    (an_issuer_removed, [Kind.STRAY]),
    (a_profile_nobody_loaded, [Kind.NOT_JOURNALLED]),
    (a_profile_removed, [Kind.STRAY]),
    (operator(certificate=False), [Kind.WRONG_OPERATOR]),
    (operator(roles=("administrator",)), [Kind.JOURNAL_DIFFERS]),
    (operator(fingerprint=bytes(32)), [Kind.JOURNAL_DIFFERS]),
    (operator(removed_at=cakit.START), [Kind.WRONG_OPERATOR]),
    (an_operator_nobody_enrolled, [Kind.NOT_JOURNALLED]),
    (an_operator_removed, [Kind.STRAY]),
]


@pytest.mark.parametrize(("plant", "expected"), [*STATUS, *UNFINISHED, *CRL, *STANDING])
def test_one_edit_is_found_for_what_it_is(world, plant, expected):
    plant(world)
    report = audit(world, world.at)
    assert expected == [one.kind for one in report.findings], list(map(str, report.findings))
    assert all(one.what and one.next_step for one in report.findings)


def test_a_profile_of_another_text_is_behind_nothing(world):
    another_text(world)
    report = audit(world, world.at)
    assert [Kind.WRONG_PROFILE, Kind.WRONG_PROFILE] == [one.kind for one in report.findings]


def test_a_switch_of_a_profile_is_in_the_journal_as_it_stands(world):
    switch = ProfileSwitch("smime", False, "why", "olga", cakit.START)
    told = Event(EventKind.PROFILE_DEACTIVATED, cakit.START, "olga", "profile:smime", {"reason": "why"})
    world.switch_rows.append(switch)
    assert [Kind.NOT_JOURNALLED] == [one.kind for one in audit(world, world.at).findings]
    world.events[max(world.events) + 1] = json.loads(told.body())
    assert () == audit(world, world.at).findings
    world.switch_rows[0] = dataclasses.replace(switch, reason="another")
    assert [Kind.NOT_JOURNALLED, Kind.STRAY] == [one.kind for one in audit(world, world.at).findings]
    world.switch_rows.clear()
    assert [Kind.STRAY] == [one.kind for one in audit(world, world.at).findings]


@pytest.mark.parametrize("kind", StrayKind)
def test_what_stands_alone_is_named(world, kind):
    world.stray_rows.append(Stray(kind, "2:01", "certificate.issued"))
    [finding] = audit(world, world.at).findings
    assert (Kind.STRAY, "2:01") == (finding.kind, finding.subject)


def test_an_intent_may_wait_for_its_worker_for_a_while(world):
    not_marked(world)
    recorded = world.unfinished_serial().intent.recorded_at
    assert () == audit(world, recorded + GRACE, Scope(issuer_id=2)).findings
    assert [Kind.UNFINISHED] == [one.kind for one in audit(world, recorded + GRACE + SECOND).findings]


def test_an_unconfirmed_serial_that_was_revoked_is_on_the_crl_like_any_other(world):
    row = world.unfinished_serial()
    world.set_status(row, state="revoked", revoked_at=cakit.START, reason=0, changed_at=cakit.START)
    kinds = [one.kind for one in audit(world, world.at).findings]
    assert [Kind.NOT_JOURNALLED, Kind.WRONG_CRL] == kinds


def test_an_entry_may_go_after_its_certificate_expired(world):
    # R16: expired before the CRL that came before, so that one has carried it.
    row = world.serial(1)
    _publish(world, lambda entries: [])
    assert [Kind.WRONG_CRL] == [one.kind for one in audit(world, world.at).findings]
    before = world.crl_rows[-1].before
    world.set_status(row, not_after=before)
    assert [Kind.WRONG_COLUMN, Kind.WRONG_CRL] == [one.kind for one in audit(world, world.at).findings]
    world.set_status(world.serial(1), not_after=before - SECOND)
    assert [Kind.WRONG_COLUMN] == [one.kind for one in audit(world, world.at).findings]


def test_r16_the_entry_of_a_code_signing_certificate_may_not_go_when_that_expired(world):
    row = world.serial(1)
    _publish(world, lambda entries: [])
    before = world.crl_rows[-1].before
    tbs = row.intent.tbs + CODE_SIGNING
    world.put(row, intent=dataclasses.replace(row.intent, tbs=tbs))
    world.set_status(world.serial(1), not_after=before - SECOND)
    # The column is not what the TBSCertificate makes it, and by the column the entry may go.
    first = [
        one for one in audit(world, world.at).findings if "kept_until" in one.what or one.kind is Kind.WRONG_CRL
    ]
    assert [Kind.WRONG_COLUMN] == [one.kind for one in first]
    world.set_status(world.serial(1), kept_until=kept_until(tbs, before - SECOND))
    then = [
        one for one in audit(world, world.at).findings if "kept_until" in one.what or one.kind is Kind.WRONG_CRL
    ]
    assert [Kind.WRONG_CRL] == [one.kind for one in then]


def _two_crls(world):
    """Make the first of two CRLs a large one whose entries are not stored."""
    first = next(at for at, one in enumerate(world.crl_rows) if one.record.issuer_id == 2)
    row = world.crl_rows[first]
    assert not row.newest
    entries = len(x509.load_der_x509_crl(row.record.der))
    world.crl_rows[first] = dataclasses.replace(
        row, record=dataclasses.replace(row.record, der=b"head", tail=b"tail", entries=entries)
    )
    return world.crl_rows[first].record


def _dropped(world, at, **detail):
    event = Event(EventKind.RETENTION_DROPPED, at, "owner", "crl:issuing", {"source": "crl_part", **detail})
    world.events[max(world.events) + 1] = json.loads(event.body())


def test_what_a_taken_over_ca_revoked_here_is_journalled_one_by_one(world):
    at = next(at for at, one in enumerate(world.issuer_rows) if one.record.name == "issuing")
    world.issuer_rows[at] = dataclasses.replace(world.issuer_rows[at], taken_over=1)
    assert [Kind.JOURNAL_DIFFERS] == [one.kind for one in audit(world, world.at).findings]
    told = Event(EventKind.CA_FOREIGN_REVOKED, world.at, "uid:0", "issuer:issuing", {"serial": "51ab"})
    world.events[max(world.events) + 1] = json.loads(told.body())
    assert () == audit(world, world.at).findings


def test_r28_retention_may_take_the_entries_of_a_crl_two_years_after_its_end(world):
    record = _two_crls(world)
    assert [Kind.BAD_CRL] == [one.kind for one in audit(world, world.at).findings]
    end = record.next_update + datetime.timedelta(days=730)
    _dropped(world, end - SECOND, number=record.number)
    _dropped(world, end, number=record.number + 1)
    assert [Kind.BAD_CRL] == [one.kind for one in audit(world, world.at).findings]
    _dropped(world, end, number=record.number)
    assert () == audit(world, world.at).findings
    world.events[world.find("crl.published", "crl:issuing")[0]]["detail"]["entries"] = 99
    assert [Kind.JOURNAL_DIFFERS] == [one.kind for one in audit(world, world.at).findings]


def test_a_crl_whose_events_retention_took_is_judged_without_them(world):
    for kind in ("crl.published", "crl.intent"):
        world.drop(world.events[world.find(kind, "crl:issuing")[0]])
    assert [Kind.NOT_JOURNALLED] * 2 == [one.kind for one in audit(world, world.at).findings]
    first = next(one.record for one in world.crl_rows if one.record.issuer_id == 2)
    detail = {"source": "journal_event", "newest": "not a time"}
    _dropped(world, world.at, **detail)
    assert [Kind.NOT_JOURNALLED] * 2 == [one.kind for one in audit(world, world.at).findings]
    _dropped(world, world.at, **(detail | {"newest": first.this_update.isoformat()}))
    assert () == audit(world, world.at).findings


def test_a_database_that_goes_away_is_no_finding(world):
    def away(scope):
        raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the database is not available")

    world.strays = away
    with pytest.raises(PKIError, match="not available"):
        audit(world, world.at)


def test_a_row_that_no_rule_foresaw_is_a_finding(world):
    world.operator_rows[0] = dataclasses.replace(world.operator_rows[0], fingerprint="x")
    assert [Kind.NOT_JUDGED] == [one.kind for one in audit(world, world.at).findings]
