"""
The carried medium between an installation and its offline CA: signed, hash-linked, one encoding per content.

A bundle is canonical JSON (sorted keys, no spaces, DER as base64, times in UTC)::

    {"signature": …, "signed": {"header": …, "payload": …}}

The signature stands over the exact octets of the value of `signed`. Request n and response n answer each
other in one chain per installation key: each names the SHA-256 of the bundle before it of its own kind
(`previous`) and of the bundle it answers (`answers`).
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from collections.abc import Callable
from typing import Annotated, Final, Generic, Literal, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from chancery.asn1.signature import PublicKey, Signer, algorithm_for
from chancery.errors import ErrorType, PKIError

FORMAT: Final = "chancery-bundle/1"
MAX_SIZE = 1024 * 1024
MAX_ENTRIES = 256
ROOM = bytes(80)
"""Stands in a draft for the signature: at least as long as any (ECDSA P-256: at most 72 octets)."""

SHA256Hex = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
TransactionID = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
ProfileName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}\Z")]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
Words = Annotated[str, msgspec.Meta(max_length=2000)]
DER = Annotated[bytes, msgspec.Meta(min_length=2, max_length=64 * 1024)]


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A JSON object whose keys are all present and no others."""


class Header(Strict, frozen=True, kw_only=True):
    """
    Which bundle of which chain this is, and who signed it.

    `number` counts from 1; `previous` and `answers` are SHA-256 over whole bundles, absent (null) only
    where there is none: in request 1, and `previous` in response 1. `signer_key` is a
    SubjectPublicKeyInfo (DER), `signer` its SHA-256.
    """

    answers: SHA256Hex | None
    created_at: datetime.datetime
    format: Literal["chancery-bundle/1"]
    kind: Literal["request", "response"]
    number: Annotated[int, msgspec.Meta(ge=1, le=2**31)]
    previous: SHA256Hex | None
    signer: SHA256Hex
    signer_key: DER


class RequestEntry(Strict, frozen=True, kw_only=True):
    """One certificate asked for: a PKCS#10 request (DER), its profile, further names, and why, in words."""

    csr: DER
    names: Annotated[tuple[Name, ...], msgspec.Meta(max_length=100)]
    profile: ProfileName
    reason: Words
    transaction_id: TransactionID


class RequestPayload(Strict, frozen=True, kw_only=True):
    """What an installation asks of its offline CA: certificates, and whether it wants a fresh CRL."""

    certificates: Annotated[tuple[RequestEntry, ...], msgspec.Meta(max_length=MAX_ENTRIES)]
    crl: bool


class Answer(Strict, frozen=True, kw_only=True):
    """
    A certificate (DER), or an `ErrorType` value and words, for one transaction id.

    `profile` is the SHA-256 of the profile's text under which the certificate was issued.
    """

    certificate: DER | None
    detail: Words | None
    error: Annotated[str, msgspec.Meta(max_length=64)] | None
    profile: SHA256Hex | None = None
    transaction_id: TransactionID


class ResponsePayload(Strict, frozen=True, kw_only=True):
    """
    What the offline CA answers.

    `chain` goes from the issuer to the root (DER); `crls` are CertificateLists (DER); `journal_head` is
    the SHA-256 of the offline journal's line number `journal_length`, the last before this answer.
    """

    answers: Annotated[tuple[Answer, ...], msgspec.Meta(max_length=MAX_ENTRIES)]
    chain: Annotated[tuple[DER, ...], msgspec.Meta(min_length=1, max_length=8)]
    crls: Annotated[tuple[Annotated[bytes, msgspec.Meta(min_length=2)], ...], msgspec.Meta(max_length=8)]
    journal_head: SHA256Hex
    journal_length: Annotated[int, msgspec.Meta(ge=1)]


class _SignedRequest(Strict, frozen=True, kw_only=True):
    header: Header
    payload: RequestPayload


class _SignedResponse(Strict, frozen=True, kw_only=True):
    header: Header
    payload: ResponsePayload


class _RequestFile(Strict, frozen=True, kw_only=True):
    signature: bytes
    signed: _SignedRequest


class _ResponseFile(Strict, frozen=True, kw_only=True):
    signature: bytes
    signed: _SignedResponse


_File = TypeVar("_File", _RequestFile, _ResponseFile)
P = TypeVar("P", RequestPayload, ResponsePayload)
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Bundle(Generic[P]):
    """A bundle that has been decoded and whose signature verifies under the key it names."""

    header: Header
    payload: P
    data: bytes
    sha256: str
    signer_key: PublicKey


