"""`ports.reports.ReportBook` in memory."""

from __future__ import annotations

import dataclasses

from chancery.errors import ErrorType, PKIError
from chancery.ports.reports import Report, ReportAct


class MemoryReports:
    """`memory` gets the events; `around` makes calls fail as they do there."""

    def __init__(self, memory, around) -> None:
        self._memory = memory
        self._around = around
        self.kept: dict[int, Report] = {}

    async def add(self, report, events) -> int:
        def act() -> int:
            number = len(self.kept) + 1
            self.kept[number] = Report(number, report, ())
            subject = f"problem-report:{number}"
            self._memory.events += [dataclasses.replace(one, subject=subject) for one in events]
            return number

        return self._around(act)

    async def act(self, report_id: int, act, events) -> None:
        report = self.kept[report_id]
        if report.closed and act.kind is not ReportAct.ANSWERED:
            raise PKIError(ErrorType.BAD_REQUEST, f"report {report_id} is decided already")
        self.kept[report_id] = dataclasses.replace(report, acts=(*report.acts, act))
        self._memory.events += events

    async def report(self, report_id: int):
        return self.kept.get(report_id)

    async def reports(self, *, everything: bool, limit: int):
        found = [one for one in self.kept.values() if everything or not one.closed]
        return sorted(found, key=lambda one: one.new.revoke_by)[:limit]

    async def counts(self, at):
        opened = [one for one in self.kept.values() if not one.closed]
        return len(opened), sum(one.overdue(at) for one in opened)
