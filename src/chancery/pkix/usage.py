"""What a stored certificate says of itself, for rules that hold after issuance."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

_SERVES_TLS = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}


def may_serve_tls(certificate: bytes) -> bool:
    """
    Tell whether this certificate (DER) may authenticate a TLS server (RFC 5280 4.2.1.12).

    So it may when extendedKeyUsage names serverAuth or every purpose, or is absent, or when nobody can read it.
    """
    try:
        extensions = x509.load_der_x509_certificate(certificate).extensions
        return bool(_SERVES_TLS & set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value))
    except (ValueError, x509.ExtensionNotFound):
        return True


def not_before(certificate: bytes) -> datetime.datetime | None:
    """Return when this certificate's (DER) validity begins, None when nobody can read it."""
    try:
        return x509.load_der_x509_certificate(certificate).not_valid_before_utc
    except ValueError:
        return None
