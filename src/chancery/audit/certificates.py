"""
Whether a stored certificate has a right to exist, told from everything but the code that made it.

The certificate is read by another library's eyes, its signature verified there, and what it says compared with
its intent, its row, its request under the recorded profile, and the journal (R1, R9, R27, R29).
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import re
from collections.abc import Iterator, Mapping

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from chancery.asn1 import der, oids
from chancery.asn1.csr import statement_signer
from chancery.asn1.signature import BY_IDENTIFIER, PublicKey, algorithm_from_identifier
from chancery.asn1.x509 import split_signed, subject_fields
from chancery.audit import statuses, trail
from chancery.audit.findings import Finding, Kind
from chancery.audit.trail import Act
from chancery.errors import PKIError
from chancery.pkix import name as names_
from chancery.pkix.extension_rules import KEY_USAGES
from chancery.pkix.granting import Granted, IssuerLimits, Profile, grant, requested
from chancery.pkix.kem import MLKEMPublicKey
from chancery.pkix.key import key_family, key_of, spki_der
from chancery.pkix.lint import blocking, lint
from chancery.ports import CertificateRecord, EventKind, RevocationReason, SecondOpinion
from chancery.ports.auditing import AuditedRequest, AuditedSerial

_WORKER = re.compile(r"worker-(\d{1,3})")
_DATED = 19
"""Octets of a serial that begins with a day: two, the instance octet, 16 random ones."""
# pyca's names of the bits of KeyUsage, in their order.
_USAGE_BITS = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


PICKED_UP = datetime.timedelta(hours=1)
"""Within which every worker has taken up a renewed CA certificate."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ground:
    """An issuer as certificates under it are judged by. `renewals`: from when on which limits hold."""

    name: str
    certificate: x509.Certificate
    key_identifier: bytes | None
    limits: IssuerLimits
    renewals: tuple[tuple[datetime.datetime, IssuerLimits], ...] = ()

    def limits_at(self, at: datetime.datetime) -> list[IssuerLimits]:
        """Return what may have held then: a worker takes a renewed certificate up a moment after it came in."""
        before = [limits for since, limits in self.renewals if since <= at - PICKED_UP]
        lately = [limits for since, limits in self.renewals if at - PICKED_UP < since <= at]
        return [*(before[-1:] or [self.limits]), *lately]


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """
    What stands behind every certificate: issuers by id, and profiles by the SHA-256 of their text.

    `opinions` are the linters of others that profiles name; `opinion` is asked about every certificate.
    """

    issuers: Mapping[int, Ground]
    profiles: Mapping[bytes, Profile]
    opinions: Mapping[str, SecondOpinion] = dataclasses.field(default_factory=dict)
    opinion: SecondOpinion | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One certificate and all that is known of it."""

    row: AuditedSerial
    record: CertificateRecord
    certificate: x509.Certificate
    issuer: Ground | None
    acts: list[Act]
    known: Known

    @property
    def about(self) -> str:
        return subject(self.row)

    def finding(self, kind: Kind, what: str) -> Finding:
        return Finding(kind, self.about, what)


def subject(row: AuditedSerial) -> str:
    """Return how events name a serial number."""
    return f"{row.issuer_id}:{row.serial.hex()}"


def judge(row: AuditedSerial, known: Known) -> Iterator[Finding]:
    """Give every finding about one stored certificate, rule by rule; a rule that throws is one, too."""
    assert row.certificate is not None
    acts = trail.read(row.entries)
    try:
        certificate = x509.load_der_x509_certificate(row.certificate.der)
        key_of(certificate)
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm, PKIError) as error:
        yield Finding(Kind.UNREADABLE, subject(row), f"the stored certificate cannot be read: {error}")
        return
    case = Case(row, row.certificate, certificate, known.issuers.get(row.issuer_id), acts, known)
    for rule in _RULES:
        try:
            yield from list(rule(case))
        except Exception as error:  # noqa: BLE001 - what no rule foresaw is a finding, not the end of the audit
            yield case.finding(Kind.NOT_JUDGED, f"{rule.__name__.strip('_')}: {type(error).__name__}: {error}")


def _intent(case: Case) -> Iterator[Finding]:
    """What was signed is what was recorded before, byte for byte (docs/issuance.md)."""
    intent, record = case.row.intent, case.record
    if intent is None:
        yield case.finding(Kind.NO_INTENT, "no intent was recorded before it was signed")
        return
    if case.certificate.tbs_certificate_bytes != intent.tbs:
        yield case.finding(Kind.NOT_INTENDED, "its TBSCertificate is not the one that was recorded")
    for column in ("request_id", "not_after", "profile"):
        if getattr(intent, column) != getattr(record, column):
            yield case.finding(Kind.WRONG_COLUMN, f"{column} is not the intent's")


def _chain(case: Case) -> Iterator[Finding]:
    """RFC 5280 6.1.3: the signature, the names, and the key identifiers that link them (4.2.1.1)."""
    if case.issuer is None:
        yield case.finding(Kind.BAD_CHAIN, "the certificate of its issuer is not stored, or cannot be read")
        return
    try:
        case.certificate.verify_directly_issued_by(case.issuer.certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
        why = str(error) or "the signature does not verify"
        yield case.finding(Kind.BAD_CHAIN, f"not issued under the certificate of {case.issuer.name}: {why}")
    try:
        found = case.certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except x509.ExtensionNotFound:
        found = None
    if found is None or found.key_identifier != case.issuer.key_identifier:
        yield case.finding(Kind.BAD_CHAIN, f"its authority key identifier is not that of {case.issuer.name}")


def _serial(case: Case) -> Iterator[Finding]:
    """R1: positive, at most 20 octets, day of expiry, instance octet, at least 64 random bits."""
    serial = case.row.serial
    if der.integer_octets(case.certificate.serial_number) != serial:
        yield case.finding(Kind.WRONG_COLUMN, f"its serial number is {case.certificate.serial_number:x}")
    if not (9 <= len(serial) <= 20 and 1 <= serial[0] <= 127):
        yield case.finding(Kind.BAD_SERIAL, "not 9 to 20 octets with the first between 1 and 127 (R1)")
        return
    match = _WORKER.fullmatch(case.row.worker or "")
    if match is None:
        return
    # Those of earlier releases begin with the instance octet.
    dated = len(serial) == _DATED
    instance = serial[2] if dated else serial[0]
    if int(match[1]) != instance:
        yield case.finding(Kind.BAD_SERIAL, f"its instance octet is {instance}, the intent is {match[0]}'s (R1)")
    elif dated and serial[:2] != _day(case.certificate.not_valid_after_utc):
        yield case.finding(Kind.BAD_SERIAL, "it does not begin with the day on which the certificate expires")


def _day(not_after: datetime.datetime) -> bytes:
    return min(max((not_after.date() - datetime.date(1970, 1, 1)).days, 0x0100), 0x7FFF).to_bytes(2, "big")


def _columns(case: Case) -> Iterator[Finding]:
    """What is searched for is what the certificate says."""
    certificate, record = case.certificate, case.record
    spki = spki_der(key_of(certificate))
    said = {
        "subject": names_.name_text(certificate.subject),
        "names": _names(certificate),
        "spki_sha256": hashlib.sha256(spki).digest(),
        "not_before": certificate.not_valid_before_utc,
        "not_after": certificate.not_valid_after_utc,
    }
    if wrong := [column for column, value in said.items() if getattr(record, column) != value]:
        yield case.finding(Kind.WRONG_COLUMN, f"the certificate says something else than {', '.join(wrong)}")


def _names(source: x509.Certificate | x509.CertificateSigningRequest) -> tuple[str, ...]:
    try:
        return names_.names_of(source.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return ()


def _right(case: Case) -> Iterator[Finding]:
    """The request was made for this key and these names, and the recorded profile grants exactly this."""
    request = case.row.request
    if request is None:
        yield case.finding(Kind.WRONG_REQUEST, f"the request {case.record.request_id} that it answers is gone")
        return
    try:
        csr = x509.load_der_x509_csr(request.request.csr)
        mute = isinstance(key_of(csr), MLKEMPublicKey)
        signed = _stated(case, csr) if mute else csr.is_signature_valid
        if not signed:
            whose = "a key of the same subject (RFC 9883 4)" if mute else "the request's own key (RFC 2986 3)"
            what = f"the signature of its request does not verify under {whose}"
            yield case.finding(Kind.WRONG_REQUEST, what)
            return
        asked = requested(request.request.csr, request.request.names, request.request.wish)
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion, PKIError) as error:
        yield case.finding(Kind.WRONG_REQUEST, f"the request that it answers cannot be read: {error}")
        return
    if wrong := _mismatch(case, request, csr, {*asked.csr_names, *asked.names}):
        yield case.finding(Kind.WRONG_REQUEST, wrong)
        return
    intent = case.row.intent
    profile = case.known.profiles.get(intent.profile_sha256) if intent else None
    if intent is None or case.issuer is None:
        # Said already; without them there is nothing to derive it from.
        return
    if profile is None or (profile.name, profile.version) != (intent.profile, intent.profile_version):
        what = (
            f"the text of {intent.profile} version {intent.profile_version} with the recorded hash is not stored"
        )
        yield case.finding(Kind.WRONG_PROFILE, what)
        return
    algorithm = BY_IDENTIFIER.get(split_signed(case.record.der)[1])
    wrong_under: list[str] = []
    for limits in case.issuer.limits_at(intent.recorded_at):
        by = dataclasses.replace(limits, algorithm=algorithm.name if algorithm else None)
        try:
            granted = grant(profile, asked, by, intent.recorded_at)
        except (PKIError, OverflowError) as error:
            wrong_under.append(f"the profile {profile.name} does not grant it: {error}")
            continue
        beyond = [*_usages(case, profile), *_differences(case, granted)]
        if not beyond:
            return
        wrong_under.append(f"the profile {profile.name} grants something else: {'; '.join(dict.fromkeys(beyond))}")
    yield case.finding(Kind.NOT_GRANTED, wrong_under[-1])


def _stated(case: Case, csr: x509.CertificateSigningRequest) -> bool:
    """RFC 9883 4: signed by the subject's other key, under a certificate of ours that was valid then."""
    attributes = der.Reader(csr.tbs_certrequest_bytes).enter()
    attributes.take(der.INTEGER)
    attributes.raw(der.SEQUENCE)
    attributes.raw(der.SEQUENCE)
    stated = statement_signer(attributes)
    at = case.row.intent.recorded_at if case.row.intent else case.record.issued_at
    if stated is None:
        return False
    signer = x509.load_der_x509_certificate(stated)
    if signer.subject != csr.subject or not signer.not_valid_before_utc <= at <= signer.not_valid_after_utc:
        return False
    for ground in case.known.issuers.values():
        try:
            signer.verify_directly_issued_by(ground.certificate)
            _, algorithm, signature = split_signed(csr.public_bytes(Encoding.DER))
            key = signer.public_key()
            if isinstance(key, PublicKey):
                algorithm_from_identifier(algorithm).verify(key, signature, csr.tbs_certrequest_bytes)
                return True
        except (ValueError, TypeError, InvalidSignature):
            continue
    return False


