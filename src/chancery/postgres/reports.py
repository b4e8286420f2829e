"""Problem reports as rows: history, and closed by a row of history."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import psycopg

from chancery.errors import ErrorType, PKIError
from chancery.ports import Event
from chancery.ports.reports import Acted, Ground, NewReport, Report, ReportAct
from chancery.postgres.journal import insert_events_async
from chancery.postgres.rows import storable
from chancery.postgres.session import AsyncPool

_GROUNDS = {ground.label: ground for ground in Ground}
_ADD = """
INSERT INTO chancery.problem_report (ground, issuer, serial, spki_sha256, evidence, reporter, proven, recorded_by,
    received_at, answer_by, revoke_by) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING report_id"""
_ACT = """
INSERT INTO chancery.problem_report_act (report_id, kind, words, operator, at) VALUES (%s, %s, %s, %s, %s)"""
_OPEN = """NOT EXISTS (SELECT FROM chancery.problem_report_act AS d
    WHERE d.report_id = r.report_id AND d.kind IN ('revoked', 'rejected'))"""
_REPORTS = """
SELECT r.report_id, r.ground, r.issuer, r.serial, r.spki_sha256, r.evidence, r.reporter, r.proven, r.recorded_by,
    r.received_at
FROM chancery.problem_report AS r """
_ONE = f"{_REPORTS} WHERE r.report_id = %s"
_URGENT = f"{_REPORTS} WHERE (%s OR {_OPEN}) ORDER BY r.revoke_by, r.report_id LIMIT %s"
_ACTS = """
SELECT report_id, kind, words, operator, at FROM chancery.problem_report_act
WHERE report_id = ANY (%s::bigint[]) ORDER BY act_id"""
_COUNTS = f"""
SELECT count(*), count(*) FILTER (WHERE r.revoke_by < %(at)s OR r.answer_by < %(at)s AND NOT EXISTS (
    SELECT FROM chancery.problem_report_act AS a WHERE a.report_id = r.report_id))
FROM chancery.problem_report AS r WHERE {_OPEN}"""  # noqa: S608 - put together from constants


class PgReports:
    """`ports.reports.ReportBook` as the role `chancery_ra`, inside one event loop."""

    def __init__(self, pool: AsyncPool) -> None:
        self._pool = pool

    async def add(self, report: NewReport, events: Sequence[Event]) -> int:
        """Store a report with its events; return its id."""
        values = (
            report.ground.label,
            report.issuer,
            report.serial,
            report.spki_sha256,
            storable(report.evidence),
            storable(report.reporter),
            report.proven,
            report.recorded_by,
            report.received_at,
            report.answer_by,
            report.revoke_by,
        )
        async with self._pool.transaction() as connection:
            row = await (await connection.execute(_ADD, values)).fetchone()
            assert row is not None
            subject = f"problem-report:{row[0]}"
            await insert_events_async(
                connection, [Event(one.kind, one.at, one.actor, subject, one.detail) for one in events]
            )
        return int(row[0])

    async def act(self, report_id: int, act: Acted, events: Sequence[Event]) -> None:
        """Store what was done about a report, with its events."""
        values = (report_id, act.kind.value, storable(act.words), act.operator, act.at)
        async with self._pool.transaction() as connection:
            try:
                await connection.execute(_ACT, values)
            except psycopg.errors.UniqueViolation as error:
                raise PKIError(ErrorType.BAD_REQUEST, f"report {report_id} is decided already") from error
            except psycopg.errors.ForeignKeyViolation as error:
                raise PKIError(ErrorType.BAD_CERT_ID, f"no problem report {report_id}") from error
            await insert_events_async(connection, events)

    async def report(self, report_id: int) -> Report | None:
        """Return a report with what was done about it."""
        found = await self._with_acts(await self._pool.fetch(_ONE, (report_id,)))
        return found[0] if found else None

    async def reports(self, *, everything: bool, limit: int) -> list[Report]:
        """Return open reports (or all of them), the most urgent first."""
        return await self._with_acts(await self._pool.fetch(_URGENT, (everything, limit)))

    async def _with_acts(self, found: Sequence[Sequence[Any]]) -> list[Report]:
        acts: dict[int, list[Acted]] = {row[0]: [] for row in found}
        for report_id, kind, *rest in await self._pool.fetch(_ACTS, (list(acts),)) if acts else ():
            acts[report_id].append(Acted(ReportAct(kind), *rest))
        return [Report(row[0], NewReport(_GROUNDS[row[1]], *row[2:]), tuple(acts[row[0]])) for row in found]

    async def counts(self, at: datetime.datetime) -> tuple[int, int]:
        """Return how many are open, and how many of those are overdue."""
        [(opened, overdue)] = await self._pool.fetch(_COUNTS, {"at": at})
        return int(opened), int(overdue)
