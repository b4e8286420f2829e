"""REST: issuers, their certificates and CRLs; profiles."""

from __future__ import annotations

import asyncio

from cryptography import x509
from starlette.responses import Response

from chancery.asn1 import der
from chancery.pkix.name import name_text
from chancery.ports import CRLRecord, IssuerRecord
from chancery.ra import enrolment, profiles
from chancery.ra.enrolment import serial_text
from chancery.ra.requestor import may_request
from chancery.web import forms
from chancery.web.bodies import read_json, read_query
from chancery.web.service import Call, json
from chancery.web.views import (
    Form,
    IssuerFormat,
    IssuerList,
    IssuerView,
    NoQuery,
    ProfileChoice,
    ProfileList,
    SwitchAsked,
    SwitchView,
    crl_view,
    pem,
    profile_view,
)


async def list_issuers(call: Call) -> Response:
    """Every issuer with its current CRL."""
    read_query(call.request, NoQuery)
    records = await call.ra.directory.issuers()
    crls = await asyncio.gather(*(call.ra.directory.latest_crl(record.name) for record in records))
    views = [_issuer_view(call, record, records, crl) for record, crl in zip(records, crls, strict=True)]
    return json(IssuerList(issuers=views))


async def show_issuer(call: Call) -> Response:
    """One issuer with its certificate (PEM) and current CRL."""
    read_query(call.request, NoQuery)
    record = await enrolment.find_issuer(call.ra, call.path("name"))
    records = await call.ra.directory.issuers()
    crl = await call.ra.directory.latest_crl(record.name)
    return json(_issuer_view(call, record, records, crl, whole=True))


async def fetch_issuer_certificate(call: Call) -> Response:
    """The issuer's certificate."""
    form = _form(call)
    record = await enrolment.find_issuer(call.ra, call.path("name"))
    return forms.file(form, [record.certificate], record.name)


async def fetch_issuer_chain(call: Call) -> Response:
    """The issuer's certificate and those above it, the trust anchor included."""
    form = _form(call)
    record = await enrolment.find_issuer(call.ra, call.path("name"))
    chain = await call.service.issuers.whole_chain(record.name)
    return forms.file(Form.CHAIN if form is Form.PEM else form, chain or [record.certificate], record.name)


def _form(call: Call) -> Form:
    choice = read_query(call.request, IssuerFormat)
    form = forms.chosen(call.request, choice.format, Form.PEM)
    return Form.PEM if form is Form.JSON else form


async def list_profiles(call: Call) -> Response:
    """The profiles that the caller may request."""
    read_query(call.request, NoQuery)
    names = sorted(name for name, profile in call.ra.profiles.items() if may_request(call.operator, profile))
    switches = await call.ra.directory.profile_switches()
    views = [profile_view(call.ra.profiles[name], switches.get(name), whole=False) for name in names]
    return json(ProfileList(profiles=views))


async def show_profile(call: Call) -> Response:
    """One profile, its source and the recorded versions included."""
    choice = read_query(call.request, ProfileChoice)
    name = call.path("name")
    found = await profiles.find_profile(call.ra, name, choice.version)
    switch = (await call.ra.directory.profile_switches()).get(name)
    return json(profile_view(found, switch, whole=True, records=await profiles.recorded(call.ra, name)))


async def deactivate_profile(call: Call) -> Response:
    """Deactivate a profile: the worker issues nothing under it any more."""
    return await _switch(call, active=False)


async def activate_profile(call: Call) -> Response:
    """Activate a profile again."""
    return await _switch(call, active=True)


async def _switch(call: Call, *, active: bool) -> Response:
    read_query(call.request, NoQuery)
    asked = await read_json(call.request, SwitchAsked)
    name = call.path("name")
    done = await profiles.switch_profile(call.ra, call.operator, name, active=active, reason=asked.reason)
    return json(SwitchView(active=done.active, reason=done.reason, operator=done.operator, at=done.at))


def _issuer_view(
    call: Call,
    record: IssuerRecord,
    records: list[IssuerRecord],
    crl: CRLRecord | None,
    *,
    whole: bool = False,
) -> IssuerView:
    certificate = x509.load_der_x509_certificate(record.certificate)
    return IssuerView(
        name=record.name,
        subject=name_text(certificate.subject),
        serial=serial_text(der.integer_octets(certificate.serial_number)),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        parent=next((one.name for one in records if one.issuer_id == record.parent_id), None),
        issues=record.key_label is not None and record.active,
        default=record.default,
        crl=crl_view(crl, call.ra.clock.now()),
        certificate=pem(record.certificate) if whole else None,
        further=[pem(one.certificate) for one in record.further] if whole else [],
    )
