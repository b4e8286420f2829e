"""
Taking in CA certificates that others signed, and whole CAs that came from elsewhere.

Everything is judged before anything is stored: the path to the trust anchor, the key, what the certificate lets
its holder do, the lints. Then it goes into the store in as few transactions as may be; each may be repeated.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from chancery.asn1 import der
from chancery.errors import ErrorType, PKIError
from chancery.pkix.key import spki_der
from chancery.pkix.lint import Finding, blocking, lint, lint_crl
from chancery.pkix.name import name_text
from chancery.pkix.path import check_path, check_signed, is_self_signed, order, read_certificate, same_key
from chancery.pkix.usage import UNREADABLE
from chancery.ports import (
    Act,
    CertificateKind,
    Event,
    EventDetail,
    EventKind,
    IssuerAct,
    IssuerRecord,
    IssuerStore,
    KeyPlace,
    NewCertificate,
    NewIssuer,
    Place,
    RevocationReason,
    RevokedEntry,
    Takeover,
)

LONGEST_CRL = datetime.timedelta(days=366)
MAX_NUMBER = 2**63 - 1
"""What the database counts CRLs up to; RFC 5280 5.2.3 would allow 20 octets."""
MAX_NAME = 40


def _refuse(detail: str) -> PKIError:
    return PKIError(ErrorType.BAD_REQUEST, detail)


@dataclasses.dataclass(frozen=True, slots=True)
class Judged:
    """A CA certificate with its verified path (itself first, the anchor last), and what the lints say."""

    path: tuple[x509.Certificate, ...]
    findings: tuple[Finding, ...]

    @property
    def certificate(self) -> x509.Certificate:
        return self.path[0]

    @property
    def anchor(self) -> x509.Certificate:
        return self.path[-1]


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """The key in a token here that a CA certificate is for: its SPKI (DER), token, label, and place."""

    spki: bytes
    token_label: str
    key_label: str
    place: KeyPlace


@dataclasses.dataclass(frozen=True, slots=True)
class Who:
    """By whom and why something is done to an issuer, and when."""

    actor: str
    at: datetime.datetime
    reason: str = ""


def judge(
    certificate: bytes, chain: Iterable[bytes], records: Iterable[IssuerRecord], at: datetime.datetime
) -> Judged:
    """
    Verify a CA certificate (DER) up to a trust anchor, made of `chain` and of the issuers that are here.

    Raises PKIError: BAD_DATA_FORMAT for what cannot be read, BAD_REQUEST or BAD_CERT_TEMPLATE for a path that does
    not hold. What blocks among the findings is the caller's to refuse (`refuse_findings`).
    """
    read = read_certificate(certificate)
    known = [read_certificate(one.certificate) for one in records]
    path = tuple(order(read, [*map(read_certificate, chain), *known]))
    check_path(path, at)
    above = path[1] if len(path) > 1 else read
    return Judged(path, tuple(lint(read, issuer=above)))


def refuse_findings(findings: Iterable[Finding], *, accept: bool) -> None:
    """Refuse (BAD_CERT_TEMPLATE) what the lints block, unless a person accepted it; it is journalled then."""
    if (found := blocking(findings)) and not accept:
        raise PKIError(ErrorType.BAD_CERT_TEMPLATE, "; ".join(map(str, found)))


def install(
    name: str,
    judged: Judged,
    held: Held | None,
    store: IssuerStore,
    who: Who,
    *,
    replaces: str | None = None,
    default: str | None = None,
    takeover: Takeover | None = None,
) -> str:
    """
    Store a judged certificate as the issuer `name`, or as a further certificate of that issuer; say which it was.

    The CAs above it that are not here yet come in as issuers without a key. `held` None: the key is elsewhere.
    `replaces` names the issuer whose place this one takes: in one transaction it stops issuing and, if it was the
    default (`default`: the configured one, where no other was chosen), this one is. Returns `issuer`, `renewal`,
    `cross` or `known`. Raises PKIError(BAD_REQUEST) when key, name or issuer do not fit.
    """
    records = {record.name: record for record in store.issuers()}
    certificate, old = judged.certificate, records.get(name)
    if held is not None and held.spki != spki_der(certificate.public_key()):
        raise _refuse(f"the certificate is not for the key `{held.key_label}` in token `{held.token_label}`")
    parent = _store_above(judged, store, who)
    encoded = certificate.public_bytes(Encoding.DER)
    if old is None:
        acts = succession(name, records, (replaces, default), certificate, who)
        new = NewIssuer(
            name,
            encoded,
            parent,
            held.token_label if held else None,
            held.key_label if held else None,
            held.place if held else KeyPlace(Place.EXTERNAL),
        )
        events = [_added(new, judged, who, takeover), *map(act_event, acts)]
        if takeover is not None and takeover.crl_number > 0:
            events.append(_number_event(name, takeover, who))
        store.add_issuer(new, who.at, events, acts, takeover)
        return "issuer"
    if replaces is not None or takeover is not None:
        raise _refuse(f"there is an issuer {name} already: choose another name for the new one")
    return _further(old, judged, parent, store, who)


def _further(old: IssuerRecord, judged: Judged, parent: str | None, store: IssuerStore, who: Who) -> str:
    """Store a further certificate: a renewal when the same CA issued it, else a cross-certificate."""
    encoded = judged.certificate.public_bytes(Encoding.DER)
    current = x509.load_der_x509_certificate(old.certificate)
    if encoded in {old.certificate, *(one.certificate for one in old.further)}:
        return "known"
    if not same_key(judged.certificate, current):
        raise _refuse(
            f"{old.name} has another name or key: a CA with a new key is a new issuer (give it a name of its own, "
            f"and `--replaces {old.name}`)"
        )
    if _key_identifier(judged.certificate) != (wanted := _key_identifier(current)):
        # Otherwise no path is found from what was issued before (RFC 5280 4.2.1.1, 4.2.1.2).
        raise _refuse(
            f"its subject key identifier is not {wanted.hex()}, which the certificates of {old.name} name: "
            "the request asks for it, have the CA take it from there"
        )
    again = judged.certificate.issuer == current.issuer
    kind = CertificateKind.RENEWAL if again else CertificateKind.CROSS
    detail: EventDetail = {**_told(judged), "kind": kind.value, "parent": parent}
    event = Event(EventKind.CA_CERTIFICATE, who.at, who.actor, f"issuer:{old.name}", detail)
    store.add_certificate(NewCertificate(old.name, kind, encoded, parent), who.at, [event])
    return kind.value


def _key_identifier(certificate: x509.Certificate) -> bytes:
    """Return the subject key identifier; empty without one."""
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return b""


def _store_above(judged: Judged, store: IssuerStore, who: Who) -> str | None:
    """Store the CAs above that are not here, the anchor first; return the name of the one just above."""
    parent: str | None = None
    for certificate in reversed(judged.path[1:]):
        records = store.issuers()
        encoded = certificate.public_bytes(Encoding.DER)
        if (known := _named(encoded, records)) is None:
            known = _free_name(certificate, {record.name for record in records})
            new = NewIssuer(known, encoded, parent, None, None, KeyPlace(Place.EXTERNAL))
            above = dataclasses.replace(judged, path=(certificate,), findings=())
            store.add_issuer(new, who.at, [_added(new, above, who, None)])
        parent = known
    return parent


def _named(certificate: bytes, records: Iterable[IssuerRecord]) -> str | None:
    for record in records:
        if certificate in {record.certificate, *(one.certificate for one in record.further)}:
            return record.name
    return None


def _free_name(certificate: x509.Certificate, taken: set[str]) -> str:
    """Make a name for a CA elsewhere of its common name, one that is not taken."""
    common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    text = str(common[0].value) if common else "ca"
    base = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:MAX_NAME].strip("-") or "ca"
    numbers = range(2, len(taken) + 3)
    return next(one for one in (base, *(f"{base}-{number}" for number in numbers)) if one not in taken)


def succession(
    name: str,
    records: Mapping[str, IssuerRecord],
    replaces: tuple[str | None, str | None],
    certificate: x509.Certificate,
    who: Who,
) -> list[IssuerAct]:
    """Return the acts by which an issuer takes another one's place: a new key, the same name (RFC 4210 4.4)."""
    replaced, default = replaces
    if replaced is None:
        return []
    if (old := records.get(replaced)) is None or old.key_label is None:
        raise _refuse(f"there is no issuer {replaced} with a key here")
    before = x509.load_der_x509_certificate(old.certificate)
    if before.subject.public_bytes() != certificate.subject.public_bytes():
        raise _refuse(f"the certificate is for another subject than {name_text(before.subject)}")
    if spki_der(before.public_key()) == spki_der(certificate.public_key()):
        raise _refuse(f"it is for the same key as {replaced}: install it as a further certificate of {replaced}")
    chosen = next((record.name for record in records.values() if record.default), default)
    why = who.reason or f"{name} takes the place of {replaced}"
    acts = []
    if chosen == replaced:
        acts.append(IssuerAct(name, Act.DEFAULT, who.at, who.actor, why))
    if old.active:
        acts.append(IssuerAct(replaced, Act.DEACTIVATE, who.at, who.actor, why))
    return acts


