"""REST: operators, whoami, status and health."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from chancery.ra import operators
from chancery.ra.enrolment import serial_octets
from chancery.web.bodies import read_json, read_query
from chancery.web.service import API, JSON, Call, Service, json
from chancery.web.views import (
    HealthView,
    NoQuery,
    OperatorAsked,
    OperatorList,
    StatusView,
    crl_view,
    operator_view,
)


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


async def whoami(call: Call) -> Response:
    """Who the caller is taken for."""
    read_query(call.request, NoQuery)
    return json(operator_view(call.operator))


async def status(call: Call) -> Response:
    """Counts, and each issuer's CRL."""
    read_query(call.request, NoQuery)
    directory, now = call.ra.directory, call.ra.clock.now()
    counts, records = await asyncio.gather(directory.counts(), directory.issuers())
    crls = await asyncio.gather(*(directory.latest_crl(record.name) for record in records))
    return json(
        StatusView(
            version=call.service.version,
            time=now,
            counts=dict(counts),
            crls={record.name: crl_view(crl, now) for record, crl in zip(records, crls, strict=True)},
        )
    )


async def health(service: Service) -> Response:
    """Whether this process can do its work: it answers, and its database does."""
    # Asked of the database at most every few seconds, so that a stranger cannot load it through here.
    await service.issuers.by_name()
    return json(HealthView(status="ok"))


async def description(service: Service) -> Response:
    """The OpenAPI document."""
    return Response(service.description, media_type=JSON)