@dataclasses.dataclass(frozen=True, slots=True)
class Link:
    """Where a bundle stands in its chain; see `Header`."""

    number: int
    previous: str | None
    answers: str | None


def canonical(value: object) -> bytes:
    """Encode as JSON with sorted keys and no spaces: one encoding for one value."""
    return msgspec.json.encode(value, order="sorted")


def sha256(data: bytes) -> str:
    """SHA-256 in lower-case hexadecimal, as bundles and journals name each other."""
    return hashlib.sha256(data).hexdigest()


def fingerprint(data: bytes) -> str:
    """
    Return eight groups of five digits, to be read aloud and compared on both sides.

    They are a whole bundle's SHA-256 modulo 10**40, about 132 bits: nobody makes a second bundle that
    reads the same.
    """
    digits = f"{int.from_bytes(hashlib.sha256(data).digest(), 'big') % 10**40:040d}"
    return " ".join(digits[at : at + 5] for at in range(0, 40, 5))


def spki(key: PublicKey) -> bytes:
    """SubjectPublicKeyInfo (DER) of a key."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def encode_request(signer: Signer, link: Link, payload: RequestPayload, created_at: datetime.datetime) -> bytes:
    """
    Check, sign and verify a request bundle; returns its octets.

    Raises PKIError: BAD_REQUEST for what the other side would refuse (nothing is signed then), BAD_ALG
    for a key that signs no bundles, else as `Signer.sign` does.
    """
    signed = _SignedRequest(header=_header(signer, "request", link, created_at), payload=payload)
    _accepted(lambda: _read_request(canonical(_RequestFile(signature=ROOM, signed=signed)), MAX_SIZE))
    data = canonical(_RequestFile(signature=signer.sign(canonical(signed)), signed=signed))
    decode_request(data)
    return data


def encode_response(signer: Signer, link: Link, payload: ResponsePayload, created_at: datetime.datetime) -> bytes:
    """Check, sign and verify a response bundle; returns its octets. Raises as `encode_request` does."""
    signed = _SignedResponse(header=_header(signer, "response", link, created_at), payload=payload)
    _accepted(lambda: _read_response(canonical(_ResponseFile(signature=ROOM, signed=signed)), MAX_SIZE))
    data = canonical(_ResponseFile(signature=signer.sign(canonical(signed)), signed=signed))
    decode_response(data)
    return data


def decode_request(data: bytes, *, max_size: int = MAX_SIZE) -> Bundle[RequestPayload]:
    """
    Decode a request bundle strictly and verify its signature under the key it names.

    That key is only as good as the fingerprint that people compared. Raises PKIError: BAD_DATA_FORMAT for
    anything but the canonical bytes of a request bundle, BAD_ALG for a key that signs no bundles,
    NOT_AUTHORIZED for a signature that does not verify.
    """
    file = _read_request(data, max_size)
    key = _verify(file.signed.header, file.signature, canonical(file.signed))
    return Bundle(file.signed.header, file.signed.payload, data, sha256(data), key)


def decode_response(
    data: bytes, *, pinned_key: PublicKey | None = None, max_size: int = MAX_SIZE
) -> Bundle[ResponsePayload]:
    """
    Decode a response bundle strictly and verify its signature, which must be `pinned_key`'s where one is given.

    Raises PKIError as `decode_request` does; NOT_AUTHORIZED also for another signer than the pinned one.
    """
    file = _read_response(data, max_size)
    if pinned_key is not None and file.signed.header.signer_key != spki(pinned_key):
        raise PKIError(ErrorType.NOT_AUTHORIZED, "the bundle is signed by another key than the pinned one")
    key = _verify(file.signed.header, file.signature, canonical(file.signed))
    return Bundle(file.signed.header, file.signed.payload, data, sha256(data), key)


def _read_request(data: bytes, max_size: int) -> _RequestFile:
    file = _decode(data, _RequestFile, max_size)
    _check_header(file.signed.header, "request")
    _check_entries([entry.transaction_id for entry in file.signed.payload.certificates])
    for entry in file.signed.payload.certificates:
        check_text(entry.transaction_id, entry.reason, *entry.names)
    return file


def _read_response(data: bytes, max_size: int) -> _ResponseFile:
    file = _decode(data, _ResponseFile, max_size)
    _check_header(file.signed.header, "response")
    _check_entries([answer.transaction_id for answer in file.signed.payload.answers])
    for answer in file.signed.payload.answers:
        check_text(answer.transaction_id, answer.detail or "")
        refused = answer.error is not None
        if (answer.certificate is None) != refused or (answer.detail is not None) != refused:
            raise malformed("an answer is either a certificate or a refusal in words")
    return file


def _accepted(read: Callable[[], object]) -> None:
    try:
        read()
    except PKIError as error:
        raise PKIError(ErrorType.BAD_REQUEST, f"this cannot be put into a bundle: {error.detail}") from error


def _header(
    signer: Signer, kind: Literal["request", "response"], link: Link, created_at: datetime.datetime
) -> Header:
    key = spki(check_key(signer.public_key))
    if signer.algorithm != algorithm_for(signer.public_key):
        raise PKIError(ErrorType.BAD_ALG, f"{signer.algorithm.name} does not sign bundles")
    return Header(
        answers=link.answers,
        created_at=created_at.astimezone(datetime.UTC).replace(microsecond=0),
        format=FORMAT,
        kind=kind,
        number=link.number,
        previous=link.previous,
        signer=sha256(key),
        signer_key=key,
    )


def _decode(data: bytes, type_: type[_File], max_size: int) -> _File:
    file = decode_canonical(data, type_, max_size)
    check_second(file.signed.header.created_at)
    return file


def check_second(at: datetime.datetime) -> None:
    """Raise PKIError(BAD_DATA_FORMAT) for a time that is not in whole seconds of UTC."""
    if at.utcoffset() != datetime.timedelta(0) or at.microsecond:
        raise malformed("a time that is not in whole seconds of UTC")


def decode_canonical(data: bytes, type_: type[T], max_size: int) -> T:
    """Decode the canonical JSON of a value, of at most so many octets; PKIError(BAD_DATA_FORMAT) for any other."""
    if len(data) > max_size:
        raise malformed(f"{len(data)} octets where at most {max_size} are accepted")
    try:
        file = msgspec.json.decode(data, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # msgspec names the key and what belongs there; the text of other errors may hold the octets.
        what = str(error) if isinstance(error, msgspec.DecodeError) else "not JSON"
        raise malformed(f"not a bundle of this kind: {what}") from None
    if canonical(file) != data:
        raise malformed("not the canonical encoding of the bundle")
    return file


def _verify(header: Header, signature: bytes, part: bytes) -> PublicKey:
    if sha256(header.signer_key) != header.signer:
        raise malformed("the signer's fingerprint is not that of the signer's key")
    return verify_part(header.signer_key, signature, part)


def verify_part(signer_key: bytes, signature: bytes, part: bytes) -> PublicKey:
    """
    Verify the signature over a bundle's signed part under this key (SubjectPublicKeyInfo, DER); return the key.

    Raises PKIError as `decode_request` does.
    """
    try:
        key = check_key(load_der_public_key(signer_key))
    except ValueError:
        raise malformed("the signer's key is not a SubjectPublicKeyInfo") from None
    if spki(key) != signer_key:
        raise malformed("the signer's key is not in DER")
    try:
        algorithm_for(key).verify(key, signature, part)
    except InvalidSignature:
        raise PKIError(ErrorType.NOT_AUTHORIZED, "the bundle's signature does not verify") from None
    return key


def check_key(key: object) -> PublicKey:
    """Return a key that may sign bundles; PKIError(BAD_ALG) for any other."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise PKIError(ErrorType.BAD_ALG, "bundles are signed with P-256 or Ed25519")


def _check_header(header: Header, kind: str) -> None:
    first = header.number == 1
    if header.kind != kind or (header.previous is None) != first:
        raise malformed("the header contradicts itself")
    if (header.answers is None) != (first and kind == "request"):
        raise malformed("the header contradicts itself")


def _check_entries(transaction_ids: list[str]) -> None:
    if len(set(transaction_ids)) != len(transaction_ids):
        raise malformed("a transaction id appears twice")


def check_text(*texts: str) -> None:
    """Raise PKIError(BAD_DATA_FORMAT) for characters that cannot be printed."""
    # People decide by what their terminal shows: nothing in it may move the cursor or hide text.
    if not all(text.isprintable() for text in texts):
        raise malformed("text with characters that cannot be printed")


def malformed(detail: str) -> PKIError:
    """Return the refusal of what is no bundle."""
    return PKIError(ErrorType.BAD_DATA_FORMAT, detail)
