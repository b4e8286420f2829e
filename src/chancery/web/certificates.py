"""REST: requesting, finding, fetching and revoking certificates."""

from __future__ import annotations

import datetime
import re

from starlette.responses import Response

from chancery.errors import ErrorType, PKIError
from chancery.pkix.name import canonical
from chancery.pkix.wish import Wish
from chancery.ports import CertificateQuery, RequestOutcome, RequestState, RevocationReason, StoredCertificate
from chancery.ra import enrolment
from chancery.ra.enrolment import Application, serial_octets, serial_text
from chancery.ra.requestor import own_name
from chancery.web import forms
from chancery.web.bodies import media_type, read_body, read_json, read_query
from chancery.web.service import API, Call, json
from chancery.web.views import (
    AnswerChoice,
    CertificateChoice,
    CertificateList,
    CertificateRequest,
    CertificateSearch,
    Form,
    IssuerChoice,
    NoQuery,
    RawRequest,
    Reason,
    RequestView,
    RevocationAsked,
    RevocationChoice,
    RevocationView,
    certificate_view,
    pem,
)

PKCS10 = "application/pkcs10"  # RFC 5967
# draft-ietf-httpapi-idempotency-key-header: a structured-field string; bare tokens are common and accepted.
_IDEMPOTENCY_KEY = re.compile(r'"([^"\\]*)"|([^"\\]*)')


async def request_certificate(call: Call) -> Response:
    """Take a request; 201 with the certificate, or 202 with the place to ask again."""
    raw = media_type(call.request) == PKCS10
    application, choice = await (_read_pkcs10(call) if raw else _read_json(call))
    outcome = await enrolment.enrol(call.ra, call.operator, application, choice.wait)
    if outcome.state is RequestState.REFUSED:
        raise PKIError(outcome.error or ErrorType.SYSTEM_FAILURE, outcome.detail or "the request was refused")
    if outcome.certificate is None:
        place = {"location": f"{API}/requests/{outcome.request_id}", "retry-after": "1"}
        return json(await _request_view(call, outcome), 202, place)
    serial = forms.serial_of(outcome.certificate)
    place = {"location": f"{API}/certificates/{serial}?issuer={outcome.issuer}"}
    form = forms.chosen(call.request, choice.format)
    if form is Form.JSON:
        return json(await _request_view(call, outcome), 201, place)
    chain = await _chain(call, outcome.certificate, outcome.issuer or "", form)
    return forms.file(form, chain, serial, 201, place)


async def _chain(call: Call, certificate: bytes, issuer: str, form: Form) -> list[bytes]:
    """Return the certificate, with the CAs above it for a form that holds them."""
    if form in {Form.DER, Form.PEM}:
        return [certificate]
    return [certificate, *await call.service.issuers.chain(issuer)]


async def _read_json(call: Call) -> tuple[Application, AnswerChoice]:
    choice = read_query(call.request, AnswerChoice)
    asked = await read_json(call.request, CertificateRequest)
    transaction_id = _transaction_id(call, asked.transaction_id)
    application = Application(
        "rest", asked.profile, asked.csr.encode(), tuple(asked.names), asked.issuer, transaction_id, wish_of(asked)
    )
    return application, choice


async def _read_pkcs10(call: Call) -> tuple[Application, AnswerChoice]:
    choice = read_query(call.request, RawRequest)
    if choice.profile is None:
        raise PKIError(ErrorType.BAD_REQUEST, "query: the parameter `profile` is missing")
    csr = await read_body(call.request)
    transaction_id = _transaction_id(call, choice.transaction_id)
    application = Application(
        "rest", choice.profile, csr, tuple(choice.name), choice.issuer, transaction_id, wish_of(choice)
    )
    return application, choice


