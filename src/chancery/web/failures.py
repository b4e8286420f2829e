"""
The one place where a protocol's own word for an error stands: total tables over `ErrorType`.

An error that cannot arise in a protocol still has a word there, its "internal error", so that nothing
untranslated ever leaves a server. An unexpected exception is SYSTEM_FAILURE with no detail, everywhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

import msgspec

from chancery.asn1 import tsp
from chancery.errors import ErrorType, PKIError

PROBLEM_JSON: Final = "application/problem+json"
RETRY_SECONDS: Final = 5

REST: Mapping[ErrorType, tuple[int, str]] = {
    ErrorType.BAD_DATA_FORMAT: (400, "The bytes are not what they should be"),
    ErrorType.BAD_REQUEST: (400, "The request cannot be carried out"),
    ErrorType.BAD_ALG: (400, "An algorithm is not accepted"),
    ErrorType.BAD_POP: (400, "Possession of the private key is not proved"),
    ErrorType.BAD_CERT_TEMPLATE: (422, "The profile does not grant what was asked for"),
    ErrorType.BAD_CERT_ID: (404, "Not found"),
    ErrorType.NOT_AUTHORIZED: (403, "Not authorized"),
    ErrorType.CERT_REVOKED: (409, "The certificate is revoked"),
    ErrorType.TRANSACTION_ID_IN_USE: (409, "The transaction id is in use for another request"),
    ErrorType.TIME_NOT_AVAILABLE: (503, "No reliable time"),
    ErrorType.UNACCEPTED_POLICY: (422, "The policy is not accepted"),
    ErrorType.UNACCEPTED_EXTENSION: (422, "An extension is not accepted"),
    ErrorType.ADD_INFO_NOT_AVAILABLE: (422, "The additional information is not available"),
    ErrorType.SYSTEM_UNAVAIL: (503, "The system is not available; try again"),
    ErrorType.SYSTEM_FAILURE: (500, "The system failed"),
}
"""ErrorType -> HTTP status and RFC 9457 title of the REST interface."""

EST: Mapping[ErrorType, int] = {
    ErrorType.BAD_DATA_FORMAT: 400,
    ErrorType.BAD_REQUEST: 400,
    ErrorType.BAD_ALG: 400,
    ErrorType.BAD_POP: 400,
    ErrorType.BAD_CERT_TEMPLATE: 400,
    ErrorType.BAD_CERT_ID: 404,
    ErrorType.NOT_AUTHORIZED: 403,
    ErrorType.CERT_REVOKED: 400,
    ErrorType.TRANSACTION_ID_IN_USE: 400,
    ErrorType.TIME_NOT_AVAILABLE: 503,
    ErrorType.UNACCEPTED_POLICY: 400,
    ErrorType.UNACCEPTED_EXTENSION: 400,
    ErrorType.ADD_INFO_NOT_AVAILABLE: 400,
    ErrorType.SYSTEM_UNAVAIL: 503,
    ErrorType.SYSTEM_FAILURE: 500,
}
"""ErrorType -> HTTP status (RFC 7030 4.2.3); 401 in place of 403 where nobody is authenticated."""

ACME: Mapping[ErrorType, str] = {
    ErrorType.BAD_DATA_FORMAT: "malformed",
    ErrorType.BAD_REQUEST: "malformed",
    ErrorType.BAD_ALG: "badSignatureAlgorithm",
    ErrorType.BAD_POP: "badCSR",
    ErrorType.BAD_CERT_TEMPLATE: "badCSR",
    ErrorType.BAD_CERT_ID: "malformed",
    ErrorType.NOT_AUTHORIZED: "unauthorized",
    ErrorType.CERT_REVOKED: "alreadyRevoked",
    ErrorType.TRANSACTION_ID_IN_USE: "malformed",
    ErrorType.TIME_NOT_AVAILABLE: "serverInternal",
    ErrorType.UNACCEPTED_POLICY: "rejectedIdentifier",
    ErrorType.UNACCEPTED_EXTENSION: "badCSR",
    ErrorType.ADD_INFO_NOT_AVAILABLE: "malformed",
    ErrorType.SYSTEM_UNAVAIL: "serverInternal",
    ErrorType.SYSTEM_FAILURE: "serverInternal",
}
"""ErrorType -> the last part of urn:ietf:params:acme:error:… (RFC 8555 6.7)."""

SCEP: Mapping[ErrorType, str | None] = {
    ErrorType.BAD_DATA_FORMAT: "badRequest",
    ErrorType.BAD_REQUEST: "badRequest",
    ErrorType.BAD_ALG: "badAlg",
    ErrorType.BAD_POP: "badMessageCheck",
    ErrorType.BAD_CERT_TEMPLATE: "badRequest",
    ErrorType.BAD_CERT_ID: "badCertId",
    ErrorType.NOT_AUTHORIZED: "badRequest",
    ErrorType.CERT_REVOKED: "badRequest",
    ErrorType.TRANSACTION_ID_IN_USE: "badRequest",
    ErrorType.TIME_NOT_AVAILABLE: "badTime",
    ErrorType.UNACCEPTED_POLICY: "badRequest",
    ErrorType.UNACCEPTED_EXTENSION: "badRequest",
    ErrorType.ADD_INFO_NOT_AVAILABLE: "badRequest",
    ErrorType.SYSTEM_UNAVAIL: None,
    ErrorType.SYSTEM_FAILURE: None,
}
"""ErrorType -> failInfo (RFC 8894 3.2.1.4.5). None: SCEP has no word, the HTTP status of `EST` is the answer."""

CMP: Mapping[ErrorType, str] = {
    ErrorType.BAD_DATA_FORMAT: "badDataFormat",
    ErrorType.BAD_REQUEST: "badRequest",
    ErrorType.BAD_ALG: "badAlg",
    ErrorType.BAD_POP: "badPOP",
    ErrorType.BAD_CERT_TEMPLATE: "badCertTemplate",
    ErrorType.BAD_CERT_ID: "badCertId",
    ErrorType.NOT_AUTHORIZED: "notAuthorized",
    ErrorType.CERT_REVOKED: "certRevoked",
    ErrorType.TRANSACTION_ID_IN_USE: "transactionIdInUse",
    ErrorType.TIME_NOT_AVAILABLE: "timeNotAvailable",
    ErrorType.UNACCEPTED_POLICY: "unacceptedPolicy",
    ErrorType.UNACCEPTED_EXTENSION: "unacceptedExtension",
    ErrorType.ADD_INFO_NOT_AVAILABLE: "addInfoNotAvailable",
    ErrorType.SYSTEM_UNAVAIL: "systemUnavail",
    ErrorType.SYSTEM_FAILURE: "systemFailure",
}
"""ErrorType -> PKIFailureInfo (RFC 9810 5.2.3)."""

TSP: Mapping[ErrorType, str] = {kind: tsp.FAIL_NAMES[bit] for kind, bit in tsp.FAIL_INFO.items()}
"""ErrorType -> PKIFailureInfo as far as timestamping knows it (RFC 3161 2.4.2)."""

OCSP: Mapping[ErrorType, str] = {
    ErrorType.BAD_DATA_FORMAT: "malformedRequest",
    ErrorType.BAD_REQUEST: "malformedRequest",
    ErrorType.BAD_ALG: "malformedRequest",
    ErrorType.BAD_POP: "sigRequired",
    ErrorType.BAD_CERT_TEMPLATE: "internalError",
    ErrorType.BAD_CERT_ID: "unauthorized",
    ErrorType.NOT_AUTHORIZED: "unauthorized",
    ErrorType.CERT_REVOKED: "internalError",
    ErrorType.TRANSACTION_ID_IN_USE: "internalError",
    ErrorType.TIME_NOT_AVAILABLE: "tryLater",
    ErrorType.UNACCEPTED_POLICY: "internalError",
    ErrorType.UNACCEPTED_EXTENSION: "malformedRequest",
    ErrorType.ADD_INFO_NOT_AVAILABLE: "internalError",
    ErrorType.SYSTEM_UNAVAIL: "tryLater",
    ErrorType.SYSTEM_FAILURE: "internalError",
}
"""ErrorType -> OCSPResponseStatus (RFC 6960 4.2.1)."""


class NotAuthenticatedError(PKIError):
    """Nobody known asks: no client certificate, or one that is no operator's. 401 rather than 403."""

    def __init__(self, detail: str) -> None:
        super().__init__(ErrorType.NOT_AUTHORIZED, detail)

    def __reduce__(self) -> tuple[type[NotAuthenticatedError], tuple[str]]:  # type: ignore[override]  # - one argument
        return (NotAuthenticatedError, (self.detail,))


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Problem details (RFC 9457): `type` is urn:chancery:error:<value of ErrorType>, or about:blank."""

    type: str
    title: str
    status: int
    detail: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """An HTTP answer to an error: status, problem body (JSON) and headers beyond content-type."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


