"""What is requested and what is granted are two values; the profile stands between them."""

from __future__ import annotations

import dataclasses
import datetime

from cryptography import x509

from chancery.asn1 import der
from chancery.asn1 import x509 as template
from chancery.asn1.oids import ATTRIBUTES, EXTENDED_KEY_USAGES
from chancery.errors import ErrorType, PKIError
from chancery.pkix import name as names_
from chancery.pkix.constraints import NameConstraints, check_names
from chancery.pkix.key import check_key, key_kind, proof_of_possession, spki_der
from chancery.pkix.rules import (
    KEY_USAGES,
    REPEATABLE,
    Extensions,
    Names,
    SecondOpinions,
    Subject,
    Validity,
    duration,
)
from chancery.pkix.wish import Wish, read_wish

_SERVICES = {EXTENDED_KEY_USAGES["OCSPSigning"], EXTENDED_KEY_USAGES["timeStamping"]}
_SHORT = {oid: short for short, oid in ATTRIBUTES.items()}
SECOND = datetime.timedelta(seconds=1)
MAX_ATTRIBUTES = 32
MAX_SUBJECT = 2048
"""Octets of the subject as text (UTF-8): it is searched for, and an index holds no more than 2704."""
Attributes = tuple[tuple[str, str], ...]
"""(Dotted attribute type, value), most significant first."""


@dataclasses.dataclass(frozen=True, slots=True)
class Profile:
    """
    What a certificate of this kind may hold. `sha256` is over `source`, the TOML text it was read from.

    `ceremony`: signed by the offline CA alone (R8). The signature algorithm is the issuer's, never the profile's.
    """

    name: str
    version: int
    sha256: bytes
    source: str
    description: str
    keys: frozenset[str]
    ceremony: bool
    default_issuer: str | None
    validity: Validity
    subject: Subject
    names: Names
    extensions: Extensions
    second_opinions: SecondOpinions

    @property
    def service(self) -> bool:
        """
        Whether it is for the authority's own services: OCSP delegates and timestamping.

        Whoever has such a certificate can call revoked certificates good, or say that something existed when it
        did not.
        """
        purposes = {EXTENDED_KEY_USAGES.get(one, one) for one in self.extensions.extended_key_usage}
        return bool(purposes & _SERVICES)

    @property
    def ocsp(self) -> bool:
        """Whether it is for OCSP delegates: an issuer makes its own as long as it answers for its certificates."""
        purposes = {EXTENDED_KEY_USAGES.get(one, one) for one in self.extensions.extended_key_usage}
        return EXTENDED_KEY_USAGES["OCSPSigning"] in purposes


