"""Fakes with a failing mode: they keep the ports' contracts, and fail the Nth call before or after its effect."""

from __future__ import annotations

import dataclasses
import datetime
import random
from collections.abc import Callable, Sequence
from typing import Any

from chancery.asn1.signature import Signer
from chancery.errors import ErrorType, PKIError
from chancery.ports import (
    BlockedKey,
    CertificateRecord,
    CertificateStatus,
    EnrolmentRequest,
    Event,
    Intent,
    Refusal,
    RequestState,
    RevocationRequest,
    Scope,
    Settlement,
    Standing,
    StatusState,
)
from crlfakes import MemoryCRLs

START = datetime.datetime(2026, 11, 24, 12, 0, tzinfo=datetime.UTC)


class FakeClock:
    """Stands still until told to move."""

    def __init__(self, now: datetime.datetime = START) -> None:
        self.time = now
        self.seconds = 1000.0

    def now(self) -> datetime.datetime:
        return self.time

    def monotonic(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.time += datetime.timedelta(seconds=seconds)
        self.seconds += seconds


class FakeEntropy:
    """A seeded stream: the same seed is the same run."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def draw(self, size: int) -> bytes:
        return self._random.randbytes(size)


class Killed(BaseException):
    """The process died here: nothing of the caller's runs any more."""


MODES = ("fail-before", "fail-after", "kill-before", "kill-after")


class Faults:
    """Counts port calls; at call `at`, and `times - 1` calls after it, does `mode`, one of `MODES`."""

    def __init__(self, at: int | None = None, mode: str = "fail-before", times: int = 1) -> None:
        self.calls = 0
        self.at = at
        self.mode = mode
        self.times = times

    def around(self, call: Callable[[], Any]) -> Any:
        self.calls += 1
        hit = self.at is not None and self.at <= self.calls < self.at + self.times
        if hit and self.mode == "fail-before":
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the port failed")
        if hit and self.mode == "kill-before":
            raise Killed
        result = call()
        if hit and self.mode == "fail-after":
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the port failed after it took effect")
        if hit and self.mode == "kill-after":
            raise Killed
        return result


class CountingSigner:
    """A signer that remembers what it was asked to sign; `signed` is the token's own use."""

    def __init__(self, signer: Signer, faults: Faults | None = None) -> None:
        self._signer = signer
        self._faults = faults or Faults()
        self.signed: list[bytes] = []

    @property
    def algorithm(self):
        return self._signer.algorithm

    @property
    def public_key(self):
        return self._signer.public_key

    def sign(self, data: bytes) -> bytes:
        def act() -> bytes:
            signature = self._signer.sign(data)
            self.signed.append(data)
            return signature

        return self._faults.around(act)

    def sign_digest(self, digest: bytes) -> bytes:
        """Only what is too large to be one value is signed by its digest."""

        def act() -> bytes:
            signature = self._signer.sign_digest(digest)
            self.signed.append(digest)
            return signature

        return self._faults.around(act)


class MemoryStore(MemoryCRLs):
    """Both the issuance and the revocation store, transactional, in memory; outlives a killed worker."""

    def __init__(self, faults: Faults | None = None) -> None:
        super().__init__()
        self.faults = faults or Faults()
        self.requests: dict[int, EnrolmentRequest] = {}
        self.states: dict[int, RequestState] = {}
        self.refusals: dict[int, Refusal] = {}
        self.taken_by: dict[int, str] = {}
        self.serials: set[tuple[int, bytes]] = set()
        self.intents: dict[tuple[int, bytes], tuple[str, Intent]] = {}
        self.certificates: dict[tuple[int, bytes], CertificateRecord] = {}
        self.statuses: dict[tuple[int, bytes], CertificateStatus] = {}
        self.revocations: list[RevocationRequest] = []
        self.revocation_refusals: dict[int, str] = {}
        self.may_revoke = True
        self.may_reinstate = True
        self.events: list[Event] = []
        self.history: list[CertificateStatus] = []
        self.blocked_keys: dict[bytes, BlockedKey] = {}
        self.inactive_profiles: set[str] = set()

    def add(self, request: EnrolmentRequest) -> None:
        self.requests[request.request_id] = request
        self.states[request.request_id] = RequestState.WAITING

    def take(
        self, worker: str, limit: int, at: datetime.datetime, scope: Scope | None = None
    ) -> list[EnrolmentRequest]:
        def act() -> list[EnrolmentRequest]:
            waiting = [i for i, state in sorted(self.states.items()) if state is RequestState.WAITING]
            found = [i for i in waiting if scope is None or scope.holds(self.requests[i])][:limit]
            for request_id in found:
                self.states[request_id] = RequestState.TAKEN
                self.taken_by[request_id] = worker
            return [self._as_taken(self.requests[request_id]) for request_id in found]

        return self.faults.around(act)

    def _as_taken(self, request: EnrolmentRequest) -> EnrolmentRequest:
        active = request.profile_active and request.profile not in self.inactive_profiles
        return dataclasses.replace(request, profile_active=active)

    def holds_good(self, issuer_ids, serial, certificate) -> bool:
        def act() -> bool:
            keys = [(one, serial) for one in issuer_ids if (one, serial) in self.certificates]
            return any(
                self.certificates[key].der == certificate and self.statuses[key].state is StatusState.GOOD
                for key in keys
            )

        return self.faults.around(act)

    def record_intents(self, worker, intents, refusals, events, keys=()) -> set[bytes]:
        def act() -> set[bytes]:
            if blocked := self.blocked_keys.keys() & set(keys):
                return blocked
            assert all(self.taken_by[one.request_id] == worker for one in (*intents, *refusals))
            new = {(intent.issuer_id, intent.serial) for intent in intents}
            if len(new) != len(intents) or new & self.serials:
                raise PKIError(ErrorType.SYSTEM_FAILURE, "a serial was used before")
            self.serials |= new
            self.intents.update({(i.issuer_id, i.serial): (worker, i) for i in intents})
            self._refuse(refusals)
            self.events += events
            return set()

        return self.faults.around(act)

    def record_certificates(self, certificates, refusals, events) -> None:
        def act() -> None:
            for certificate in certificates:
                key = (certificate.issuer_id, certificate.serial)
                assert key in self.intents, "a certificate without an intent"
                assert key not in self.certificates, "a certificate stored twice"
                assert self.states[certificate.request_id] is RequestState.TAKEN
                self.certificates[key] = certificate
                self._set(
                    CertificateStatus(*key, StatusState.GOOD, certificate.not_after, shard=certificate.shard)
                )
                self.states[certificate.request_id] = RequestState.DONE
            self._refuse(refusals)
            self.events += events

        self.faults.around(act)

    def _set(self, status: CertificateStatus) -> None:
        self.moment += 1
        self.changed_at[status.issuer_id, status.serial] = self.moment
        self.statuses[status.issuer_id, status.serial] = status
        self.history.append(status)

    def _refuse(self, refusals: Sequence[Refusal]) -> None:
        for refusal in refusals:
            self.states[refusal.request_id] = RequestState.REFUSED
            self.refusals[refusal.request_id] = refusal

    def unconfirmed(self, worker: str) -> list[Intent]:
        return self.faults.around(
            lambda: [
                intent
                for key, (owner, intent) in self.intents.items()
                if owner == worker and key not in self.certificates and key not in self.statuses
            ]
        )

    def mark_unconfirmed(self, worker, intents, events) -> None:
        def act() -> None:
            for intent in intents:
                key = (intent.issuer_id, intent.serial)
                assert key not in self.statuses
                self._set(CertificateStatus(*key, StatusState.UNCONFIRMED, intent.not_after, shard=intent.shard))
            for request_id, state in self.states.items():
                if state is RequestState.TAKEN and self.taken_by[request_id] == worker:
                    self.states[request_id] = RequestState.WAITING
            self.events += events

        self.faults.around(act)

    def take_revocations(self, limit: int) -> list[RevocationRequest]:
        return self.faults.around(lambda: self.revocations[:limit])

    def standings(self, requests: Sequence[RevocationRequest]) -> list[Standing]:
        def act() -> list[Standing]:
            return [self._standing((one.issuer_id, one.serial)) for one in requests]

        return self.faults.around(act)

    def _standing(self, key: tuple[int, bytes]) -> Standing:
        intent, certificate = self.intents.get(key), self.certificates.get(key)
        return Standing(
            may_revoke=self.may_revoke,
            may_reinstate=self.may_reinstate,
            status=self.statuses.get(key),
            tbs=None if intent is None else intent[1].tbs,
            certificate=None if certificate is None else certificate.der,
        )

    def blocked(self, spki_sha256s: Sequence[bytes]) -> set[bytes]:
        return self.faults.around(lambda: self.blocked_keys.keys() & set(spki_sha256s))

    def settle(self, settlements: Sequence[Settlement]) -> None:
        def act() -> None:
            serials = {(one.request.issuer_id, one.request.serial) for one in settlements}
            assert len(serials) == len(settlements), "two requests about one serial in one batch"
            # Everything or nothing.
            for one in settlements:
                if one.status is not None:
                    self._check_forwards(one.status)
            for one in settlements:
                self._settle(one)

        self.faults.around(act)

    def _check_forwards(self, status: CertificateStatus) -> None:
        before = self.statuses[status.issuer_id, status.serial]
        if before.held:
            again = status.state is StatusState.REVOKED and status.reason is not None and status.reason.final
            assert again or (status.state is StatusState.GOOD and status.released_at is not None)
        else:
            assert before.state is not StatusState.REVOKED, "status goes forwards only"
            assert status.state is StatusState.REVOKED, "status goes forwards only"

    def _settle(self, one: Settlement) -> None:
        if one.block is not None:
            self.blocked_keys.setdefault(one.block.spki_sha256, one.block)
        if one.status is not None:
            self._set(one.status)
        else:
            assert one.refusal is not None
            self.revocation_refusals[one.request.revocation_id] = one.refusal
        self.revocations.remove(one.request)
        self.events += one.events