def _mismatch(
    case: Case, request: AuditedRequest, csr: x509.CertificateSigningRequest, asked: set[str]
) -> str | None:
    if spki_der(key_of(case.certificate)) != spki_der(key_of(csr)):
        return "it certifies another key than the one whose possession was proven"
    if beyond := sorted(set(_names(case.certificate)) - asked):
        return f"nobody asked for {', '.join(beyond)}"
    if request.request.profile != case.record.profile:
        return f"the profile {request.request.profile} was asked for"
    if case.issuer is not None and request.request.issuer not in {None, case.issuer.name}:
        return f"the issuer {request.request.issuer} was asked for"
    if request.state != "done":
        return f"its request is {request.state}"
    return None


def _usages(case: Case, profile: Profile) -> Iterator[str]:
    """What the key may be used for, told from the profile's words and not by what builds extensions."""
    if profile.ceremony:
        yield "certificates of this profile are signed in a ceremony (R8)"
    rule, values = profile.extensions, {type(one.value): one.value for one in case.certificate.extensions}
    family = key_family(key_of(case.certificate))
    bits = {*rule.key_usage, *{"rsa": rule.key_usage_rsa, "ec": rule.key_usage_ec}.get(family, ())}
    if family == "ml-kem":  # RFC 9935 5
        bits = {"keyEncipherment"}
    usage = values.get(x509.KeyUsage)
    # pyca refuses the last two bits without keyAgreement, where they mean nothing.
    told = _USAGE_BITS if isinstance(usage, x509.KeyUsage) and usage.key_agreement else _USAGE_BITS[:-2]
    found = {name for name, bit in zip(KEY_USAGES, told, strict=False) if getattr(usage, bit, False)}
    if found != bits:
        yield "keyUsage"
    purposes = values.get(x509.ExtendedKeyUsage)
    wanted = {oids.EXTENDED_KEY_USAGES.get(one, one) for one in rule.extended_key_usage}
    allowed = {oids.EXTENDED_KEY_USAGES.get(one, one) for one in rule.extended_key_usage_allowed}
    said = {one.dotted_string for one in (purposes if isinstance(purposes, x509.ExtendedKeyUsage) else ())}
    if not wanted <= said <= wanted | allowed or (allowed and not said):
        yield "extendedKeyUsage"
    basic = values.get(x509.BasicConstraints)
    ca = isinstance(basic, x509.BasicConstraints) and basic.ca
    if ca != rule.ca:
        yield "basicConstraints"


