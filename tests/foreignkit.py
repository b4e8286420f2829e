"""CRLs of a foreign CA, made by pyca's builder: another implementation than the one that reads them."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from chancery.ports import Event, EventKind
from fakes import START
from ocspkit import certificate, key, name

HOUR = datetime.timedelta(hours=1)
URL = "http://partner.example.org/ca.crl"
OTHER = "http://partner.example.org/cas.crl"
LISTED, HELD, UNLISTED = 0x1101, 0x1102, 0x1103


def event(kind: EventKind = EventKind.FOREIGN_ADDED) -> Event:
    """An act upon the foreign CA."""
    return Event(kind, START, "os:olga", "foreign:partner")


def ca(subject: str = "Partner", **changes: object) -> x509.Certificate:
    """The foreign CA's certificate."""
    return x509.load_der_x509_certificate(certificate(subject, subject, 7, ca=True, **changes))


def delegate_of(subject: str = "Partner", **changes: object) -> bytes:
    """A delegate certificate that it made for the key `Responder`."""
    usage = x509.ExtendedKeyUsageOID.OCSP_SIGNING
    return certificate("Responder", subject, 99, **{"usage": usage, "nocheck": True, **changes})


def idp(
    url: str | None = URL, *, users: bool = False, authorities: bool = False, indirect: bool = False
) -> x509.IssuingDistributionPoint:
    names = None if url is None else [x509.UniformResourceIdentifier(url)]
    return x509.IssuingDistributionPoint(
        full_name=names,
        relative_name=None,
        only_contains_user_certs=users,
        only_contains_ca_certs=authorities,
        only_some_reasons=None,
        indirect_crl=indirect,
        only_contains_attribute_certs=False,
    )


def revoked(
    serial: int, reason: x509.ReasonFlags | None = None, at: datetime.datetime = START - HOUR
) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at)
    if reason is not None:
        builder = builder.add_extension(x509.CRLReason(reason), critical=False)
    return builder.build()


def crl(
    *entries: x509.RevokedCertificate,
    number: int | None = 1,
    base: int | None = None,
    point: x509.IssuingDistributionPoint | None = None,
    freshest: str | None = None,
    issuer: str = "Partner",
    signer: str | None = None,
    this_update: datetime.datetime = START - HOUR,
    hours: float = 24,
    more: x509.ExtensionType | None = None,
) -> bytes:
    """A CRL (DER) of the foreign CA."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name(issuer))
        .last_update(this_update)
        .next_update(this_update + hours * HOUR)
    )
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    if base is not None:
        builder = builder.add_extension(x509.DeltaCRLIndicator(base), critical=True)
    if point is not None:
        builder = builder.add_extension(point, critical=True)
    if freshest is not None:
        names = [x509.UniformResourceIdentifier(freshest)]
        at = x509.DistributionPoint(full_name=names, relative_name=None, reasons=None, crl_issuer=None)
        builder = builder.add_extension(x509.FreshestCRL([at]), critical=False)
    if more is not None:
        builder = builder.add_extension(more, critical=True)
    for one in entries:
        builder = builder.add_revoked_certificate(one)
    return builder.sign(key(signer or issuer), hashes.SHA256()).public_bytes(Encoding.DER)
