"""
Trying a profile before it is used: a certificate for each kind of key that it takes, linted.

The keys are made up: a modulus nobody knows the factors of, points of small scalars. Nothing is signed
with them and nothing issued.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import itertools
import math

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from chancery.asn1 import x509 as template
from chancery.asn1.oids import ATTRIBUTES
from chancery.asn1.signature import ALGORITHMS, ML_DSA_SETS
from chancery.errors import OperatorError, PKIError
from chancery.pkix.granting import Granted, IssuerLimits, Profile, Requested, grant
from chancery.pkix.key import is_power
from chancery.pkix.lint import Finding, Severity, lint

_AT = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
_FAR = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
_CURVES = {"ec-p256": ec.SECP256R1(), "ec-p384": ec.SECP384R1(), "ec-p521": ec.SECP521R1()}
_NAMES = {
    "dns": "dns:trial.example.org",
    "ip": "ip:192.0.2.1",
    "email": "email:trial@example.org",
    "uri": "uri:https://trial.example.org/",
}
_VALUES = {"C": "XX", "emailAddress": "trial@example.org"}
_ISSUER = template.name(((ATTRIBUTES["CN"], "Issuer of trials"),))
_ALGORITHM = ALGORITHMS["Ed25519"].identifier


@functools.lru_cache(maxsize=16)
def sample_key(kind: str) -> object:
    """Return a public key of this kind (`pkix.key.KINDS`) whose private key nobody has or wants."""
    if kind in _CURVES:
        return ec.derive_private_key(2, _CURVES[kind]).public_key()
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    if kind in ML_DSA_SETS:
        return ML_DSA_SETS[kind].private.from_seed_bytes(bytes(32)).public_key()
    octets = int(kind.removeprefix("rsa-")) // 8
    seed = hashlib.shake_256(kind.encode()).digest(octets)
    start = int.from_bytes(seed, "big") | 1 | 1 << (8 * octets - 1)
    small = math.prod(n for n in range(3, 752, 2) if all(n % d for d in range(3, n, 2)))
    modulus = next(n for n in itertools.count(start, 2) if math.gcd(n, small) == 1 and not is_power(n))
    return rsa.RSAPublicNumbers(65537, modulus).public_key()


def try_profile(profile: Profile) -> None:
    """
    Lint a certificate with as little and one with as much as the profile grants, for each kind of key.

    Raises OperatorError when one is refused or has a finding above notice.
    """
    for kind in sorted(profile.keys):
        for full in (False, True):
            try:
                granted = grant(profile, _sample(profile, kind, full=full), IssuerLimits(_FAR, None), _AT)
                findings = _lint(profile, granted)
            except PKIError as error:
                raise _refused(profile, kind, error.detail) from None
            if serious := [str(one) for one in findings if one.severity > Severity.NOTICE]:
                raise _refused(profile, kind, "; ".join(serious))


def _refused(profile: Profile, kind: str, why: str) -> OperatorError:
    return OperatorError(
        f"the profile {profile.name} is refused: a trial certificate for a key of kind {kind}: {why}",
        "change the profile so that every certificate it grants passes the lints",
    )


def _sample(profile: Profile, kind: str, *, full: bool) -> Requested:
    rule = profile.subject
    wanted = [*rule.required, *(rule.optional if full else ())]
    names = tuple(_NAMES[one] for one in profile.names.types)[: profile.names.max]
    if not full:
        # As little as a request may say: it has to be called something.
        names = names[:1] if profile.names.required or not (rule.required or rule.fixed) else ()
    subject = []
    for short in wanted:
        value = _VALUES.get(short, "Trial")
        if short == "CN" and rule.common_name == "one-of-names":
            value = names[0].partition(":")[2]
        subject.append((ATTRIBUTES[short], value[: rule.bound(short)]))
    return Requested(sample_key(kind), tuple(subject), names=names)


def _lint(profile: Profile, granted: Granted) -> list[Finding]:
    """As `ca.issuer` builds it, with an issuer and pointers that are made up."""
    extensions = list(granted.extensions)
    self_signed = profile.extensions.ca and not profile.extensions.pointers
    if not self_signed:
        extensions.append(template.authority_key_identifier(bytes(20)))
    tbs = template.tbs_certificate(
        serial=b"\x01" * 17,
        algorithm=_ALGORITHM,
        issuer=granted.subject if self_signed else _ISSUER,
        not_before=granted.not_before,
        not_after=granted.not_after,
        subject=granted.subject,
        spki=granted.spki,
        extensions=extensions,
    )
    return lint(x509.load_der_x509_certificate(template.signed(tbs, _ALGORITHM, bytes(64))))
