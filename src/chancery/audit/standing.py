"""Whether the issuers, profiles and operators of an installation came into it as the journal says (R27, R29)."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chancery.audit import trail
from chancery.audit.certificates import Ground
from chancery.audit.findings import Finding, Kind
from chancery.audit.trail import Act
from chancery.errors import OperatorError
from chancery.pkix.granting import Profile
from chancery.pkix.lint import blocking, lint
from chancery.pkix.path import limits, same_key
from chancery.pkix.profile import parse_profile
from chancery.pkix.usage import UNREADABLE
from chancery.ports import EventKind, ProfileRecord, ProfileSwitch
from chancery.ports.auditing import AuditedIssuer, AuditedOperator

ACTS = {
    "activate": EventKind.CA_ACTIVATED,
    "deactivate": EventKind.CA_DEACTIVATED,
    "default": EventKind.CA_DEFAULT,
}
KINDS = (
    EventKind.CA_CREATED,
    EventKind.CA_IMPORTED,
    EventKind.CA_FOREIGN_REVOKED,
    EventKind.CA_CERTIFICATE,
    *ACTS.values(),
    EventKind.PROFILE_LOADED,
    EventKind.PROFILE_DEACTIVATED,
    EventKind.PROFILE_ACTIVATED,
    EventKind.OPERATOR_ENROLLED,
    EventKind.OPERATOR_REMOVED,
)


def grounds(issuers: Sequence[AuditedIssuer]) -> dict[int, Ground]:
    """Return the issuers that can be read, by id."""
    found = {}
    for issuer in issuers:
        try:
            certificate = x509.load_der_x509_certificate(issuer.record.certificate)
            values = {type(one.value): one.value for one in certificate.extensions}
            certificate.public_key()
        except (*UNREADABLE, x509.InvalidVersion, UnsupportedAlgorithm):
            continue
        ski = values.get(x509.SubjectKeyIdentifier)
        renewed = [one for one in issuer.further if one.kind == "renewal"]
        found[issuer.record.issuer_id] = Ground(
            issuer.record.name,
            certificate,
            ski.digest if isinstance(ski, x509.SubjectKeyIdentifier) else None,
            limits((certificate,)),
            tuple((one.added_at, limits((x509.load_der_x509_certificate(one.certificate),))) for one in renewed),
        )
    return found


def judge_issuers(
    issuers: Sequence[AuditedIssuer], known: Mapping[int, Ground], acts: Sequence[Act]
) -> Iterator[Finding]:
    """Each CA certificate is read, chained, linted, compared with its columns, and journalled once."""
    for issuer in issuers:
        about = f"issuer:{issuer.record.name}"
        ground = known.get(issuer.record.issuer_id)
        if ground is None:
            yield Finding(Kind.WRONG_ISSUER, about, "its certificate cannot be read")
            continue
        above = ground if issuer.record.parent_id is None else known.get(issuer.record.parent_id)
        yield from _chain(about, ground, above)
        yield from _issuer_columns(about, issuer, ground.certificate)
        added = [*trail.of(acts, EventKind.CA_IMPORTED, about), *trail.of(acts, EventKind.CA_CREATED, about)]
        yield from trail.once(added, EventKind.CA_IMPORTED, about)
        for act in added[:1]:
            sha256 = hashlib.sha256(issuer.record.certificate).hexdigest()
            here = issuer.taken_over - len(trail.of(acts, EventKind.CA_FOREIGN_REVOKED, about))
            taken = {"revoked": here} if here or "revoked" in act.detail else {}
            yield from trail.says(act, about, {"certificate_sha256": sha256, **taken})
        yield from _further(about, issuer, ground, known, acts)
        yield from _acts(about, issuer, acts)
    names = {issuer.record.name for issuer in issuers}
    imported = [*trail.of(acts, EventKind.CA_IMPORTED), *trail.of(acts, EventKind.CA_CREATED)]
    yield from _gone(imported, "issuer", names)


def _further(
    about: str, issuer: AuditedIssuer, ground: Ground, known: Mapping[int, Ground], acts: Sequence[Act]
) -> Iterator[Finding]:
    """Each further certificate is for the same name and key, signed by who is above it, and journalled once."""
    told = {act.detail.get("certificate_sha256"): act for act in trail.of(acts, EventKind.CA_CERTIFICATE, about)}
    for one in issuer.further:
        certificate = x509.load_der_x509_certificate(one.certificate)
        if not same_key(certificate, ground.certificate):
            yield Finding(Kind.WRONG_ISSUER, about, "a further certificate is for another name or key")
        above = ground if one.parent_id is None else known.get(one.parent_id)
        yield from _chain(about, dataclasses.replace(ground, certificate=certificate), above)
        act = told.pop(hashlib.sha256(one.certificate).hexdigest(), None)
        yield from trail.once([act] if act else [], EventKind.CA_CERTIFICATE, about)
        if act is not None:
            yield from trail.says(act, about, {"kind": one.kind})
            yield from trail.dated(act, about, one.added_at, "added_at")
    for act in told.values():
        yield Finding(Kind.STRAY, about, f"event {act.event_id} added a certificate that is not stored")


def _acts(about: str, issuer: AuditedIssuer, acts: Sequence[Act]) -> Iterator[Finding]:
    """Who issues, and who is the default, became so by journalled acts alone (R27)."""
    for name, kind in ACTS.items():
        stored = [(at, actor) for act, at, actor in issuer.acts if act == name]
        told = [(act.at, act.actor) for act in trail.of(acts, kind, about)]
        if stored != told:
            what = (
                f"{len(stored)} times `{name}` is stored, {len(told)} journalled, or by others or at other times"
            )
            yield Finding(Kind.NOT_JOURNALLED, about, what)


def _chain(about: str, ground: Ground, above: Ground | None) -> Iterator[Finding]:
    if above is None:
        yield Finding(Kind.WRONG_ISSUER, about, "the issuer above it is not stored, or cannot be read")
        return
    try:
        ground.certificate.verify_directly_issued_by(above.certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
        why = str(error) or "the signature does not verify"
        yield Finding(Kind.WRONG_ISSUER, about, f"not issued under the certificate of {above.name}: {why}")
    for one in blocking(lint(ground.certificate, issuer=above.certificate)):
        yield Finding(Kind.LINT, about, str(one))


def _issuer_columns(about: str, issuer: AuditedIssuer, certificate: x509.Certificate) -> Iterator[Finding]:
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    said = {
        "subject": certificate.subject.rfc4514_string(),
        "spki_sha256": hashlib.sha256(spki).digest(),
        "not_before": certificate.not_valid_before_utc,
        "not_after": certificate.not_valid_after_utc,
    }
    if wrong := [column for column, value in said.items() if getattr(issuer, column) != value]:
        yield Finding(Kind.WRONG_COLUMN, about, f"the certificate says something else than {', '.join(wrong)}")


def read_profiles(profiles: Sequence[ProfileRecord]) -> tuple[dict[bytes, Profile], list[Finding]]:
    """Return the profiles whose text is the recorded one, by hash, and what is wrong with the others."""
    found, findings = {}, []
    for row in profiles:
        about = f"profile:{row.name}"
        if hashlib.sha256(row.source.encode()).digest() != row.sha256:
            what = f"the text of version {row.version} does not have the SHA-256 {row.sha256.hex()}"
            findings.append(Finding(Kind.WRONG_PROFILE, about, what))
            continue
        try:
            profile = parse_profile(row.source)
        except OperatorError as error:
            findings.append(Finding(Kind.WRONG_PROFILE, about, error.what))
            continue
        if (profile.name, profile.version) != (row.name, row.version):
            what = f"its text is of {profile.name} version {profile.version}, its row says {row.version}"
            findings.append(Finding(Kind.WRONG_PROFILE, about, what))
            continue
        found[row.sha256] = profile
    return found, findings


def judge_profiles(profiles: Sequence[ProfileRecord], acts: Sequence[Act]) -> Iterator[Finding]:
    """Each text was journalled once, when it was first loaded."""
    for row in profiles:
        about, sha256 = f"profile:{row.name}", row.sha256.hex()
        loaded = [a for a in trail.of(acts, EventKind.PROFILE_LOADED, about) if a.detail.get("sha256") == sha256]
        yield from trail.once(loaded, EventKind.PROFILE_LOADED, f"{about} {sha256[:16]}")
        for act in loaded[:1]:
            yield from trail.says(act, about, {"version": row.version})
            yield from trail.dated(act, about, row.added_at, "added_at")
    stored = {(f"profile:{row.name}", row.sha256.hex()) for row in profiles}
    for act in trail.of(acts, EventKind.PROFILE_LOADED):
        if (act.subject, act.detail.get("sha256")) not in stored:
            yield Finding(Kind.STRAY, act.subject, f"event {act.event_id} loaded a text that is not stored")


def judge_switches(switches: Sequence[ProfileSwitch], acts: Sequence[Act]) -> Iterator[Finding]:
    """Each switch of a profile is in the journal as it stands, and each one in the journal stands."""
    kinds = {False: EventKind.PROFILE_DEACTIVATED, True: EventKind.PROFILE_ACTIVATED}
    rows = Counter((f"profile:{o.name}", kinds[o.active].value, o.operator, o.at, o.reason) for o in switches)
    told = Counter(
        (act.subject, act.kind, act.actor, act.at, str(act.detail.get("reason")))
        for kind in kinds.values()
        for act in trail.of(acts, kind)
    )
    for about, kind, operator, at, _ in rows - told:
        yield Finding(
            Kind.NOT_JOURNALLED, about, f"no {kind} event of {at.isoformat()} by {operator} is like its row"
        )
    for about, kind, operator, at, _ in told - rows:
        yield Finding(Kind.STRAY, about, f"the {kind} event of {at.isoformat()} by {operator} has no row")


def judge_operators(operators: Sequence[AuditedOperator], acts: Sequence[Act]) -> Iterator[Finding]:
    """Each operator has a stored certificate, was enrolled with these roles, and is removed if so journalled."""
    for row in operators:
        about = f"operator:{row.name}"
        if not row.certificate:
            yield Finding(Kind.WRONG_OPERATOR, about, "no certificate with its fingerprint is stored")
        enrolled = trail.of(acts, EventKind.OPERATOR_ENROLLED, about)
        removed = trail.of(acts, EventKind.OPERATOR_REMOVED, about)
        yield from trail.once(enrolled, EventKind.OPERATOR_ENROLLED, about)
        for act in enrolled[:1]:
            told = {
                "certificate_sha256": row.fingerprint.hex(),
                "roles": sorted(row.roles),
                "profiles": None if row.profiles is None else sorted(row.profiles),
            }
            yield from trail.says(act, about, told)
            if abs(act.at - row.added_at) > trail.SKEW:
                yield from trail.dated(act, about, row.added_at, "added_at")
        if (row.removed_at is None) == bool(removed):
            is_now = "not removed" if row.removed_at is None else "removed"
            was = f"event {removed[0].event_id} removed it" if removed else "no event removed it"
            yield Finding(Kind.WRONG_OPERATOR, about, f"{was}, and it is {is_now}")
    yield from _gone(trail.of(acts, EventKind.OPERATOR_ENROLLED), "operator", {row.name for row in operators})


def _gone(acts: Sequence[Act], what: str, names: set[str]) -> Iterator[Finding]:
    for act in acts:
        if act.subject.removeprefix(f"{what}:") not in names:
            yield Finding(Kind.STRAY, act.subject, f"event {act.event_id} ({act.kind}) has no row")