def _differences(case: Case, granted: Granted) -> Iterator[str]:
    """RFC 5280 4.1.2: each field that is not what the rules give when run again for that moment."""
    certificate, record = case.certificate, case.record
    raw_subject, spki = subject_fields(record.der)
    if (
        certificate.not_valid_before_utc != granted.not_before
        or certificate.not_valid_after_utc != granted.not_after
    ):
        yield f"validity from {granted.not_before:%Y-%m-%d %H:%M:%S} to {granted.not_after:%Y-%m-%d %H:%M:%S}"
    if raw_subject != granted.subject:
        yield f"subject {granted.subject_text!r}"
    if spki != granted.spki:
        yield "subjectPublicKeyInfo"
    extensions = _raw_extensions(record.der)
    expected = {_oid(one): one for one in granted.extensions}
    added = {oids.AUTHORITY_KEY_IDENTIFIER}
    if granted.ocsp or granted.ca_issuers:
        added.add(oids.AUTHORITY_INFO_ACCESS)
    if granted.crl:
        added.add(oids.CRL_DISTRIBUTION_POINTS)
    if granted.freshest:
        added.add(oids.FRESHEST_CRL)
    found: dict[str, bytes] = {}
    for one in extensions:
        oid = _oid(one)
        if oid in found or (oid not in expected and oid not in added):
            yield f"no extension {oid}"
        found[oid] = one
    for oid, one in expected.items():
        if found.get(oid) != one:
            yield _EXTENSION_NAMES.get(oid, f"the extension {oid}")


