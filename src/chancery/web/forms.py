"""The forms in which a certificate is given, and the choice among them by `format` or by the Accept header."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from chancery.asn1 import cms, der
from chancery.ra.enrolment import serial_text
from chancery.web.service import JSON, download
from chancery.web.views import Form, pem

PEM: Final = "application/x-pem-file"
PEM_CHAIN: Final = "application/pem-certificate-chain"  # RFC 8555 9.1
PKIX_CERT: Final = "application/pkix-cert"  # RFC 2585 4.1
PKCS7: Final = "application/pkcs7-mime"  # RFC 8551 3.2.2
CERTS_ONLY: Final = f"{PKCS7}; smime-type=certs-only"
_BY_MEDIA_TYPE: Mapping[str, Form] = {
    JSON: Form.JSON,
    PEM: Form.PEM,
    PEM_CHAIN: Form.CHAIN,
    PKIX_CERT: Form.DER,
    PKCS7: Form.PKCS7,
}
_VERSION: Final = 0xA0
MEDIA_TYPES: Final = (PEM, PEM_CHAIN, PKIX_CERT, PKCS7)


def chosen(request: Request, asked: Form | None, default: Form = Form.JSON) -> Form:
    """
    Return the form to answer in: the one asked for, else the first known one of Accept, else the default.

    Nothing acceptable is answered in the default form (RFC 9110 12.4.1 allows it); weights are not compared.
    """
    if asked is not None:
        return asked
    for part in request.headers.get("accept", "").split(","):
        media, _, parameters = part.partition(";")
        if re.fullmatch(r"\s*q=0(\.0*)?\s*", parameters):
            continue
        if (form := _BY_MEDIA_TYPE.get(media.strip().lower())) is not None:
            return form
    return default


def file(
    form: Form, chain: Sequence[bytes], name: str, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """
    Return the first certificate (DER) of `chain`, or all of it, in a form that is not JSON.

    The chain runs from the certificate upwards.
    """
    if form is Form.DER:
        return download(chain[0], PKIX_CERT, f"{name}.cer", status, headers)
    if form is Form.PKCS7:
        return download(cms.certs_only(chain), CERTS_ONLY, f"{name}.p7b", status, headers)
    if form is Form.PEM:
        return download(pem(chain[0]).encode(), PEM, f"{name}.pem", status, headers)
    return download("".join(map(pem, chain)).encode(), PEM_CHAIN, f"{name}.chain.pem", status, headers)


def serial_of(certificate: bytes) -> str:
    """Serial number of a certificate (DER) that this CA made, in hexadecimal (RFC 5280 4.1: after the version)."""
    tbs = der.Reader(certificate).enter().enter()
    tbs.raw(_VERSION)
    return serial_text(tbs.take(der.INTEGER))
