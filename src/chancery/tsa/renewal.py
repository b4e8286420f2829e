"""Which certificate an authority signs under: found by its key, followed while it changes."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Awaitable, Callable, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chancery.asn1.signature import PublicKey
from chancery.ports import IssuerRecord

CertificatesOfKey = Callable[[bytes], Awaitable[Sequence[bytes]]]
IssuersOf = Callable[[], Awaitable[Sequence[IssuerRecord]]]


@dataclasses.dataclass(frozen=True, slots=True)
class CertificateFinder:
    """
    Finds the certificates of one key where they are issued, through `ports.StatusReader`'s two methods.

    `certificates_of_key` takes SHA-256 of the SubjectPublicKeyInfo and returns the good ones, newest first.
    """

    certificates_of_key: CertificatesOfKey
    issuers: IssuersOf

    async def chains(self, public_key: PublicKey) -> list[tuple[bytes, ...]]:
        """
        Return each good certificate (DER) of this key, newest first, with its issuers above it except the root.

        Raises PKIError(SYSTEM_UNAVAIL) when nobody can be asked.
        """
        spki = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        leaves = await self.certificates_of_key(hashlib.sha256(spki).digest())
        if not leaves:
            return []
        records = await self.issuers()
        return [(leaf, *chain_above(leaf, records)) for leaf in leaves]


def chain_above(leaf: bytes, records: Sequence[IssuerRecord]) -> list[bytes]:
    """Return the certificates (DER) of the issuers above `leaf`, nearest first, without the self-signed root."""
    by_id = {record.issuer_id: record for record in records}
    certificate = x509.load_der_x509_certificate(leaf)
    record = next((record for record in records if _issued(record, certificate)), None)
    found: list[bytes] = []
    while record is not None and record.parent_id is not None and len(found) < len(by_id):
        found.append(record.certificate)
        record = by_id.get(record.parent_id)
    return found


def _issued(record: IssuerRecord, certificate: x509.Certificate) -> bool:
    """Tell whether this issuer signed the certificate."""
    issuer = x509.load_der_x509_certificate(record.certificate)
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
