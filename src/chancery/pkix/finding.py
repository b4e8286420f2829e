"""What a lint says."""

from __future__ import annotations

import dataclasses
import enum


class Severity(enum.IntEnum):
    """NOTICE informs, WARNING breaks a SHOULD, ERROR breaks a MUST, FATAL could not be judged."""

    NOTICE = 1
    WARNING = 2
    ERROR = 3
    FATAL = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One rule broken: a stable code, one sentence, and the clause that says so."""

    severity: Severity
    code: str
    detail: str
    clause: str

    @property
    def blocks(self) -> bool:
        """Whether a certificate or CRL with this finding may not be issued (R9)."""
        return self.severity >= Severity.ERROR

    def __str__(self) -> str:
        return f"{self.code}: {self.detail} ({self.clause})"
