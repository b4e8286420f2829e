"""The management and enrolment interface as an ASGI application: transport only."""

from __future__ import annotations

import http
import importlib.metadata
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from chancery.errors import PKIError
from chancery.ports import Operator
from chancery.ra.enrolment import RegistrationAuthority
from chancery.ra.requestor import Operation, Reach, authorise
from chancery.web import openapi
from chancery.web.access import Gate, Peer
from chancery.web.failures import PROBLEM_JSON, Failure, of_error, of_status
from chancery.web.guard import Guard, Observe
from chancery.web.routes import ENDPOINTS
from chancery.web.service import Call, Endpoint, Health, Issuers, Service

_Handle = Callable[[Request], Awaitable[Response]]
_Routes = Mapping[str, tuple[frozenset[str], _Handle]]
_OF_BROWSERS: Final = frozenset({b"sec-fetch-site", b"origin"})


def create_app(ra: RegistrationAuthority, observe: Observe | None = None) -> Starlette:
    """
    Return the application over this registration authority; `app.state.gate` is its door, `observe` as `Guard`'s.

    The server puts a `Peer` per connection into `scope["state"]["peer"]`; without one nobody is authenticated.
    """
    gate = Gate(ra.directory, ra.clock)
    version = importlib.metadata.version("chancery")
    description = msgspec.json.encode(openapi.describe(ENDPOINTS, version))
    service = Service(ra, gate, Issuers(ra), Health(ra), version, description)
    routes = _routes(service)
    app = Starlette(
        routes=[Route(path, handle, methods=sorted(methods)) for path, (methods, handle) in routes.items()],
        middleware=[Middleware(Guard, clock=ra.clock, observe=observe), Middleware(Shortcut, routes=routes)],
        exception_handlers={PKIError: _on_error, HTTPException: _on_http_error},
    )
    app.router.redirect_slashes = False
    app.state.gate = gate
    return app


class Shortcut:
    """ASGI middleware: a path without parameters is answered here, by the same functions, without the router."""

    def __init__(self, app: ASGIApp, routes: _Routes) -> None:
        self._app = app
        self._exact = {
            (method, path): handle
            for path, (methods, handle) in routes.items()
            for method in methods
            if "{" not in path
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handle = self._exact.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if handle is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await handle(request)
        except PKIError as error:
            response = await _on_error(request, error)
        except HTTPException as error:
            response = await _on_http_error(request, error)
        await response(scope, receive, send)


def _routes(service: Service) -> _Routes:
    grouped: dict[str, list[Endpoint]] = {}
    for endpoint in ENDPOINTS:
        grouped.setdefault(endpoint.path, []).append(endpoint)
    return {
        path: (frozenset(endpoint.method for endpoint in endpoints), _dispatch(service, endpoints))
        for path, endpoints in grouped.items()
    }


def _dispatch(service: Service, endpoints: Sequence[Endpoint]) -> _Handle:
    """One path: authenticate, authorise, hand over. HEAD is GET without a body (RFC 9110 9.3.2)."""
    by_method = {endpoint.method: endpoint for endpoint in endpoints}
    if "GET" in by_method:
        by_method["HEAD"] = by_method["GET"]

    async def handle(request: Request) -> Response:
        endpoint = by_method[request.method]
        if endpoint.public is not None:
            return await endpoint.public(service)
        assert endpoint.handler is not None
        _refuse_other_sites(request)
        peer: Peer | None = request.scope.get("state", {}).get("peer")
        operator = await service.gate.admit(peer, request.client.host if request.client else "unknown")
        request.scope.setdefault("state", {})["operator"] = operator.name
        reach = await _authorise(service, operator, endpoint.operation)
        return await endpoint.handler(Call(service, operator, reach, request))

    return handle


def _refuse_other_sites(request: Request) -> None:
    """
    Refuse what a page of another origin makes a browser send (HTTPException 403).

    A browser adds its user's client certificate by itself; these headers say on whose behalf (Fetch Metadata 2,
    RFC 6454 7). Other programs send neither.
    """
    if not any(name in _OF_BROWSERS for name, _ in request.scope["headers"]):
        return
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    foreign = origin is not None and origin != f"https://{request.headers.get('host')}"
    if site in {"cross-site", "same-site"} or foreign:
        raise HTTPException(403, "a page of another origin may not use this interface")


async def _authorise(service: Service, operator: Operator, operation: Operation | None) -> Reach:
    if operation is None:
        return Reach.OWN
    try:
        return authorise(operator, operation)
    except PKIError as error:
        await service.gate.forbidden(operator, operation.name.lower(), error)
        raise


async def _on_error(_: Request, error: Exception) -> Response:
    return _response(of_error(error))


async def _on_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title = http.HTTPStatus(error.status_code).phrase
    detail = None if error.detail == title else error.detail
    return _response(of_status(error.status_code, title, detail, tuple((error.headers or {}).items())))


def _response(failure: Failure) -> Response:
    return Response(failure.body, failure.status, dict(failure.headers), media_type=PROBLEM_JSON)