_EXTENSION_NAMES = {
    oids.BASIC_CONSTRAINTS: "basicConstraints",
    oids.KEY_USAGE: "keyUsage",
    oids.EXTENDED_KEY_USAGE: "extendedKeyUsage",
    oids.SUBJECT_ALT_NAME: "subjectAltName",
    oids.SUBJECT_KEY_IDENTIFIER: "subjectKeyIdentifier",
}


def _raw_extensions(certificate: bytes) -> list[bytes]:
    tbs = der.Reader(split_signed(certificate)[0]).enter()
    while tbs.peek() not in {0xA3, None}:
        tbs.raw()
    reader = tbs.enter(0xA3).enter()
    found = []
    while reader:
        found.append(reader.raw(der.SEQUENCE))
    return found


def _oid(extension: bytes) -> str:
    return der.Reader(extension).enter().oid()


def _blocklist(case: Case) -> Iterator[Finding]:
    """R5: no certificate for a key that was reported compromised before, and every such key blocked."""
    blocked_at, intent, status = case.row.blocked_at, case.row.intent, case.row.status
    if blocked_at is not None and intent is not None and blocked_at < intent.recorded_at - trail.SKEW:
        yield case.finding(Kind.BLOCKED_KEY, f"its key was blocked before, at {blocked_at.isoformat()}")
    compromised = {int(reason) for reason in RevocationReason if reason.compromised}
    if blocked_at is None and status is not None and status.state == "revoked" and status.reason in compromised:
        yield case.finding(Kind.BLOCKED_KEY, "it is revoked as compromised, and its key is not blocked")