def of_error(error: BaseException) -> Failure:
    """Translate any exception: a PKIError in its words, everything else to systemFailure without a detail."""
    if not isinstance(error, PKIError):
        return _problem(ErrorType.SYSTEM_FAILURE, None)
    if isinstance(error, NotAuthenticatedError):
        # RFC 9110 15.5.2 wants a challenge with a 401.
        challenge = (("www-authenticate", 'ClientCertificate realm="chancery"'),)
        return _problem(error.type, error.detail, status=401, title="Not authenticated", headers=challenge)
    if REST[error.type][0] == 503:
        return _problem(error.type, error.detail, headers=(("retry-after", str(RETRY_SECONDS)),))
    return _problem(error.type, error.detail)


def of_status(
    status: int, title: str, detail: str | None = None, headers: tuple[tuple[str, str], ...] = ()
) -> Failure:
    """Return a refusal of HTTP itself (unknown path, 405, 413, 415, 431): about:blank (RFC 9457 4.2.1)."""
    return _encode("about:blank", title, status, detail, headers)


def _problem(
    type_: ErrorType,
    detail: str | None,
    *,
    status: int | None = None,
    title: str | None = None,
    headers: tuple[tuple[str, str], ...] = (),
) -> Failure:
    default_status, default_title = REST[type_]
    urn = f"urn:chancery:error:{type_.value}"
    return _encode(urn, title or default_title, status or default_status, detail, headers)


def _encode(
    type_: str, title: str, status: int, detail: str | None, headers: tuple[tuple[str, str], ...]
) -> Failure:
    body = msgspec.json.encode(Problem(type=type_, title=title, status=status, detail=detail))
    return Failure(status, body, headers)
