"""
The standby CA: issues and revokes by a kit while the primary is away, over its own journal (docs/continuity.md).

It takes the same steps as the connected CA (`ca.issuance`, `ca.revocation`, `ca.crl`). What it may do, and until
when, is the kit's to say. Once it has handed back it signs no more: the next kit opens another journal.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from pathlib import Path
from typing import Self

from cryptography import x509

from chancery.asn1.signature import KeySigner, algorithm_for
from chancery.ca.crl import CRLMaking, CRLSettings, make_crl
from chancery.ca.issuance import Issuing, issue_batch, recover
from chancery.ca.issuer import Issuer, IssuerURLs
from chancery.ca.revocation import settle_revocations
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.offline.bundle import sha256, spki
from chancery.offline.ceremony import bundle_label
from chancery.offline.epochs import check_epoch, directory_of
from chancery.offline.journal import FILE, Journal
from chancery.offline.keys import Token
from chancery.offline.kit import (
    BACK_FORMAT,
    ISSUE,
    MAX_KIT,
    MAX_LINES,
    REVOKE,
    HandBack,
    SignedKit,
    check_operator,
    encode_hand_back,
    issuer_of,
    profiles_of,
)
from chancery.offline.media import read_file, write_file
from chancery.offline.state import StoredRequest
from chancery.offline.store import LocalStore
from chancery.pkix.key import proof_of_possession, spki_der
from chancery.pkix.name import name_text
from chancery.pkix.path import is_self_signed
from chancery.ports import (
    Clock,
    CRLRecord,
    Entropy,
    Event,
    EventDetail,
    EventKind,
    NewRequest,
    NewRevocation,
    RequestState,
    RevocationReason,
    StatusState,
)

PROTOCOL = "standby"
BUNDLE_FILE = "hand-back"
MARGIN = datetime.timedelta(minutes=5)
"""Nothing begins this shortly before a kit's end: what ends after it does not come back."""
_ROOM, _ROOM_LINES, _ENTRY = 8 * 1024 * 1024, 1000, 128
"""What has to be free in a hand-back for what begins: octets, lines, and octets for each entry of a CRL."""


@dataclasses.dataclass(frozen=True, slots=True)
class Machine:
    """The standby's token, logged in, and its sources of time and chance; `signature` as in `algorithm_for`."""

    token: Token
    clock: Clock
    entropy: Entropy
    signature: str | None = None
    crl: CRLSettings = dataclasses.field(default_factory=CRLSettings)