def wish_of(asked: CertificateRequest | RawRequest) -> Wish | None:
    """The validity asked for, None when it is left to the profile."""
    if asked.not_before is None and asked.not_after is None and asked.duration is None:
        return None
    try:
        return Wish(not_before=asked.not_before, not_after=asked.not_after, duration=asked.duration)
    except ValueError as error:
        raise PKIError(ErrorType.BAD_DATA_FORMAT, str(error)) from None


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
        serial = forms.serial_of(outcome.certificate)
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
    own = own_name(call.operator, call.reach)
    if own is not None and asked.requestor not in {None, own}:
        return json(CertificateList(certificates=[]))
    found = await call.ra.directory.search(
        CertificateQuery(
            subject=asked.subject,
            name=None if asked.name is None else canonical(asked.name),
            serial=serial_octets(asked.serial) if asked.serial is not None else None,
            spki_sha256=bytes.fromhex(asked.key) if asked.key is not None else None,
            profile=asked.profile,
            issuer=asked.issuer,
            state=asked.state,
            requestor=own or asked.requestor,
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


async def _find(call: Call, issuer: str | None) -> StoredCertificate:
    serial = serial_octets(call.path("serial"))
    return await enrolment.find_certificate(call.ra, call.operator, serial, issuer)


async def show(call: Call) -> Response:
    """Everything stored about one certificate, or the certificate itself in the form asked for."""
    choice = read_query(call.request, CertificateChoice)
    stored = await _find(call, choice.issuer)
    form = forms.chosen(call.request, choice.format)
    if form is Form.JSON:
        return json(certificate_view(stored, whole=True))
    return await _file(call, stored, form)


async def fetch_pem(call: Call) -> Response:
    """The certificate in PEM."""
    return await _file(call, await _find(call, read_query(call.request, IssuerChoice).issuer), Form.PEM)


async def fetch_chain(call: Call) -> Response:
    """The certificate and the CAs above it without the trust anchor, in PEM, in that order."""
    return await _file(call, await _find(call, read_query(call.request, IssuerChoice).issuer), Form.CHAIN)


async def fetch_der(call: Call) -> Response:
    """The certificate in DER (RFC 5280 4.1)."""
    return await _file(call, await _find(call, read_query(call.request, IssuerChoice).issuer), Form.DER)


async def fetch_pkcs7(call: Call) -> Response:
    """The certificate and the CAs above it without the trust anchor as certs-only PKCS#7 (RFC 8551 3.2.2)."""
    return await _file(call, await _find(call, read_query(call.request, IssuerChoice).issuer), Form.PKCS7)


async def _file(call: Call, stored: StoredCertificate, form: Form) -> Response:
    chain = await _chain(call, stored.der, stored.issuer, form)
    return forms.file(form, chain, serial_text(stored.serial))


async def revoke(call: Call) -> Response:
    """Revoke or suspend; 200 when the worker has settled it, 202 when it has not yet."""
    choice = read_query(call.request, RevocationChoice)
    asked = await read_json(call.request, RevocationAsked)
    return await _settled(call, choice, asked.reason, asked.reason.code(), asked.invalidity_date)


async def reinstate(call: Call) -> Response:
    """End a suspension; answers as `revoke` does."""
    choice = read_query(call.request, RevocationChoice)
    return await _settled(call, choice, None, RevocationReason.REMOVE_FROM_CRL, None)


async def _settled(
    call: Call,
    choice: RevocationChoice,
    shown: Reason | None,
    reason: RevocationReason,
    invalidity_date: datetime.datetime | None,
) -> Response:
    serial = serial_octets(call.path("serial"))
    wish = enrolment.RevocationWish(serial, reason, choice.issuer, invalidity_date)
    revocation, outcome = await enrolment.revoke(call.ra, call.operator, wish, choice.wait)
    # The certificate may be an operator's.
    call.service.gate.forget()
    view = RevocationView(
        revocation_id=outcome.revocation_id,
        issuer=revocation.issuer,
        serial=serial_text(serial),
        reason=shown,
        state=outcome.state,
    )
    if outcome.state is RequestState.DONE:
        return json(view)
    place = f"{API}/certificates/{view.serial}?issuer={view.issuer}"
    return json(view, 202, {"location": place, "retry-after": "1"})
