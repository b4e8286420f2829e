"""
The offline CA: a root that signs only in a ceremony (R8), on a machine without network.

It issues through the same `ca.issuance` and `ca.crl` as the connected CA, over the local journal in place
of the database and a signed bundle in place of the queue. Every step writes its line before the token is
asked; what was killed anywhere goes on when the same command runs again.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from chancery.asn1.signature import KeySigner
from chancery.ca.crl import CRLMaking, CRLSettings, make_crl
from chancery.ca.issuance import Issuing, intent_of, issue_batch, make_serial, recover
from chancery.ca.issuer import Issuer, IssuerURLs, SelfIssuer
from chancery.ca.revocation import settle_revocations
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.offline.bundle import (
    MAX_ENTRIES,
    Answer,
    Bundle,
    Link,
    RequestPayload,
    ResponsePayload,
    decode_request,
    encode_response,
)
from chancery.offline.holding import Holding
from chancery.offline.journal import FILE, Journal
from chancery.offline.keys import Token, ensure_key, signer
from chancery.offline.script import Act, CRLAct, RenewalAct, RevocationAct, RootAct, names_bundle
from chancery.offline.store import LocalStore
from chancery.offline.words import same_fingerprint
from chancery.pkix.name import name_text, parse_name
from chancery.pkix.profile import Profile
from chancery.ports import (
    CertificateRecord,
    Clock,
    CRLRecord,
    EnrolmentRequest,
    Entropy,
    Event,
    EventDetail,
    EventKind,
    IssuerRecord,
    NewRequest,
    NewRevocation,
    RequestState,
    RevocationReason,
)

ROOT_ID = 1
ROOT_PROFILE = "root-ca"
CEREMONY = "ceremony"
BUNDLE_KEY_KIND = "ec-p256"
ROOT_CRL = CRLSettings(lifetime=datetime.timedelta(days=180), longest=datetime.timedelta(days=366))
"""BR 4.9.7: a CRL about CA certificates lives at most 12 months; twice a year somebody carries one over."""


@dataclasses.dataclass(frozen=True, slots=True)
class RootSettings:
    """
    What a ceremony is told. `subject` is RFC 4514 text; `instance` the first octet of every serial, 1..127.

    `urls` go into what the root signs; `signature` is how an RSA root does (`algorithm_for`).
    The token's label is only written down.
    """

    name: str
    subject: str
    instance: int
    key_kind: str
    urls: IssuerURLs
    token_label: str
    crl: CRLSettings = ROOT_CRL
    signature: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Ceremony:
    """The offline machine: its token, what it was told, the profiles and the sources of time and chance."""

    token: Token
    settings: RootSettings
    profiles: Mapping[str, Profile]
    clock: Clock
    entropy: Entropy


@dataclasses.dataclass(frozen=True, slots=True)
class Exported:
    """What leaves the offline machine: certificate and CRL (DER), the key that signs bundles, every response."""

    root: bytes
    crl: bytes
    bundle_key: bytes
    responses: tuple[tuple[int, str, bytes], ...]


class OfflineCA:
    """
    A root with its token and its local store, open; a context manager that closes the store.

    For one process and one thread. Methods raise PKIError(SYSTEM_UNAVAIL) when token or disk fail: then the
    same command again, over a store opened anew, goes on.
    """

    def __init__(self, store: LocalStore, ceremony: Ceremony) -> None:
        self.store = store
        self._token = ceremony.token
        self._settings = ceremony.settings
        self._profiles = ceremony.profiles
        self._clock = ceremony.clock
        self._entropy = ceremony.entropy
        self._actor = f"offline:{ceremony.settings.name}"
        self.holding = Holding(store, ceremony.clock, self._actor, ceremony.settings.name)

    @classmethod
    def init(cls, directory: Path, ceremony: Ceremony) -> Self:
        """
        Make the root: its keys, its self-signed certificate, its first CRL; or go on with what was begun.

        Raises OperatorError when the directory holds another CA, or the token keys of another, and
        PKIError(BAD_DATA_FORMAT or BAD_CERT_TEMPLATE) for a subject that no root may have. Idempotent.
        """
        made = cls.begin(directory, ceremony)
        try:
            made.make_root()
        except BaseException:
            made.store.journal.close()
            raise
        return made

    @classmethod
    def open(cls, directory: Path, ceremony: Ceremony) -> Self:
        """Open a root that `init` has made. OperatorError when it has not, or made another."""
        found = cls(LocalStore(Journal(directory)), ceremony)
        try:
            root(found.store)
            found._check_settings()
        except BaseException:
            found.store.journal.close()
            raise
        return found

    @classmethod
    def begin(cls, directory: Path, ceremony: Ceremony) -> Self:
        """Open a root, or the journal of one that a ceremony is about to make: no key is made, nothing signed."""
        create = not (directory / FILE).exists()
        made = cls(LocalStore(Journal(directory, create=create)), ceremony)
        try:
            made._open_journal()
        except BaseException:
            made.store.journal.close()
            raise
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.store.journal.close()

    def sign(self, data: bytes, confirmed: str, *, requester: str | None = None) -> bytes:
        """
        Answer a request bundle; returns the response bundle, the same one for the same request for ever.

        `confirmed` is the fingerprint that a person read from the other side. The installation key of the
        first bundle is pinned; another one's SHA-256 has to be given as `requester`. Raises PKIError:
        BAD_DATA_FORMAT, BAD_ALG, NOT_AUTHORIZED for a bundle that is not to be trusted, BAD_REQUEST for a
        replay, fork or gap; what is wrong with one certificate is said in its answer.
        """
        bundle = decode_request(data)
        if (known := self.store.response_to(bundle.sha256)) is not None:
            return known
        _check_fingerprint(confirmed, data)
        self.holding.permit(lambda act: names_bundle(act, data))
        self._check_requester(bundle, requester)
        self._check_clock()
        if not self.store.check_bundle(bundle):
            self._receive(bundle)
        issuing = self._issuing()
        recover(issuing)
        if waiting := self.store.take(self._actor, MAX_ENTRIES, self._clock.now()):
            issue_batch(issuing, waiting)
        answers = tuple(self._answer(bundle, entry.transaction_id) for entry in bundle.payload.certificates)
        if bundle.payload.crl:
            self._publish_crl()
        return self._respond(bundle, answers)

    def revoke(self, serial: bytes, reason: RevocationReason) -> CRLRecord:
        """
        Revoke a certificate of the root and publish a CRL that lists it.

        Raises PKIError(BAD_CERT_ID) for a serial that was never used here. Revoked already: a fresh CRL only.
        """
        intent = self.store.state.intents.get((ROOT_ID, serial))
        if intent is None or intent.intent.profile == ROOT_PROFILE:
            raise PKIError(ErrorType.BAD_CERT_ID, "the root has signed no certificate with this serial number")
        self.holding.permit(lambda act: _revokes(act, serial, reason))
        self._check_clock()
        now = self._clock.now()
        revocation = NewRevocation(self._settings.name, serial, reason, None, self._actor, now)
        event = Event(
            EventKind.REVOCATION_REQUESTED, now, self._actor, _subject(serial), {"reason": reason.name.lower()}
        )
        self.store.submit_revocation(revocation, ROOT_ID, [event])
        settle_revocations(self.store, self._clock, self._actor)
        return self._publish_crl()

    def publish_crl(self) -> CRLRecord:
        """Make a fresh CRL. OperatorError unless a ceremony says so."""
        self.holding.permit(lambda act: isinstance(act, CRLAct))
        self._check_clock()
        return self._publish_crl()

    def make_root(self) -> None:
        """Make the keys, the self-signed certificate and the first CRL, or go on with it."""
        self.holding.permit(lambda act: isinstance(act, RootAct))
        self._make_keys()
        self._make_root()
        self._make_first_crl()

    def renew(self, transaction_id: str) -> bytes:
        """
        Sign a new certificate (DER) of the root, valid from now, under the same name and key; once for this id.

        OperatorError unless a ceremony says so, or when a bundle waits for its answer; PKIError for what the
        profile does not grant.
        """
        self.holding.permit(lambda act: isinstance(act, RenewalAct))
        self._check_clock()
        stored = self.store.outcome(CEREMONY, transaction_id)
        others = [one for one in self.store.state.requests.values() if one is not stored]
        if any(one.state in {RequestState.WAITING, RequestState.TAKEN} for one in others):
            raise OperatorError("a request bundle waits for its answer", "have it answered first")
        if stored is None:
            self._submit_root(transaction_id)
        if stored is None or stored.certificate is None:
            self._sign_root()
        stored = self.store.outcome(CEREMONY, transaction_id)
        assert stored is not None
        assert stored.certificate is not None
        renewed = dataclasses.replace(root(self.store), certificate=stored.certificate.der)
        if renewed != root(self.store):
            detail = {"certificate_sha256": hashlib.sha256(renewed.certificate).hexdigest()}
            self.store.renew_issuer(renewed, [self.holding.event(EventKind.CA_CERTIFICATE, detail)])
        return renewed.certificate

    # Making the root

    def _check_clock(self) -> None:
        """Refuse to sign in the past: a machine that lay in a safe often wakes up there."""
        now, latest = self._clock.now(), self.store.state.latest
        if latest is not None and now < latest:
            raise OperatorError(
                f"the clock says {now:%Y-%m-%d %H:%M:%S} UTC, before the journal's {latest:%Y-%m-%d %H:%M:%S}",
                "set the clock of this machine",
            )

    def _open_journal(self) -> None:
        self._check_clock()
        if self.store.state.opened is None:
            subject = self._try_root()
            self.store.open(self._settings.name, name_text(subject), self._settings.instance, [])
        self._check_settings()

    def _make_keys(self) -> None:
        for label, kind in ((self._root_label, self._settings.key_kind), (self._bundle_label, BUNDLE_KEY_KIND)):
            ensure_key(self.store, self._token, label, kind, clock=self._clock, actor=self._actor)

    def _try_root(self) -> x509.Name:
        """Make the root with a key that is thrown away: what is wrong is found before anything is kept."""
        settings, profile = self._settings, self._profiles[ROOT_PROFILE]
        if settings.key_kind not in profile.keys:
            raise OperatorError(
                f"a root with a key of kind {settings.key_kind} is not granted by the profile {profile.name}",
                f"give one of {', '.join(sorted(profile.keys))}",
            )
        if settings.signature is not None and not settings.key_kind.startswith("rsa-"):
            raise OperatorError(
                f"a root with a key of kind {settings.key_kind} does not sign {settings.signature}",
                "leave `signature` out, or give an RSA `key_kind`",
            )
        subject = parse_name(settings.subject)
        trial = SelfIssuer(KeySigner(ec.generate_private_key(ec.SECP256R1())), subject)
        trial.prepare(profile, make_serial(settings.instance, self._entropy), self._clock.now())
        return subject

    def _check_settings(self) -> None:
        opened, settings = self.store.state.opened, self._settings
        assert opened is not None
        given = (settings.name, name_text(parse_name(settings.subject)), settings.instance)
        if given != (opened.name, opened.subject, opened.instance):
            raise OperatorError(
                f"{self.store.journal.path} is of {opened.name} ({opened.subject}, instance {opened.instance})",
                "give the directory and the configuration that belong together",
            )

    def _make_root(self) -> None:
        if ROOT_ID in self.store.state.issuers:
            return
        stored = self.store.outcome(CEREMONY, self._settings.name)
        if stored is None:
            self._submit_root(self._settings.name)
        if stored is None or stored.certificate is None:
            self._sign_root()
            stored = self.store.outcome(CEREMONY, self._settings.name)
        assert stored is not None
        assert stored.certificate is not None
        der = stored.certificate.der
        record = IssuerRecord(
            ROOT_ID, self._settings.name, der, None, self._settings.token_label, self._root_label
        )
        detail = {"certificate_sha256": hashlib.sha256(der).hexdigest(), "subject": stored.certificate.subject}
        event = Event(
            EventKind.CA_CREATED, self._clock.now(), self._actor, f"issuer:{self._settings.name}", detail
        )
        self.store.add_issuer(record, [event])

    def _submit_root(self, transaction_id: str) -> None:
        now = self._clock.now()
        request = NewRequest(
            transaction_id=transaction_id,
            protocol=CEREMONY,
            requestor=CEREMONY,
            profile=ROOT_PROFILE,
            issuer=None,
            csr=b"",
            names=(),
            received_at=now,
        )
        event = Event(EventKind.REQUEST_RECEIVED, now, self._actor, f"issuer:{self._settings.name}", {})
        self.store.submit([request], None, [event])

    def _sign_root(self) -> None:
        """Take the order of `ca.issuance` for the one certificate that its own subject signs."""
        recover(self._bare_issuing({}))
        now = self._clock.now()
        [request] = self.store.take(self._actor, 1, now)
        profile = self._profiles[ROOT_PROFILE]
        issuer = SelfIssuer(self._root_signer, parse_name(self._settings.subject))
        serial = make_serial(self._settings.instance, self._entropy)
        linted = issuer.prepare(profile, serial, now)
        intent = intent_of(request, ROOT_ID, serial, linted, profile=profile, at=now)
        detail = {"tbs_sha256": hashlib.sha256(linted.der).hexdigest(), "profile": profile.sha256.hex()}
        event = Event(EventKind.INTENT_RECORDED, now, self._actor, _subject(serial), detail)
        self.store.record_intents(self._actor, [intent], [], [event])
        certificate = issuer.issue(linted)
        self._record_root(request, serial, certificate)

    def _record_root(self, request: EnrolmentRequest, serial: bytes, der: bytes) -> None:
        certificate, now = x509.load_der_x509_certificate(der), self._clock.now()
        record = CertificateRecord(
            request_id=request.request_id,
            issuer_id=ROOT_ID,
            serial=serial,
            der=der,
            subject=name_text(certificate.subject),
            names=(),
            spki_sha256=hashlib.sha256(self.store.state.keys[self._root_label]).digest(),
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            profile=request.profile,
            issued_at=now,
        )
        detail = {"certificate_sha256": hashlib.sha256(der).hexdigest()}
        event = Event(EventKind.CERTIFICATE_ISSUED, now, self._actor, _subject(serial), detail)
        self.store.record_certificates([record], [], [event])

    def _make_first_crl(self) -> None:
        if self.store.latest_crl(ROOT_ID) is None:
            self._publish_crl()

    # Answering a bundle

    def _check_requester(self, bundle: Bundle[RequestPayload], requester: str | None) -> None:
        key, known = bundle.header.signer, self.store.state.chains
        if requester is not None and requester != key:
            raise PKIError(ErrorType.NOT_AUTHORIZED, f"the bundle is signed by {key}, not by the given requester")
        if requester is None and known and key not in known:
            raise PKIError(
                ErrorType.NOT_AUTHORIZED,
                f"the bundle is signed by {key}, and the key of another installation is pinned here",
            )

    def _receive(self, bundle: Bundle[RequestPayload]) -> None:
        requestor, now = bundle.header.signer, self._clock.now()
        taken = [
            e.transaction_id
            for e in bundle.payload.certificates
            if self.store.outcome(requestor, e.transaction_id)
        ]
        if taken:
            raise PKIError(ErrorType.TRANSACTION_ID_IN_USE, f"an earlier bundle used {', '.join(taken)}")
        requests = [
            NewRequest(
                transaction_id=entry.transaction_id,
                protocol="bundle",
                requestor=requestor,
                profile=entry.profile,
                issuer=self._settings.name,
                csr=entry.csr,
                names=entry.names,
                received_at=now,
            )
            for entry in bundle.payload.certificates
        ]
        detail: EventDetail = {
            "bundle": bundle.sha256,
            "number": bundle.header.number,
            "certificates": len(requests),
        }
        event = Event(EventKind.REQUEST_RECEIVED, now, self._actor, f"requestor:{requestor}", detail)
        self.store.submit(requests, bundle.data, [event])

    def _answer(self, bundle: Bundle[RequestPayload], transaction_id: str) -> Answer:
        stored = self.store.outcome(bundle.header.signer, transaction_id)
        assert stored is not None
        if stored.state is RequestState.DONE and (found := stored.certificate) is not None:
            intent = self.store.state.intents[found.issuer_id, found.serial].intent
            return Answer(
                certificate=found.der,
                detail=None,
                error=None,
                profile=intent.profile_sha256.hex(),
                transaction_id=transaction_id,
            )
        if (refusal := stored.refusal) is not None:
            words = "".join(c if c.isprintable() else "?" for c in refusal.detail)[:2000]
            return Answer(certificate=None, detail=words, error=refusal.error.value, transaction_id=transaction_id)
        raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the token did not sign every certificate; run the same again")

    def _respond(self, bundle: Bundle[RequestPayload], answers: tuple[Answer, ...]) -> bytes:
        crl = self.store.latest_crl(ROOT_ID)
        payload = ResponsePayload(
            answers=answers,
            chain=(root(self.store).certificate,),
            crls=(crl.der,) if bundle.payload.crl and crl else (),
            journal_head=self.store.journal.head,
            journal_length=self.store.journal.length,
        )
        header, now = bundle.header, self._clock.now()
        # A request names the response before it, which is the one before this response, too.
        link = Link(number=header.number, previous=header.answers, answers=bundle.sha256)
        response = encode_response(signer(self.store, self._token, self._bundle_label), link, payload, now)
        issued = sum(answer.certificate is not None for answer in answers)
        detail: EventDetail = {
            "bundle": bundle.sha256,
            "response": hashlib.sha256(response).hexdigest(),
            "issued": issued,
        }
        event = Event(EventKind.BUNDLE_ANSWERED, now, self._actor, f"requestor:{header.signer}", detail)
        self.store.record_response(bundle.sha256, response, [event])
        return response

    # Parts

    @property
    def _root_label(self) -> str:
        return self._settings.name

    @property
    def _bundle_label(self) -> str:
        return bundle_label(self._settings.name)

    @property
    def _root_signer(self) -> KeySigner:
        return signer(self.store, self._token, self._root_label, self._settings.signature)

    def _root_issuer(self) -> Issuer:
        return Issuer(root(self.store), self._root_signer, self._settings.urls)

    def _issuing(self) -> Issuing:
        return self._bare_issuing({self._settings.name: self._root_issuer()})

    def _bare_issuing(self, issuers: Mapping[str, Issuer]) -> Issuing:
        # R8: what the root signs is what only a ceremony may sign, and never another root; and its own OCSP
        # delegates, which nobody else can (RFC 6960 4.2.2.2).
        profiles = {
            name: profile
            for name, profile in self._profiles.items()
            if (profile.ceremony or profile.ocsp) and name != ROOT_PROFILE
        }
        return Issuing(
            store=self.store,
            issuers=issuers,
            default_issuer=self._settings.name,
            profiles=profiles,
            clock=self._clock,
            entropy=self._entropy,
            instance=self._settings.instance,
            worker=self._actor,
            ceremony=True,
        )

    def _publish_crl(self) -> CRLRecord:
        settle_revocations(self.store, self._clock, self._actor)
        return make_crl(CRLMaking(self._root_issuer(), self.store, self._clock, self._actor, self._settings.crl))


def bundle_label(name: str) -> str:
    """Label of the key that signs this CA's bundles."""
    return f"{name}-bundles"


