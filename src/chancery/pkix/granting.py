"""What is requested and what is granted are two values; the profile stands between them."""

from __future__ import annotations

import dataclasses
import datetime

from chancery.asn1 import extensions, oids
from chancery.asn1 import x509 as template
from chancery.asn1.oids import EXTENDED_KEY_USAGES
from chancery.pkix import general_name
from chancery.pkix import name as names_
from chancery.pkix.constraints import NameConstraints, check_names
from chancery.pkix.extension_granting import CSRExtension, ExtensionPlan, Subjects
from chancery.pkix.extension_rules import Extensions
from chancery.pkix.key import check_key, key_kind, proof_of_possession, spki_der
from chancery.pkix.rule import duration
from chancery.pkix.rules import SecondOpinions, Validity
from chancery.pkix.subject_granting import (
    Attributes,
    NamePlan,
    SubjectPlan,
    check_common_name,
    check_mail_attribute,
    refuse,
)
from chancery.pkix.subject_rules import Names, Subject
from chancery.pkix.wish import Wish, read_wish

_SERVICES = {EXTENDED_KEY_USAGES["OCSPSigning"], EXTENDED_KEY_USAGES["timeStamping"]}
SECOND = datetime.timedelta(seconds=1)


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """A profile's rules, made ready once: patterns compiled, fixed extensions encoded."""

    subject: SubjectPlan
    names: NamePlan
    extensions: ExtensionPlan


