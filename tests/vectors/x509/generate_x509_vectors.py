"""
Write the vectors: python tests/vectors/x509/generate_x509_vectors.py DIRECTORY

Certificates and CRLs made by two other implementations, OpenSSL's command line and the builders of the
`cryptography` package, from the inputs that tests/unit/pkix/test_x509_vectors.py gives to the templates. The keys
are drawn here and thrown away: the public keys are read back from the vectors.
"""

from __future__ import annotations

import datetime
import ipaddress
import subprocess
import sys
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

START = datetime.datetime(2026, 11, 24, 12, 0, tzinfo=datetime.UTC)
LATE = datetime.datetime(2051, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
SERIAL = int.from_bytes(b"\x01" + bytes(range(16)), "big")
ISSUER = x509.Name(
    [
        x509.NameAttribute(NameOID.COUNTRY_NAME, "XX"),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Beispiel AG"),
        x509.NameAttribute(NameOID.COMMON_NAME, "Issuing"),
    ]
)
SUBJECT = x509.Name(
    [
        x509.NameAttribute(NameOID.COUNTRY_NAME, "XX"),
        x509.NameAttribute(NameOID.LOCALITY_NAME, "Zürich"),
        x509.NameAttribute(NameOID.DOMAIN_COMPONENT, "example"),
        x509.NameAttribute(NameOID.SERIAL_NUMBER, "17"),
        x509.NameAttribute(NameOID.COMMON_NAME, "www.example.org"),
        x509.NameAttribute(NameOID.EMAIL_ADDRESS, "a@example.org"),
    ]
)


def usage(*bits: int) -> x509.KeyUsage:
    return x509.KeyUsage(*(bit in bits for bit in range(9)))


def leaf(key, not_after, *extensions: tuple[x509.ExtensionType, bool], subject=SUBJECT) -> x509.CertificateBuilder:
    builder = (
        x509.CertificateBuilder()
        .serial_number(SERIAL)
        .issuer_name(ISSUER)
        .subject_name(subject)
        .public_key(key.public_key())
        .not_valid_before(START)
        .not_valid_after(not_after)
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical=critical)
    return builder


def pyca(directory: Path) -> None:
    signer = ec.generate_private_key(ec.SECP256R1())
    aki = x509.AuthorityKeyIdentifier(b"\x11" * 20, None, None)
    access = x509.AuthorityInformationAccess(
        [
            x509.AccessDescription(
                x509.AuthorityInformationAccessOID.OCSP,
                x509.UniformResourceIdentifier("http://ocsp.example.org/"),
            ),
            x509.AccessDescription(
                x509.AuthorityInformationAccessOID.CA_ISSUERS,
                x509.UniformResourceIdentifier("http://pki.example.org/ca.cer"),
            ),
        ]
    )
    points = x509.CRLDistributionPoints(
        [
            x509.DistributionPoint(
                [x509.UniformResourceIdentifier("http://pki.example.org/a.crl")], None, None, None
            )
        ]
    )
    server = leaf(
        ec.generate_private_key(ec.SECP384R1()),
        START + datetime.timedelta(days=199, seconds=-1),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (usage(0), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),
        (
            x509.SubjectAlternativeName(
                [
                    x509.DNSName("www.example.org"),
                    x509.IPAddress(ipaddress.ip_address("10.0.0.1")),
                    x509.IPAddress(ipaddress.ip_address("2001:db8::1")),
                    x509.RFC822Name("a@example.org"),
                    x509.UniformResourceIdentifier("https://www.example.org/"),
                ]
            ),
            False,
        ),
        (
            x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), None)]),
            False,
        ),
        (x509.SubjectKeyIdentifier(b"\x22" * 20), False),
        (aki, False),
        (access, False),
        (points, False),
    )
    ca = leaf(
        rsa.generate_private_key(65537, 2048),
        LATE,
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (usage(5, 6), True),
        (x509.SubjectKeyIdentifier(b"\x22" * 20), False),
        (aki, False),
    )
    delegate = leaf(
        ed25519.Ed25519PrivateKey.generate(),
        START + datetime.timedelta(days=30),
        (usage(0, 1), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), True),
        (
            x509.PrivateKeyUsagePeriod(
                START.replace(tzinfo=None), (START + datetime.timedelta(days=9)).replace(tzinfo=None)
            ),
            False,
        ),
        (x509.OCSPNoCheck(), False),
        subject=x509.Name([]),
    )
    for name, builder in (("server", server), ("ca", ca), ("delegate", delegate)):
        certificate = builder.sign(signer, hashes.SHA256())
        (directory / f"pyca-{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    pyca_crls(directory, signer, aki)


def pyca_crls(directory: Path, signer, aki) -> None:
    empty = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ISSUER)
        .last_update(START)
        .next_update(START + datetime.timedelta(days=7))
        .add_extension(aki, critical=False)
        .add_extension(x509.CRLNumber(255), critical=False)
    )
    point = x509.IssuingDistributionPoint(
        [x509.UniformResourceIdentifier("http://pki.example.org/a.crl")], None, True, False, None, False, False
    )
    full = empty.add_extension(point, critical=True)
    for number, reason, invalid in (
        (1, x509.ReasonFlags.key_compromise, START - datetime.timedelta(days=30)),
        (2, None, None),
        (3, x509.ReasonFlags.aa_compromise, None),
        (4, None, START - datetime.timedelta(days=1)),
    ):
        entry = (
            x509.RevokedCertificateBuilder()
            .serial_number(SERIAL + number)
            .revocation_date(START - datetime.timedelta(hours=number))
        )
        if reason is not None:
            entry = entry.add_extension(x509.CRLReason(reason), critical=False)
        if invalid is not None:
            entry = entry.add_extension(x509.InvalidityDate(invalid), critical=False)
        full = full.add_revoked_certificate(entry.build())
    for name, builder in (("empty", empty), ("full", full)):
        crl = builder.sign(signer, hashes.SHA256())
        (directory / f"pyca-{name}-crl.pem").write_bytes(crl.public_bytes(Encoding.PEM))


