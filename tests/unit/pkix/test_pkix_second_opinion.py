"""pkilint on a certificate of every profile, shipped or example, with as little and as much as it grants (R9)."""

from __future__ import annotations

from pathlib import Path

import pytest

from chancery.pkix.granting import IssuerLimits, grant
from chancery.pkix.profile import parse_profile, shipped_profiles
from chancery.pkix.trial import AT, FAR, sample, trial_certificate
from pkilintkit import findings

EXAMPLES = sorted((Path(__file__).parents[3] / "docs" / "profiles").glob("*.toml"))
# A root is signed by its own key, which nobody has here; tests/interop has real ones.
PROFILES = {**shipped_profiles(), **{path.stem: parse_profile(path.read_text()) for path in EXAMPLES}}
del PROFILES["root-ca"]
# pkilint takes no wildcard for a DNS name (RFC 9525 6.3 does), and wants a host in every URI.
EXPLAINED = {
    ("tls-server", True): {"pkix.invalid_domain_name_syntax"},
    ("tls-must-staple", True): {"pkix.invalid_domain_name_syntax"},
    ("device", True): {"pkix.invalid_uri_syntax"},
}


@pytest.mark.parametrize("full", [False, True], ids=["least", "most"])
@pytest.mark.parametrize("name", PROFILES)
def test_r9_pkilint_has_nothing_to_say_of_what_a_profile_grants(name, full):
    profile = PROFILES[name]
    kind = "ec-p256" if "ec-p256" in profile.keys else min(profile.keys)
    limits = IssuerLimits(FAR, None, algorithm=min(profile.signature_algorithms, default=None))
    granted = grant(profile, sample(profile, kind, full=full), limits, AT)
    assert EXPLAINED.get((name, full), set()) == findings("certificate", trial_certificate(profile, granted))
