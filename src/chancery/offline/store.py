"""The offline CA's local store: the ports `IssuanceStore` and `RevocationStore` over the journal file."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self

from chancery.asn1 import crl as template
from chancery.ca.crl import MemoryDraft
from chancery.errors import OperatorError, PKIError
from chancery.offline import records
from chancery.offline.bundle import Bundle, RequestPayload
from chancery.offline.journal import Journal
from chancery.offline.kit import SignedKit
from chancery.offline.operators import Confirmation, Operators
from chancery.offline.state import State, StoredRequest, check_next
from chancery.pkix.key import tbs_key_sha256
from chancery.ports import (
    COMPLETE,
    CertificateRecord,
    CertificateStatus,
    CRLRecord,
    CRLScope,
    CRLSelection,
    EnrolmentRequest,
    Event,
    Intent,
    IssuerRecord,
    NewRequest,
    NewRevocation,
    Refusal,
    RequestState,
    RevocationRequest,
    Scope,
    Settlement,
    Standing,
    StatusState,
)


class LocalStore:
    """
    The store of one offline CA, by replay of its journal. Every method that records is one journal line.

    Methods raise PKIError(SYSTEM_FAILURE) for what history forbids, and PKIError(SYSTEM_UNAVAIL) when the
    disk failed: then the directory has to be opened again. For one process and one thread.
    """

    def __init__(self, journal: Journal, kit: SignedKit | None = None) -> None:
        """Replay an open journal, a standby's with its kit; OperatorError when its lines contradict each other."""
        self.journal = journal
        self.state = State(kit)
        for number, record in enumerate(journal.records, 1):
            try:
                self.state.check(record)
            except PKIError as error:
                raise OperatorError(
                    f"{journal.path}, line {number}: {error.detail}",
                    "keep the directory as it is, and restore the last good copy",
                ) from error
            self.state.apply(record)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.journal.close()

    # The ceremony's own lines.

    def open(self, name: str, subject: str, instance: int, events: Sequence[Event]) -> None:
        """Write the first line."""
        self._add(
            records.Opened(
                format=records.FORMAT, name=name, subject=subject, instance=instance, events=_bodies(events)
            )
        )

    def adopt(self, kit: SignedKit, at: datetime.datetime) -> None:
        """Write a standby's second line."""
        self._add(records.KitAdopted(kit=kit.sha256, epoch=kit.kit.epoch, at=at, events=()))

    def close(self, bundle: str, at: datetime.datetime) -> None:
        """Write a standby's last line: the bundle with this SHA-256 hands everything back."""
        self._add(records.HandedBack(bundle=bundle, at=at, events=()))

    def plan_key(self, label: str, key_kind: str, events: Sequence[Event]) -> None:
        """Record that the token is about to make this key."""
        self._add(records.KeyPlanned(label=label, key_kind=key_kind, events=_bodies(events)))

    def record_key(self, label: str, spki: bytes, events: Sequence[Event]) -> None:
        """Record the key that the token made (SubjectPublicKeyInfo, DER)."""
        self._add(records.KeyGenerated(label=label, spki=spki, events=_bodies(events)))

    def add_issuer(self, issuer: IssuerRecord, events: Sequence[Event]) -> None:
        self._add(records.IssuerAdded(issuer=issuer, events=_bodies(events)))

    def submit(self, requests: Sequence[NewRequest], bundle: bytes | None, events: Sequence[Event]) -> None:
        """Store requests, together with the bundle that brought them. Raises as `check_bundle` does."""
        following = len(self.state.requests) + 1
        self._add(
            records.RequestsReceived(
                bundle=bundle,
                requests=tuple(_numbered(request, following + at) for at, request in enumerate(requests)),
                events=_bodies(events),
            )
        )

    def check_bundle(self, bundle: Bundle[RequestPayload]) -> bool:
        """
        Tell whether this request bundle was taken in before and waits for its answer (True), or is next.

        Raises PKIError(BAD_REQUEST) for a replay of an older one, a fork or a gap.
        """
        chain = self.state.chains.get(bundle.header.signer)
        if chain is not None and chain.request.sha256 == bundle.sha256:
            return True
        check_next(chain, bundle)
        return False

    def outcome(self, requestor: str, transaction_id: str) -> StoredRequest | None:
        request_id = self.state.transactions.get((requestor, transaction_id))
        return None if request_id is None else self.state.requests[request_id]

    def response_to(self, sha256: str) -> bytes | None:
        """Return the response given to the request bundle with this SHA-256."""
        return self.state.responses.get(sha256)

    def record_response(self, request: str, response: bytes, events: Sequence[Event]) -> None:
        """Record the response bundle of the request bundle with this SHA-256, before it leaves."""
        self._add(records.BundleAnswered(request=request, response=response, events=_bodies(events)))

    def submit_revocation(self, revocation: NewRevocation, issuer_id: int, events: Sequence[Event]) -> None:
        """Store a wish to revoke, to be settled by `ca.revocation`."""
        request = RevocationRequest(
            revocation_id=self.state.last_revocation + 1,
            issuer_id=issuer_id,
            serial=revocation.serial,
            reason=revocation.reason,
            invalidity_date=revocation.invalidity_date,
            requestor=revocation.requestor,
            received_at=revocation.received_at,
        )
        self._add(records.RevocationReceived(request=request, events=_bodies(events)))

    def confirm_ceremony(
        self, script: bytes, confirmations: Sequence[Confirmation], events: Sequence[Event]
    ) -> None:
        """Record who confirmed a ceremony, before anything is signed. PKIError(NOT_AUTHORIZED): not enough."""
        self._add(
            records.CeremonyConfirmed(script=script, confirmations=tuple(confirmations), events=_bodies(events))
        )

    def enrol_operators(self, ceremony: str, operators: Operators, events: Sequence[Event]) -> None:
        """Record the operators whom a confirmed ceremony (the SHA-256 of its script) enrols."""
        self._add(records.OperatorsEnrolled(ceremony=ceremony, operators=operators, events=_bodies(events)))

    def renew_issuer(self, issuer: IssuerRecord, events: Sequence[Event]) -> None:
        """Record an issuer's new certificate, which was recorded as issued before."""
        self._add(records.RootRenewed(issuer=issuer, events=_bodies(events)))

    def end_ceremony(self, ceremony: str, at: datetime.datetime, events: Sequence[Event]) -> None:
        """Record that all that a script (SHA-256) says was done."""
        self._add(records.CeremonyEnded(ceremony=ceremony, at=at, events=_bodies(events)))

    # ports.IssuanceStore

    def take(
        self, worker: str, limit: int, at: datetime.datetime, scope: Scope | None = None
    ) -> list[EnrolmentRequest]:
        waiting = [
            stored.request
            for stored in self.state.requests.values()
            if stored.state is RequestState.WAITING and (scope is None or scope.holds(stored.request))
        ][:limit]
        if waiting:
            ids = tuple(request.request_id for request in waiting)
            # No event: taking has no effect outside this process.
            self._add(records.RequestsTaken(worker=worker, request_ids=ids, at=at, events=()))
        return waiting

    def record_intents(
        self,
        worker: str,
        intents: Sequence[Intent],
        refusals: Sequence[Refusal],
        events: Sequence[Event],
        keys: Sequence[bytes] = (),
    ) -> set[bytes]:
        if blocked := self.blocked(keys):
            return blocked
        self._add(
            records.IntentsRecorded(
                worker=worker, intents=tuple(intents), refusals=tuple(refusals), events=_bodies(events)
            )
        )
        return set()

    def record_certificates(
        self, certificates: Sequence[CertificateRecord], refusals: Sequence[Refusal], events: Sequence[Event]
    ) -> None:
        if certificates or refusals or events:
            self._add(
                records.CertificatesRecorded(
                    certificates=tuple(certificates), refusals=tuple(refusals), events=_bodies(events)
                )
            )

    def holds_good(self, issuer_ids: Sequence[int], serial: bytes, certificate: bytes) -> bool:
        keys = [(one, serial) for one in issuer_ids if (one, serial) in self.state.certificates]
        return any(
            self.state.certificates[key].der == certificate and self.state.statuses[key].state is StatusState.GOOD
            for key in keys
        )

    def blocked(self, spki_sha256s: Sequence[bytes]) -> set[bytes]:
        """R5: the keys of what was revoked as compromised; the journal's statuses say so, no line is needed."""
        compromised = {
            tbs_key_sha256(self.state.intents[serial].intent.tbs)
            for serial, status in self.state.statuses.items()
            if status.reason is not None and status.reason.compromised and serial in self.state.intents
        }
        if self.state.kit is not None:
            compromised |= {bytes.fromhex(one) for one in self.state.kit.kit.blocked}
        return set(spki_sha256s) & compromised

    def unconfirmed(self, worker: str) -> list[Intent]:
        return [
            stored.intent
            for stored in self.state.intents.values()
            if stored.worker == worker and not stored.settled
        ]

    def mark_unconfirmed(self, worker: str, intents: Sequence[Intent], events: Sequence[Event]) -> None:
        taken = any(
            stored.state is RequestState.TAKEN and stored.worker == worker
            for stored in self.state.requests.values()
        )
        if intents or taken:
            serials = tuple((intent.issuer_id, intent.serial) for intent in intents)
            self._add(records.IntentsUnconfirmed(worker=worker, serials=serials, events=_bodies(events)))

    # ports.RevocationStore

    def take_revocations(self, limit: int) -> list[RevocationRequest]:
        return list(self.state.revocations.values())[:limit]

    def status(self, issuer_id: int, serial: bytes) -> CertificateStatus | None:
        """Return the status of a serial, None when it was never used."""
        return self.state.statuses.get((issuer_id, serial))

    def standings(self, requests: Sequence[RevocationRequest]) -> list[Standing]:
        """Return what is known; who holds the directory and the token's PIN is the officer here."""
        return [self._standing((one.issuer_id, one.serial)) for one in requests]

    def _standing(self, key: tuple[int, bytes]) -> Standing:
        intent, certificate = self.state.intents.get(key), self.state.certificates.get(key)
        return Standing(
            may_revoke=True,
            may_reinstate=True,
            status=self.status(*key),
            tbs=None if intent is None else intent.intent.tbs,
            certificate=None if certificate is None else certificate.der,
        )

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """End these requests, each by a line of its own. `blocked` tells what is blocked from the statuses."""
        for one in settlements:
            self._add(
                records.RevocationSettled(
                    revocation_id=one.request.revocation_id,
                    status=self._kept(one.status),
                    refusal=one.refusal,
                    events=_bodies(one.events),
                )
            )

    def _kept(self, status: CertificateStatus | None) -> CertificateStatus | None:
        """R16: of what only a kit tells, the kit says how long its entry is kept, too."""
        if status is None or (status.issuer_id, status.serial) in self.state.intents:
            return status
        before = self.state.statuses.get((status.issuer_id, status.serial))
        return dataclasses.replace(status, kept_until=None if before is None else before.kept_until)

    @contextlib.contextmanager
    def open_crl(self, selection: CRLSelection) -> Iterator[MemoryDraft]:
        """Give the entries of the root's one CRL; nothing is ever released here."""
        assert selection.scope == COMPLETE, "an offline CA has one CRL"
        revoked = [
            status
            for (issuer, _), status in sorted(self.state.statuses.items())
            if issuer == selection.issuer_id and status.state is StatusState.REVOKED
        ]
        before = selection.previous.expired_since if selection.previous else None
        gone = [one for one in revoked if before and before <= one.listed_until < selection.expired_since]
        lines = [
            template.entry(one.serial, one.revoked_at, int(one.reason or 0), one.invalidity_date)
            for one in revoked
            if one.revoked_at is not None and one.listed_until >= selection.expired_since
        ]
        yield MemoryDraft(tuple(lines), len(gone))

    def latest_crl(self, issuer_id: int, scope: CRLScope = COMPLETE) -> CRLRecord | None:
        """Return the issuer's newest CRL."""
        return self.state.crls.get(issuer_id) if scope == COMPLETE else None

    def reserve_crl_number(self, issuer_id: int, events: Sequence[Event]) -> int:
        number = self.state.crl_numbers.get(issuer_id, 0) + 1
        self._add(records.CRLNumbered(issuer_id=issuer_id, number=number, events=_bodies(events)))
        return number

    def publish_crl(self, crl: CRLRecord, events: Sequence[Event]) -> None:
        self._add(records.CRLPublished(crl=crl, events=_bodies(events)))

    def _add(self, record: records.Record) -> None:
        """One transaction: admitted, durable, then in effect."""
        self.state.check(record)
        self.journal.append(record)
        self.state.apply(record)


def _numbered(new: NewRequest, request_id: int) -> EnrolmentRequest:
    return EnrolmentRequest(
        request_id=request_id,
        transaction_id=new.transaction_id,
        protocol=new.protocol,
        requestor=new.requestor,
        profile=new.profile,
        issuer=new.issuer,
        csr=new.csr,
        names=new.names,
        received_at=new.received_at,
    )


def _bodies(events: Iterable[Event]) -> tuple[str, ...]:
    return tuple(event.body() for event in events)
