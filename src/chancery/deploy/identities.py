"""
Keys and certificates of the links between hosts, by a CA that lives for one call (ADR 0011).

Its key is never written anywhere, so that nobody can steal it; new links mean new certificates for all of them.
"""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from chancery.deploy.configs import SITE_CA, TLS
from chancery.deploy.files import File
from chancery.deploy.site import TOKENS, Site
from chancery.deploy.units import account

DAYS = 800
_BACK = datetime.timedelta(minutes=5)


@dataclasses.dataclass(frozen=True, slots=True)
class Link:
    """One end of links: its host, the file's stem, the owner of its key, the name that the other end checks."""

    host: str
    stem: str
    owner: str
    name: str
    address: str | None = None


def links(site: Site) -> list[Link]:
    """Return every end of every link of the site."""
    found = []
    for name, host in sorted(site.hosts.items()):
        processes = [process for process in ("ca", "worker", "ocsp", "tsa") if process in host.runs]
        found += [Link(name, process, account(process), f"{process}.{name}") for process in processes]
        if "ca" in host.runs:
            found.append(Link(name, "auditor", "chancery-auditor", f"auditor.{name}"))
        if "database" in host.runs:
            found.append(Link(name, "postgresql", "postgres", name, host.address))
        if "hsm" in host.runs:
            roles = sorted(set(TOKENS.values()))
            found += [Link(name, f"token-{role}", f"chancery-token-{role}", name) for role in roles]
    return found


def make_identities(site: Site, at: datetime.datetime, days: int = DAYS) -> dict[str, list[File]]:
    """
    Return for each host the files of its ends: a P-256 key (PKCS#8 PEM, 0600), its certificate, the CA's.

    All are valid from `at` (UTC) for so many days.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    title = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{site.organization[:41]} links {at:%Y-%m-%d}")])
    signing = _Signing(title, key, at - _BACK, at + datetime.timedelta(days=days))
    authority = _certificate(signing, title, key.public_key(), None)
    found: dict[str, list[File]] = {}
    for link in links(site):
        files = found.setdefault(link.host, [File(str(SITE_CA), authority.public_bytes(Encoding.PEM))])
        own = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, link.name)])
        certificate = _certificate(signing, name, own.public_key(), link)
        pem = own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        files.append(File(f"{TLS}/{link.stem}.key", pem, 0o600, link.owner, link.owner))
        files.append(File(f"{TLS}/{link.stem}.pem", certificate.public_bytes(Encoding.PEM)))
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class _Signing:
    """The CA of one call: its name and key, and the validity of all that it signs."""

    name: x509.Name
    key: ec.EllipticCurvePrivateKey
    not_before: datetime.datetime
    not_after: datetime.datetime


def _certificate(
    signing: _Signing, subject: x509.Name, key: ec.EllipticCurvePublicKey, link: Link | None
) -> x509.Certificate:
    """Sign one certificate of RFC 5280; without a link it is the CA's own (pathLenConstraint 0)."""
    constraints = x509.BasicConstraints(ca=link is None, path_length=0 if link is None else None)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.key.public_key())
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signing.name)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(signing.not_before)
        .not_valid_after(signing.not_after)
        .add_extension(constraints, critical=True)
        .add_extension(_usage(authority=link is None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(authority, critical=False)
    )
    if link is not None:
        names: list[x509.GeneralName] = [x509.DNSName(link.name)]
        names += [x509.IPAddress(ipaddress.ip_address(link.address))] if link.address else []
        both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(both, critical=False)
    return builder.sign(signing.key, hashes.SHA256())


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
