"""Revocations and CRL numbers on a real server (R14, R15, R16)."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime

import psycopg
import pytest
from pgdata import (
    DAY,
    NOT_AFTER,
    SECOND,
    WORKER,
    Office,
    error_of,
    event,
    intent,
    issuer_certificate,
    listed,
    serial,
    serials,
    settle,
)

from chancery.asn1.crl import entry
from chancery.errors import ErrorType
from chancery.ports import (
    COMPLETE,
    CertificateStatus,
    CRLRecord,
    CRLSelection,
    NewIssuer,
    RevocationReason,
    Role,
    StatusState,
)
from chancery.postgres.revocation import PgRevocationStore
from chancery.postgres.session import connect
from pg import AT, crls_due

HOUR = datetime.timedelta(hours=1)


@pytest.fixture
def office(database):
    return Office(database)


def crl(number: int, at=AT, issuer_id: int = 1, days: float = 7) -> CRLRecord:
    return CRLRecord(issuer_id, number, at, at + days * DAY, at, b"crl %d" % number, size=4 + len(str(number)))


def publish(office, at=AT, store=None, days: float = 7) -> list[bytes]:
    store = store or office.revocations
    number = store.reserve_crl_number(1, [event(f"intent {at}")])
    with store.open_crl(CRLSelection(1, COMPLETE, AT - DAY, number=number)) as draft:
        store.publish_crl(crl(number, at, days=days), [event(f"crl {at}")])
        return serials(draft)


def test_a_revocation_sets_the_status_settles_the_request_and_is_journalled(office):
    office.issue(1)
    request = office.ask_revocation(1)
    assert (RevocationReason.KEY_COMPROMISE, AT - DAY, "olga") == (
        request.reason,
        request.invalidity_date,
        request.requestor,
    )
    before = office.status(1)
    assert CertificateStatus(1, serial(1), StatusState.GOOD, NOT_AFTER) == before
    revoked = CertificateStatus(
        1, serial(1), StatusState.REVOKED, NOT_AFTER, AT, RevocationReason.KEY_COMPROMISE, AT - DAY
    )
    settle(office.revocations, revoked, request, None, [event("revoked")])
    assert revoked == office.status(1)
    assert [] == office.revocations.take_revocations(10)
    assert "revoked" == office.events()[-1]
    with office.revocations.open_crl(CRLSelection(1, COMPLETE, AT)) as draft:
        assert entry(serial(1), AT, 1, AT - DAY) == b"".join(draft.chunks())


def test_status_goes_forwards_only(office):
    office.issue(1)
    office.revoke(1)
    again = office.ask_revocation(1, reason=RevocationReason.SUPERSEDED)
    revoked = dataclasses.replace(office.status(1), reason=RevocationReason.SUPERSEDED, revoked_at=AT + SECOND)
    assert ErrorType.SYSTEM_FAILURE == error_of(
        lambda: settle(office.revocations, revoked, again, None, [event("never")])
    )
    assert RevocationReason.KEY_COMPROMISE == office.status(1).reason
    assert [again] == office.revocations.take_revocations(10)
    good = dataclasses.replace(revoked, state=StatusState.GOOD)
    assert ErrorType.SYSTEM_FAILURE == error_of(
        lambda: settle(office.revocations, good, again, None, [event("never")])
    )
    with connect(office.database.role("worker")) as worker:
        for change in ("state = 'good', revoked_at = NULL, reason = NULL", "state = 'unconfirmed'", "reason = 1"):
            with pytest.raises(psycopg.errors.IntegrityError):
                worker.execute(f"UPDATE chancery.certificate_status SET {change}")
    assert "never" not in office.events()


def test_a_refusal_is_settled_too(office):
    request = office.ask_revocation(1)
    settle(office.revocations, None, request, "never issued \x00", [event("refused")])
    assert [("refused", "never issued �")] == office.sql("SELECT state, detail FROM chancery.revocation_request")
    assert office.status(1) is None


def test_of_two_workers_one_settles_and_the_other_records_nothing(office):
    office.issue(1)
    request = office.ask_revocation(1)
    revoked = dataclasses.replace(
        office.status(1), state=StatusState.REVOKED, reason=request.reason, revoked_at=AT
    )

    def settle_as(name: str) -> None:
        store = PgRevocationStore(office.database.role("worker"))
        settle(store, revoked, request, None, [event(name)])

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in pool.map(settle_as, ["settled"] * 8):
            pass
    assert 1 == office.events().count("settled")


def test_who_may_revoke_what(office):
    office.issue(1, requestor="rita")
    office.issue(2, requestor="bootstrap")
    for number, (name, role) in enumerate(
        [
            ("olga", Role.OFFICER),
            ("adam", Role.ADMINISTRATOR),
            ("rita", Role.REQUESTOR),
            ("aude", Role.AUDITOR),
            ("gone", Role.OFFICER),
            ("lost", Role.OFFICER),
        ],
        10,
    ):
        office.operator(number, name, role)
    office.directory(lambda d: d.remove_operator("gone", AT, []))
    office.revoke(15)  # the certificate of `lost`
    (held,) = office.submit("held", requestor="rita")
    office.store.take(WORKER, 1, AT)
    office.store.record_intents(WORKER, [intent(held, 3)], [], [])
    allowed = {
        (name, number)
        for name in ("olga", "adam", "rita", "aude", "gone", "lost", "bootstrap", "nobody")
        for number in (1, 2, 3, 4)
        if office.standing(number, name).may_revoke
    }
    everything = {(name, number) for name in ("olga", "adam") for number in (1, 2, 3, 4)}
    assert everything | {("rita", 1), ("rita", 3)} == allowed
    assert office.standing(1, "adam").may_reinstate
    assert not office.standing(1, "rita").may_reinstate


def test_r16_an_entry_stays_until_a_crl_after_its_end(office):
    office.issue(1, not_after=AT + DAY)
    office.issue(2)
    office.revoke(2)
    (request_id,) = office.submit("short")
    office.store.take(WORKER, 1, AT)
    office.store.record_intents(WORKER, [intent(request_id, 3, not_after=AT + HOUR)], [], [])
    office.revoke(3)
    assert [serial(2), serial(3)] == listed(office.revocations, AT)
    assert [serial(2), serial(3)] == listed(office.revocations, AT + HOUR)
    assert [serial(2)] == listed(office.revocations, AT + HOUR + SECOND)
    assert [] == listed(office.revocations, AT, issuer_id=2)


def test_r15_crl_numbers_only_rise(office):
    def reserve(_: int) -> int:
        return PgRevocationStore(office.database.role("worker")).reserve_crl_number(1, [event("number")])

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(reserve, range(12)))
    assert list(range(1, 13)) == sorted(numbers)
    assert 12 == office.events().count("number")
    office.revocations.publish_crl(crl(5), [event("five")])
    for wrong in (4, 5, 13):  # below, the same, never reserved
        assert ErrorType.SYSTEM_FAILURE == error_of(
            lambda n=wrong: office.revocations.publish_crl(crl(n), [event("never")])
        )
    office.revocations.publish_crl(crl(6), [])
    assert crl(6) == office.revocations.latest_crl(1)
    assert office.revocations.latest_crl(2) is None
    assert "never" not in office.events()
    with connect(office.database.role("worker")) as worker, pytest.raises(psycopg.errors.RestrictViolation):
        worker.execute("INSERT INTO chancery.crl_number VALUES (1, 3)")


def test_r14_a_crl_is_due_when_there_is_none_or_it_nears_its_end(office):
    assert [1] == crls_due(office.revocations, AT)
    publish(office)
    assert [] == crls_due(office.revocations, AT)
    assert [] == crls_due(office.revocations, AT + 6 * DAY - SECOND)
    assert [1] == crls_due(office.revocations, AT + 6 * DAY)
    publish(office, days=1)
    assert [] == crls_due(office.revocations, AT + DAY / 2 - SECOND)
    assert [1] == crls_due(office.revocations, AT + DAY / 2)


def test_a_crl_made_while_the_clock_was_ahead_is_due_once_it_is_right(office):
    publish(office)
    assert [1] == crls_due(office.revocations, AT - 365 * DAY)


def test_r14_a_crl_is_due_after_a_revocation_and_after_a_wish(office):
    office.issue(1)
    publish(office)
    office.revoke(1, AT + SECOND)
    assert [1] == crls_due(office.revocations, AT + SECOND)
    assert [serial(1)] == publish(office, AT + 2 * SECOND)
    assert [] == crls_due(office.revocations, AT + 2 * SECOND)
    office.queue(lambda q: q.ask_crl("issuing", "olga", AT, []))
    assert [1] == crls_due(office.revocations, AT + 3 * SECOND)
    publish(office, AT + 4 * SECOND)
    assert [] == crls_due(office.revocations, AT + 4 * SECOND)


def test_a_revocation_that_commits_after_the_crl_was_read_makes_the_next_one_due_whatever_its_clock_says(office):
    office.issue(1)
    office.issue(2)
    maker = PgRevocationStore(office.database.role("worker"))
    number = maker.reserve_crl_number(1, [])
    with maker.open_crl(CRLSelection(1, COMPLETE, AT, number=number)):
        # Another worker, whose clock is behind, commits between reading and publishing.
        office.revoke(1, AT - HOUR)
        maker.publish_crl(crl(number), [])
    assert [1] == crls_due(office.revocations, AT)
    assert [serial(1)] == publish(office)
    assert [] == crls_due(office.revocations, AT)
    # And one whose clock is ahead is covered when it was read.
    office.revoke(2, AT + HOUR)
    publish(office)
    assert [] == crls_due(office.revocations, AT)


def test_a_crl_whose_snapshot_is_unknown_or_of_another_cluster_is_judged_by_its_time(fresh_database):
    office = Office(fresh_database)
    office.issue(1)
    number = office.revocations.reserve_crl_number(1, [])
    office.revocations.publish_crl(crl(number), [])  # entries read from elsewhere
    assert [] == crls_due(office.revocations, AT)
    office.revoke(1, AT + SECOND)
    assert [1] == crls_due(office.revocations, AT)
    publish(office, AT + 2 * SECOND)
    office.sql("ALTER TABLE chancery.crl DISABLE TRIGGER kept")
    office.sql("UPDATE chancery.crl SET snapshot = '900000000:900000000:' WHERE number = 2")
    assert [] == crls_due(office.revocations, AT + 2 * SECOND)
    office.issue(2)
    office.revoke(2, AT + 3 * SECOND)
    assert [1] == crls_due(office.revocations, AT + 2 * SECOND)


def test_a_crl_signed_elsewhere_is_imported_once(office):
    root = office.issuers.add_issuer(NewIssuer("root", issuer_certificate("root"), None, None, None), AT, [])
    office.issuers.import_crl(crl(3, issuer_id=root), [event("imported")])
    office.issuers.import_crl(crl(3, issuer_id=root), [event("again")])
    assert crl(3, issuer_id=root) == office.revocations.latest_crl(root)
    for wrong in (crl(2, issuer_id=root), dataclasses.replace(crl(3, issuer_id=root), der=b"other")):
        assert ErrorType.BAD_REQUEST == error_of(lambda c=wrong: office.issuers.import_crl(c, [event("never")]))
    office.issuers.import_crl(crl(7, issuer_id=root), [])
    assert 7 == office.revocations.latest_crl(root).number
    assert ["imported"] == [one for one in office.events() if one in {"imported", "again", "never"}]


def test_issuers_and_profiles_are_added_once(office):
    again = NewIssuer("issuing", issuer_certificate(), None, "ca", "issuing")
    assert 1 == office.issuers.add_issuer(again, AT, [event("again")])
    other = issuer_certificate("other")
    for wrong in (
        NewIssuer("issuing", other, None, None, None),
        NewIssuer("else", issuer_certificate(), None, None, None),
        NewIssuer("child", other, "nobody", None, None),
        NewIssuer("Not A Name", other, None, None, None),
    ):
        assert ErrorType.BAD_REQUEST == error_of(lambda n=wrong: office.issuers.add_issuer(n, AT, [event("no")]))
    assert ErrorType.BAD_DATA_FORMAT == error_of(
        lambda: office.issuers.add_issuer(NewIssuer("x", b"\x30\x00", None, None, None), AT, [])
    )
    child = office.issuers.add_issuer(NewIssuer("child", other, "issuing", None, None), AT, [event("child")])
    assert [("issuing", None), ("child", 1)] == [(i.name, i.parent_id) for i in office.issuers.issuers()]
    assert child == office.issuers.issuers()[1].issuer_id
    for _ in range(2):
        office.issuers.add_profile("tls-server", 1, bytes(32), "source", AT)
    office.issuers.add_profile("tls-server", 2, b"\x01" * 32, "source 2", AT)
    profiles = [subject for subject in office.events() if subject == "profile:tls-server"]
    assert (2, 2) == (len(profiles), office.count("profile"))
    assert not {"again", "no"} & set(office.events())
