"""Fakes with a failing mode: they keep the ports' contracts, and fail the Nth call before or after its effect."""

from __future__ import annotations

import contextlib
import datetime
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from chancery.asn1.crl import entry
from chancery.asn1.signature import Signer
from chancery.ca.crl import MemoryDraft
from chancery.errors import ErrorType, PKIError
from chancery.ports import (
    COMPLETE,
    BlockedKey,
    CertificateRecord,
    CertificateStatus,
    CRLRecord,
    CRLScope,
    CRLSelection,
    CRLStanding,
    CRLState,
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


class MemoryStore:
    """Both the issuance and the revocation store, transactional, in memory; outlives a killed worker."""

    def __init__(self, faults: Faults | None = None) -> None:
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
        self.crl_numbers: dict[int, int] = {}
        self.crls: list[CRLRecord] = []
        self.may_revoke = True
        self.may_reinstate = True
        self.events: list[Event] = []
        self.issuer_ids: set[int] = set()
        self.history: list[CertificateStatus] = []
        self.wishes: set[int] = set()
        self.blocked_keys: dict[bytes, BlockedKey] = {}
        # What was revoked after a CRL's entries were read is not in it, whatever the times say.
        self.changes: dict[int, int] = {}
        self.read_at: dict[int, int] = {}
        self.covered: dict[int, int] = {}

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
            return [self.requests[request_id] for request_id in found]

        return self.faults.around(act)

    def holds_good(self, issuer_ids, serial, certificate) -> bool:
        def act() -> bool:
            keys = [(one, serial) for one in issuer_ids if (one, serial) in self.certificates]
            return any(
                self.certificates[key].der == certificate and self.statuses[key].state is StatusState.GOOD
                for key in keys
            )

        return self.faults.around(act)

    def record_intents(self, worker, intents, refusals, events) -> None:
        def act() -> None:
            assert all(self.taken_by[one.request_id] == worker for one in (*intents, *refusals))
            new = {(intent.issuer_id, intent.serial) for intent in intents}
            if len(new) != len(intents) or new & self.serials:
                raise PKIError(ErrorType.SYSTEM_FAILURE, "a serial was used before")
            self.serials |= new
            self.intents.update({(i.issuer_id, i.serial): (worker, i) for i in intents})
            self._refuse(refusals)
            self.events += events

        self.faults.around(act)

    def record_certificates(self, certificates, refusals, events) -> None:
        def act() -> None:
            for certificate in certificates:
                key = (certificate.issuer_id, certificate.serial)
                assert key in self.intents, "a certificate without an intent"
                assert key not in self.certificates, "a certificate stored twice"
                assert self.states[certificate.request_id] is RequestState.TAKEN
                self.certificates[key] = certificate
                self._set(CertificateStatus(*key, StatusState.GOOD, certificate.not_after))
                self.states[certificate.request_id] = RequestState.DONE
            self._refuse(refusals)
            self.events += events

        self.faults.around(act)

    def _set(self, status: CertificateStatus) -> None:
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
                self._set(CertificateStatus(*key, StatusState.UNCONFIRMED, intent.not_after))
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
            self.changes[one.status.issuer_id] = self.changes.get(one.status.issuer_id, 0) + 1
        else:
            assert one.refusal is not None
            self.revocation_refusals[one.request.revocation_id] = one.refusal
        self.revocations.remove(one.request)
        self.events += one.events

    @contextlib.contextmanager
    def open_crl(self, selection: CRLSelection) -> Iterator[MemoryDraft]:
        """The entries of the complete CRL."""

        def act() -> MemoryDraft:
            issuer_id = selection.issuer_id
            self.read_at[issuer_id] = self.changes.get(issuer_id, 0)
            revoked = [
                one
                for (issuer, _), one in sorted(self.statuses.items())
                if issuer == issuer_id and one.state is StatusState.REVOKED
            ]
            listed = [one for one in revoked if one.listed_until >= selection.expired_since]
            lines = [entry(one.serial, one.revoked_at, one.reason, one.invalidity_date) for one in listed]
            released = sum(
                one.released_at is not None for (issuer, _), one in self.statuses.items() if issuer == issuer_id
            )
            return MemoryDraft(tuple(lines), len(revoked) - len(listed) + released)

        yield self.faults.around(act)

    def crl_states(self) -> list[CRLState]:
        def state(issuer: int) -> CRLState:
            crl = self._latest(issuer)
            full = crl and CRLStanding(crl.number, crl.this_update, crl.next_update, None, crl.idp, usable=True)
            changed = crl is not None and self.changes.get(issuer, 0) > self.covered[issuer]
            return CRLState(issuer, 0, None, full, None, changed, issuer in self.wishes, wanted_delta=False)

        known = sorted(self.issuer_ids | {issuer for issuer, _ in self.statuses})
        return self.faults.around(lambda: [state(issuer) for issuer in known])

    def latest_crl(self, issuer_id: int, scope: CRLScope = COMPLETE) -> CRLRecord | None:
        return self.faults.around(lambda: self._latest(issuer_id))

    def _latest(self, issuer_id: int) -> CRLRecord | None:
        return max((c for c in self.crls if c.issuer_id == issuer_id), key=lambda c: c.number, default=None)

    def reserve_crl_number(self, issuer_id: int, events: Sequence[Event]) -> int:
        def act() -> int:
            self.crl_numbers[issuer_id] = self.crl_numbers.get(issuer_id, 0) + 1
            self.events += events
            return self.crl_numbers[issuer_id]

        return self.faults.around(act)

    def publish_crl(self, crl: CRLRecord, events: Sequence[Event]) -> None:
        def act() -> None:
            latest = self._latest(crl.issuer_id)
            assert latest is None or crl.number > latest.number
            assert crl.number <= self.crl_numbers[crl.issuer_id]
            self.crls.append(crl)
            self.covered[crl.issuer_id] = self.read_at[crl.issuer_id]
            self.wishes.discard(crl.issuer_id)
            self.events += events

        self.faults.around(act)
