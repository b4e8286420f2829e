"""The description is valid OpenAPI 3.1, and says what is served: no more, no less."""

from __future__ import annotations

import json

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from chancery.ports import Role
from chancery.web.routes import ENDPOINTS
from unit.web.world import World, csr_pem


@pytest.fixture(scope="module")
def description():
    return World().ask(None, "GET", "/openapi.json").json()


def test_it_is_valid(description):
    OpenAPIV31SpecValidator(description).validate()


def test_every_route_is_described_and_every_described_route_is_served(description):
    app = World().app
    served = {(method.lower(), route.path) for route in app.routes for method in route.methods if method != "HEAD"}
    described = {(method, path) for path, item in description["paths"].items() for method in item}
    assert served == described
    assert len(ENDPOINTS) == len(described)


def test_operation_ids_are_unique(description):
    ids = [operation["operationId"] for item in description["paths"].values() for operation in item.values()]
    assert len(ids) == len(set(ids))


def test_everything_but_the_public_pages_needs_mutual_tls(description):
    assert [{"mutualTLS": []}] == description["security"]
    opened = {
        path for path, item in description["paths"].items() for one in item.values() if one.get("security") == []
    }
    assert {"/", "/healthz", "/openapi.json"} == opened


def test_answers_have_the_described_shape(description):
    from openapi_schema_validator import OAS31Validator
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT202012

    world = World()
    world.enrol("anna", Role.ADMINISTRATOR, Role.OFFICER)
    world.ask("anna", "POST", "issuers/issuing/crl")
    registry = Registry().with_resource("urn:description", Resource(description, DRAFT202012))
    asked = {
        ("post", "/api/v1/certificates", "201"): {"json": {"profile": "tls-server", "csr": csr_pem()}},
        ("get", "/api/v1/certificates", "200"): {},
        ("get", "/api/v1/issuers", "200"): {},
        ("get", "/api/v1/crls", "200"): {},
        ("get", "/api/v1/profiles", "200"): {},
        ("get", "/api/v1/operators", "200"): {},
        ("get", "/api/v1/status", "200"): {},
        ("get", "/api/v1/me", "200"): {},
        ("get", "/healthz", "200"): {},
        ("post", "/api/v1/operators", "default"): {"json": {}},
    }
    for (method, path, status), options in asked.items():
        answer = world.ask("anna", method.upper(), path, **options)
        if status != "default":
            assert status == str(answer.status_code)
        media = answer.headers["content-type"]
        schema = description["paths"][path][method]["responses"][status]["content"][media]["schema"]
        pointed = {"$ref": "urn:description" + schema["$ref"]}
        OAS31Validator(pointed, registry=registry).validate(json.loads(answer.content))
