"""
The installation's side of a bundle: asking the offline CA, and taking in what it answered.

Nothing of a response is used before all of it has been verified: the pinned key, the link to the request,
the chain, and each certificate against what was asked for. What is then stored goes in by single
transactions, each of which may be repeated: an import that was killed is simply run again.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from collections.abc import Iterable, Mapping, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from chancery.asn1 import der
from chancery.asn1.signature import PublicKey, Signer, algorithm_from_identifier
from chancery.asn1.x509 import split_signed
from chancery.ca.installing import Who, act_event, succession
from chancery.errors import ErrorType, PKIError
from chancery.offline.bundle import (
    Answer,
    Bundle,
    Link,
    RequestEntry,
    RequestPayload,
    ResponsePayload,
    decode_request,
    decode_response,
    encode_request,
)
from chancery.pkix.key import proof_of_possession, spki_der
from chancery.pkix.lint import Finding, blocking, lint, lint_crl
from chancery.pkix.path import same_key
from chancery.pkix.profile import Profile
from chancery.ports import (
    CertificateKind,
    CRLRecord,
    Event,
    EventDetail,
    EventKind,
    IssuerStore,
    KeyPlace,
    NewCertificate,
    NewIssuer,
)
from chancery.ports import Place as Where

FIRST = Link(number=1, previous=None, answers=None)
SKEW = datetime.timedelta(minutes=5)
"""How far the two machines' clocks may differ."""
LONGEST_CRL = datetime.timedelta(days=366)
"""BR 4.9.7: a CRL about CA certificates lives at most 12 months."""


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Under which name an answered certificate becomes an issuer here, and where its key is; None: elsewhere."""

    name: str
    token_label: str | None
    key_label: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Imported:
    """What came in: the root's id, each new issuer's id by name, and what the offline CA refused."""

    root_id: int
    issuers: Mapping[str, int]
    refused: tuple[Answer, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Verified:
    """A response that has been checked as a whole: the root, its CRLs, and a certificate per transaction id."""

    bundle: Bundle[ResponsePayload]
    root: x509.Certificate
    crls: tuple[CRLRecord, ...]
    certificates: Mapping[str, x509.Certificate]
    refused: tuple[Answer, ...]


def following(request: bytes, response: bytes) -> Link:
    """
    Return the link of the request after this request and its response.

    Raises PKIError(BAD_REQUEST) when the two do not belong together, else as decoding them does.
    """
    asked, answered = decode_request(request), decode_response(response)
    _check_link(asked, answered)
    return Link(number=asked.header.number + 1, previous=asked.sha256, answers=answered.sha256)


def make_request(
    signer: Signer, entries: Sequence[RequestEntry], link: Link, at: datetime.datetime, *, crl: bool
) -> bytes:
    """
    Make a request bundle, after verifying the proof of possession in each CSR; returns its octets.

    Raises PKIError as `proof_of_possession` and `encode_request` do.
    """
    for entry in entries:
        proof_of_possession(entry.csr)
    return encode_request(signer, link, RequestPayload(certificates=tuple(entries), crl=crl), at)


def verify_response(
    request: bytes, response: bytes, pinned: PublicKey, profiles: Mapping[str, Profile], at: datetime.datetime
) -> Verified:
    """
    Check a response against the request that it answers; returns its contents, all of them verified.

    `pinned` is the offline CA's bundle key as a person compared it, `profiles` those of this installation.
    Raises PKIError: BAD_DATA_FORMAT or BAD_ALG for what cannot be read, NOT_AUTHORIZED for another signer,
    BAD_REQUEST for contents that are not what was asked for or that do not hold together.
    """
    asked = decode_request(request)
    bundle = decode_response(response, pinned_key=pinned)
    _check_link(asked, bundle)
    root = _root(bundle.payload.chain, at)
    entries = {entry.transaction_id: entry for entry in asked.payload.certificates}
    answers = {answer.transaction_id: answer for answer in bundle.payload.answers}
    if entries.keys() != answers.keys():
        raise _refuse("the response does not answer what was asked")
    certificates = {
        name: _certificate(entries[name], answer, root, profiles, at)
        for name, answer in answers.items()
        if answer.certificate is not None
    }
    if asked.payload.crl and not bundle.payload.crls:
        raise _refuse("the response has no CRL, and one was asked for")
    crls = tuple(_crl(data, root, at) for data in bundle.payload.crls)
    refused = tuple(answer for answer in answers.values() if answer.certificate is None)
    return Verified(bundle, root, crls, certificates, refused)


def import_response(
    verified: Verified,
    root_name: str,
    places: Mapping[str, Place],
    store: IssuerStore,
    *,
    at: datetime.datetime,
    actor: str,
    replaces: tuple[str | None, str | None] = (None, None),
) -> Imported:
    """
    Store the root, its CRL and the issuers of a verified response; `places` are by transaction id.

    A certificate for the name and key of an issuer that is here is that one's renewed certificate. `replaces` is
    the issuer whose place a new one takes, and the configured default (`ca.installing.succession`). The last
    transaction carries the event that the bundle is in. Everything stored already is left as it is. Raises
    PKIError(BAD_REQUEST) when a name here is another certificate's, or the CRL is older than the one here;
    (BAD_CERT_TEMPLATE) when a certificate has no place.
    """
    if missing := verified.certificates.keys() - places.keys():
        raise PKIError(ErrorType.BAD_CERT_TEMPLATE, f"no name was given for {', '.join(sorted(missing))}")
    now, who, bundle = at, Who(actor, at), verified.bundle
    detail: EventDetail = {"bundle": bundle.sha256, "number": bundle.header.number, "signer": bundle.header.signer}
    done = Event(EventKind.BUNDLE_IMPORTED, now, actor, f"bundle:{bundle.sha256}", detail)
    steps = len(verified.crls) + len(verified.certificates)
    root = dataclasses.replace(_issuer(root_name, verified.root, None, None), key=KeyPlace(Where.OFFLINE))
    root_id = store.add_issuer(root, now, [_added(root, now, actor), *([] if steps else [done])])
    for crl in verified.crls:
        steps -= 1
        record = dataclasses.replace(crl, issuer_id=root_id)
        store.import_crl(record, [_published(root_name, record, now, actor), *([] if steps else [done])])
    issuers = {}
    for transaction_id, certificate in verified.certificates.items():
        steps -= 1
        issuer = _issuer(places[transaction_id].name, certificate, root_name, places[transaction_id])
        events = [] if steps else [done]
        issuers[issuer.name] = _take_in(issuer, store, replaces, who, events)
    return Imported(root_id, issuers, verified.refused)


def _take_in(
    issuer: NewIssuer,
    store: IssuerStore,
    replaces: tuple[str | None, str | None],
    who: Who,
    events: list[Event],
) -> int:
    """Store a new issuer, or the renewed certificate of one that is here; return its id."""
    records = {record.name: record for record in store.issuers()}
    old, certificate = records.get(issuer.name), x509.load_der_x509_certificate(issuer.certificate)
    if old is not None and same_key(certificate, x509.load_der_x509_certificate(old.certificate)):
        if issuer.certificate not in {old.certificate, *(one.certificate for one in old.further)}:
            new = NewCertificate(issuer.name, CertificateKind.RENEWAL, issuer.certificate, issuer.parent)
            told = _added(issuer, who.at, who.actor)
            detail: EventDetail = {**told.detail, "kind": new.kind.value}
            told = dataclasses.replace(told, kind=EventKind.CA_CERTIFICATE, detail=detail)
            store.add_certificate(new, who.at, [told, *events])
        return old.issuer_id
    acts = succession(issuer.name, records, replaces, certificate, who)
    told_acts = [act_event(one) for one in acts]
    return store.add_issuer(issuer, who.at, [_added(issuer, who.at, who.actor), *told_acts, *events], acts)


def _check_link(asked: Bundle[RequestPayload], answered: Bundle[ResponsePayload]) -> None:
    header = answered.header
    # A request names the response before it, which is the one before its own response, too.
    if (header.answers, header.number, header.previous) != (
        asked.sha256,
        asked.header.number,
        asked.header.answers,
    ):
        raise _refuse("the response answers another request")


def _root(chain: Sequence[bytes], at: datetime.datetime) -> x509.Certificate:
    if len(chain) != 1:
        raise _refuse("the offline CA is a root: its chain is one certificate")
    root = _parse(chain[0])
    _check_signed(root, root, "the root's certificate")
    _check_ca(root, at, "the root's certificate")
    _check_lints(lint(root, issuer=root), "the root's certificate")
    return root


def _certificate(
    entry: RequestEntry,
    answer: Answer,
    root: x509.Certificate,
    profiles: Mapping[str, Profile],
    at: datetime.datetime,
) -> x509.Certificate:
    assert answer.certificate is not None
    certificate = _parse(answer.certificate)
    what = f"the certificate for {entry.transaction_id}"
    _check_signed(certificate, root, what)
    if spki_der(certificate.public_key()) != proof_of_possession(entry.csr).spki:
        raise _refuse(f"{what} is for another key than its request")
    profile = profiles.get(entry.profile)
    if profile is None or answer.profile != profile.sha256.hex():
        raise _refuse(f"{what} was issued under another text of the profile {entry.profile} than the one here")
    _check_ca(certificate, at, what)
    _check_lints(lint(certificate, issuer=root), what)
    return certificate


def _parse(data: bytes) -> x509.Certificate:
    der.check(data)
    try:
        certificate = x509.load_der_x509_certificate(data)
        certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise _refuse("a certificate that cannot be read") from None
    return certificate


def _public_key(certificate: x509.Certificate) -> PublicKey:
    key = certificate.public_key()
    if not isinstance(key, PublicKey):
        raise PKIError(ErrorType.BAD_ALG, "a certificate for a type of key that is not supported")
    return key


def _check_signed(certificate: x509.Certificate, by: x509.Certificate, what: str) -> None:
    try:
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature):
        raise _refuse(f"{what} is not signed by the root") from None


def _check_ca(certificate: x509.Certificate, at: datetime.datetime, what: str) -> None:
    if not certificate.not_valid_before_utc - SKEW <= at <= certificate.not_valid_after_utc:
        raise _refuse(f"{what} is not valid now: see whether the clocks of both machines are right")
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        raise _refuse(f"{what} is not a CA's") from None
    if not (constraints.ca and usage.key_cert_sign and usage.crl_sign):
        raise _refuse(f"{what} is not a CA's")


def _check_lints(findings: Iterable[Finding], what: str) -> None:
    if found := blocking(findings):
        raise _refuse(f"{what}: " + "; ".join(map(str, found)))


def _crl(data: bytes, root: x509.Certificate, at: datetime.datetime) -> CRLRecord:
    try:
        crl = x509.load_der_x509_crl(data)
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        tbs, identifier, signature = split_signed(data)
        algorithm_from_identifier(identifier).verify(_public_key(root), signature, tbs)
    except (ValueError, x509.ExtensionNotFound):
        raise _refuse("the root's CRL cannot be read") from None
    except InvalidSignature:
        raise _refuse("the root's CRL is not signed by the root") from None
    if crl.issuer != root.subject:
        raise _refuse("the root's CRL names another issuer")
    _check_lints(lint_crl(data, issuer=root, longest=LONGEST_CRL), "the root's CRL")
    this_update, next_update = crl.last_update_utc, crl.next_update_utc
    if next_update is None or this_update - SKEW > at:
        raise _refuse("the root's CRL is from the future: see whether the clocks of both machines are right")
    return CRLRecord(0, number, this_update, next_update, this_update, data)


def _issuer(name: str, certificate: x509.Certificate, parent: str | None, place: Place | None) -> NewIssuer:
    return NewIssuer(
        name=name,
        certificate=certificate.public_bytes(Encoding.DER),
        parent=parent,
        token_label=place.token_label if place else None,
        key_label=place.key_label if place else None,
        key=KeyPlace(Where.EXTERNAL) if place and place.key_label is None else None,
    )


def _added(issuer: NewIssuer, at: datetime.datetime, actor: str) -> Event:
    detail: EventDetail = {
        "certificate_sha256": hashlib.sha256(issuer.certificate).hexdigest(),
        "parent": issuer.parent,
    }
    return Event(EventKind.CA_IMPORTED, at, actor, f"issuer:{issuer.name}", detail)


def _published(name: str, crl: CRLRecord, at: datetime.datetime, actor: str) -> Event:
    detail: EventDetail = {"number": crl.number, "sha256": hashlib.sha256(crl.der).hexdigest()}
    return Event(EventKind.CRL_PUBLISHED, at, actor, f"crl:{name}", detail)


def _refuse(detail: str) -> PKIError:
    return PKIError(ErrorType.BAD_REQUEST, detail)
