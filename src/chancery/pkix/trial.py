"""Trying a profile before it is used: certificates that it would yield, linted."""

from __future__ import annotations

from chancery.pkix.granting import Profile


def try_profile(profile: Profile) -> None:
    """Raise OperatorError when a certificate of this profile would not pass the lints."""
