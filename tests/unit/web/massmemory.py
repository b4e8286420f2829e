"""`ports.mass.MassRevocations` over the certificates of a fake registration; no worker stands behind it."""

from __future__ import annotations

import collections
import dataclasses
import hashlib

from chancery.errors import ErrorType, PKIError
from chancery.ports import StatusState
from chancery.ports.mass import Chosen, Job, JobState


class MemoryMass:
    """`memory` has the certificates and events, `around` makes calls fail as they do there."""

    def __init__(self, memory, around) -> None:
        self._memory = memory
        self._around = around
        self.kept: dict[int, Job] = {}
        self.lists: dict[int, list[bytes]] = {}
        self.approvals: list[tuple[int, str]] = []

    def _chosen(self, selection):
        for one in self._memory.stored:
            given = {
                "profile": one.profile,
                "issuer": one.issuer,
                "requestor": one.requestor,
                "spki_sha256": self._memory.key_of(one),
            }
            wanted = {key: getattr(selection, key) for key in given}
            fits = all(value in {None, given[key]} for key, value in wanted.items())
            if fits and one.status.state is StatusState.GOOD and one.certificate_id <= selection.up_to:
                yield one

    async def newest(self) -> int:
        return self._around(lambda: max((one.certificate_id for one in self._memory.stored), default=0))

    async def choose(self, selection, sample: int) -> Chosen:
        found = self._around(lambda: list(self._chosen(selection)))
        parts = collections.Counter((one.issuer, one.profile) for one in found)
        digest = hashlib.sha256(b"".join(sorted(one.serial for one in found))).digest()
        told = tuple((*key, count) for key, count in sorted(parts.items()))
        return Chosen(selection, len(found), digest, told, tuple(found[:sample]))

    async def confirm(self, job, selection, own: bytes, events) -> int:
        now = await self.choose(selection, 0)
        if (now.size, now.digest) != (job.size, job.digest):
            raise PKIError(ErrorType.BAD_REQUEST, "what is chosen has changed since it was shown: look again")
        job_id = self.keep(job, rehearsal=False)
        self.lists[job_id] = [one.serial for one in self._chosen(selection)]
        self._memory.events += [dataclasses.replace(events[1], subject=f"revocation-job:{job_id}")]
        return job_id

    async def rehearse(self, job, selection, sample: int) -> int:
        return self.keep(job, rehearsal=True)

    def keep(self, job, *, rehearsal: bool) -> int:
        number = len(self.kept) + 1
        told = (job.requestor, job.reason, job.selection, job.size, job.digest, job.received_at)
        waiting = 0 if rehearsal else job.size
        self.kept[number] = Job(number, *told, rehearsal, JobState.WAITING, None, waiting, 0, 0)
        return number

    async def job(self, job_id: int) -> Job | None:
        return self.kept.get(job_id)

    async def jobs(self, limit: int) -> list[Job]:
        return list(reversed(self.kept.values()))[:limit]

    async def approve(self, job_id: int, operator: str, digest: bytes, at, events) -> None:
        self.approvals.append((job_id, operator))
        self._memory.events += events
