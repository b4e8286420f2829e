"""REST: requesting, finding, fetching and revoking certificates."""

from __future__ import annotations

import re

from cryptography import x509
from starlette.responses import Response

from chancery.asn1 import cms, der
from chancery.errors import ErrorType, PKIError
from chancery.ports import CertificateQuery, RequestOutcome, RequestState, StoredCertificate
from chancery.ra import enrolment
from chancery.ra.enrolment import serial_octets, serial_text
from chancery.ra.requestor import own_name
from chancery.web.bodies import read_json, read_query
from chancery.web.service import API, Call, download, json
from chancery.web.views import (
    CertificateList,
    CertificateRequest,
    CertificateSearch,
    IssuerChoice,
    NoQuery,
    RequestView,
    RevocationAsked,
    RevocationView,
    certificate_view,
    pem,
)

PEM_CHAIN, PKIX_CERT = "application/pem-certificate-chain", "application/pkix-cert"
PKCS7 = "application/pkcs7-mime; smime-type=certs-only"
# draft-ietf-httpapi-idempotency-key-header: a structured-field string; bare tokens are common and accepted.
_IDEMPOTENCY_KEY = re.compile(r'"([^"\\]*)"|([^"\\]*)')


async def request_certificate(call: Call) -> Response:
    """Take a request; 201 with the certificate, or 202 with the place to ask again."""
    read_query(call.request, NoQuery)
    asked = await read_json(call.request, CertificateRequest)
    application = enrolment.Application(
        protocol="rest",
        profile=asked.profile,
        csr=asked.csr.encode(),
        names=tuple(asked.names),
        issuer=asked.issuer,
        transaction_id=_transaction_id(call, asked.transaction_id),
    )
    outcome = await enrolment.enrol(call.ra, call.operator, application, asked.wait_seconds)
    if outcome.state is RequestState.REFUSED:
        raise PKIError(outcome.error or ErrorType.SYSTEM_FAILURE, outcome.detail or "the request was refused")
    view = await _request_view(call, outcome)
    if outcome.state is RequestState.DONE:
        return json(view, 201, {"location": f"{API}/certificates/{view.serial}?issuer={view.issuer}"})
    return json(view, 202, {"location": f"{API}/requests/{outcome.request_id}", "retry-after": "1"})


def _transaction_id(call: Call, given: str | None) -> str | None:
    header = call.request.headers.get("idempotency-key")
    if header is None:
        return given
    match = _IDEMPOTENCY_KEY.fullmatch(header.strip())
    key = (match[1] or match[2]) if match else None
    if not key or (given is not None and given != key):
        raise PKIError(ErrorType.BAD_REQUEST, "Idempotency-Key is not a string, or differs from transaction_id")
    return key


async def _request_view(call: Call, outcome: RequestOutcome) -> RequestView:
    serial, chain = None, []
    if outcome.certificate is not None:
        certificate = x509.load_der_x509_certificate(outcome.certificate)
        serial = serial_text(der.integer_octets(certificate.serial_number))
        chain = await call.service.issuers.chain(outcome.issuer or "")
    return RequestView(
        request_id=outcome.request_id,
        transaction_id=outcome.transaction_id,
        state=outcome.state,
        issuer=outcome.issuer,
        serial=serial,
        certificate=pem(outcome.certificate) if outcome.certificate is not None else None,
        chain=[pem(one) for one in chain],
        error=outcome.error.value if outcome.error else None,
        detail=outcome.detail,
    )


async def see_request(call: Call) -> Response:
    """Where a request stands; a refused one is an answer here, not a problem."""
    read_query(call.request, NoQuery)
    text = call.path("request_id")
    if not re.fullmatch("[0-9]{1,19}", text):
        raise PKIError(ErrorType.BAD_CERT_ID, "a request id is a number")
    outcome = await enrolment.find_request(call.ra, call.operator, int(text))
    return json(await _request_view(call, outcome))


async def search(call: Call) -> Response:
    """Return one page of what matches, newest first; a requestor finds its own."""
    asked = read_query(call.request, CertificateSearch)
    found = await call.ra.directory.search(
        CertificateQuery(
            subject=asked.subject,
            name=asked.name,
            serial=serial_octets(asked.serial) if asked.serial is not None else None,
            profile=asked.profile,
            issuer=asked.issuer,
            state=asked.state,
            requestor=own_name(call.operator, call.reach),
            before=asked.before,
            limit=asked.limit,
        )
    )
    full = len(found) == asked.limit
    return json(
        CertificateList(
            certificates=[certificate_view(one, whole=False) for one in found],
            next=found[-1].certificate_id if full else None,
        )
    )


async def _find(call: Call) -> StoredCertificate:
    choice = read_query(call.request, IssuerChoice)
    serial = serial_octets(call.path("serial"))
    return await enrolment.find_certificate(call.ra, call.operator, serial, choice.issuer)


async def show(call: Call) -> Response:
    """Everything stored about one certificate."""
    return json(certificate_view(await _find(call), whole=True))


async def fetch_pem(call: Call) -> Response:
    """The certificate in PEM."""
    stored = await _find(call)
    return download(pem(stored.der).encode(), PEM_CHAIN, f"{serial_text(stored.serial)}.pem")


async def fetch_chain(call: Call) -> Response:
    """The certificate and the CAs above it without the trust anchor, in PEM, in that order."""
    stored = await _find(call)
    chain = [stored.der, *await call.service.issuers.chain(stored.issuer)]
    return download("".join(map(pem, chain)).encode(), PEM_CHAIN, f"{serial_text(stored.serial)}.chain.pem")


async def fetch_der(call: Call) -> Response:
    """The certificate in DER (RFC 5280 4.1)."""
    stored = await _find(call)
    return download(stored.der, PKIX_CERT, f"{serial_text(stored.serial)}.der")


async def fetch_pkcs7(call: Call) -> Response:
    """The certificate and the CAs above it without the trust anchor as certs-only PKCS#7 (RFC 8551 3.8)."""
    stored = await _find(call)
    chain = [stored.der, *await call.service.issuers.chain(stored.issuer)]
    return download(cms.certs_only(chain), PKCS7, f"{serial_text(stored.serial)}.p7c")


async def revoke(call: Call) -> Response:
    """Revoke; 200 when the worker has settled it, 202 when it has not yet."""
    read_query(call.request, NoQuery)
    serial = serial_octets(call.path("serial"))
    asked = await read_json(call.request, RevocationAsked)
    wish = enrolment.RevocationWish(serial, asked.reason.code(), asked.issuer, asked.invalidity_date)
    revocation, outcome = await enrolment.revoke(call.ra, call.operator, wish, asked.wait_seconds)
    # The certificate may be an operator's.
    call.service.gate.forget()
    view = RevocationView(
        revocation_id=outcome.revocation_id,
        issuer=revocation.issuer,
        serial=serial_text(serial),
        reason=asked.reason,
        state=outcome.state,
    )
    if outcome.state is RequestState.DONE:
        return json(view)
    place = f"{API}/certificates/{view.serial}?issuer={view.issuer}"
    return json(view, 202, {"location": place, "retry-after": "1"})
