"""Mass revocation on a real server: what is revoked is what was confirmed, by two where it is much (R22)."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import hashlib
import json

import psycopg
import pytest
from pgdata import DAY, Office, fingerprint, serial

from cakit import PROFILES
from chancery.audit import mass as audited
from chancery.audit import trail
from chancery.ca.mass import MassSettings, decide_jobs
from chancery.ca.revocation import settle_revocations
from chancery.errors import ErrorType, PKIError
from chancery.ports import Operator, RevocationReason, Role
from chancery.ports.mass import JobState, Selection
from chancery.ports.reports import Ground
from chancery.postgres.auditing import PgAuditReader
from chancery.postgres.directory import PgDirectory
from chancery.postgres.mass import PgJobStore, PgMassRevocations
from chancery.postgres.reports import PgReports
from chancery.postgres.requests import PgRequestQueue
from chancery.postgres.session import AsyncPool, connect
from chancery.postgres.timestampclients import PgTimestampClients
from chancery.ra import mass, reports
from chancery.ra.enrolment import RegistrationAuthority
from fakes import FakeClock, FakeEntropy
from pg import AT

KEY = b"k" * 32
OLGA = Operator(fingerprint(90), "olga", frozenset({Role.OFFICER}))
ADAM = Operator(fingerprint(91), "adam", frozenset({Role.ADMINISTRATOR}))
RITA = Operator(fingerprint(92), "rita", frozenset({Role.REQUESTOR}))
WISH = mass.MassWish(Selection(spki_sha256=KEY), RevocationReason.KEY_COMPROMISE)


class Bureau:
    """Both sides over one database: what people ask, and what the worker makes of it."""

    def __init__(self, database) -> None:
        self.office = Office(database)
        self.clock = FakeClock(AT + DAY)
        for number, one in ((90, OLGA), (91, ADAM), (92, RITA)):
            self.office.operator(number, one.name, *one.roles)
        for number in (1, 2, 3):
            self.office.issue(number, spki_sha256=KEY)
        self.office.issue(4)
        self.jobs = PgJobStore(database.role("worker"))

    def ask(self, act, *words):
        async def run():
            async with AsyncPool(self.office.database.role("ra")) as pool:
                queue = PgRequestQueue(pool)
                ra = RegistrationAuthority(
                    queue,
                    PgDirectory(pool, self.clock),
                    self.clock,
                    FakeEntropy(),
                    PROFILES,
                    PgMassRevocations(pool),
                    PgReports(pool),
                    PgTimestampClients(pool),
                )
                try:
                    return await act(ra, *words)
                finally:
                    await queue.close()

        return asyncio.run(run())

    def confirmed(self, wish=WISH, who=OLGA):
        shown = self.ask(mass.look, who, wish)
        return self.ask(mass.revoke_many, who, wish, mass.confirmation(shown))

    def work(self, above: int = 100) -> None:
        settings = MassSettings(two_persons_above=above)
        while decide_jobs(
            self.jobs, self.office.revocations, self.clock, "worker-1", settings
        ) + settle_revocations(self.office.revocations, self.clock, "worker-1", 2):
            pass

    def job(self, number: int):
        return self.ask(mass.find_job, OLGA, number)

    def findings(self) -> list[str]:
        """What the auditor has against jobs and reports."""
        with PgAuditReader(self.office.database.role("auditor")) as reader:
            acts = trail.read(reader.entries(audited.KINDS))
            found = [*audited.judge_jobs(reader.jobs(), acts), *audited.judge_reports(reader.reports(), acts)]
        return list(map(str, found))

    def revoked(self) -> list[int]:
        found = self.office.sql("SELECT serial FROM chancery.certificate_status WHERE state = 'revoked'")
        numbers = {serial(n): n for n in range(100)}
        return sorted(numbers[bytes(one)] for (one,) in found)

    def kinds(self) -> list[str]:
        rows = self.office.sql(
            "SELECT kind FROM chancery.journal_event WHERE kind LIKE %s ORDER BY event_id", "revocation%"
        )
        return [kind for (kind,) in rows]


@pytest.fixture
def bureau(database):
    return Bureau(database)


def refusal(call, *words) -> PKIError:
    with pytest.raises(PKIError) as caught:
        call(*words)
    return caught.value


def test_looking_changes_nothing_and_shows_all(bureau):
    shown = bureau.ask(mass.look, OLGA, WISH)
    assert (3, (("issuing", "tls-server", 3),)) == (shown.size, shown.parts)
    assert [serial(n) for n in (1, 2, 3)] == [one.serial for one in shown.sample]
    bureau.work()
    assert [] == bureau.revoked()


def test_what_is_confirmed_is_revoked_and_nothing_else(bureau):
    job = bureau.confirmed()
    assert (JobState.WAITING, 3, 3) == (job.state, job.size, job.waiting)
    bureau.office.issue(5, spki_sha256=KEY)  # later than what was shown
    bureau.work()
    assert [1, 2, 3] == bureau.revoked()
    job = bureau.job(job.job_id)
    assert (JobState.DONE, 0, 3, 0) == (job.state, job.waiting, job.done, job.refused)
    assert [
        *["revocation.requested"] * 3,
        "revocation-job.requested",
        "revocation-job.started",
        "revocation-job.finished",
    ] == bureau.kinds()
    assert [] == bureau.findings()


def test_another_list_than_the_one_shown_is_not_revoked(bureau):
    shown = mass.confirmation(bureau.ask(mass.look, OLGA, WISH))
    bureau.office.revoke(2)
    error = refusal(bureau.ask, mass.revoke_many, OLGA, WISH, shown)
    assert (ErrorType.BAD_REQUEST, True) == (
        error.type,
        "changed since it was shown (3 then, 2 now)" in error.detail,
    )
    other = mass.MassWish(Selection(profile="tls-server"), RevocationReason.SUPERSEDED)
    assert "changed" in refusal(bureau.ask, mass.revoke_many, OLGA, other, shown).detail
    for wrong in ("", "1.2.3", shown.replace(".3.", ".0."), "9" * 19 + shown):
        assert ErrorType.BAD_REQUEST is refusal(bureau.ask, mass.revoke_many, OLGA, WISH, wrong).type
    assert 0 == bureau.office.count("revocation_job")
    assert [2] == bureau.revoked()


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"profile": "tls-server"}, {1, 2, 3, 4, 90, 91, 92}),
        ({"issuer": "issuing", "requestor": "alice"}, {1, 2, 3, 4}),
        ({"issuer": "nobody"}, set()),
        ({"subject": "CN="}, {1, 2, 3, 4, 90, 91, 92}),
        ({"subject": "CN=%"}, set()),
        ({"issued_since": AT + DAY}, set()),
        ({"issued_before": AT + DAY, "requestor": "bootstrap"}, {90, 91, 92}),
        ({"spki_sha256": KEY, "requestor": "rita"}, set()),
    ],
)
def test_every_condition_has_to_match(bureau, chosen, expected):
    wish = mass.MassWish(Selection(**chosen), RevocationReason.SUPERSEDED)
    assert len(expected) == bureau.ask(mass.look, OLGA, wish).size


def test_what_expired_is_left_out_and_what_is_suspended_is_not(bureau):
    bureau.office.issue(6, not_after=AT + DAY / 2, spki_sha256=KEY)
    bureau.office.sql(
        "UPDATE chancery.certificate_status SET state = 'revoked', reason = 6, revoked_at = now()"
        " WHERE serial = %s",
        serial(1),
    )
    shown = bureau.ask(mass.look, OLGA, WISH)
    assert (3, 1) == (shown.size, shown.expired)
    bureau.confirmed()
    bureau.work()
    assert [1, 2, 3] == bureau.revoked()
    assert RevocationReason.KEY_COMPROMISE is bureau.office.status(1).reason
    # Nothing is left but what has expired.
    shown = bureau.ask(mass.look, OLGA, WISH)
    assert (0, 1) == (shown.size, shown.expired)


def test_much_needs_a_second_person_who_saw_the_same(bureau):
    job = bureau.confirmed()
    bureau.work(above=2)
    assert JobState.UNAPPROVED is bureau.job(job.job_id).state
    assert ErrorType.NOT_AUTHORIZED is refusal(bureau.ask, mass.approve, OLGA, job.job_id, job.digest).type
    assert ErrorType.NOT_AUTHORIZED is refusal(bureau.ask, mass.approve, RITA, job.job_id, job.digest).type
    assert ErrorType.BAD_REQUEST is refusal(bureau.ask, mass.approve, ADAM, job.job_id, bytes(32)).type
    assert ErrorType.BAD_CERT_ID is refusal(bureau.ask, mass.approve, ADAM, 99, job.digest).type
    bureau.work(above=2)
    assert [] == bureau.revoked()
    bureau.ask(mass.approve, ADAM, job.job_id, job.digest)
    bureau.work(above=2)
    assert [1, 2, 3] == bureau.revoked()
    assert bureau.kinds().count("revocation-job.approved") == 1
    assert [] == bureau.findings()


def test_a_web_process_taken_over_cannot_approve_for_itself_nor_lengthen_the_list(bureau):
    job = bureau.confirmed()
    bureau.work(above=2)
    with connect(bureau.office.database.role("ra")) as ra:
        for who, digest in (
            ("olga", job.digest),
            ("rita", job.digest),
            ("nobody", job.digest),
            ("adam", bytes(32)),
        ):
            ra.execute(
                "INSERT INTO chancery.revocation_approval (job_id, operator, digest, approved_at)"
                " VALUES (%s, %s, %s, now())",
                (job.job_id, who, digest),
            )
        more = (
            "INSERT INTO chancery.revocation_request (issuer_id, serial, reason, requestor, received_at, job_id)"
            " VALUES (1, %s, 1, 'olga', now(), %s)"
        )
        with pytest.raises(psycopg.errors.RestrictViolation):
            ra.execute(more, (serial(4), job.job_id))
        for change in ("state = 'running'", "size = 4", "seen = 99"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                ra.execute(f"UPDATE chancery.revocation_job SET {change}")
    bureau.work(above=2)
    assert (JobState.UNAPPROVED, []) == (bureau.job(job.job_id).state, bureau.revoked())


@pytest.mark.parametrize(
    "changes",
    [
        {"spki_sha256": hashlib.sha256(b"key 90").digest()},
        {"subject": "CN=SUBJECT 90"},
        {"spki_sha256": hashlib.sha256(b"key 90").digest(), "subject": ""},
    ],
)
def test_one_person_with_two_certificates_is_not_two(bureau, changes):
    """A renewed certificate is a new operator; its key or its subject tell whose."""
    job = bureau.confirmed()
    bureau.office.issue(93, requestor="bootstrap", **changes)
    again = Operator(fingerprint(93), "olga-2", frozenset({Role.OFFICER, Role.ADMINISTRATOR}))
    bureau.office.directory(lambda d: d.add_operator(again, AT, []))
    bureau.ask(mass.approve, again, job.job_id, job.digest)
    bureau.work(above=2)
    assert (JobState.UNAPPROVED, []) == (bureau.job(job.job_id).state, bureau.revoked())
    bureau.ask(mass.approve, ADAM, job.job_id, job.digest)
    bureau.work(above=2)
    assert [1, 2, 3] == bureau.revoked()


def test_a_long_list_in_pieces_needs_the_second_person_too(bureau):
    def piece(number: int, who: Operator = OLGA):
        chosen = Selection(subject=f"CN=subject {number}", requestor="alice")
        return bureau.confirmed(mass.MassWish(chosen, RevocationReason.SUPERSEDED), who)

    piece(1)
    piece(2)
    third = piece(3)
    bureau.work(above=2)
    assert (JobState.UNAPPROVED, [1, 2]) == (bureau.job(third.job_id).state, bureau.revoked())
    bureau.ask(mass.approve, ADAM, third.job_id, third.digest)
    bureau.work(above=2)
    assert [1, 2, 3] == bureau.revoked()
    # What was approved does not count, nor what is older than a day.
    bureau.clock.advance(86401)
    piece(4)
    bureau.work(above=2)
    assert [1, 2, 3, 4] == bureau.revoked()
    assert [] == bureau.findings()


def test_a_list_that_is_not_what_it_says_is_refused_as_a_whole(bureau):
    values = "(requestor, reason, selection, size, digest, received_at) VALUES"
    with connect(bureau.office.database.role("ra")) as ra, ra.transaction():
        ra.execute(f"INSERT INTO chancery.revocation_job {values} ('olga', 1, '{{}}', 1, sha256(''), now())")
        ra.execute(
            "INSERT INTO chancery.revocation_request (issuer_id, serial, reason, requestor, received_at, job_id)"
            " SELECT 1, %s, 1, 'olga', now(), max(job_id) FROM chancery.revocation_job",
            (serial(4),),
        )
    bureau.work()
    job = bureau.job(1)
    assert (JobState.REFUSED, 1, []) == (job.state, job.refused, bureau.revoked())
    assert "not the one that was confirmed" in (job.detail or "")


def test_only_an_officer_may_and_the_worker_looks_again(bureau):
    assert ErrorType.NOT_AUTHORIZED is refusal(bureau.ask, mass.look, RITA, WISH).type
    bureau.confirmed()
    bureau.office.directory(lambda d: d.remove_operator("olga", AT, []))
    bureau.work()
    assert [] == bureau.revoked()
    assert "may not" in bureau.office.sql("SELECT detail FROM chancery.revocation_job")[0][0]


def test_one_s_own_certificate_comes_last_so_that_all_are_revoked(bureau):
    wish = mass.MassWish(Selection(profile="tls-server"), RevocationReason.CESSATION_OF_OPERATION)
    bureau.confirmed(wish)
    bureau.work()
    assert [1, 2, 3, 4, 90, 91, 92] == bureau.revoked()
    last = bureau.office.sql("SELECT serial FROM chancery.revocation_request ORDER BY revocation_id DESC LIMIT 1")
    assert [(serial(90),)] == last


def test_a_single_request_does_not_wait_behind_the_many(bureau):
    bureau.confirmed()
    decide_jobs(bureau.jobs, bureau.office.revocations, bureau.clock, "worker-1", MassSettings())
    single = bureau.office.ask_revocation(4)
    assert single.revocation_id == bureau.office.revocations.take_revocations(1)[0].revocation_id


def test_r22_a_rehearsal_measures_and_leaves_nothing(bureau):
    before = bureau.office.count("journal_event")
    job = bureau.ask(mass.rehearse, OLGA, WISH)
    bureau.work()
    job = bureau.job(job.job_id)
    assert (JobState.DONE, True, 3) == (job.state, job.rehearsal, job.size)
    result = json.loads(job.detail or "")
    assert (3, 3, 1, 3) == tuple(result[key] for key in ("sample", "revocable", "transactions", "notifications"))
    assert [3] == [one["entries_after"] for one in result["crls"]]
    assert ([], 1) == (bureau.revoked(), bureau.office.count("journal_event") - before)
    nothing = mass.MassWish(Selection(profile="none"), RevocationReason.SUPERSEDED)
    assert "nothing is chosen" in refusal(bureau.ask, mass.rehearse, OLGA, nothing).detail
    assert [] == bureau.findings()


def test_rehearsals_hold_up_no_revocation(bureau):
    for _ in range(3):
        bureau.ask(mass.rehearse, OLGA, WISH)
    job = bureau.confirmed()
    decided = decide_jobs(bureau.jobs, bureau.office.revocations, bureau.clock, "worker-1", MassSettings())
    assert (2, JobState.RUNNING) == (decided, bureau.job(job.job_id).state)
    assert [JobState.DONE, JobState.WAITING, JobState.WAITING] == [bureau.job(n).state for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, 999_999_999),
        ({"invalidity_date": datetime.datetime(1900, 1, 1, tzinfo=datetime.UTC)}, 3),
        ({"chosen": Selection(spki_sha256=KEY, subject="\x01" * 1000, name="\U0001f511" * 1000)}, 3),
    ],
)
def test_what_no_row_can_hold_was_asked_wrongly(bureau, changes, size):
    wish = dataclasses.replace(WISH, **changes)
    confirmation = f"9.{int((AT + DAY).timestamp())}.{size}.{bytes(32).hex()}"
    assert ErrorType.BAD_REQUEST is refusal(bureau.ask, mass.revoke_many, OLGA, wish, confirmation).type
    assert 0 == bureau.office.count("revocation_job")


@pytest.mark.parametrize(
    "wish",
    [
        mass.MassWish(Selection(), RevocationReason.SUPERSEDED),
        mass.MassWish(Selection(profile="tls-server"), RevocationReason.CERTIFICATE_HOLD),
        mass.MassWish(Selection(profile="x\x00"), RevocationReason.SUPERSEDED),
        mass.MassWish(
            Selection(profile="tls-server"), RevocationReason.SUPERSEDED, AT + datetime.timedelta(days=400)
        ),
    ],
)
def test_an_impossible_wish_is_refused_at_once(bureau, wish):
    assert ErrorType.BAD_REQUEST is refusal(bureau.ask, mass.look, OLGA, wish).type


def test_r13_the_auditor_knows_a_report_as_it_was_received_and_decided(bureau):
    wish = reports.ReportWish(Ground.MISUSE, "see \x00 there", "eve \x00", "issuing", serial(1))
    number = bureau.ask(reports.add_report, OLGA, wish).report_id
    bureau.ask(reports.answer_report, OLGA, number, "we look into it \x00")
    bureau.ask(reports.reject_report, OLGA, number, "nothing wrong with it")
    assert [] == bureau.findings()
