"""
OCSP (RFC 6960, RFC 9654): requests read strictly, responses written as DER templates.

```
OCSPRequest ::= SEQUENCE { tbsRequest TBSRequest, optionalSignature [0] EXPLICIT Signature OPTIONAL }
TBSRequest ::= SEQUENCE {
    version [0] EXPLICIT Version DEFAULT v1,
    requestorName [1] EXPLICIT GeneralName OPTIONAL,
    requestList SEQUENCE OF Request,
    requestExtensions [2] EXPLICIT Extensions OPTIONAL }
Request ::= SEQUENCE { reqCert CertID, singleRequestExtensions [0] EXPLICIT Extensions OPTIONAL }
CertID ::= SEQUENCE {
    hashAlgorithm AlgorithmIdentifier,
    issuerNameHash OCTET STRING,
    issuerKeyHash OCTET STRING,
    serialNumber CertificateSerialNumber }
```
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
from collections.abc import Sequence

from chancery.asn1 import der, oids
from chancery.asn1.signature import SignatureAlgorithm
from chancery.errors import ErrorType, PKIError

CONTENT_TYPE_REQUEST = "application/ocsp-request"
CONTENT_TYPE_RESPONSE = "application/ocsp-response"
MAX_REQUEST = 16 * 1024
MAX_DEPTH = 16
MAX_CERT_IDS = 32
MAX_PREFERRED, MAX_CERTIFICATES = 16, 8
# RFC 9654 2.1
MIN_NONCE, MAX_NONCE = 1, 128
# RFC 6960 4.2.2.2: SHA-1 is what most clients send; the rest are the digests of RFC 5754 2.
HASHES = {
    oids.SHA1: "sha1",
    oids.SHA256: "sha256",
    oids.SHA384: "sha384",
    oids.SHA512: "sha512",
}
_NONCE, _BASIC = der.oid(oids.OCSP_NONCE), der.oid(oids.OCSP_BASIC)
_ACCEPTABLE, _PREFERRED = der.oid(oids.OCSP_RESPONSE), der.oid(oids.OCSP_PREFERRED_ALGORITHMS)
_EXTENDED = der.sequence(der.oid(oids.OCSP_EXTENDED_REVOKE), der.octet_string(der.null()))


class ResponseStatus(enum.IntEnum):
    """OCSPResponseStatus (RFC 6960 4.2.1), by the RFC's names."""

    SUCCESSFUL = 0
    MALFORMED_REQUEST = 1
    INTERNAL_ERROR = 2
    TRY_LATER = 3
    SIG_REQUIRED = 5
    UNAUTHORIZED = 6


