"""What a stored certificate says of itself, for rules that hold after issuance."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from chancery.asn1 import der, oids

KEPT = datetime.timedelta(days=3653)
"""R16: how long the entry of a revoked code-signing certificate stays after the certificate's end: ten years."""
CODE_SIGNING = der.oid(oids.EXTENDED_KEY_USAGES["codeSigning"])
_LAST = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
UNREADABLE = (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
"""What pyca raises for extensions that it does not read; TypeError for values that it did not foresee."""
_SERVES_TLS = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}


def may_serve_tls(certificate: bytes) -> bool:
    """
    Tell whether this certificate (DER) may authenticate a TLS server (RFC 5280 4.2.1.12).

    So it may when extendedKeyUsage names serverAuth or every purpose, or is absent, or when nobody can read it.
    """
    try:
        extensions = x509.load_der_x509_certificate(certificate).extensions
        return bool(_SERVES_TLS & set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value))
    except (*UNREADABLE, x509.ExtensionNotFound):
        return True


def kept_until(tbs: bytes, not_after: datetime.datetime) -> datetime.datetime | None:
    """
    Return until when the revocation of a TBSCertificate (DER) stays on CRLs beyond its `not_after` (R16).

    None: it does not, because the octets of codeSigning stand nowhere in it. They do where extendedKeyUsage has
    it, and in few others, for which longer is no harm; the database, which reads no DER, has the same rule.
    """
    return min(not_after, _LAST - KEPT) + KEPT if CODE_SIGNING in tbs else None


def not_before(certificate: bytes) -> datetime.datetime | None:
    """Return when this certificate's (DER) validity begins, None when nobody can read it."""
    try:
        return x509.load_der_x509_certificate(certificate).not_valid_before_utc
    except ValueError:
        return None