OPENSSL = """
[req]
distinguished_name = dn
prompt = no
utf8 = yes
string_mask = utf8only
[dn]
C = XX
L = Zürich
CN = www.example.org
[server]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature,keyEncipherment
extendedKeyUsage = serverAuth
subjectAltName = DNS:www.example.org,IP:10.0.0.1,email:a@example.org,URI:https://www.example.org/
subjectKeyIdentifier = 2222222222222222222222222222222222222222
authorityInfoAccess = OCSP;URI:http://ocsp.example.org/,caIssuers;URI:http://pki.example.org/ca.cer
crlDistributionPoints = URI:http://pki.example.org/a.crl
certificatePolicies = 1.3.6.1.4.1.99999.1
[root]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = 2222222222222222222222222222222222222222
"""


def openssl(directory: Path) -> None:
    """A root with OpenSSL's `req -x509`, and a server certificate that it signs with `x509 -req`."""

    def run(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)

    with tempfile.TemporaryDirectory() as text:
        scratch = Path(text)
        config = scratch / "config"
        config.write_text(OPENSSL, encoding="utf-8")
        for label, made in (
            ("root", ec.generate_private_key(ec.SECP256R1())),
            ("leaf", rsa.generate_private_key(65537, 2048)),
        ):
            key = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            (scratch / f"{label}.key").write_bytes(key)
        common = ("-config", str(config), "-sha256")
        run("req", "-x509", "-new", "-key", f"{scratch}/root.key", "-extensions", "root", "-days", "3650",
            "-set_serial", hex(SERIAL), "-out", f"{directory}/openssl-root.pem", *common)  # fmt: skip
        run("req", "-new", "-key", f"{scratch}/leaf.key", "-out", f"{scratch}/csr", *common)
        run("x509", "-req", "-in", f"{scratch}/csr", "-CA", f"{directory}/openssl-root.pem", "-CAkey",
            f"{scratch}/root.key", "-set_serial", hex(SERIAL), "-days", "199", "-extfile", str(config),
            "-extensions", "server", "-sha256", "-out", f"{directory}/openssl-server.pem")  # fmt: skip


if __name__ == "__main__":
    target = Path(sys.argv[1])
    pyca(target)
    openssl(target)
