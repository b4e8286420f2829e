"""
Second opinions: linters of others, asked about a certificate beside the suite's own lints (R9).

A linter takes a certificate (DER) and returns what it has against it in words, or None; it raises
PKIError(SYSTEM_UNAVAIL) when it gave no answer. Which are asked for a certificate, and when, its profile says.
"""

from __future__ import annotations

from chancery.linters.command import CommandLinter
from chancery.linters.pkilint import PkilintLinter

__all__ = ["CommandLinter", "PkilintLinter"]
