"""The Time-Stamp Protocol's values (RFC 3161, RFC 5816): requests in, TSTInfo and responses out."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools

from chancery.asn1 import der
from chancery.errors import ErrorType

ID_CT_TST_INFO = "1.2.840.113549.1.9.16.1.4"
ID_KP_TIME_STAMPING = "1.3.6.1.5.5.7.3.8"
# The digests a MessageImprint may carry, with their size in octets (RFC 5754 2, RFC 8702 3.1). R24: no SHA-1.
IMPRINT_SIZES = {
    "2.16.840.1.101.3.4.2.1": 32,  # id-sha256
    "2.16.840.1.101.3.4.2.2": 48,  # id-sha384
    "2.16.840.1.101.3.4.2.3": 64,  # id-sha512
    "2.16.840.1.101.3.4.2.8": 32,  # id-sha3-256
    "2.16.840.1.101.3.4.2.9": 48,  # id-sha3-384
    "2.16.840.1.101.3.4.2.10": 64,  # id-sha3-512
}
MAX_REQUEST = 8192
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


# RFC 3161 knows eight words; everything else is said with the nearest of them.
FAIL_INFO = {
    ErrorType.BAD_DATA_FORMAT: FailInfo.BAD_DATA_FORMAT,
    ErrorType.BAD_REQUEST: FailInfo.BAD_REQUEST,
    ErrorType.BAD_ALG: FailInfo.BAD_ALG,
    ErrorType.BAD_POP: FailInfo.BAD_REQUEST,
    ErrorType.BAD_CERT_TEMPLATE: FailInfo.BAD_REQUEST,
    ErrorType.BAD_CERT_ID: FailInfo.BAD_REQUEST,
    ErrorType.NOT_AUTHORIZED: FailInfo.BAD_REQUEST,
    ErrorType.CERT_REVOKED: FailInfo.BAD_REQUEST,
    ErrorType.TRANSACTION_ID_IN_USE: FailInfo.BAD_REQUEST,
    ErrorType.TIME_NOT_AVAILABLE: FailInfo.TIME_NOT_AVAILABLE,
    ErrorType.UNACCEPTED_POLICY: FailInfo.UNACCEPTED_POLICY,
    ErrorType.UNACCEPTED_EXTENSION: FailInfo.UNACCEPTED_EXTENSION,
    ErrorType.ADD_INFO_NOT_AVAILABLE: FailInfo.ADD_INFO_NOT_AVAILABLE,
    ErrorType.SYSTEM_UNAVAIL: FailInfo.SYSTEM_FAILURE,
    ErrorType.SYSTEM_FAILURE: FailInfo.SYSTEM_FAILURE,
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
    Decode a TimeStampReq (DER).

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
    extensions = _extensions(reader.enter(0xA0)) if reader.peek() == 0xA0 else ()
    reader.done()
    imprint = der.Reader(message_imprint).enter()
    hash_oid, parameters = _algorithm(imprint.raw(der.SEQUENCE))
    hashed_message = imprint.take(der.OCTET_STRING)
    imprint.done()
    return TimeStampReq(
        version, message_imprint, hash_oid, parameters, hashed_message, req_policy, nonce, cert_req, extensions
    )


@functools.lru_cache(maxsize=64)
def _algorithm(identifier: bytes) -> tuple[str, bytes]:
    reader = der.Reader(identifier).enter()
    oid, parameters = reader.oid(), reader.raw() if reader else b""
    reader.done()
    return oid, parameters


def _extensions(reader: der.Reader) -> tuple[str, ...]:
    """Return the OIDs of Extensions ::= SEQUENCE SIZE (1..MAX) OF Extension (RFC 5280 4.1)."""
    found: list[str] = []
    while reader:
        extension = reader.enter()
        found.append(extension.oid())
        if extension.peek() == der.BOOLEAN and extension.take(der.BOOLEAN) != b"\xff":
            raise der.malformed("a DEFAULT value that is written out")
        extension.take(der.OCTET_STRING)
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

    def __init__(self, accuracy: datetime.timedelta, tsa: bytes | None = None) -> None:
        self._accuracy = encode_accuracy(accuracy)
        self._tsa = der.explicit(0, der.explicit(4, tsa)) if tsa is not None else b""

    def encode(
        self, policy: str, message_imprint: bytes, serial: int, gen_time: datetime.datetime, nonce: bytes | None
    ) -> bytes:
        """Return the TSTInfo (DER); `message_imprint` and `nonce` are the request's TLVs."""
        return der.sequence(
            b"\x02\x01\x01",
            der.oid(policy),
            message_imprint,
            der.integer(serial),
            der.generalized_time(gen_time, microseconds=True),
            self._accuracy,
            nonce or b"",
            self._tsa,
        )


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
