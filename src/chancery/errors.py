"""One error for the whole suite, with a closed kind borrowed from PKIFailureInfo (RFC 9810 5.2.3)."""

from __future__ import annotations

import enum


class ErrorType(enum.Enum):
    """
    What went wrong, in words that every PKIX protocol can translate down from.

    The value is the name used in JSON answers, logs and the journal. Each protocol's own word for it
    stands in `chancery.web.failures`.
    """

    BAD_DATA_FORMAT = "badDataFormat"
    BAD_REQUEST = "badRequest"
    BAD_ALG = "badAlg"
    BAD_POP = "badPOP"
    BAD_CERT_TEMPLATE = "badCertTemplate"
    BAD_CERT_ID = "badCertId"
    NOT_AUTHORIZED = "notAuthorized"
    CERT_REVOKED = "certRevoked"
    TRANSACTION_ID_IN_USE = "transactionIdInUse"
    TIME_NOT_AVAILABLE = "timeNotAvailable"
    UNACCEPTED_POLICY = "unacceptedPolicy"
    UNACCEPTED_EXTENSION = "unacceptedExtension"
    ADD_INFO_NOT_AVAILABLE = "addInfoNotAvailable"
    SYSTEM_UNAVAIL = "systemUnavail"
    SYSTEM_FAILURE = "systemFailure"


class PKIError(Exception):
    """
    A refusal or failure with a typed kind and one sentence for the person who asked.

    `detail` reaches the requestor, so it never holds a secret, a path or a stack trace.
    """

    def __init__(self, type_: ErrorType, detail: str) -> None:
        super().__init__(f"{type_.value}: {detail}")
        self.type = type_
        self.detail = detail

    def __reduce__(self) -> tuple[type[PKIError], tuple[ErrorType, str]]:
        return (PKIError, (self.type, self.detail))


class StandbyError(PKIError):
    """An `ErrorType.SYSTEM_UNAVAIL` that is no fault: another process does this work, until it ends."""

    def __init__(self, detail: str) -> None:
        super().__init__(ErrorType.SYSTEM_UNAVAIL, detail)

    def __reduce__(self) -> tuple[type[StandbyError], tuple[str]]:  # type: ignore[override]  # - one argument
        return (StandbyError, (self.detail,))


class OperatorError(Exception):
    """
    Something an operator has to put right: what it is, and the next step to take.

    Raised at start-up and by the command line; never sent to a relying party.
    """

    def __init__(self, what: str, next_step: str) -> None:
        super().__init__(f"{what}. Next: {next_step}")
        self.what = what
        self.next_step = next_step


class HarmfulToRepeatError(OperatorError):
    """An `OperatorError` after which trying again does harm: a token counts refused PINs and then locks."""

    EXIT_CODE = 78
    """EX_CONFIG of sysexits.h: a process that ends so is not started again by itself."""


class InsecureWarning(UserWarning):
    """A stand-in that must not reach production is in use."""
