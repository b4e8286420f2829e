"""What the auditor of certificates finds, and what to do about it."""

from __future__ import annotations

import collections
import dataclasses
import enum
from collections.abc import Iterable

from chancery.errors import OperatorError, PKIError

MAX_FINDINGS = 1000
_WRITTEN = "compare the row with the last backup that verifies; somebody wrote with the owner's rights"


class Kind(enum.Enum):
    """What is wrong; the value is the word in reports."""

    UNREADABLE = "unreadable"
    NO_INTENT = "no-intent"
    NOT_INTENDED = "not-intended"
    BAD_CHAIN = "bad-chain"
    BAD_SERIAL = "bad-serial"
    WRONG_COLUMN = "wrong-column"
    WRONG_REQUEST = "wrong-request"
    WRONG_PROFILE = "wrong-profile"
    NOT_GRANTED = "not-granted"
    BLOCKED_KEY = "blocked-key"
    LINT = "lint"
    SECOND_OPINION = "second-opinion"
    NOT_JOURNALLED = "not-journalled"
    JOURNALLED_TWICE = "journalled-twice"
    JOURNAL_DIFFERS = "journal-differs"
    WRONG_ORDER = "wrong-order"
    WRONG_STATUS = "wrong-status"
    MISSING = "missing-certificate"
    UNFINISHED = "unfinished"
    STRAY = "stray"
    WRONG_ISSUER = "wrong-issuer"
    BAD_CRL = "bad-crl"
    WRONG_CRL = "wrong-crl"
    LATE_CRL = "late-crl"
    WRONG_OPERATOR = "wrong-operator"
    WRONG_JOB = "wrong-job"
    WRONG_REPORT = "wrong-report"
    NOT_JUDGED = "not-judged"


_NEXT = {
    Kind.UNREADABLE: _WRITTEN,
    Kind.NO_INTENT: "treat it as issued outside the suite: revoke it, and find out who had the issuer's key",
    Kind.NOT_INTENDED: "treat it as issued outside the suite: revoke it, and find out who had the issuer's key",
    Kind.BAD_CHAIN: "see whether the issuer's row is the right one; if it is, the certificate was put there",
    Kind.BAD_SERIAL: "revoke it and see which program drew the serial; each worker has an instance of its own",
    Kind.WRONG_COLUMN: _WRITTEN,
    Kind.WRONG_REQUEST: "revoke it unless a backup has the request that it answers",
    Kind.WRONG_PROFILE: "restore the profile's text from a backup; its SHA-256 stands in the journal",
    Kind.NOT_GRANTED: "revoke it, and see which version of the suite or which hand made it",
    Kind.BLOCKED_KEY: "revoke it as compromised; `chancery key block` blocks a key for good",
    Kind.LINT: "revoke it when the finding matters to those who rely on it; else record why it stays",
    Kind.SECOND_OPINION: "compare both linters; revoke it when the other one is right",
    Kind.NOT_JOURNALLED: "run `chancery audit verify`: either events were removed, or the row was put there",
    Kind.JOURNALLED_TWICE: "see which process wrote the second event; only one act can have happened",
    Kind.JOURNAL_DIFFERS: "run `chancery audit verify`: when the journal is whole, the row was edited",
    Kind.WRONG_ORDER: "see whether clocks were set back; else events or rows were written afterwards",
    Kind.WRONG_STATUS: "make the status what the journal says, and publish a CRL",
    Kind.MISSING: "restore the certificate's row from a backup; its SHA-256 stands in the journal",
    Kind.UNFINISHED: "see whether its worker runs; at its next start it marks what it left behind",
    Kind.STRAY: "restore what it belongs to from the last backup that verifies",
    Kind.WRONG_ISSUER: "compare the issuer's certificate with the one that is published and with the ceremony's",
    Kind.BAD_CRL: "publish a fresh CRL (`chancery crl publish`), and compare the row with a backup",
    Kind.WRONG_CRL: "publish a fresh CRL (`chancery crl publish`), then find out which status was edited",
    Kind.LATE_CRL: "see whether the worker runs and its token answers; a root's CRL is made in a ceremony",
    Kind.WRONG_OPERATOR: "remove the operator unless somebody knows who enrolled it",
    Kind.WRONG_JOB: "compare its list with `revocation.requested` in the journal; revoke what is not, by hand",
    Kind.WRONG_REPORT: _WRITTEN,
    Kind.NOT_JUDGED: "look at the row by hand; what confuses the auditor may confuse others",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: with which row (`subject`), and what. `next_step` says what to do about it."""

    kind: Kind
    subject: str
    what: str

    @property
    def next_step(self) -> str:
        return _NEXT[self.kind]

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.subject}: {self.what}"


class Findings:
    """Keeps the first `MAX_FINDINGS`, in the order in which they come, and counts all."""

    def __init__(self) -> None:
        self.kept: list[Finding] = []
        self.counts: collections.Counter[Kind] = collections.Counter()

    def extend(self, found: Iterable[Finding], about: str = "") -> None:
        """Add findings about this row; a rule that throws is one, too. PKIError and OperatorError pass."""
        try:
            for one in found:
                self._add(one)
        except (PKIError, OperatorError):
            raise
        except Exception as error:  # noqa: BLE001 - what no rule foresaw is a finding, not the end of the audit
            self._add(Finding(Kind.NOT_JUDGED, about, f"{type(error).__name__}: {error}"))

    def _add(self, one: Finding) -> None:
        self.counts[one.kind] += 1
        if len(self.kept) < MAX_FINDINGS:
            self.kept.append(one)

    @property
    def omitted(self) -> int:
        return self.counts.total() - len(self.kept)
