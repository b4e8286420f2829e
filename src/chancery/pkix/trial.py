"""
Trying a profile before it is used: a certificate for each kind of key that it takes, linted.

The keys are made up: a modulus nobody knows the factors of, points of small scalars. Nothing is signed
with them and nothing issued.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import ipaddress
import itertools
import math
from collections.abc import Iterator

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from chancery.asn1 import der, oids
from chancery.asn1 import x509 as template
from chancery.asn1.general_name import general_name
from chancery.asn1.oids import ATTRIBUTES, ML_KEM
from chancery.asn1.signature import ALGORITHMS, ML_DSA_SETS
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.pkix.extension_granting import CSRExtension
from chancery.pkix.extension_rules import Extensions
from chancery.pkix.granting import Granted, IssuerLimits, Profile, Requested, grant
from chancery.pkix.kem import sample_kem
from chancery.pkix.key import is_power
from chancery.pkix.lint import Severity, lint
from chancery.pkix.name import canonical_names
from chancery.pkix.pattern import compiled
from chancery.pkix.rules import Validity
from chancery.pkix.subject_rules import ONE_TYPE, Names, Subject, under
from chancery.pkix.wish import Wish

AT = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
FAR = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
_CURVES = {"ec-p256": ec.SECP256R1(), "ec-p384": ec.SECP384R1(), "ec-p521": ec.SECP521R1()}
# What a request may bring, where the lints know its form.
_EXTENSIONS = {
    oids.TLS_FEATURE: der.sequence(der.integer(5)),
    oids.SCT_LIST: der.octet_string(b"\x00\x03\x00\x01\x00"),
    oids.SUBJECT_INFO_ACCESS: der.sequence(
        der.sequence(der.oid(oids.AD_CA_REPOSITORY), general_name("uri:http://trial.example.org/"))
    ),
    oids.SUBJECT_DIRECTORY_ATTRIBUTES: der.sequence(
        der.sequence(der.oid("1.3.6.1.5.5.7.9.4"), der.set_of([der.printable_string("XX")]))
    ),
    oids.QC_STATEMENTS: der.sequence(der.sequence(der.oid(oids.QC_COMPLIANCE))),
}
_VALUES = {"C": "XX", "emailAddress": "trial@trial.example.org"}
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
    if kind in ML_KEM:
        return sample_kem(kind)
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
    limits = IssuerLimits(FAR, None, algorithm=min(profile.signature_algorithms, default=None))
    for kind in sorted(profile.keys):
        for full in (False, True):
            try:
                granted = grant(profile, sample(profile, kind, full=full), limits, AT)
                findings = lint(x509.load_der_x509_certificate(trial_certificate(profile, granted)))
            except PKIError as error:
                raise _refused(profile, kind, error.detail) from None
            if serious := [str(one) for one in findings if one.severity > Severity.NOTICE]:
                raise _refused(profile, kind, "; ".join(serious))


def _refused(profile: Profile, kind: str, why: str) -> OperatorError:
    return OperatorError(
        f"the profile {profile.name} is refused: a trial certificate for a key of kind {kind}: {why}",
        "change the profile so that every certificate it grants passes the lints",
    )


def sample(profile: Profile, kind: str, *, full: bool) -> Requested:
    """
    Return a request under this profile for a key of this kind, with as little or as much as it may say.

    Raises PKIError when the rules of a name leave nothing that could be asked for.
    """
    names = _names(profile, full=full)
    return Requested(
        sample_key(kind),
        _subject(profile.subject, names, full=full),
        names=canonical_names(names),
        wish=_wish(profile.validity, full=full),
        extensions=tuple(_extensions(profile.extensions, full=full)),
    )


def _names(profile: Profile, *, full: bool) -> list[str]:
    rule = profile.names
    found = {kind: _name(rule, kind) for kind in rule.types}
    if mailbox := _mailbox(profile.subject, found.get("email", ""), full=full):
        found["email"] = mailbox
    if full:
        names = list(found.values())
        if rule.wildcards:
            names.insert(0, f"dns:*.{_suffix(rule.wildcard_suffixes or rule.dns_suffixes, rule.dns_forbidden)}")
        # What is needed stands first, before the most that there may be is reached.
        return sorted(names, key=lambda one: one != mailbox)[: rule.max]
    # As little as a request may say: it has to be called something.
    required = [found[kind] for kind in (*rule.required_types, *(("email",) if mailbox else ()))]
    nameless = not profile.subject.required and not profile.subject.fixed and not profile.subject.default
    return required or (list(found.values())[:1] if rule.required or nameless else [])


def _mailbox(rule: Subject, name: str, *, full: bool) -> str | None:
    """What the subject has for an emailAddress, as a name: it has to be one of them (RFC 5280 4.1.2.6)."""
    short = "emailAddress"
    if said := rule.fixed.get(short) or ("" if full else rule.default.get(short, "")):
        return f"email:{said}"
    if short not in (*rule.required, *(rule.optional if full else ())):
        return None
    return f"email:{_example(rule, short, full=False)}" if short in rule.pattern else name


def _suffix(suffixes: tuple[str, ...], forbidden: tuple[str, ...]) -> str:
    """A domain below one of these, and below none of those; anywhere, where none is named."""
    for one in (*suffixes, *(() if suffixes else ("example.org", "example.net"))):
        domain = f"trial.{one.removeprefix('.')}"
        if not under(domain, forbidden):
            return domain
    raise PKIError(ErrorType.BAD_CERT_TEMPLATE, "every DNS name that the profile grants it also forbids")


def _name(rule: Names, kind: str) -> str:
    network = ipaddress.ip_network(rule.ip_networks[0]) if rule.ip_networks else None
    address = "9.9.9.9" if network is None else str(next(iter(network.hosts()), network.network_address))
    mail = _suffix(rule.email_domains, ())
    scheme = rule.uri_schemes[0] if rule.uri_schemes else "https"
    uri = f"{scheme}://trial.example.org/" if scheme != "urn" else "urn:uuid:00000000-0000-4000-8000-000000000000"
    return {
        "dns": f"dns:{_suffix(rule.dns_suffixes, rule.dns_forbidden)}",
        "ip": f"ip:{address}",
        "email": f"email:trial@{mail}",
        "smtputf8": f"smtputf8:tri\u00e1l@{mail}",
        "uri": f"uri:{uri}",
        "upn": f"upn:trial@{_suffix(rule.upn_realms, ())}",
        "rid": "rid:1.3.6.1.4.1.99999.1",
        "dirname": "dirname:CN=Trial,C=XX",
        "othername": f"othername:{(rule.other_names or ('1.3.6.1.4.1.99999.1',))[0]};utf8:trial",
    }[kind]


def _subject(rule: Subject, names: list[str], *, full: bool) -> tuple[tuple[str, str], ...]:
    found = []
    for short in (*rule.required, *(rule.optional if full else ())):
        value = _VALUES.get(short, "Trial")[: rule.bound(short)]
        if short == "emailAddress":
            value = next((one for one in names if one.startswith("email:")), value).removeprefix("email:")
        elif short in rule.pattern:
            value = _example(rule, short, full=full)
        elif short == "CN" and rule.common_name == "one-of-names":
            # The shortest is most likely to fit; a CN that cannot is one that the profile never grants.
            value = min((one.partition(":")[2] for one in names), key=len)
        found.append((rule.oid(short), value))
        if full and rule.count(short) > 1:
            found.append(found[-1])
        if short == "DC" and rule.count(short) > 1 and short not in rule.pattern:
            # A domain of one label is none (RFC 4519 2.4).
            found.append((rule.oid(short), "example"))
    return tuple(found)


def _example(rule: Subject, short: str, *, full: bool) -> str:
    type_ = rule.string_type.get(short, ONE_TYPE.get(short, "utf8"))

    def wanted(one: int) -> bool:
        if type_ == "printable":
            return template.PRINTABLE_TEXT.fullmatch(chr(one)) is not None
        return chr(one).isprintable() and (one < 128 or type_ == "utf8")

    pattern = compiled(rule.pattern[short])
    if pattern.matches(usual := _VALUES.get(short, "Trial")) and len(usual) <= rule.bound(short):
        return usual
    value = pattern.example(wanted, rule.bound(short), long=full)
    if not value:
        raise PKIError(
            ErrorType.BAD_CERT_TEMPLATE,
            f"no value of 1 to {rule.bound(short)} characters matches the pattern of {short}",
        )
    return value


def _wish(rule: Validity, *, full: bool) -> Wish | None:
    if rule.requested != "allow":
        return None
    length = rule.longest() if full else rule.shortest()
    return Wish(duration=f"{length.days}d{length.seconds}s")


def _extensions(rule: Extensions, *, full: bool) -> Iterator[CSRExtension]:
    allowed = rule.allowed_purposes()
    if allowed and (full or not rule.purposes()):
        some = allowed if full else allowed[:1]
        yield oids.EXTENDED_KEY_USAGE, False, der.sequence(*map(der.oid, some))
    for one in rule.requested:
        if full or one.required:
            yield one.oid, one.critical, _EXTENSIONS.get(one.oid, der.null())


def trial_certificate(profile: Profile, granted: Granted) -> bytes:
    """Return a certificate (DER) as `ca.issuer` builds it; issuer, pointers and signature are made up."""
    extensions = list(granted.extensions)
    self_signed = profile.extensions.ca and not profile.extensions.pointers
    if not self_signed:
        extensions.append(template.authority_key_identifier(bytes(20)))
    place = "http://trial.example.org"
    if granted.ocsp or granted.ca_issuers:
        urls = f"{place}/ocsp" if granted.ocsp else None, f"{place}/ca.cer" if granted.ca_issuers else None
        extensions.append(template.authority_info_access(*urls))
    if granted.crl:
        extensions.append(template.crl_distribution_points(f"{place}/a.crl"))
        if granted.freshest:
            extensions.append(template.freshest_crl(f"{place}/a/delta.crl"))
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
    return template.signed(tbs, _ALGORITHM, bytes(64))