@dataclasses.dataclass(frozen=True, slots=True)
class Profile:
    """
    What a certificate of this kind may hold. `sha256` is over `source`, the TOML text it was read from.

    `ceremony`: signed by the offline CA alone (R8). The signature algorithm is the issuer's; a profile may name
    those that it accepts. Raises ValueError for rules that cannot be encoded.
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
    signature_algorithms: frozenset[str] = frozenset()
    plan: Plan = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        plan = Plan(SubjectPlan(self.subject), NamePlan(self.names), ExtensionPlan(self.extensions, self.keys))
        object.__setattr__(self, "plan", plan)

    @property
    def service(self) -> bool:
        """
        Whether it is for the authority's own services: OCSP delegates and timestamping.

        Whoever has such a certificate can call revoked certificates good, or say that something existed when it
        did not.
        """
        purposes = {*self.extensions.purposes(), *self.extensions.allowed_purposes()}
        return bool(purposes & _SERVICES)

    @property
    def ocsp(self) -> bool:
        """Whether it is for OCSP delegates: an issuer makes its own as long as it answers for its certificates."""
        return EXTENDED_KEY_USAGES["OCSPSigning"] in self.extensions.purposes()


@dataclasses.dataclass(frozen=True, slots=True)
class Requested:
    """
    What somebody asked for: a public key, a subject, and canonical text names, in the CSR and beside it.

    `spki` is the key's DER, where it is at hand; `extensions` what else the CSR asks for; `wish` another validity,
    asked for beside the CSR. `multi_valued`: some attributes of the subject shared an RDN. `signer` is
    the certificate (DER) that states possession of a key that cannot sign (`pkix.key.Proven`).
    """

    public_key: object
    subject: Attributes
    csr_names: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    spki: bytes | None = None
    wish: Wish | None = None
    extensions: tuple[CSRExtension, ...] = ()
    multi_valued: bool = False
    signer: bytes | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class IssuerLimits:
    """
    What the issuer's own certificate, and those above it, allow, and by which algorithm it signs
    (`asn1.signature.ALGORITHMS`).

    `path_length` None: no limit (RFC 5280 4.2.1.9). `constraints` hold together (4.2.1.10). `not_before` None: not
    known, or no matter.
    """

    not_after: datetime.datetime
    path_length: int | None
    constraints: tuple[NameConstraints, ...] = ()
    algorithm: str | None = None
    not_before: datetime.datetime | None = None


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
    freshest: bool = False
    dropped: tuple[str, ...] = ()


def requested(csr: bytes, names: tuple[str, ...] = (), wish: str | None = None) -> Requested:
    """
    Read a PKCS#10 request (DER), its proof of possession verified, and what is asked for beside it.

    Raises PKIError as `proof_of_possession` does, BAD_DATA_FORMAT for an extensionRequest (RFC 2985 5.4.2) or a
    wish that cannot be read, and BAD_CERT_TEMPLATE for a name that is malformed or of an unsupported type.
    """
    proven = proof_of_possession(csr)
    rdns = template.read_rdns(proven.subject)
    asked = extensions.extension_request(proven.attributes) if proven.attributes else ()
    return Requested(
        public_key=proven.public_key,
        subject=tuple(pair for pairs in rdns for pair in pairs),
        multi_valued=any(len(pairs) > 1 for pairs in rdns),
        csr_names=next((general_name.read(value) for oid, _, value in asked if oid == oids.SUBJECT_ALT_NAME), ()),
        names=names_.canonical_names(names),
        spki=proven.spki,
        extensions=tuple(one for one in asked if one[0] != oids.SUBJECT_ALT_NAME),
        wish=read_wish(wish),
        signer=proven.signer,
    )


def grant(profile: Profile, asked: Requested, limits: IssuerLimits, at: datetime.datetime) -> Granted:
    """
    Apply a profile to what was asked for, at this moment, under an issuer with these limits.

    Raises PKIError(BAD_CERT_TEMPLATE or BAD_ALG) with the first thing that the profile does not grant.
    """
    check_key(asked.public_key, profile.keys)
    _check_algorithm(profile, limits)
    plan, dropped = profile.plan, list[str]()
    subject = plan.subject.grant(asked.subject, dropped, multi_valued=asked.multi_valued)
    names = plan.names.grant(asked.csr_names, asked.names, dropped)
    check_common_name(profile.subject, subject.attributes, names)
    check_mail_attribute(subject.attributes, names)
    if limits.constraints:
        check_names(limits.constraints, subject.attributes, names)
    not_before, not_after = _validity(profile.validity, asked.wish, limits, at, dropped)
    _check_path_length(profile.extensions, limits)
    spki = asked.spki or spki_der(asked.public_key)
    of = Subjects(
        kind=key_kind(asked.public_key),
        spki=spki,
        names=names,
        nameless=not subject.attributes,
        not_before=not_before,
        not_after=not_after,
        shortened=not_after - not_before + SECOND < profile.validity.length(),
    )
    pointers = profile.extensions.pointers
    return Granted(
        subject=subject.der,
        subject_text=subject.text,
        spki=spki,
        not_before=not_before,
        not_after=not_after,
        names=names,
        extensions=plan.extensions.grant(of, asked.extensions, dropped),
        ocsp="ocsp" in pointers,
        crl="crl" in pointers,
        ca_issuers="ca-issuers" in pointers,
        freshest="freshest" in pointers,
        dropped=tuple(dropped),
    )


def _check_algorithm(profile: Profile, limits: IssuerLimits) -> None:
    if profile.signature_algorithms and limits.algorithm not in profile.signature_algorithms:
        wanted = " or ".join(sorted(profile.signature_algorithms))
        raise refuse(f"the profile wants {wanted}; the issuer signs by {limits.algorithm or 'what is not known'}")


def _validity(
    rule: Validity, wish: Wish | None, limits: IssuerLimits, at: datetime.datetime, dropped: list[str]
) -> tuple[datetime.datetime, datetime.datetime]:
    """R12: both ends are seconds in which the certificate is valid (RFC 5280 4.1.2.5)."""
    earliest = at.replace(microsecond=0) - rule.backdating()
    if limits.not_before is not None and earliest < limits.not_before:
        # A certificate that is older than its issuer's: who goes by the time of signing takes it for a forgery.
        if at < limits.not_before:
            raise refuse(f"the issuer's certificate begins at {limits.not_before:%Y-%m-%d %H:%M:%S} UTC")
        earliest = limits.not_before
    not_before, not_after = earliest, earliest + rule.length() - SECOND
    if wish is not None and rule.requested == "drop":
        dropped.append("the validity asked for")
    elif wish is not None:
        not_before, not_after = _wished(rule, wish, earliest, at)
    if not_after > limits.not_after:
        if rule.past_issuer == "refuse" or limits.not_after <= not_before:
            raise refuse(
                f"the certificate would outlive its issuer's, which ends {limits.not_after:%Y-%m-%d %H:%M:%S} UTC"
            )
        not_after = limits.not_after
    return not_before, not_after


def _wished(
    rule: Validity, wish: Wish, earliest: datetime.datetime, at: datetime.datetime
) -> tuple[datetime.datetime, datetime.datetime]:
    if rule.requested == "refuse":
        raise refuse("the profile sets the validity; a request may not ask for another")
    not_before = wish.not_before or earliest
    if not earliest <= not_before <= at + duration(rule.ahead):
        raise refuse(
            f"the profile lets a validity begin from {rule.backdate} before to {rule.ahead} after its issuance"
        )
    try:
        length = rule.length() if wish.duration is None else duration(wish.duration)
        not_after = wish.not_after or not_before + length - SECOND
    except (ValueError, OverflowError) as error:
        raise refuse(str(error)) from None
    if not rule.shortest() <= not_after - not_before + SECOND <= rule.longest():
        raise refuse(f"the profile lets a certificate be valid from {rule.shortest()} to {rule.longest()}")
    return not_before, not_after


def _check_path_length(rule: Extensions, limits: IssuerLimits) -> None:
    if not rule.ca or limits.path_length is None:
        return
    if rule.path_length is None or rule.path_length >= limits.path_length:
        raise refuse(
            f"the issuer allows {limits.path_length} CA certificates below it (RFC 5280 4.2.1.9); "
            "the profile wants more"
        )
