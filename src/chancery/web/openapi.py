"""The OpenAPI 3.1 description, made from the route table and the very structures that decode and encode."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from chancery.web.failures import PROBLEM_JSON, Problem
from chancery.web.service import JSON, NDJSON, Answer, Endpoint

_REF = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"\{(\w+)\}")


def describe(endpoints: Sequence[Endpoint], version: str) -> dict[str, Any]:
    """Return the whole document, as what `json` would encode."""
    types: list[Any] = [Problem]
    for endpoint in endpoints:
        types += [one for one in (endpoint.body, endpoint.query) if one is not None]
        for answer in endpoint.answers:
            types += _structures(answer)
    _, components = msgspec.json.schema_components(types, ref_template=_REF)
    queries = {endpoint.query.__name__ for endpoint in endpoints if endpoint.query is not None}
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, components)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Chancery",
            "version": version,
            "description": (
                "Registration and management over mutual TLS: the client certificate is the operator. "
                "Errors are problem details (RFC 9457) of type urn:chancery:error:<kind>."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": {name: schema for name, schema in sorted(components.items()) if name not in queries},
            "securitySchemes": {
                "mutualTLS": {
                    "type": "mutualTLS",
                    "description": "A certificate that this CA issued, enrolled as an operator's.",
                }
            },
        },
        "security": [{"mutualTLS": []}],
    }


def _operation(endpoint: Endpoint, components: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": _operation_id(endpoint),
        "summary": endpoint.summary,
        "responses": {str(answer.status): _response(answer) for answer in endpoint.answers},
    }
    found["responses"]["default"] = {
        "description": "A problem.",
        "content": {PROBLEM_JSON: {"schema": {"$ref": _REF.format(name="Problem")}}},
    }
    if parameters := [*_path_parameters(endpoint), *_query_parameters(endpoint, components), *_headers(endpoint)]:
        found["parameters"] = parameters
    if endpoint.body is not None:
        schema = {"$ref": _REF.format(name=endpoint.body.__name__)}
        content: dict[str, Any] = {NDJSON if endpoint.lines else JSON: {"schema": schema}}
        if endpoint.raw_body is not None:
            content[endpoint.raw_body] = {}
        found["requestBody"] = {"required": True, "content": content}
    if endpoint.public is not None:
        found["security"] = []
    if endpoint.operation is not None:
        found["description"] = f"Needs the permission to {endpoint.operation.value}."
    return found


def _operation_id(endpoint: Endpoint) -> str:
    handler = endpoint.handler or endpoint.public
    return str(getattr(handler, "__name__", endpoint.summary))


def _structures(answer: Answer) -> tuple[type[msgspec.Struct], ...]:
    """What an answer is made of, where that is not bytes of a media type."""
    if isinstance(answer.body, tuple):
        return answer.body
    return (answer.body,) if isinstance(answer.body, type) else ()


def _response(answer: Answer) -> dict[str, Any]:
    if answer.body is None:
        return {"description": answer.description}
    content: dict[str, Any] = {media_type: {} for media_type in answer.also}
    schemas = [{"$ref": _REF.format(name=one.__name__)} for one in _structures(answer)]
    if isinstance(answer.body, str):
        content[answer.body] = {}
    elif isinstance(answer.body, tuple):
        content[NDJSON] = {"schema": {"oneOf": schemas}}
    else:
        content[JSON] = {"schema": schemas[0]}
    return {"description": answer.description, "content": content}


def _path_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(endpoint.path)
    ]


def _query_parameters(endpoint: Endpoint, components: dict[str, Any]) -> list[dict[str, Any]]:
    if endpoint.query is None:
        return []
    properties = components[endpoint.query.__name__]["properties"]
    return [
        {"name": name, "in": "query", "required": False, "schema": schema} for name, schema in properties.items()
    ]


def _headers(endpoint: Endpoint) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in endpoint.headers
    ]