_ACT_KINDS = {
    Act.ACTIVATE: EventKind.CA_ACTIVATED,
    Act.DEACTIVATE: EventKind.CA_DEACTIVATED,
    Act.DEFAULT: EventKind.CA_DEFAULT,
}


def act_event(act: IssuerAct) -> Event:
    """Return the event of an act upon an issuer."""
    return Event(_ACT_KINDS[act.act], act.at, act.actor, f"issuer:{act.issuer}", {"reason": act.reason})


def _told(judged: Judged) -> dict[str, str | int | bool | Sequence[str] | None]:
    encoded = judged.certificate.public_bytes(Encoding.DER)
    return {
        "certificate_sha256": hashlib.sha256(encoded).hexdigest(),
        "findings": sorted({one.code for one in blocking(judged.findings)}),
    }


def _added(issuer: NewIssuer, judged: Judged, who: Who, takeover: Takeover | None) -> Event:
    detail = {**_told(judged), "parent": issuer.parent}
    if issuer.key is not None:
        detail |= {"place": issuer.key.place.value, "imported": issuer.key.imported}
    if takeover is not None:
        detail |= {
            "crl_number": takeover.crl_number,
            "crl_sha256": takeover.crl_sha256.hex(),
            "revoked": len(takeover.revoked),
        }
    return Event(EventKind.CA_IMPORTED, who.at, who.actor, f"issuer:{issuer.name}", detail)