@dataclasses.dataclass(frozen=True, slots=True)
class Requested:
    """
    What somebody asked for: a public key, a subject, and canonical text names, in the CSR and beside it.

    `spki` is the key's DER, where it is at hand; `wish` another validity, asked for beside the CSR.
    """

    public_key: object
    subject: Attributes
    csr_names: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    spki: bytes | None = None
    wish: Wish | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class IssuerLimits:
    """
    What the issuer's own certificate, and those above it, allow. `path_length` None: no limit (RFC 5280 4.2.1.9).

    `constraints` hold together (4.2.1.10).
    """

    not_after: datetime.datetime
    path_length: int | None
    constraints: tuple[NameConstraints, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Granted:
    """
    What will stand in the certificate, apart from what the issuer adds: serial, its name, AKI and pointers.

    `subject`, `spki` and each of `extensions` are DER; `names` are canonical text names. `dropped` says in words
    what was asked for and is not granted.
    """

    subject: bytes
    subject_text: str
    spki: bytes
    not_before: datetime.datetime
    not_after: datetime.datetime
    names: tuple[str, ...]
    extensions: tuple[bytes, ...]
    ocsp: bool
    crl: bool
    ca_issuers: bool
    dropped: tuple[str, ...] = ()


def _refuse(detail: str) -> PKIError:
    return PKIError(ErrorType.BAD_CERT_TEMPLATE, detail)


def requested(csr: bytes, names: tuple[str, ...] = (), wish: str | None = None) -> Requested:
    """
    Read a PKCS#10 request (DER), its proof of possession verified, and the names asked for beside it.

    Of the extensions that the CSR asks for only subjectAltName is read (RFC 2985 5.4.2). Raises PKIError as
    `proof_of_possession` does, and BAD_CERT_TEMPLATE for a name that is malformed or of an unsupported type.
    """
    proven = proof_of_possession(csr)
    return Requested(
        public_key=proven.public_key,
        subject=template.read_name(proven.subject),
        csr_names=_csr_names(proven.csr),
        names=names_.canonical_names(names),
        spki=proven.spki,
        wish=read_wish(wish),
    )


def _csr_names(request: x509.CertificateSigningRequest) -> tuple[str, ...]:
    try:
        san = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise der.malformed("the CSR's extensionRequest cannot be read (RFC 2985 5.4.2)") from None
    return names_.canonical_names(names_.names_of(san))


def grant(profile: Profile, asked: Requested, limits: IssuerLimits, at: datetime.datetime) -> Granted:
    """
    Apply a profile to what was asked for, at this moment, under an issuer with these limits.

    Raises PKIError(BAD_CERT_TEMPLATE or BAD_ALG) with the first thing that the profile does not grant.
    """
    check_key(asked.public_key, profile.keys)
    subject = _subject(profile.subject, asked.subject)
    names = _names(profile.names, asked)
    _check_common_name(profile.subject, subject, names)
    if limits.constraints:
        check_names(limits.constraints, subject, names)
    dropped: list[str] = []
    not_before, not_after = _validity(profile.validity, asked.wish, limits, at, dropped)
    _check_path_length(profile.extensions, limits)
    spki = asked.spki or spki_der(asked.public_key)
    pointers = profile.extensions.pointers
    return Granted(
        subject=template.name(subject),
        subject_text=names_.text_of(subject),
        spki=spki,
        not_before=not_before,
        not_after=not_after,
        names=names,
        extensions=_extensions(profile.extensions, asked.public_key, spki, names, not_before, empty=not subject),
        ocsp="ocsp" in pointers,
        crl="crl" in pointers,
        ca_issuers="ca-issuers" in pointers,
        dropped=tuple(dropped),
    )


def _subject(rule: Subject, asked: Attributes) -> Attributes:
    if len(asked) > MAX_ATTRIBUTES:
        raise _refuse(f"a subject of more than {MAX_ATTRIBUTES} attributes")
    granted = [(ATTRIBUTES[short], value) for short, value in rule.fixed.items()]
    seen: set[str] = set()
    for oid, value in asked:
        short = _SHORT.get(oid, oid)
        if short in rule.fixed:
            if value != rule.fixed[short]:
                raise _refuse(f"the profile fixes the subject's {short} to {rule.fixed[short]!r}")
            continue
        if short not in rule.required and short not in rule.optional:
            raise _refuse(f"the profile grants no {short} in the subject")
        if short in seen and short not in REPEATABLE:
            raise _refuse(f"the subject has more than one {short}")
        _check_value(short, value, rule.bound(short))
        seen.add(short)
        granted.append((oid, value))
    if missing := [short for short in rule.required if short not in seen]:
        raise _refuse(f"the profile wants {', '.join(missing)} in the subject")
    if len(names_.text_of(granted).encode()) > MAX_SUBJECT:
        raise _refuse(f"a subject of more than {MAX_SUBJECT} octets")
    return tuple(granted)


def _check_value(short: str, value: str, bound: int) -> None:
    if not 1 <= len(value) <= bound:
        raise _refuse(f"the subject's {short} has 1 to {bound} characters (RFC 5280 appendix A)")
    if value != value.strip() or not value.isprintable():
        raise _refuse(f"the subject's {short} has white space at an end, or a control character in it")
    if short == "C" and not (value.isascii() and value.isalpha() and value.isupper() and len(value) == 2):
        raise _refuse("the subject's C is two capital letters (ISO 3166-1)")
    if short == "emailAddress":
        names_.email_address(value)
    try:
        template.rdn(ATTRIBUTES[short], value)
    except ValueError:
        raise _refuse(f"the subject's {short} has characters that its string type does not hold") from None


def _names(rule: Names, asked: Requested) -> tuple[str, ...]:
    wanted = (*(asked.csr_names if rule.from_csr else ()), *asked.names)
    names = tuple(dict.fromkeys(wanted))
    if len(names) > rule.max:
        raise _refuse(f"the profile grants at most {rule.max} names; {len(names)} were asked for")
    for one in names:
        kind, _, value = one.partition(":")
        if kind not in rule.types:
            raise _refuse(f"the profile grants no subjectAltName of type {kind} ({one!r})")
        if value.startswith("*") and not rule.wildcards:
            raise _refuse(f"the profile grants no wildcard ({one!r})")
    if rule.required and not names:
        kinds = " or ".join(f"{kind}:…" for kind in rule.types)
        raise _refuse(f"the profile wants a subjectAltName: put {kinds} into the CSR or beside it")
    return names


def _check_common_name(rule: Subject, subject: Attributes, names: tuple[str, ...]) -> None:
    if rule.common_name == "any":
        return
    values = {one.partition(":")[2] for one in names}
    for oid, value in subject:
        # The names are ASCII; beyond it, other characters have the same small letter (KELVIN SIGN, k).
        plain = value.lower() if value.isascii() else value
        if oid == ATTRIBUTES["CN"] and plain not in values and value not in values:
            raise _refuse(f"the CN {value!r} is not one of the subjectAltNames")


def _validity(
    rule: Validity, wish: Wish | None, limits: IssuerLimits, at: datetime.datetime, dropped: list[str]
) -> tuple[datetime.datetime, datetime.datetime]:
    """R12: both ends are seconds in which the certificate is valid (RFC 5280 4.1.2.5)."""
    earliest = at.replace(microsecond=0) - rule.backdating()
    not_before, not_after = earliest, earliest + rule.length() - SECOND
    if wish is not None and rule.requested == "drop":
        dropped.append("the validity asked for")
    elif wish is not None:
        not_before, not_after = _wished(rule, wish, earliest, at)
    if not_after > limits.not_after:
        if rule.past_issuer == "refuse" or limits.not_after <= not_before:
            raise _refuse(
                f"the certificate would outlive its issuer's, which ends {limits.not_after:%Y-%m-%d %H:%M:%S} UTC"
            )
        not_after = limits.not_after
    return not_before, not_after


def _wished(
    rule: Validity, wish: Wish, earliest: datetime.datetime, at: datetime.datetime
) -> tuple[datetime.datetime, datetime.datetime]:
    if rule.requested == "refuse":
        raise _refuse("the profile sets the validity; a request may not ask for another")
    not_before = wish.not_before or earliest
    if not earliest <= not_before <= at + duration(rule.ahead):
        raise _refuse(
            f"the profile lets a validity begin from {rule.backdate} before to {rule.ahead} after its issuance"
        )
    try:
        length = rule.length() if wish.duration is None else duration(wish.duration)
        not_after = wish.not_after or not_before + length - SECOND
    except (ValueError, OverflowError) as error:
        raise _refuse(str(error)) from None
    if not rule.shortest() <= not_after - not_before + SECOND <= rule.longest():
        raise _refuse(f"the profile lets a certificate be valid from {rule.shortest()} to {rule.longest()}")
    return not_before, not_after


def _check_path_length(rule: Extensions, limits: IssuerLimits) -> None:
    if not rule.ca or limits.path_length is None:
        return
    if rule.path_length is None or rule.path_length >= limits.path_length:
        raise _refuse(
            f"the issuer allows {limits.path_length} CA certificates below it (RFC 5280 4.2.1.9); "
            "the profile wants more"
        )


def _extensions(
    rule: Extensions,
    public_key: object,
    spki: bytes,
    names: tuple[str, ...],
    not_before: datetime.datetime,
    *,
    empty: bool,
) -> tuple[bytes, ...]:
    """DER of every extension that does not depend on the issuer, in the order in which they will stand."""
    family = key_kind(public_key).partition("-")[0]
    more = {"rsa": rule.key_usage_rsa, "ec": rule.key_usage_ec}.get(family, ())
    bits = tuple(sorted(KEY_USAGES.index(one) for one in {*rule.key_usage, *more}))
    found = [template.basic_constraints(ca=rule.ca, path_length=rule.path_length)]
    if bits:
        found.append(template.key_usage(bits))
    if rule.extended_key_usage:
        usages = tuple(EXTENDED_KEY_USAGES.get(one, one) for one in rule.extended_key_usage)
        found.append(template.extended_key_usage(usages, critical=rule.extended_key_usage_critical))
    if names:
        found.append(template.subject_alt_name(names, critical=empty))
    if rule.policies:
        found.append(template.certificate_policies(rule.policies))
    if rule.private_key_usage is not None:
        end = not_before + duration(rule.private_key_usage) - SECOND
        found.append(template.private_key_usage_period(not_before, end))
    if rule.ocsp_nocheck:
        found.append(template.ocsp_nocheck())
    found.append(template.subject_key_identifier(template.key_identifier(spki)))
    return tuple(found)
