"""Worlds that are wrong in one thing each, by whoever could write to every table and had the CA's key."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from crash_account import ECDSA_SHA256
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from cakit import key
from chancery.asn1 import x509 as template
from chancery.asn1.signature import KeySigner
from chancery.ports import CertificateStatus, CRLRecord, Event, EventKind, RevocationReason
from checks import Account, account_of
from crlchecks import REMOVED, Line, lines_of
from historykit import History

HOLD, RELEASE = RevocationReason.CERTIFICATE_HOLD, RevocationReason.REMOVE_FROM_CRL
Lines = dict[int, Line]


def played() -> History:
    """Something of everything: CRLs in two shards with deltas, all ways of a status, deactivations, refusals."""
    history = History(2, deltas=True)
    people = [f"person {n}" for n in range(6)]
    for label in people:
        history.ask("tls-client", None, label)
    for profile, issuer in (("tls-server", None), ("code-signing", None), ("tls-client", "second"), ("", None)):
        history.ask(profile, issuer, f"{profile} {issuer}")
    history.come_to_rest()
    history.sequence()
    person = [(one.issuer_id, one.serial) for one in history.store.certificates.values()]
    changes = [
        [(0, HOLD), (1, HOLD), (2, HOLD), (3, RevocationReason.UNSPECIFIED), (6, RevocationReason.KEY_COMPROMISE)],
        [(0, RELEASE), (1, RevocationReason.CESSATION_OF_OPERATION)],
        [(4, RevocationReason.SUPERSEDED)],
    ]
    for some in changes:
        for which, reason in some:
            history.change_one(person[which], reason)
        history.come_to_rest()
    history.fail_token("issuing", 1, "kill-after")
    history.ask("tls-client", None, "lost")
    while history.round():
        pass
    for profile, issuer in (("tls-client", "second"), ("smime", None)):
        history.switch_issuer(issuer is None)
        history.switch_profile("smime", issuer is not None)
        history.ask(profile, issuer, "late")
        history.come_to_rest()
    # All CRLs of the same statuses, after the deltas.
    history.publish_all()
    history.sequence()
    return history


class Plant:
    """An account that can be spoilt. Positions are those of `played`: `person(3)` was revoked without a reason."""

    def __init__(self, history: History) -> None:
        self.account: Account = account_of(history.store)
        self.signed = {number: list(tbs) for number, tbs in history.signed.items()}
        self._certificates = self.account.certificates

    def change(self, **fields: Any) -> None:
        self.account = dataclasses.replace(self.account, **fields)

    def person(self, number: int):
        return self._certificates[number]

    def subject(self, number: int) -> str:
        one = self.person(number)
        return f"{one.issuer_id}:{one.serial.hex()}"

    def without_event(self, kind: EventKind, subject: str | None = None) -> None:
        """Take out the first event of a kind."""
        events = list(self.account.events)
        events.remove(next(one for one in events if one.kind is kind and subject in {None, one.subject}))
        self.change(events=events)

    def event(self, kind: EventKind) -> Event:
        return next(one for one in self.account.events if one.kind is kind)

    def before_last_intent(self, event: Event, subjects: Sequence[str]) -> None:
        """Put an event just before the last intent of these."""
        events = [one for one in self.account.events if one is not event]
        places = [n for n, one in enumerate(events) if one.kind is EventKind.INTENT_RECORDED]
        at = max(n for n in places if events[n].subject in subjects)
        self.change(events=[*events[:at], event, *events[at:]])

    def status(self, number: int, **fields: Any) -> None:
        """Change what a status is, and what its last change made it."""
        before = self._status(number)
        after = dataclasses.replace(before, **fields)
        statuses = [after if one is before else one for one in self.account.statuses]
        history = [after if one is before else one for one in self.account.history]
        self.change(statuses=statuses, history=history)

    def again(self, number: int, **fields: Any) -> None:
        """Change a status once more."""
        before = self._status(number)
        after = dataclasses.replace(before, **fields)
        statuses = [after if one is before else one for one in self.account.statuses]
        self.change(statuses=statuses, history=[*self.account.history, after])

    def _status(self, number: int) -> CertificateStatus:
        one = self.person(number)
        return next(s for s in self.account.statuses if (s.issuer_id, s.serial) == (one.issuer_id, one.serial))

    def resigned(self, number: int, label: str) -> None:
        """Give a certificate the signature of another key, and its event the hash of that."""
        record = self.person(number)
        tbs = x509.load_der_x509_certificate(record.der).tbs_certificate_bytes
        der = template.signed(tbs, ECDSA_SHA256, KeySigner(key(label)).sign(tbs))
        self.change(
            certificates=[o if o is not record else dataclasses.replace(o, der=der) for o in self._certificates]
        )
        self._tell("certificate_sha256", record.der, der)

    def _tell(self, name: str, before: bytes, after: bytes) -> None:
        old, new = (hashlib.sha256(one).hexdigest() for one in (before, after))
        self.change(
            events=[
                one if one.detail.get(name) != old else dataclasses.replace(one, detail={**one.detail, name: new})
                for one in self.account.events
            ]
        )

    # CRLs

    def crl(self, wanted: Callable[[CRLRecord], object]) -> CRLRecord:
        """The newest one of the first issuer of which this holds."""
        return next(one for one in reversed(self.account.crls) if one.issuer_id == 2 and wanted(one))

    def delta(self, reason: int) -> CRLRecord:
        """The newest delta with an entry of this reason."""
        return self.crl(lambda one: one.scope.delta and any(e.reason == reason for e in lines_of(one).values()))

    def forge(
        self,
        record: CRLRecord,
        lines: Callable[[Lines], Mapping[int, Line]] = lambda found: found,
        *,
        extensions: Mapping[type, Any] | None = None,
        label: str = "issuing",
        **fields: Any,
    ) -> None:
        """Sign a CRL with other entries, extensions (None: without) or times, and tell the journal of it."""
        after = dataclasses.replace(record, **fields)
        parsed = x509.load_der_x509_crl(record.der)
        builder = x509.CertificateRevocationListBuilder().issuer_name(parsed.issuer)
        builder = builder.last_update(after.this_update).next_update(after.next_update)
        for one in parsed.extensions:
            value, critical = (extensions or {}).get(type(one.value), (one.value, one.critical))
            if value is not None:
                builder = builder.add_extension(value, critical)
        for serial, line in lines(lines_of(record)).items():
            builder = builder.add_revoked_certificate(_entry(serial, line))
        der = builder.sign(key(label), hashes.SHA256()).public_bytes(Encoding.DER)
        after = dataclasses.replace(after, der=der)
        self.change(crls=[after if one is record else one for one in self.account.crls])
        self._tell("sha256", record.der, der)


_REASONS = {
    REMOVED: x509.ReasonFlags.remove_from_crl,
    **{int(one): x509.ReasonFlags[one.name.lower()] for one in RevocationReason if one is not RELEASE},
}


def _entry(serial: int, line: Line) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(line.at)
    # A reason of -1 stands for a reasonCode that says 0.
    if line.reason:
        builder = builder.add_extension(x509.CRLReason(_REASONS[max(line.reason, 0)]), critical=False)
    return builder.build()


def without(reason: int) -> Callable[[Lines], Lines]:
    """Leave out the entries of this reason."""
    return lambda lines: {serial: one for serial, one in lines.items() if one.reason != reason}


def rewritten(which: int, **fields: Any) -> Callable[[Lines], Lines]:
    """Change the entries of this reason."""
    return lambda lines: {s: one._replace(**fields) if one.reason == which else one for s, one in lines.items()}