class Standby:
    """
    A standby with its kit, open; a context manager that closes the store. For one process and one thread.

    Methods raise PKIError(NOT_AUTHORIZED) outside the kit's window, after the hand-back, and for whom the kit does
    not name; SYSTEM_UNAVAIL when token or disk fail: the same again, over a store opened anew, goes on.
    """

    def __init__(self, store: LocalStore, machine: Machine, kit: SignedKit) -> None:
        self.store = store
        self.kit = kit.kit
        self._signed = kit
        self._machine = machine
        self._actor = actor(kit.kit.issuer)

    @classmethod
    def open(cls, directory: Path, machine: Machine, kit: SignedKit) -> Self:
        """
        Open the journal of this kit, under `directory`; begin it where there is none.

        That the kit is the one that the primary made, a person has told by its fingerprint. OperatorError when the
        token holds other keys than the kit names, or the journal is another kit's; for a root, which signs in
        ceremonies only (R8); and for a kit that does not follow what was handed back here last.
        """
        _check_no_root(directory, kit)
        place = directory_of(directory, kit)
        store = LocalStore(Journal(place, create=not (place / FILE).exists()), kit)
        made = cls(store, machine, kit)
        try:
            check_epoch(directory, kit)
            made._check_keys()
            made._begin()
        except BaseException:
            store.journal.close()
            raise
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.store.journal.close()

    def issue(self, operator: str, csr: bytes, profile: str, names: tuple[str, ...] = ()) -> bytes:
        """
        Issue a certificate (DER) for a PKCS#10 request (DER); the same request again has the same answer.

        Raises PKIError as `ca.issuance` refuses, NOT_AUTHORIZED for an operator without the right.
        """
        self._check()
        check_operator(self.kit, operator, ISSUE, profile)
        asked = canonical_request(csr, profile, names)
        transaction_id = f"standby-{self.kit.epoch}-{asked[:32]}"
        if self.store.outcome(operator, transaction_id) is None:
            self._receive(transaction_id, operator, csr, profile, names)
        issuing = self._issuing()
        recover(issuing)
        if waiting := self.store.take(self._actor, 1000, self._machine.clock.now()):
            issue_batch(issuing, waiting)
        return _answer(self.store.outcome(operator, transaction_id))

    def revoke(self, operator: str, serial: bytes, reason: RevocationReason) -> CRLRecord:
        """
        Revoke a certificate of this issuer, the standby's or one that the kit tells of; publish a CRL with it.

        Raises PKIError: BAD_CERT_ID for a serial of which neither tells, CERT_REVOKED for what was revoked for
        another reason, BAD_REQUEST for a suspension or its end. Revoked so already: a fresh CRL only.
        """
        self._check()
        check_operator(self.kit, operator, REVOKE)
        if not reason.final:
            raise PKIError(ErrorType.BAD_REQUEST, "a standby suspends nothing, and reinstates nothing")
        self._settle()
        issuer_id, now = self.kit.issuer_id, self._machine.clock.now()
        if (before := self.store.status(issuer_id, serial)) is None:
            raise PKIError(ErrorType.BAD_CERT_ID, "no certificate with this serial number is known here")
        if before.reason is reason:
            return self.publish_crl()
        wish = NewRevocation(self.kit.issuer, serial, reason, None, operator, now)
        about = f"{issuer_id}:{serial.hex()}"
        event = Event(EventKind.REVOCATION_REQUESTED, now, operator, about, {"reason": reason.name.lower()})
        self.store.submit_revocation(wish, issuer_id, [event])
        number = self.store.state.last_revocation
        self._settle()
        if (why := self.store.state.refused.get(number)) is not None:
            revoked = before.state is StatusState.REVOKED
            raise PKIError(ErrorType.CERT_REVOKED if revoked else ErrorType.BAD_REQUEST, why)
        return self.publish_crl()

    def publish_crl(self) -> CRLRecord:
        """Settle what waits, and make a CRL, above every number of the primary."""
        self._check()
        self._settle()
        machine = self._machine
        return make_crl(CRLMaking(self._issuer(), self.store, machine.clock, self._actor, machine.crl))

    def hand_back(self) -> bytes:
        """
        Close this journal for good and return the bundle of all of it; the same bundle for ever.

        It does not end with the kit's window. What was not issued is refused by the primary.
        """
        path = self.store.journal.path.with_name(BUNDLE_FILE)
        if (closed := self.store.state.handed_back) is not None:
            data = read_file(path, MAX_KIT)
            if sha256(data) != closed.bundle:
                raise OperatorError(f"{path} is not the bundle that was handed back", "restore it from a copy")
            return data
        recover(self._issuing())
        self._settle()
        now = self._machine.clock.now()
        lines = tuple(line.decode() for line in self.store.journal.lines())
        back = HandBack(
            created_at=now.astimezone(datetime.UTC).replace(microsecond=0),
            epoch=self.kit.epoch,
            format=BACK_FORMAT,
            kit=self._signed.sha256,
            lines=lines,
        )
        data = encode_hand_back(self._signer(bundle_label(self.kit.issuer)), back)
        write_file(path, data)
        self.store.close(sha256(data), now)
        return data

    def _settle(self) -> None:
        """Settle every revocation that waits, one about the same serial after the other."""
        while self.store.state.revocations:
            settle_revocations(self.store, self._machine.clock, self._actor)

    def _check(self) -> None:
        """Refuse to sign after the hand-back, outside the window, by a clock that went back, and without room."""
        now, kit = self._machine.clock.now(), self.kit
        if self.store.state.handed_back is not None:
            raise PKIError(ErrorType.NOT_AUTHORIZED, f"epoch {kit.epoch} was handed back: signing takes a new kit")
        end = kit.not_after - MARGIN
        if not kit.not_before <= now <= end:
            window = f"{kit.not_before:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"
            raise PKIError(ErrorType.NOT_AUTHORIZED, f"this kit is for {window}, and it is {now:%Y-%m-%d %H:%M}")
        if (latest := self.store.state.latest) is not None and now < latest:
            raise OperatorError(
                f"the clock says {now:%Y-%m-%d %H:%M:%S} UTC, before the journal's {latest:%Y-%m-%d %H:%M:%S}",
                "set the clock of this machine",
            )

        self._check_room()

    def _check_room(self) -> None:
        """All of the journal has to fit into the bundle that hands it back, with the CRL that may follow now."""
        lines = self.store.journal.lines()
        # As strings of JSON: quotes and backslashes take two octets each.
        size = sum(len(line) + line.count(b'"') + line.count(b"\\") + 3 for line in lines)
        revoked = sum(one.state is StatusState.REVOKED for one in self.store.state.statuses.values())
        if len(lines) + _ROOM_LINES > MAX_LINES or size + _ROOM + _ENTRY * revoked > MAX_KIT:
            raise PKIError(
                ErrorType.NOT_AUTHORIZED,
                f"the journal of epoch {self.kit.epoch} is full: hand it back, and go on by the next kit",
            )

    def _begin(self) -> None:
        kit = self.kit
        if self.store.state.opened is None:
            self._check()
            subject = name_text(x509.load_der_x509_certificate(kit.chain[0]).subject)
            self.store.open(kit.issuer, subject, kit.instance, [])
        if self.store.state.adopted is None:
            self.store.adopt(self._signed, self._machine.clock.now())

    def _check_keys(self) -> None:
        self._issuer()
        if spki(self._signer(bundle_label(self.kit.issuer)).public_key) != self.kit.standby_key:
            raise OperatorError(
                f"the token's key {bundle_label(self.kit.issuer)} is not the one that the kit names",
                "give the token whose public key was given to `chancery offline prepare`",
            )

    def _receive(
        self, transaction_id: str, operator: str, csr: bytes, profile: str, names: tuple[str, ...]
    ) -> None:
        proof_of_possession(csr)
        now, issuer = self._machine.clock.now(), self.kit.issuer
        request = NewRequest(transaction_id, PROTOCOL, operator, profile, issuer, csr, names, now)
        self.store.submit([request], None, [received_event(request)])

    def _issuing(self) -> Issuing:
        kit, machine = self.kit, self._machine
        return Issuing(
            store=self.store,
            issuers={kit.issuer: self._issuer()},
            default_issuer=kit.issuer,
            profiles=profiles_of(kit),
            clock=machine.clock,
            entropy=machine.entropy,
            instance=kit.instance,
            worker=self._actor,
            service_keys=frozenset(map(bytes.fromhex, kit.service_keys)),
        )

    def _signer(self, label: str, signature: str | None = None) -> KeySigner:
        key = self._machine.token.find_key(label)
        return KeySigner(key, algorithm_for(key.public_key(), signature))

    def _issuer(self) -> Issuer:
        kit = self.kit
        above = tuple(map(x509.load_der_x509_certificate, kit.chain[1:]))
        return Issuer(
            issuer_of(kit), self._signer(kit.issuer, self._machine.signature), IssuerURLs(*kit.urls), above
        )