@dataclasses.dataclass(frozen=True, slots=True)
class CertID:
    """
    Which certificate is asked about. `serial` is the content octets of the INTEGER.

    `raw` is the CertID as it came (DER), because an answer repeats it octet for octet.
    """

    hash_oid: str
    issuer_name_hash: bytes
    issuer_key_hash: bytes
    serial: bytes
    raw: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class RequestSignature:
    """
    The Signature over a request, not verified: `tbs` and `algorithm` (AlgorithmIdentifier) as they came (DER).

    `certificates` (DER) are what the requestor sent along, at most `MAX_CERTIFICATES`: SEQUENCEs of anything.
    """

    tbs: bytes
    algorithm: bytes
    signature: bytes
    certificates: tuple[bytes, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class OCSPRequest:
    """
    What is asked: at least one CertID, at most `MAX_CERT_IDS`, each once; the nonce if there is one.

    `preferred` are the AlgorithmIdentifiers (DER) that the client prefers the answer signed by, best first
    (RFC 6960 4.4.7.1). `signature` is None for an unsigned request.
    """

    cert_ids: tuple[CertID, ...]
    nonce: bytes | None
    preferred: tuple[bytes, ...] = ()
    signature: RequestSignature | None = None


def cert_id(hash_oid: str, issuer_name_hash: bytes, issuer_key_hash: bytes, serial: bytes) -> CertID:
    """Make a CertID; SHA-1 gets NULL parameters as everyone writes it, the rest none (RFC 5754 2)."""
    parameters = der.null() if hash_oid == oids.SHA1 else b""
    raw = der.sequence(
        der.sequence(der.oid(hash_oid), parameters),
        der.octet_string(issuer_name_hash),
        der.octet_string(issuer_key_hash),
        der.tlv(der.INTEGER, serial),
    )
    return CertID(hash_oid, issuer_name_hash, issuer_key_hash, serial, raw)


def key_bits(spki: bytes) -> bytes:
    """Return the subjectPublicKey's bits of a SubjectPublicKeyInfo (DER): what an issuerKeyHash is the hash of."""
    reader = der.Reader(spki).enter()
    reader.raw(der.SEQUENCE)
    return reader.take(der.BIT_STRING)[1:]


def encode_request(request: OCSPRequest) -> bytes:
    """Return the OCSPRequest (DER), unsigned, without a requestorName and with no extension but the nonce."""
    if len(request.cert_ids) == 1:
        raw, nonce = request.cert_ids[0].raw, request.nonce
        before, between = _request_shape(len(raw), -1 if nonce is None else len(nonce))
        return b"".join((before, raw, between, nonce or b""))
    listed = der.sequence(*(der.sequence(one.raw) for one in request.cert_ids))
    extensions = b""
    if request.nonce is not None:
        extensions = der.explicit(2, der.sequence(_nonce_extension(request.nonce)))
    return der.sequence(der.sequence(listed, extensions))


# A shape is everything of an encoding that its parts' lengths decide: made once from blanks, used many times.
@functools.lru_cache(maxsize=4096)
def _request_shape(raw: int, nonce: int) -> tuple[bytes, bytes]:
    """What stands before the one CertID, and between it and the nonce's octets (-1: there is no nonce)."""
    extensions = der.explicit(2, der.sequence(_nonce_extension(bytes(nonce)))) if nonce >= 0 else b""
    whole = der.sequence(der.sequence(der.sequence(der.sequence(bytes(raw))), extensions))
    return whole[: len(whole) - len(extensions) - raw], extensions[: len(extensions) - max(nonce, 0)]


def _nonce_extension(nonce: bytes) -> bytes:
    return der.sequence(_NONCE, der.octet_string(der.octet_string(nonce)))


def decode_request(data: bytes) -> OCSPRequest:
    """
    Read an OCSPRequest (DER). requestorName is accepted and says nothing to us; a signature is not verified here.

    Raises PKIError: BAD_DATA_FORMAT for anything that is not one, a nonce outside 1..128 octets (RFC 9654)
    included; BAD_REQUEST for too many CertIDs, algorithms or certificates; UNACCEPTED_EXTENSION for a critical
    extension that is not known (RFC 6960 4.4, RFC 5280 4.2), and where id-pkix-ocsp-basic is not among the
    acceptable responses: every client accepts it (4.4.3).
    """
    return _common(data) or _any(data)


def _any(data: bytes) -> OCSPRequest:
    der.check(data, max_size=MAX_REQUEST, max_depth=MAX_DEPTH)
    outer = der.Reader(data).enter()
    raw = outer.raw(der.SEQUENCE)
    tbs = der.Reader(raw).enter()
    signature = _signature(raw, outer.enter(0xA0)) if outer.peek() == 0xA0 else None
    outer.done()
    if tbs.peek() == 0xA0:
        # v1 is the default and so is not written (X.690 11.5); there is no other version.
        raise der.malformed("a version that is not v1")
    if tbs.peek() == 0xA1:
        name = tbs.enter(0xA1)
        name.raw()
        name.done()
    # The same CertID twice is answered once.
    found: dict[bytes, CertID] = {}
    listed = tbs.enter()
    while listed:
        one = _request(listed.enter())
        found[one.raw] = one
        if len(found) > MAX_CERT_IDS:
            raise PKIError(ErrorType.BAD_REQUEST, f"more than {MAX_CERT_IDS} CertIDs in one request")
    if not found:
        raise der.malformed("a request for no certificate")
    extensions = _extensions(tbs.enter(0xA2), _REQUEST_EXTENSIONS) if tbs.peek() == 0xA2 else {}
    tbs.done()
    nonce, acceptable = extensions.get(_NONCE), extensions.get(_ACCEPTABLE)
    if acceptable is not None:
        _acceptable(acceptable)
    preferred = extensions.get(_PREFERRED)
    return OCSPRequest(
        tuple(found.values()),
        None if nonce is None else _nonce(nonce),
        () if preferred is None else _preferred(preferred),
        signature,
    )


def _signature(tbs: bytes, wrapped: der.Reader) -> RequestSignature:
    """Signature ::= SEQUENCE { signatureAlgorithm, signature BIT STRING, certs [0] EXPLICIT … OPTIONAL }."""
    signature = wrapped.enter()
    wrapped.done()
    algorithm, bits = signature.raw(der.SEQUENCE), signature.take(der.BIT_STRING)
    certificates: list[bytes] = []
    if signature.peek() == 0xA0:
        inner = signature.enter(0xA0)
        listed = inner.enter()
        inner.done()
        while listed:
            certificates.append(listed.raw(der.SEQUENCE))
    signature.done()
    if len(certificates) > MAX_CERTIFICATES:
        raise PKIError(ErrorType.BAD_REQUEST, f"more than {MAX_CERTIFICATES} certificates with one request")
    return RequestSignature(tbs, algorithm, bits[1:], tuple(certificates))


def _request(request: der.Reader) -> CertID:
    raw = request.raw(der.SEQUENCE)
    if request.peek() == 0xA0:
        _extensions(request.enter(0xA0), frozenset())
    request.done()
    reader = der.Reader(raw).enter()
    algorithm = reader.enter()
    hash_oid = algorithm.oid()
    # RFC 5754 2: absent or NULL. An answer repeats the CertID: whatever else stood here would be signed.
    if algorithm:
        algorithm.take(der.NULL)
    algorithm.done()
    found = CertID(
        hash_oid, reader.take(der.OCTET_STRING), reader.take(der.OCTET_STRING), reader.take(der.INTEGER), raw
    )
    reader.done()
    return found


_REQUEST_EXTENSIONS = frozenset({_NONCE, _ACCEPTABLE, _PREFERRED})


def _extensions(wrapped: der.Reader, known: frozenset[bytes]) -> dict[bytes, bytes]:
    """Return the values of the `known` ones among these Extensions; refuse what must be understood and is not."""
    extensions = wrapped.enter()
    wrapped.done()
    if not extensions:
        raise der.malformed("an empty list of extensions")
    seen: set[bytes] = set()
    values: dict[bytes, bytes] = {}
    while extensions:
        extension = extensions.enter()
        extension_id = extension.raw(der.OID)
        if extension_id in seen:
            raise der.malformed("an extension that occurs twice")
        seen.add(extension_id)
        critical = extension.peek() == der.BOOLEAN
        if critical and extension.take(der.BOOLEAN) != b"\xff":
            raise der.malformed("a default value that is written out")
        value = extension.take(der.OCTET_STRING)
        extension.done()
        if extension_id in known:
            values[extension_id] = value
        elif critical:
            raise PKIError(ErrorType.UNACCEPTED_EXTENSION, "a critical extension that is not supported")
    return values


def _acceptable(value: bytes) -> None:
    """AcceptableResponses ::= SEQUENCE OF OBJECT IDENTIFIER (RFC 6960 4.4.3); ours must be among them."""
    der.check(value, max_depth=2)
    listed = [one for _, one in der.elements(value)]
    if any(one[0] != der.OID for one in listed):
        raise der.malformed("a response type that is no object identifier")
    if _BASIC not in listed:
        raise PKIError(ErrorType.UNACCEPTED_EXTENSION, "a client that does not accept id-pkix-ocsp-basic")


def _preferred(value: bytes) -> tuple[bytes, ...]:
    """
    PreferredSignatureAlgorithms ::= SEQUENCE OF SEQUENCE {
        sigIdentifier AlgorithmIdentifier, pubKeyAlgIdentifier SMIMECapability OPTIONAL } (RFC 6960 4.4.7.1).

    What sort of public key the client would like is passed over: the signature's algorithm says most of it.
    """
    der.check(value, max_depth=MAX_DEPTH)
    listed = der.elements(value)
    if len(listed) > MAX_PREFERRED:
        raise PKIError(ErrorType.BAD_REQUEST, f"more than {MAX_PREFERRED} preferred signature algorithms")
    found = []
    for _, one in listed:
        fields = der.Reader(one).enter()
        found.append(fields.raw(der.SEQUENCE))
        if fields:
            fields.raw(der.SEQUENCE)
        fields.done()
    return tuple(found)


def _nonce(value: bytes) -> bytes:
    """Nonce ::= OCTET STRING(SIZE(1..128)) (RFC 9654 2.1)."""
    inner = der.Reader(value)
    nonce = inner.take(der.OCTET_STRING)
    inner.done()
    if not MIN_NONCE <= len(nonce) <= MAX_NONCE:
        raise der.malformed(f"a nonce of {len(nonce)} octets")
    return nonce


# AlgorithmIdentifiers as clients write them, with the OID and the digest's size.
_COMMON_HEADS = tuple(
    (der.sequence(der.oid(hash_oid), parameters), hash_oid, size)
    for hash_oid, size in ((oids.SHA1, 20), (oids.SHA256, 32))
    for parameters in (der.null(), b"")
)
_COMMON_NONCE = _NONCE + b"\x04"


def _minimal(octets: bytes) -> bool:
    """Tell whether these are content octets of an INTEGER (X.690 8.3.2)."""
    if len(octets) < 2:
        return bool(octets)
    return not ((octets[0] == 0 and octets[1] < 0x80) or (octets[0] == 0xFF and octets[1] >= 0x80))


def _common(data: bytes) -> OCSPRequest | None:
    """
    Read what nearly every client sends: one CertID, and a nonce or nothing. None when it is something else.

    The parts are cut out where they should be, and believed only if they encode to exactly these bytes again.
    """
    found = next(((at, *head) for head in _COMMON_HEADS if (at := data.find(head[0], 8, 32)) > 0), None)
    if found is None:
        return None
    at, head, hash_oid, size = found
    name = at + len(head) + 2
    key = name + size + 2
    serial = key + size + 2
    if len(data) <= serial:
        return None
    end = serial + data[serial - 1]
    octets = data[serial:end]
    if not _minimal(octets):
        return None
    one = CertID(hash_oid, data[name : name + size], data[key : key + size], octets, data[at - 2 : end])
    nonce = None
    if len(data) > end:
        start = data.find(_COMMON_NONCE, end, end + 24)
        nonce = data[start + len(_COMMON_NONCE) + 3 :]
        # Up to here every length of a nonce is one octet.
        if start < 0 or not MIN_NONCE <= len(nonce) <= 125:
            return None
    before, between, last = _cert_id_shape(head, size, len(octets))
    raw = b"".join((before, one.issuer_name_hash, between, one.issuer_key_hash, last, octets))
    request = OCSPRequest((one,), nonce)
    return request if raw == one.raw and encode_request(request) == data else None


@functools.lru_cache(maxsize=4096)
def _cert_id_shape(head: bytes, size: int, serial: int) -> tuple[bytes, bytes, bytes]:
    """What stands before issuerNameHash, issuerKeyHash and the serial's octets."""
    hashed, last = der.octet_string(bytes(size)), der.tlv(der.INTEGER, bytes(serial))[:-serial]
    whole = der.sequence(head, hashed, hashed, last, bytes(serial))
    between = hashed[:-size]
    return whole[: len(whole) - serial - len(last) - 2 * size - len(between)], between, last


class CertStatus:
    """Encodings of CertStatus (RFC 6960 4.2.1)."""

    GOOD = b"\x80\x00"
    UNKNOWN = b"\x82\x00"

    @staticmethod
    def revoked(at: datetime.datetime, reason: int | None) -> bytes:
        """
        Revoked at a moment, for a CRLReason.

        Unspecified (0) is not written, as in a CRL (RFC 5280 5.3.1); the reason stands here and never in
        singleExtensions (R21).
        """
        why = der.explicit(0, der.enumerated(reason)) if reason else b""
        return der.tlv(0xA1, der.generalized_time(at), why)


@dataclasses.dataclass(frozen=True, slots=True)
class SingleResponse:
    """
    The answer about one CertID. `status` is one of `CertStatus`; times in whole seconds.

    `extensions` is what `single_extensions` returns.

    ```
    SingleResponse ::= SEQUENCE {
        certID CertID, certStatus CertStatus, thisUpdate GeneralizedTime,
        nextUpdate [0] EXPLICIT GeneralizedTime OPTIONAL, singleExtensions [1] EXPLICIT Extensions OPTIONAL }
    ```
    """

    cert_id: CertID
    status: bytes
    this_update: datetime.datetime
    next_update: datetime.datetime
    extensions: bytes = b""


def single_extensions(
    *,
    archive_cutoff: datetime.datetime | None = None,
    crl_url: str | None = None,
    invalidity_date: datetime.datetime | None = None,
) -> bytes:
    """
    Return singleExtensions [1] (DER) with those that are given, none critical; empty when none is.

    ArchiveCutoff (RFC 6960 4.4.4), CrlID with its URL (4.4.2), and invalidityDate, the CRL entry extension of
    RFC 5280 5.3.2 (4.4.5). A reason never stands here (R21).
    """
    values = []
    if archive_cutoff is not None:
        values.append((oids.OCSP_ARCHIVE_CUTOFF, der.generalized_time(archive_cutoff)))
    if crl_url is not None:
        address = der.explicit(0, der.tlv(der.IA5_STRING, crl_url.encode("ascii")))
        values.append((oids.OCSP_CRL, der.sequence(address)))
    if invalidity_date is not None:
        values.append((oids.INVALIDITY_DATE, der.generalized_time(invalidity_date)))
    listed = [der.sequence(der.oid(oid), der.octet_string(value)) for oid, value in values]
    return der.explicit(1, der.sequence(*listed)) if listed else b""


# One second's times are asked for by every answer of that second.
_time = functools.lru_cache(maxsize=4096)(der.generalized_time)


@dataclasses.dataclass(frozen=True, slots=True)
class ResponderID:
    """Who answers, as the ResponderID of RFC 6960 4.2.1 (DER)."""

    encoded: bytes

    @classmethod
    def by_key(cls, key_sha1: bytes) -> ResponderID:
        """By the SHA-1 of the subjectPublicKey's bits (without tag, length and unused bits)."""
        return cls(der.explicit(2, der.octet_string(key_sha1)))

    @classmethod
    def by_name(cls, name: bytes) -> ResponderID:
        """By the subject Name (DER) of the responder's certificate."""
        return cls(der.explicit(1, name))


def encode_response_data(
    responder: ResponderID,
    produced_at: datetime.datetime,
    responses: Sequence[SingleResponse],
    *,
    nonce: bytes | None = None,
    extended_revoke: bool = False,
) -> bytes:
    """
    Return the ResponseData (DER), which is what gets signed.

    ```
    ResponseData ::= SEQUENCE {
        version [0] EXPLICIT Version DEFAULT v1, responderID ResponderID, producedAt GeneralizedTime,
        responses SEQUENCE OF SingleResponse, responseExtensions [1] EXPLICIT Extensions OPTIONAL }
    ```
    `extended_revoke` says that never-issued certificates are answered revoked (RFC 6960 4.4.8).
    """
    if len(responses) == 1:
        (one,) = responses
        size = -1 if nonce is None else len(nonce)
        raw, encoded = one.cert_id.raw, responder.encoded
        single = len(raw) + len(one.status) + len(one.extensions)
        shape = _data_shape(len(encoded), single, size, extended_revoke)
        this, until = _time(one.this_update), _time(one.next_update) + one.extensions
        before, between, next_, after, last = shape
        parts = (before, encoded, _time(produced_at), between, raw, one.status, this, next_, until, after)
        return b"".join((*parts, nonce or b"", last))
    listed = der.sequence(
        *(
            der.sequence(
                one.cert_id.raw,
                one.status,
                _time(one.this_update),
                der.explicit(0, _time(one.next_update)),
                one.extensions,
            )
            for one in responses
        )
    )
    extensions = _response_extensions(nonce, extended_revoke)
    return der.sequence(responder.encoded, _time(produced_at), listed, extensions)


def _response_extensions(nonce: bytes | None, extended_revoke: bool) -> bytes:  # noqa: FBT001 - as above
    extensions = b"" if nonce is None else _nonce_extension(nonce)
    if extended_revoke:
        extensions += _EXTENDED
    return der.explicit(1, der.sequence(extensions)) if extensions else b""


@functools.lru_cache(maxsize=4096)
def _data_shape(responder: int, single: int, nonce: int, extended: bool) -> tuple[bytes, ...]:  # noqa: FBT001 - cached
    """
    What stands before the ResponderID, before the CertID, before nextUpdate, before and after the nonce's octets.

    `single` is the length of CertID, CertStatus and singleExtensions together.
    """
    time = len(_time(datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)))
    next_ = der.explicit(0, bytes(time))
    inside = single + time + len(next_)
    listed = der.sequence(der.sequence(bytes(inside)))
    extensions = _response_extensions(bytes(nonce) if nonce >= 0 else None, extended)
    last = len(_EXTENDED) if extended else 0
    whole = der.sequence(bytes(responder + time), listed, extensions)
    return (
        whole[: len(whole) - responder - time - len(listed) - len(extensions)],
        listed[: len(listed) - inside],
        next_[:-time],
        extensions[: len(extensions) - last - max(nonce, 0)],
        extensions[len(extensions) - last :],
    )


