"""REST: operators, who the caller is, status and health; the page for people who arrive with a browser."""

from __future__ import annotations

import asyncio
import html
from typing import Final

from starlette.responses import Response

from chancery.ports import COMPLETE
from chancery.ra import operators
from chancery.ra.enrolment import serial_octets
from chancery.web.bodies import read_json, read_query
from chancery.web.crls import age_warnings
from chancery.web.service import API, JSON, Call, Service, json
from chancery.web.views import (
    HealthView,
    NoQuery,
    OperatorAsked,
    OperatorList,
    StatusView,
    crl_view,
    estimated,
    operator_view,
)

_HOME: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Chancery</title></head><body>
<h1>Chancery {version}</h1>
<p>This is the registration and management interface of a certification authority.</p>
<p>REST below <code>/api/v1</code>, described in <a href="/openapi.json">/openapi.json</a>
(OpenAPI 3.1). Every operation needs a client certificate that this CA issued and an administrator enrolled
as an operator's; <a href="/api/v1/me">/api/v1/me</a> says who you are taken for.</p>
<p>On a command line: <code>chancery request</code>, <code>chancery list</code>, <code>chancery revoke</code>.</p>
</body></html>
"""


async def list_operators(call: Call) -> Response:
    """Every operator that has not been removed."""
    read_query(call.request, NoQuery)
    found = await call.ra.directory.operators()
    return json(OperatorList(operators=[operator_view(one) for one in found]))


async def add_operator(call: Call) -> Response:
    """Enrol an operator by a certificate issued here."""
    read_query(call.request, NoQuery)
    asked = await read_json(call.request, OperatorAsked)
    wish = operators.OperatorWish(
        name=asked.name,
        roles=frozenset(asked.roles),
        profiles=None if asked.profiles is None else frozenset(asked.profiles),
        certificate=None if asked.certificate is None else asked.certificate.encode(),
        serial=None if asked.serial is None else serial_octets(asked.serial),
        issuer=asked.issuer,
    )
    operator = await operators.add_operator(call.ra, call.operator, wish)
    call.service.gate.forget()
    return json(operator_view(operator), 201, {"location": f"{API}/operators"})


async def remove_operator(call: Call) -> Response:
    """Remove an operator: its certificate opens nothing here any more."""
    read_query(call.request, NoQuery)
    await operators.remove_operator(call.ra, call.operator, call.path("name")[:200])
    call.service.gate.forget()
    return Response(status_code=204)


async def me(call: Call) -> Response:
    """Who the caller is taken for."""
    read_query(call.request, NoQuery)
    return json(operator_view(call.operator))


async def status(call: Call) -> Response:
    """Counts, and each issuer's CRL."""
    read_query(call.request, NoQuery)
    directory, now = call.ra.directory, call.ra.clock.now()
    counts, records, (opened, overdue) = await asyncio.gather(
        directory.counts(), directory.issuers(), call.ra.reports.counts(now)
    )
    names, crls = {record.issuer_id: record.name for record in records}, await directory.crls()
    complete = {one.issuer_id: one for one in crls if one.scope == COMPLETE}
    return json(
        StatusView(
            version=call.service.version,
            time=now,
            counts={**counts, "reports_open": opened, "reports_overdue": overdue},
            estimated=estimated(counts),
            crls={name: crl_view(complete.get(issuer_id), now) for issuer_id, name in names.items()},
            warnings=age_warnings(crls, names, now),
        )
    )


async def health(service: Service) -> Response:
    """Whether this process can do its work: it answers, and its database does."""
    await service.health.check()
    return json(HealthView(status="ok"))


async def description(service: Service) -> Response:
    """The OpenAPI document."""
    return Response(service.description, media_type=JSON)


async def home(service: Service) -> Response:
    """What this is, for a person."""
    return Response(_HOME.format(version=html.escape(service.version)), media_type="text/html")