def _lints(case: Case) -> Iterator[Finding]:
    """R9: what forbids issuing."""
    issuer = case.issuer.certificate if case.issuer else None
    for one in blocking(lint(case.certificate, issuer=issuer)):
        yield case.finding(Kind.LINT, str(one))


def _second_opinions(case: Case) -> Iterator[Finding]:
    """R9: what other linters say: the one that is asked about all, and those of the recorded profile."""
    known, intent = case.known, case.row.intent
    profile = known.profiles.get(intent.profile_sha256) if intent else None
    asked = [] if known.opinion is None else [known.opinion]
    for name in profile.second_opinions.by_auditor if profile else ():
        if name in known.opinions:
            asked.append(known.opinions[name])
        else:
            what = f"{profile and profile.name} wants the linter {name}, which the auditor's configuration lacks"
            yield case.finding(Kind.SECOND_OPINION, what)
    for opinion in asked:
        try:
            said = opinion(case.record.der)
        except PKIError as error:
            said = error.detail
        if said is not None:
            yield case.finding(Kind.SECOND_OPINION, said)


def _journal(case: Case) -> Iterator[Finding]:
    """R27: asked for, intended, issued: each once, in this order, and of what is stored."""
    row, record, about = case.row, case.record, case.about
    issued = trail.of(case.acts, EventKind.CERTIFICATE_ISSUED, about)
    intended = trail.of(case.acts, EventKind.INTENT_RECORDED, about)
    received = _received(case)
    yield from trail.once(intended, EventKind.INTENT_RECORDED, about)
    yield from trail.once(issued, EventKind.CERTIFICATE_ISSUED, about)
    if row.request is not None:
        yield from trail.once(received, EventKind.REQUEST_RECEIVED, about)
    yield from trail.ordered(about, *received[:1], *intended[:1], *issued[:1])
    asked = _asked(case)
    for act in intended[:1]:
        yield from statuses.intent_agrees(row, act, asked)
    for act in issued[:1]:
        told = {
            "subject": record.subject,
            "names": list(record.names),
            "certificate_sha256": hashlib.sha256(record.der).hexdigest(),
        }
        yield from trail.says(act, about, {**asked, **told})
        yield from trail.dated(act, about, record.issued_at, "issued_at")


def _received(case: Case) -> list[Act]:
    if case.row.request is None:
        return []
    request = case.row.request.request
    return trail.of(
        case.acts, EventKind.REQUEST_RECEIVED, f"transaction:{request.transaction_id}", request.requestor
    )


def _asked(case: Case) -> dict[str, object]:
    issuer = {"issuer": case.issuer.name} if case.issuer else {}
    return {**statuses.asked(case.row), **issuer}


def _request_journal(case: Case) -> Iterator[Finding]:
    """The request is the one that was received."""
    for act in _received(case)[:1]:
        assert case.row.request is not None
        request = case.row.request.request
        told = {
            "csr_sha256": hashlib.sha256(request.csr).hexdigest(),
            "profile": request.profile,
            "issuer": request.issuer,
            "names": list(request.names),
            "protocol": request.protocol,
        }
        if request.wish is not None:
            told["wish"] = request.wish
        yield from trail.says(act, case.about, told)
        if abs(act.at - request.received_at) > trail.SKEW:
            yield from trail.dated(act, case.about, request.received_at, "received_at")


def _status(case: Case) -> Iterator[Finding]:
    yield from statuses.judge(case.row, case.acts)


_RULES = (
    _intent,
    _chain,
    _serial,
    _columns,
    _right,
    _blocklist,
    _lints,
    _second_opinions,
    _journal,
    _request_journal,
    _status,
)
