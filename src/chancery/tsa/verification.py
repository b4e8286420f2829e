"""What somebody who holds a timestamp can check: the token against its query, its signer, the path to a CA."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from chancery.asn1 import cms, der, oids, tsp
from chancery.asn1.signature import PublicKey
from chancery.errors import ErrorType, PKIError

MAX_PATH = 8
_KINDS: dict[int, ErrorType] = {
    bit: kind for kind, bit in reversed(tsp.FAIL_INFO.items()) if kind.name == bit.name
}


@dataclasses.dataclass(frozen=True, slots=True)
class Timestamp:
    """A token that was verified: what it says, and the certificates (DER) it was verified with, signer first."""

    info: tsp.TSTInfo
    path: tuple[bytes, ...]


def _wrong(detail: str) -> PKIError:
    return PKIError(ErrorType.BAD_REQUEST, detail)


def granted_token(response: bytes) -> bytes:
    """
    Return the token (DER) of a TimeStampResp.

    Raises PKIError with the kind of its failInfo and the authority's own words when it refuses, and
    PKIError(BAD_DATA_FORMAT) when it is no TimeStampResp.
    """
    answer = tsp.decode_response(response)
    if answer.time_stamp_token is None:
        kind = next((_KINDS[bit] for bit in sorted(answer.fail_info) if bit in _KINDS), ErrorType.SYSTEM_FAILURE)
        raise PKIError(kind, f"the authority refused: {answer.words() or f'status {answer.status}'}")
    return answer.time_stamp_token


def info_of(token: bytes) -> tsp.TSTInfo:
    """Return what a TimeStampToken (DER) says, with nothing of it checked. PKIError(BAD_DATA_FORMAT)."""
    signed = cms.decode(token)
    if signed.content_type != oids.TST_INFO:
        raise der.malformed("a SignedData that is not a timestamp")
    return tsp.decode_tst_info(signed.content)


def verify(
    token: bytes,
    *,
    digests: dict[str, bytes],
    anchors: Sequence[bytes] = (),
    query: bytes | None = None,
    certificates: Sequence[bytes] = (),
) -> Timestamp:
    """
    Check a TimeStampToken (DER) over a document (RFC 3161 2.2, 2.3; RFC 5816).

    `digests` are the document's, by OID; `query` is the TimeStampReq it answers, if known; `certificates` help
    to find the signer and the path. With `anchors` (DER) the path to one of them must have been valid at genTime
    (RFC 5280 6.1); without, the signer's certificate is taken as it comes. Revocation is not looked up.
    Raises PKIError saying what is wrong.
    """
    signed = cms.decode(token)
    if signed.content_type != oids.TST_INFO:
        raise der.malformed("a SignedData that is not a timestamp")
    info = tsp.decode_tst_info(signed.content)
    if any(critical for _, critical, _ in info.extensions):
        raise _wrong("the timestamp has a critical extension that is not understood")
    if info.hash_oid not in digests:
        raise PKIError(ErrorType.BAD_ALG, "the token's message imprint uses a digest that is not supported")
    if info.hashed_message != digests[info.hash_oid]:
        raise _wrong("the timestamp is of another document")
    if query is not None:
        _check_query(info, tsp.decode_request(query))
    pool = [*signed.certificates, *certificates, *anchors]
    signer = next((one for one in pool if _is_named(signed, one)), None)
    if signer is None:
        raise PKIError(
            ErrorType.ADD_INFO_NOT_AVAILABLE, "the signer's certificate is neither in the token nor given"
        )
    certificate = _load(signer)
    _check_signer(signed, signer, certificate)
    path = build_path(certificate, pool, anchors, info.gen_time) if anchors else (signer,)
    return Timestamp(info, path)


def _load(certificate: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(certificate)
    except (ValueError, x509.InvalidVersion):
        raise der.malformed("a certificate in the token that cannot be read") from None


def _check_query(info: tsp.TSTInfo, query: tsp.TimeStampReq) -> None:
    if (info.hash_oid, info.hashed_message) != (query.hash_oid, query.hashed_message):
        raise _wrong("the timestamp has another message imprint than the request")
    if info.nonce != query.nonce:
        raise _wrong("the timestamp has another nonce than the request")
    if query.req_policy is not None and info.policy != query.req_policy:
        raise _wrong("the timestamp is under another policy than the request asked for")


def _is_named(signed: cms.SignedData, certificate: bytes) -> bool:
    return cms.issuer_and_serial(certificate) == (signed.issuer, signed.serial)


def _check_signer(signed: cms.SignedData, signer: bytes, certificate: x509.Certificate) -> None:
    try:
        public_key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        public_key = None
    if not isinstance(public_key, PublicKey):
        raise PKIError(ErrorType.BAD_ALG, "the signer has a key of a type that is not supported")
    try:
        cms.verify_signer(signed, signer, public_key)
    except InvalidSignature as error:
        words = str(error)
        raise _wrong(f"the signature of the timestamp is not right{': ' + words if words else ''}") from error
    try:
        extensions = certificate.extensions
    except (ValueError, x509.DuplicateExtension):
        raise der.malformed("a signer's certificate with extensions that cannot be read") from None
    try:
        usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        usage = None
    # RFC 3161 2.3: one purpose, critical.
    if usage is None or not usage.critical or list(usage.value) != [ExtendedKeyUsageOID.TIME_STAMPING]:
        raise _wrong("the signer's certificate is not for timestamps alone")
    # RFC 5280 4.2: a critical extension that is not understood.
    if any(one.critical and isinstance(one.value, x509.UnrecognizedExtension) for one in extensions):
        raise _wrong("the signer's certificate has a critical extension that is not understood")


def build_path(
    leaf: x509.Certificate, pool: Sequence[bytes], anchors: Sequence[bytes], at: datetime.datetime
) -> tuple[bytes, ...]:
    """
    Return certificates (DER) from `leaf` to one of `anchors`, a path that was valid at `at` (RFC 5280 6.1).

    The search is pyca's, which knows RSA and the NIST curves. Raises PKIError(NOT_AUTHORIZED) when there is none.
    """
    # The purpose of the signer is judged apart, and no name is looked for.
    policy = verification.ExtensionPolicy.permit_all().require_present(
        x509.ExtendedKeyUsage, verification.Criticality.CRITICAL, None
    )
    others = [_load(one) for one in pool]
    store = verification.Store([_load(one) for one in anchors])
    builder = verification.PolicyBuilder().store(store).time(at).max_chain_depth(MAX_PATH)
    verifier = builder.extension_policies(
        ca_policy=verification.ExtensionPolicy.webpki_defaults_ca(), ee_policy=policy
    ).build_client_verifier()
    try:
        found = verifier.verify(leaf, others).chain
    except verification.VerificationError as error:
        raise PKIError(
            ErrorType.NOT_AUTHORIZED,
            f"no path that was valid at {at.isoformat()} leads from the signer to the CA given: {error}",
        ) from error
    return tuple(one.public_bytes(Encoding.DER) for one in found)