class ResponseTemplate:
    """
    What does not change from one response of a responder to the next: algorithm and certificates (DER).

    ```
    BasicOCSPResponse ::= SEQUENCE {
        tbsResponseData ResponseData, signatureAlgorithm AlgorithmIdentifier, signature BIT STRING,
        certs [0] EXPLICIT SEQUENCE OF Certificate OPTIONAL }
    ```
    """

    def __init__(self, algorithm: SignatureAlgorithm, certificates: Sequence[bytes]) -> None:
        self._identifier = algorithm.identifier
        self._certificates = der.explicit(0, der.sequence(*certificates)) if certificates else b""

    def encode(self, response_data: bytes, signature: bytes) -> bytes:
        """Return the successful OCSPResponse (DER) around a signed ResponseData."""
        before, between = _response_shape(self._identifier, self._certificates, len(response_data), len(signature))
        return b"".join((before, response_data, between, signature, self._certificates))


@functools.lru_cache(maxsize=4096)
def _response_shape(identifier: bytes, certificates: bytes, data: int, signature: int) -> tuple[bytes, bytes]:
    """What stands before the ResponseData, and between it and the signature's octets."""
    signed = der.bit_string(bytes(signature))
    between = identifier + signed[:-signature]
    basic = der.sequence(bytes(data), between, bytes(signature), certificates)
    whole = der.sequence(
        der.enumerated(ResponseStatus.SUCCESSFUL),
        der.explicit(0, der.sequence(_BASIC, der.octet_string(basic))),
    )
    return whole[: len(whole) - len(certificates) - signature - len(between) - data], between


def error_response(status: ResponseStatus) -> bytes:
    """Return the OCSPResponse (DER) that says only why there is no answer. ValueError for SUCCESSFUL."""
    if status is ResponseStatus.SUCCESSFUL:
        raise ValueError("a successful response has an answer")
    return der.sequence(der.enumerated(status))