def root(store: LocalStore) -> IssuerRecord:
    """Return the root of a store; OperatorError when `init` did not finish."""
    if ROOT_ID not in store.state.issuers:
        raise OperatorError(f"{store.journal.path} holds no root yet", "run `chancery offline init` again")
    return store.state.issuers[ROOT_ID]


def export(store: LocalStore) -> Exported:
    """
    Return what may leave the machine, from the journal alone: no token is needed.

    Responses as (number, requestor's key, octets), in the order in which they were given. OperatorError when
    `init` did not finish.
    """
    record, crl = root(store), store.latest_crl(ROOT_ID)
    if crl is None:
        raise OperatorError(f"{store.journal.path} holds no CRL yet", "run `chancery offline init` again")
    return Exported(record.certificate, crl.der, store.state.keys[bundle_label(record.name)], _responses(store))


def _responses(store: LocalStore) -> tuple[tuple[int, str, bytes], ...]:
    counted: dict[str, int] = {}
    found = []
    for requestor, response in store.state.given:
        counted[requestor] = counted.get(requestor, 0) + 1
        found.append((counted[requestor], requestor, response))
    return tuple(found)


def _check_fingerprint(said: str, data: bytes) -> None:
    try:
        same = same_fingerprint(said, data)
    except ValueError as error:
        raise PKIError(ErrorType.NOT_AUTHORIZED, f"the fingerprint that was confirmed: {error}") from None
    if not same:
        raise PKIError(ErrorType.NOT_AUTHORIZED, "the fingerprint that was confirmed is not this bundle's")


def _revokes(act: Act, serial: bytes, reason: RevocationReason) -> bool:
    return isinstance(act, RevocationAct) and (bytes.fromhex(act.serial), act.reason) == (
        serial,
        reason.name.lower().replace("_", "-"),
    )


def _subject(serial: bytes) -> str:
    return f"{ROOT_ID}:{serial.hex()}"
