"""
Linting: every rule run over a certificate or CRL, and what it found.

A finding has a stable code; the clause says where the rule stands. A lint that throws is itself a fatal
finding, because what confuses a lint confuses a relying party.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Iterable

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from chancery.errors import PKIError
from chancery.pkix import crl_lints, lints
from chancery.pkix.crl_view import CRLView, EntryScan, view_crl, view_crl_parts
from chancery.pkix.finding import Finding, Severity
from chancery.pkix.linting import Linting, run
from chancery.pkix.view import IssuerView, view, view_issuer

__all__ = ["Finding", "Severity", "blocking", "lint", "lint_crl", "lint_crl_parts", "lint_der"]

MAX_CRL_VALIDITY = datetime.timedelta(days=10)
"""R15."""


def lint(certificate: x509.Certificate, *, issuer: x509.Certificate | None = None) -> list[Finding]:
    """
    Run every certificate lint, in order. `issuer`, where known, lets the two be compared.

    The signature itself is not verified: the copy that is linted is signed by a throw-away key.
    """
    data = certificate.public_bytes(Encoding.DER)
    return lint_der(data, certificate, None if issuer is None else view_issuer(issuer))


def lint_der(data: bytes, certificate: x509.Certificate, issuer: IssuerView | None) -> list[Finding]:
    """Run every certificate lint over a certificate that is at hand as bytes (DER) and as a value; see `lint`."""
    try:
        seen = view(data, issuer, certificate)
    except PKIError as error:
        return [Finding(Severity.FATAL, "pkix.unreadable", error.detail, "RFC 5280 4.1")]
    return _linting(lints.LINTS)(seen)


@functools.lru_cache(maxsize=8)
def _linting(rules: tuple[lints.CertificateLint, ...]) -> Linting:
    return Linting(rules)


def lint_crl(
    crl: bytes, *, issuer: x509.Certificate | None = None, longest: datetime.timedelta = MAX_CRL_VALIDITY
) -> list[Finding]:
    """
    Run every CRL lint over a CertificateList (DER).

    `longest` is the most time from thisUpdate to nextUpdate: R15's ten days, or more for a CA whose CRL only
    an offline ceremony makes.
    """
    return _lint_crl(lambda: view_crl(crl, issuer, longest))


def lint_crl_parts(
    head: bytes, scan: EntryScan, tail: bytes, *, issuer: x509.Certificate, longest: datetime.timedelta
) -> list[Finding]:
    """`lint_crl` of one in pieces: `scan` has seen every entry, between what stands before them and after."""
    return _lint_crl(lambda: view_crl_parts(head, scan, tail, issuer, longest))


def _lint_crl(view_it: Callable[[], CRLView]) -> list[Finding]:
    try:
        seen = view_it()
    except PKIError as error:
        return [Finding(Severity.FATAL, "crl.unreadable", error.detail, "RFC 5280 5.1")]
    return run(crl_lints.LINTS, seen)


def blocking(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that forbid issuing (R9)."""
    return [one for one in findings if one.blocks]