def actor(issuer: str) -> str:
    """Return who the journal says it was that signed."""
    return f"offline:{issuer}"


def _check_no_root(directory: Path, kit: SignedKit) -> None:
    """R8: no operator confirmed a kit, whoever made it: no root is its issuer, and no root's store a standby's."""
    first, *above = map(x509.load_der_x509_certificate, kit.kit.chain)
    if is_self_signed(first) or spki_der(first.public_key()) in {spki_der(one.public_key()) for one in above}:
        raise OperatorError(
            f"{kit.kit.issuer} is a root: it signs in ceremonies only (R8)", "give a kit for an issuer below it"
        )
    if (directory / FILE).exists():
        raise OperatorError(
            f"{directory} is the store of an offline CA, which signs in ceremonies only (R8)",
            "give the standby a directory and a token of its own",
        )


def canonical_request(csr: bytes, profile: str, names: tuple[str, ...]) -> str:
    """Return the SHA-256 (hex) of what is asked for, each part with its length."""
    parts = (csr, profile.encode(), *(name.encode() for name in names))
    return hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).hexdigest()


def received_event(request: NewRequest) -> Event:
    """Return the event of a request's receipt, as the registration side would write it."""
    detail: EventDetail = {
        "protocol": request.protocol,
        "profile": request.profile,
        "issuer": request.issuer,
        "names": list(request.names),
        "csr_sha256": hashlib.sha256(request.csr).hexdigest(),
    }
    about = f"transaction:{request.transaction_id}"
    return Event(EventKind.REQUEST_RECEIVED, request.received_at, request.requestor, about, detail)


def _answer(stored: StoredRequest | None) -> bytes:
    assert stored is not None
    if stored.state is RequestState.DONE and stored.certificate is not None:
        return stored.certificate.der
    if stored.refusal is not None:
        raise PKIError(stored.refusal.error, stored.refusal.detail)
    raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the token did not sign; run the same again")