def _number_event(name: str, takeover: Takeover, who: Who) -> Event:
    """R15: the number that is spent by the CRL of before, in the words of every number that is reserved."""
    detail: EventDetail = {"issuer": name, "entries": len(takeover.revoked), "imported": True}
    return Event(EventKind.CRL_INTENT, who.at, who.actor, f"crl:{name}", detail)


def take_over(
    crls: Sequence[bytes], certificate: x509.Certificate, at: datetime.datetime
) -> tuple[Takeover, list[Finding]]:
    """
    Read what a CA has revoked from its last CRL (DER), or from all of its partitions, and what the lints say.

    Raises PKIError(BAD_REQUEST) for a CRL of somebody else, a delta or indirect one, one that is out of date
    (later revocations would be forgotten), a serial that two of them tell differently, or a number beyond 63 bits.
    """
    revoked: dict[bytes, RevokedEntry] = {}
    numbers, findings = [0], list[Finding]()
    for data in crls:
        der.check(data, max_size=64 * 1024 * 1024)
        check_signed(data, certificate, "the CRL")
        try:
            crl = x509.load_der_x509_crl(data)
            _check_crl(crl, certificate, at)
            numbers.append(crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number)
            entries = [_entry(one) for one in crl]
        except (*UNREADABLE, x509.ExtensionNotFound) as error:
            raise _refuse(f"the CRL cannot be read: {error}") from None
        for entry in entries:
            if revoked.setdefault(entry.serial, entry) != entry:
                raise _refuse(f"two CRLs tell serial {entry.serial.hex()} differently")
        findings += lint_crl(data, issuer=certificate, longest=LONGEST_CRL)
    if max(numbers) > MAX_NUMBER:
        raise _refuse("the CRL's number is beyond what can be counted here (63 bits)")
    sha256 = hashlib.sha256(b"".join(crls)).digest()
    return Takeover(max(numbers), sha256, tuple(revoked[key] for key in sorted(revoked))), findings


def _check_crl(crl: x509.CertificateRevocationList, certificate: x509.Certificate, at: datetime.datetime) -> None:
    if crl.issuer != certificate.subject:
        raise _refuse("the CRL names another issuer")
    for one in crl.extensions:
        if isinstance(one.value, x509.DeltaCRLIndicator):
            raise _refuse("a delta CRL tells only what changed: give the complete one")
        if isinstance(one.value, x509.IssuingDistributionPoint) and one.value.indirect_crl:
            raise _refuse("an indirect CRL is about other CAs' certificates, too")
    if crl.next_update_utc is not None and crl.next_update_utc < at:
        raise _refuse(f"the CRL ended at {crl.next_update_utc:%Y-%m-%d %H:%M:%S} UTC: give the CA's last one")


def _entry(entry: x509.RevokedCertificate) -> RevokedEntry:
    reason, invalidity = RevocationReason.UNSPECIFIED, None
    for one in entry.extensions:
        if isinstance(one.value, x509.CRLReason):
            reason = RevocationReason[one.value.reason.name.upper()]
            if reason is RevocationReason.REMOVE_FROM_CRL:
                raise ValueError("removeFromCRL is for delta CRLs")
        elif isinstance(one.value, x509.InvalidityDate):
            invalidity = one.value.invalidity_date_utc
    return RevokedEntry(der.integer_octets(entry.serial_number), entry.revocation_date_utc, reason, invalidity)


def describe(judged: Judged) -> list[tuple[str, object]]:
    """Return what a person has to see before it is stored: names, times, fingerprints, findings."""
    certificate, anchor = judged.certificate, judged.anchor
    pairs: list[tuple[str, object]] = [
        ("subject", name_text(certificate.subject)),
        ("issued by", "itself" if is_self_signed(certificate) else name_text(certificate.issuer)),
        ("until", certificate.not_valid_after_utc),
        ("SHA-256", hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()),
        ("trust anchor", name_text(anchor.subject)),
        ("anchor's SHA-256", hashlib.sha256(anchor.public_bytes(Encoding.DER)).hexdigest()),
    ]
    return pairs + [("finding", str(one)) for one in judged.findings]
