"""
Linting: every rule run over a certificate or CRL, and what it found.

A finding has a stable code; the clause says where the rule stands. A lint that throws is itself a fatal
finding, because what confuses a lint confuses a relying party.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from cryptography import x509

from chancery.errors import PKIError
from chancery.pkix import crl_lints, lints
from chancery.pkix.finding import Finding, Severity
from chancery.pkix.view import view, view_crl

__all__ = ["Finding", "Severity", "blocking", "lint", "lint_crl"]

MAX_CRL_VALIDITY = datetime.timedelta(days=10)
"""R15."""
T = TypeVar("T")


def lint(certificate: x509.Certificate, *, issuer: x509.Certificate | None = None) -> list[Finding]:
    """
    Run every certificate lint, in order. `issuer`, where known, lets the two be compared.

    The signature itself is not verified: the copy that is linted is signed by a throw-away key.
    """
    try:
        seen = view(certificate, issuer)
    except PKIError as error:
        return [Finding(Severity.FATAL, "pkix.unreadable", error.detail, "RFC 5280 4.1")]
    return _run(lints.LINTS, seen)


def lint_crl(
    crl: bytes, *, issuer: x509.Certificate | None = None, longest: datetime.timedelta = MAX_CRL_VALIDITY
) -> list[Finding]:
    """
    Run every CRL lint over a CertificateList (DER).

    `longest` is the most time from thisUpdate to nextUpdate: R15's ten days, or more for a CA whose CRL only
    an offline ceremony makes.
    """
    try:
        seen = view_crl(crl, issuer, longest)
    except PKIError as error:
        return [Finding(Severity.FATAL, "crl.unreadable", error.detail, "RFC 5280 5.1")]
    return _run(crl_lints.LINTS, seen)


def _run(rules: Sequence[Callable[[T], Iterable[Finding]]], seen: T) -> list[Finding]:
    found: list[Finding] = []
    for rule in rules:
        try:
            found.extend(rule(seen))
        except Exception as error:  # noqa: BLE001 - whatever a lint throws is a finding
            name = getattr(rule, "__name__", "lint")
            detail = f"the lint {name} failed: {type(error).__name__}: {error}"
            found.append(Finding(Severity.FATAL, "pkix.lint_failed", detail, "R9"))
    return found


def blocking(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that forbid issuing (R9)."""
    return [one for one in findings if one.blocks]
