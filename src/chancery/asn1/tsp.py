"""The Time-Stamp Protocol's values (RFC 3161, RFC 5816), both ways: requests, TSTInfo and responses."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import re
from collections.abc import Mapping

from chancery.asn1 import der, oids
from chancery.errors import ErrorType

# The digests a MessageImprint may carry, by hashlib's names (RFC 5754 2, RFC 8702 3.1), and their size in octets.
# R24: no SHA-1.
DIGEST_OIDS = {
    "sha256": oids.SHA256,
    "sha384": oids.SHA384,
    "sha512": oids.SHA512,
    "sha3_256": oids.SHA3_256,
    "sha3_384": oids.SHA3_384,
    "sha3_512": oids.SHA3_512,
}
IMPRINT_SIZES = {oid: int(name[-3:]) // 8 for name, oid in DIGEST_OIDS.items()}
MAX_REQUEST = 8192
MAX_RESPONSE = 256 * 1024
MAX_NONCE = 64
_MAX_DEPTH = 8


class FailInfo(enum.IntEnum):
    """PKIFailureInfo, the named bits of RFC 3161 2.4.2."""

    BAD_ALG = 0
    BAD_REQUEST = 2
    BAD_DATA_FORMAT = 5
    TIME_NOT_AVAILABLE = 14
    UNACCEPTED_POLICY = 15
    UNACCEPTED_EXTENSION = 16
    ADD_INFO_NOT_AVAILABLE = 17
    SYSTEM_FAILURE = 25


# RFC 3161 knows eight words. What cannot arise here is an internal error.
FAIL_INFO = {
    ErrorType.BAD_DATA_FORMAT: FailInfo.BAD_DATA_FORMAT,
    ErrorType.BAD_REQUEST: FailInfo.BAD_REQUEST,
    ErrorType.BAD_ALG: FailInfo.BAD_ALG,
    ErrorType.BAD_POP: FailInfo.SYSTEM_FAILURE,
    ErrorType.BAD_CERT_TEMPLATE: FailInfo.SYSTEM_FAILURE,
    ErrorType.BAD_CERT_ID: FailInfo.SYSTEM_FAILURE,
    ErrorType.NOT_AUTHORIZED: FailInfo.BAD_REQUEST,
    ErrorType.CERT_REVOKED: FailInfo.SYSTEM_FAILURE,
    ErrorType.TRANSACTION_ID_IN_USE: FailInfo.SYSTEM_FAILURE,
    ErrorType.TIME_NOT_AVAILABLE: FailInfo.TIME_NOT_AVAILABLE,
    ErrorType.UNACCEPTED_POLICY: FailInfo.UNACCEPTED_POLICY,
    ErrorType.UNACCEPTED_EXTENSION: FailInfo.UNACCEPTED_EXTENSION,
    ErrorType.ADD_INFO_NOT_AVAILABLE: FailInfo.ADD_INFO_NOT_AVAILABLE,
    ErrorType.SYSTEM_UNAVAIL: FailInfo.SYSTEM_FAILURE,
    ErrorType.SYSTEM_FAILURE: FailInfo.SYSTEM_FAILURE,
}


FAIL_NAMES: Mapping[int, str] = {
    FailInfo.BAD_ALG: "badAlg",
    FailInfo.BAD_REQUEST: "badRequest",
    FailInfo.BAD_DATA_FORMAT: "badDataFormat",
    FailInfo.TIME_NOT_AVAILABLE: "timeNotAvailable",
    FailInfo.UNACCEPTED_POLICY: "unacceptedPolicy",
    FailInfo.UNACCEPTED_EXTENSION: "unacceptedExtension",
    FailInfo.ADD_INFO_NOT_AVAILABLE: "addInfoNotAvailable",
    FailInfo.SYSTEM_FAILURE: "systemFailure",
}


@dataclasses.dataclass(frozen=True, slots=True)
class TimeStampReq:
    """
    A request as sent, not yet judged.

    ```
    TimeStampReq ::= SEQUENCE {
        version INTEGER { v1(1) },
        messageImprint MessageImprint,
        reqPolicy TSAPolicyId OPTIONAL,
        nonce INTEGER OPTIONAL,
        certReq BOOLEAN DEFAULT FALSE,
        extensions [0] IMPLICIT Extensions OPTIONAL }
    MessageImprint ::= SEQUENCE { hashAlgorithm AlgorithmIdentifier, hashedMessage OCTET STRING }
    ```

    `message_imprint` and `nonce` are whole TLVs, echoed byte for byte; `hash_parameters` is the TLV of the
    AlgorithmIdentifier's parameters, empty when absent; `extensions` are the OIDs.
    """

    version: int
    message_imprint: bytes
    hash_oid: str
    hash_parameters: bytes
    hashed_message: bytes
    req_policy: str | None
    nonce: bytes | None
    cert_req: bool
    extensions: tuple[str, ...]


def decode_request(data: bytes) -> TimeStampReq:
    """
    Decode a TimeStampReq (DER, RFC 3161 2.4.1).

    Raises PKIError(BAD_DATA_FORMAT) when it is not canonical DER of that type, of at most `MAX_REQUEST`
    octets with a nonce of at most `MAX_NONCE`.
    """
    der.check(data, max_size=MAX_REQUEST, max_depth=_MAX_DEPTH)
    reader = der.Reader(data).enter()
    version = reader.integer()
    message_imprint = reader.raw(der.SEQUENCE)
    req_policy = reader.oid() if reader.peek() == der.OID else None
    nonce = reader.raw() if reader.peek() == der.INTEGER else None
    if nonce is not None and len(nonce) - 2 > MAX_NONCE:
        raise der.malformed(f"a nonce of more than {MAX_NONCE} octets")
    cert_req = False
    if reader.peek() == der.BOOLEAN:
        cert_req = reader.take(der.BOOLEAN) == b"\xff"
        if not cert_req:
            raise der.malformed("a DEFAULT value that is written out")
    extensions = tuple(oid for oid, _, _ in _extensions(reader.enter(0xA0))) if reader.peek() == 0xA0 else ()
    reader.done()
    hash_oid, parameters, hashed_message = _message_imprint(message_imprint)
    return TimeStampReq(
        version, message_imprint, hash_oid, parameters, hashed_message, req_policy, nonce, cert_req, extensions
    )


def _message_imprint(data: bytes) -> tuple[str, bytes, bytes]:
    imprint = der.Reader(data).enter()
    hash_oid, parameters = _algorithm(imprint.raw(der.SEQUENCE))
    hashed_message = imprint.take(der.OCTET_STRING)
    imprint.done()
    return hash_oid, parameters, hashed_message


def encode_request(
    hash_oid: str,
    hashed_message: bytes,
    *,
    req_policy: str | None = None,
    nonce: int | None = None,
    cert_req: bool = True,
) -> bytes:
    """
    Return a TimeStampReq (DER) of version 1 without extensions.

    The AlgorithmIdentifier's parameters are absent (RFC 5754 2). ValueError when an OID is not one.
    """
    return der.sequence(
        b"\x02\x01\x01",
        der.sequence(der.sequence(der.oid(hash_oid)), der.octet_string(hashed_message)),
        der.oid(req_policy) if req_policy is not None else b"",
        der.integer(nonce) if nonce is not None else b"",
        der.boolean(value=True) if cert_req else b"",
    )


@functools.lru_cache(maxsize=64)
def _algorithm(identifier: bytes) -> tuple[str, bytes]:
    reader = der.Reader(identifier).enter()
    oid, parameters = reader.oid(), reader.raw() if reader else b""
    reader.done()
    return oid, parameters


def _extensions(reader: der.Reader) -> tuple[tuple[str, bool, bytes], ...]:
    """Return Extensions ::= SEQUENCE SIZE (1..MAX) OF Extension (RFC 5280 4.1): OID, critical, extnValue."""
    found: list[tuple[str, bool, bytes]] = []
    while reader:
        extension = reader.enter()
        oid, critical = extension.oid(), extension.peek() == der.BOOLEAN
        if critical and extension.take(der.BOOLEAN) != b"\xff":
            raise der.malformed("a DEFAULT value that is written out")
        found.append((oid, critical, extension.take(der.OCTET_STRING)))
        extension.done()
    if not found:
        raise der.malformed("Extensions without an extension")
    return tuple(found)


def encode_accuracy(accuracy: datetime.timedelta) -> bytes:
    """
    Encode an Accuracy of more than zero, to the microsecond.

    ```
    Accuracy ::= SEQUENCE {
        seconds INTEGER OPTIONAL, millis [0] INTEGER (1..999) OPTIONAL, micros [1] INTEGER (1..999) OPTIONAL }
    ```
    """
    seconds = accuracy.days * 86400 + accuracy.seconds
    millis, micros = divmod(accuracy.microseconds, 1000)
    return der.sequence(
        der.integer(seconds) if seconds else b"",
        der.implicit(0, der.integer_octets(millis)) if millis else b"",
        der.implicit(1, der.integer_octets(micros)) if micros else b"",
    )


class TSTInfoTemplate:
    """
    Writes TSTInfo for one authority.

    ```
    TSTInfo ::= SEQUENCE {
        version INTEGER { v1(1) },
        policy TSAPolicyId,
        messageImprint MessageImprint,
        serialNumber INTEGER,
        genTime GeneralizedTime,
        accuracy Accuracy OPTIONAL,
        ordering BOOLEAN DEFAULT FALSE,
        nonce INTEGER OPTIONAL,
        tsa [0] GeneralName OPTIONAL,
        extensions [1] IMPLICIT Extensions OPTIONAL }
    ```

    `tsa` is the authority's Name (DER, the subject of its certificate), written as a directoryName, or None.
    """

    def __init__(self, accuracy: datetime.timedelta, tsa: bytes | None = None, *, ordering: bool = False) -> None:
        self._accuracy = encode_accuracy(accuracy) + (der.boolean(value=True) if ordering else b"")
        self._tsa = der.explicit(0, der.explicit(4, tsa)) if tsa is not None else b""

    def encode(
        self,
        policy: str,
        message_imprint: bytes,
        serial: int,
        gen_time: datetime.datetime,
        nonce: bytes | None,
        *,
        qualified: bool = False,
    ) -> bytes:
        """
        Return the TSTInfo (DER); `message_imprint` and `nonce` are the request's TLVs.

        `qualified` adds the statement that this is a qualified electronic timestamp (EN 319 422 9.1).
        """
        return der.sequence(
            b"\x02\x01\x01",
            der.oid(policy),
            message_imprint,
            der.integer(serial),
            der.generalized_time(gen_time, microseconds=True),
            self._accuracy,
            nonce or b"",
            self._tsa,
            _QUALIFIED if qualified else b"",
        )


# EN 319 422 9.1 and B: one qcStatements (RFC 3739 3.2.6), not critical, with one statement, esi4-qtstStatement-1.
_QUALIFIED_STATEMENTS = der.sequence(der.sequence(der.oid(oids.QTST_STATEMENT)))
_QUALIFIED = der.tlv(0xA1, der.sequence(der.oid(oids.QC_STATEMENTS), der.octet_string(_QUALIFIED_STATEMENTS)))


def granted(time_stamp_token: bytes) -> bytes:
    """
    Return the TimeStampResp (DER) that grants this TimeStampToken (a ContentInfo, DER).

    ```
    TimeStampResp ::= SEQUENCE { status PKIStatusInfo, timeStampToken TimeStampToken OPTIONAL }
    PKIStatusInfo ::= SEQUENCE {
        status PKIStatus, statusString PKIFreeText OPTIONAL, failInfo PKIFailureInfo OPTIONAL }
    ```
    """
    return der.sequence(b"\x30\x03\x02\x01\x00", time_stamp_token)


def rejection(fail_info: FailInfo, status_string: str) -> bytes:
    """Return the TimeStampResp (DER) that refuses with one sentence and one reason (RFC 3161 2.4.2)."""
    status = der.sequence(
        der.integer(2), der.sequence(der.utf8_string(status_string)), der.named_bits([fail_info])
    )
    return der.sequence(status)


@dataclasses.dataclass(frozen=True, slots=True)
class TimeStampResp:
    """A response as received: PKIStatus, the words that came with it, the bits of failInfo, the token (DER)."""

    status: int
    status_string: tuple[str, ...]
    fail_info: frozenset[int]
    time_stamp_token: bytes | None

    def words(self) -> str:
        """
        Say what failInfo and statusString say, in one line; RFC 3161's names of the bits.

        What cannot be printed is replaced: the words may be anybody's, and end on a terminal.
        """
        names = [FAIL_NAMES.get(bit, f"bit {bit}") for bit in sorted(self.fail_info)]
        words = ": ".join(part for part in (", ".join(names), "; ".join(self.status_string)) if part)
        return "".join(one if one.isprintable() else "\ufffd" for one in words)


def decode_response(data: bytes) -> TimeStampResp:
    """
    Decode a TimeStampResp (DER, RFC 3161 2.4.2); whether its token is right is not judged here.

    Raises PKIError(BAD_DATA_FORMAT) when it is not canonical DER of that type, or grants without a token, or
    has a token with a refusal.
    """
    der.check(data, max_size=MAX_RESPONSE)
    reader = der.Reader(data).enter()
    info = reader.enter()
    status = info.integer()
    words: list[str] = []
    if info.peek() == der.SEQUENCE:
        texts = info.enter()
        while texts:
            words.append(_utf8(texts.take(der.UTF8_STRING)))
    bits = _bits(info.take(der.BIT_STRING)) if info.peek() == der.BIT_STRING else frozenset[int]()
    info.done()
    token = reader.raw(der.SEQUENCE) if reader else None
    reader.done()
    if (status in (0, 1)) != (token is not None):
        raise der.malformed("a response whose status and token do not go together")
    return TimeStampResp(status, tuple(words), bits, token)


def _utf8(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise der.malformed("a UTF8String that is not UTF-8") from None


def _bits(content: bytes) -> frozenset[int]:
    octets = content[1:]
    return frozenset(bit for bit in range(len(octets) * 8) if octets[bit // 8] >> (7 - bit % 8) & 1)


@dataclasses.dataclass(frozen=True, slots=True)
class TSTInfo:
    """
    What a token says (`TSTInfoTemplate` has the ASN.1). `message_imprint` and `nonce` are whole TLVs.

    `accuracy` is None when absent. `tsa` is the GeneralName (TLV) or None.
    `extensions` are (OID, critical, value).
    """

    policy: str
    message_imprint: bytes
    hash_oid: str
    hashed_message: bytes
    serial: int
    gen_time: datetime.datetime
    accuracy: datetime.timedelta | None
    ordering: bool
    nonce: bytes | None
    tsa: bytes | None
    extensions: tuple[tuple[str, bool, bytes], ...] = ()

    @property
    def qualified(self) -> bool:
        """Whether the token says of itself that it is a qualified electronic timestamp (EN 319 422 9.1)."""
        statements = [value for oid, _, value in self.extensions if oid == oids.QC_STATEMENTS]
        return statements == [_QUALIFIED_STATEMENTS]


def decode_tst_info(data: bytes) -> TSTInfo:
    """
    Decode a TSTInfo (DER, RFC 3161 2.4.2).

    Raises PKIError(BAD_DATA_FORMAT) when it is not canonical DER of that type and of version 1.
    """
    der.check(data, max_size=MAX_RESPONSE)
    reader = der.Reader(data).enter()
    if reader.integer() != 1:
        raise der.malformed("a TSTInfo of an unknown version")
    policy, message_imprint = reader.oid(), reader.raw(der.SEQUENCE)
    serial, gen_time = reader.integer(), _gen_time(reader.take(der.GENERALIZED_TIME))
    accuracy = _accuracy(reader.enter()) if reader.peek() == der.SEQUENCE else None
    ordering = reader.peek() == der.BOOLEAN
    if ordering and reader.take(der.BOOLEAN) != b"\xff":
        raise der.malformed("a DEFAULT value that is written out")
    nonce = reader.raw() if reader.peek() == der.INTEGER else None
    tsa = reader.enter(0xA0).raw() if reader.peek() == 0xA0 else None
    extensions = _extensions(reader.enter(0xA1)) if reader.peek() == 0xA1 else ()
    reader.done()
    hash_oid, _, hashed_message = _message_imprint(message_imprint)
    return TSTInfo(
        policy,
        message_imprint,
        hash_oid,
        hashed_message,
        serial,
        gen_time,
        accuracy,
        ordering,
        nonce,
        tsa,
        extensions,
    )


_GEN_TIME = re.compile(rb"(\d{14})(?:\.(\d*[1-9]))?Z")


def _gen_time(content: bytes) -> datetime.datetime:
    """Read RFC 3161's GeneralizedTime: UTC, seconds, a fraction without trailing zeros (cut to microseconds)."""
    found = _GEN_TIME.fullmatch(content)
    if found is None:
        raise der.malformed("a genTime that is not in the form of RFC 3161")
    try:
        whole = datetime.datetime.strptime(found[1].decode(), "%Y%m%d%H%M%S").replace(tzinfo=datetime.UTC)
    except ValueError:
        raise der.malformed("a genTime that no calendar has") from None
    return whole.replace(microsecond=int((found[2] or b"0")[:6].ljust(6, b"0")))


def _accuracy(reader: der.Reader) -> datetime.timedelta:
    seconds = reader.integer() if reader.peek() == der.INTEGER else 0
    parts = []
    for tag in (0x80, 0x81):
        part = _signed(reader.take(tag)) if reader.peek() == tag else 0
        parts.append(part)
    reader.done()
    if not (0 <= seconds < 1 << 31 and all(0 <= part <= 999 for part in parts)):
        raise der.malformed("an accuracy out of its range")
    return datetime.timedelta(seconds=seconds, milliseconds=parts[0], microseconds=parts[1])


def _signed(content: bytes) -> int:
    if not content or der.integer_octets(value := int.from_bytes(content, "big", signed=True)) != content:
        raise der.malformed("an INTEGER that is not minimal")
    return value
