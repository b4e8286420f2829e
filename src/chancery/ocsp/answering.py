"""
From a request to a signed answer: statuses read in batches, signatures made in threads, work shared.

For one event loop. What may be kept afterwards is the caller's business (`cache`); `Answered.read_at` says
from when its statuses are.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import datetime
from collections.abc import Mapping, Sequence

from cryptography import x509

from chancery.asn1 import ocsp
from chancery.asn1.der import integer_octets
from chancery.batching import Batcher
from chancery.errors import ErrorType, PKIError
from chancery.ocsp.cache import Cache, Changes
from chancery.ocsp.delegates import Delegates
from chancery.ocsp.responder import Asked, Delegate, Policies, Subject, Unsigned, ask, respond
from chancery.ports import CertificateStatus, Clock, StatusReader, StatusState

# A status this young may be answered from again with a fresh signature; thisUpdate says when it was read.
STATUS_SECONDS = 60.0
_STATUS_SIZE = 200
_SIGN_BATCH, _READ_BATCH = 16, 256
# A flood that keeps the loop busy would leave 32 signatures a turn, a fifth of what the token makes.
_SIGN_SHARE = 0.25


@dataclasses.dataclass(frozen=True, slots=True)
class AnswererLimits:
    """
    How much may wait or be kept; more is answered tryLater.

    A token in the same machine is fastest with one signing thread per free core (a second one on a busy core
    raised the 99th percentile from 28 to 42 ms); one over a network wants as many as it answers at a time.
    """

    signing_threads: int = 2
    max_signing: int = 512
    max_reading: int = 4096
    max_statuses: int = 100_000


@dataclasses.dataclass(frozen=True, slots=True)
class Answered:
    """
    A signed OCSPResponse (DER) and what it says: about whom, from when to when, and as of which change.

    `lasting` is false where a nonce was asked for, a signature required, or for a serial that nobody was given.
    """

    response: bytes
    this_update: datetime.datetime
    next_update: datetime.datetime
    lasting: bool
    subjects: tuple[Subject, ...]
    read_at: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Read:
    """A status (None: never used) as it was at a moment, which is change number `read_at`."""

    status: CertificateStatus | None
    moment: datetime.datetime
    read_at: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Job:
    unsigned: Unsigned
    by: Delegate


class Answerer:
    """
    Answers requests. Every failure is a PKIError: SYSTEM_UNAVAIL when the database, the token or a delegate
    certificate is away or too much waits, NOT_AUTHORIZED for issuers that are not answered for here.
    """

    def __init__(
        self,
        reader: StatusReader,
        delegates: Delegates,
        *,
        clock: Clock,
        changes: Changes,
        policies: Policies,
        limits: AnswererLimits,
    ) -> None:
        self._reader = reader
        self._delegates = delegates
        self._clock = clock
        self._changes = changes
        self._policies = policies
        self._threads = concurrent.futures.ThreadPoolExecutor(limits.signing_threads, "ocsp-sign")
        self._signing = Batcher(self._sign, _SIGN_BATCH, limits.max_signing, limits.signing_threads, _SIGN_SHARE)
        self._reading = Batcher(self._read, _READ_BATCH, limits.max_reading, 2)
        self._statuses: Cache[Subject, _Read] = Cache(
            changes, max_entries=limits.max_statuses, max_bytes=limits.max_statuses * 1024
        )
        self._flights: dict[tuple[bytes, ...], tuple[int, asyncio.Task[Answered]]] = {}

    def admit(self, request: ocsp.OCSPRequest) -> Asked:
        """Return the request as its issuer's settings let it be answered; PKIError when they do not (`ask`)."""
        return ask(request, self._delegates.table, self._policies, self._clock.now())

    @property
    def full(self) -> bool:
        """Tell whether the next signature would be refused, as too many wait."""
        return self._signing.full

    def variant(self, asked: Asked) -> bytes:
        """Return what tells this answer's signature algorithm from the usual one; empty for that."""
        return self._delegates.variant(asked.issuer_ids, asked.request.preferred)

    async def answer(self, asked: Asked) -> Answered:
        """
        Return the signed answer to what `admit` returned.

        Requests without a nonce for the same CertIDs at the same time share one answer, unless a status of
        theirs changed in between; a request with a nonce has its own signature.
        """
        if asked.signer is not None:
            await self._check_signer(asked.signer)
        if asked.request.nonce is not None:
            return await self._make(asked)
        key = (*(one.raw for one in asked.request.cert_ids), self.variant(asked))
        flight = self._flights.get(key)
        if flight is not None and not self._changes.since(flight[0], asked.subjects()):
            return await asyncio.shield(flight[1])
        task = asyncio.create_task(self._make(asked))
        self._flights[key] = (self._changes.now, task)
        task.add_done_callback(lambda done: self._landed(key, done))
        return await asyncio.shield(task)

    async def _check_signer(self, signer: x509.Certificate) -> None:
        """PKIError(NOT_AUTHORIZED) where a request is signed under a certificate of ours that is not good."""
        table, serial = self._delegates.table, integer_octets(signer.serial_number)
        name = signer.issuer
        ours = [(issuer_id, serial) for issuer_id, one in table.certificates.items() if one.subject == name]
        if ours and all(
            read.status is None or read.status.state is not StatusState.GOOD
            for read in (await self._look_up(ours)).values()
        ):
            raise PKIError(ErrorType.NOT_AUTHORIZED, "a request signed under a certificate that is not good")

    def _landed(self, key: tuple[bytes, ...], task: asyncio.Task[Answered]) -> None:
        if (flight := self._flights.get(key)) is not None and flight[1] is task:
            del self._flights[key]
        if not task.cancelled():
            # Looked at, so that an error whose waiters have all gone is not reported as never retrieved.
            task.exception()

    async def _make(self, asked: Asked) -> Answered:
        by = self._delegates.current(asked.issuer_ids, asked.request.preferred)
        subjects = tuple(asked.subjects())
        reads = await self._look_up(subjects)
        unsigned = respond(
            asked,
            {subject: read.status for subject, read in reads.items() if read.status is not None},
            known_at=min(read.moment for read in reads.values()),
            at=self._clock.now(),
            by=by,
        )
        signed = await self._signing.submit(_Job(unsigned, by))
        if isinstance(signed, Exception):
            raise signed
        return Answered(
            by.template.encode(unsigned.response_data, signed),
            unsigned.this_update,
            unsigned.next_update,
            unsigned.lasting and asked.request.nonce is None and asked.signer is None,
            subjects,
            min(read.read_at for read in reads.values()),
        )

    async def _look_up(self, subjects: Sequence[Subject]) -> dict[Subject, _Read]:
        now = self._clock.monotonic()
        found: dict[Subject, _Read] = {}
        missing: list[Subject] = []
        for subject in subjects:
            kept = self._statuses.get(subject, now)
            if kept is None:
                missing.append(subject)
            else:
                found[subject] = kept
        if missing:
            found.update(zip(missing, await self._read_all(missing), strict=True))
        return found

    async def _read_all(self, subjects: Sequence[Subject]) -> list[_Read]:
        if len(subjects) == 1:
            return [await self._reading.submit(subjects[0])]
        return list(await asyncio.gather(*(self._reading.submit(subject) for subject in subjects)))

    async def _read(self, subjects: list[Subject]) -> list[_Read]:
        """Read one batch in one statement, and keep what is good or revoked for the next minute."""
        read_at, moment, now = self._changes.now, self._clock.now(), self._clock.monotonic()
        statuses: Mapping[Subject, CertificateStatus] = await self._reader.statuses(list(dict.fromkeys(subjects)))
        reads = [_Read(statuses.get(subject), moment, read_at) for subject in subjects]
        for subject, read in zip(subjects, reads, strict=True):
            # A serial that is not used yet may be used in a moment, an intent become a certificate: nothing tells
            # of that (R19).
            if read.status is not None and read.status.state is not StatusState.UNCONFIRMED:
                self._statuses.put(
                    subject,
                    read,
                    size=_STATUS_SIZE,
                    until=now + STATUS_SECONDS,
                    subjects=(subject,),
                    read_at=read_at,
                )
        return reads

    async def _sign(self, jobs: list[_Job]) -> list[bytes | Exception]:
        return await asyncio.get_running_loop().run_in_executor(self._threads, _sign_all, jobs)

    def drop(self, subject: Subject) -> None:
        """Forget the status of one certificate, because it changed. The caller has noted the change."""
        self._statuses.drop(subject)

    def drop_issuer(self, issuer_id: int) -> None:
        """Forget the statuses of one issuer's certificates. The caller has noted the change."""
        self._statuses.drop_issuer(issuer_id)

    def clear(self) -> None:
        """Forget every status. The caller has noted the change."""
        self._statuses.clear()

    async def close(self) -> None:
        """Wait until everything accepted has been answered, and end the threads."""
        await self._reading.close()
        await self._signing.close()
        self._threads.shutdown(wait=False)


def _sign_all(jobs: Sequence[_Job]) -> list[bytes | Exception]:
    """Sign one after the other in a thread; one that fails fails alone."""
    results: list[bytes | Exception] = []
    for job in jobs:
        try:
            results.append(job.by.signer.sign(job.unsigned.response_data))
        except PKIError as error:
            results.append(error)
        except Exception as error:  # noqa: BLE001 - a token can raise anything, and must not take others along
            wrapped = PKIError(ErrorType.SYSTEM_UNAVAIL, "the responder cannot sign at the moment")
            wrapped.__cause__ = error
            results.append(wrapped)
    return results
