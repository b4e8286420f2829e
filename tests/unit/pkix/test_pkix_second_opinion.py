"""pkilint on a certificate of every profile, shipped or example, with as little and as much as it grants (R9)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from cryptography import x509

from chancery.pkix.granting import IssuerLimits, grant
from chancery.pkix.lint import blocking, lint
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


def test_a_mail_certificate_may_be_for_a_mailbox_beyond_ascii_alone():
    profile = PROFILES["smime"]
    asked = sample(profile, "ec-p256", full=False)
    alone = dataclasses.replace(asked, names=("smtputf8:j\u00f6rg@example.org",))
    certificate = trial_certificate(profile, grant(profile, alone, IssuerLimits(FAR, None), AT))
    assert [] == blocking(lint(x509.load_der_x509_certificate(certificate)))
