"""The one table of operations and roles."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from chancery.errors import ErrorType, PKIError
from chancery.pkix.profile import shipped_profiles
from chancery.ports import Operator, Role
from chancery.ra.requestor import (
    PERMISSIONS,
    Operation,
    Reach,
    authorise,
    authorise_profile,
    may_request,
    own_name,
)

OIDS = {"ocsp-signing": "1.3.6.1.5.5.7.3.9", "timestamping": "1.3.6.1.5.5.7.3.8"}


def _operator(*roles: Role, profiles: frozenset[str] | None = None) -> Operator:
    return Operator(bytes(32), "somebody", frozenset(roles), profiles)


def test_every_operation_has_a_row_and_every_row_a_role():
    assert set(Operation) == set(PERMISSIONS)
    assert [] == [operation for operation, row in PERMISSIONS.items() if not row]


def test_an_auditor_changes_nothing():
    changing = {
        Operation.SUBMIT,
        Operation.REVOKE,
        Operation.PUBLISH_CRL,
        Operation.ADD_OPERATOR,
        Operation.REMOVE_OPERATOR,
    }
    assert set() == {operation for operation in changing if Role.AUDITOR in PERMISSIONS[operation]}


def test_an_administrator_issues_nothing_and_an_officer_appoints_nobody():
    assert Role.ADMINISTRATOR not in PERMISSIONS[Operation.SUBMIT]
    assert Role.OFFICER not in PERMISSIONS[Operation.ADD_OPERATOR]


def test_the_strongest_role_decides():
    both = _operator(Role.REQUESTOR, Role.OFFICER)
    assert Reach.ANY is authorise(both, Operation.REVOKE)
    assert Reach.OWN is authorise(_operator(Role.REQUESTOR), Operation.REVOKE)
    assert None is own_name(both, Reach.ANY)
    assert "somebody" == own_name(both, Reach.OWN)


def test_a_refusal_names_the_roles_that_would_do():
    with pytest.raises(PKIError, match="administrator or auditor") as caught:
        authorise(_operator(Role.REQUESTOR), Operation.STATUS)
    assert ErrorType.NOT_AUTHORIZED is caught.value.type


def test_profiles_are_limited():
    limited = _operator(Role.REQUESTOR, profiles=frozenset({"tls-client"}))
    authorise_profile(limited, "tls-client")
    authorise_profile(_operator(Role.REQUESTOR), "smime")
    with pytest.raises(PKIError, match="allowed: tls-client"):
        authorise_profile(limited, "smime")
    with pytest.raises(PKIError, match="allowed: none"):
        authorise_profile(_operator(Role.REQUESTOR, profiles=frozenset()), "smime")


@pytest.mark.parametrize("name", ["ocsp-signing", "timestamping"])
def test_profiles_of_the_authoritys_own_services_are_for_those_they_are_named_to(name):
    """A delegate of the CA calls revoked certificates good (RFC 6960 4.2.2.2): no requestor gets one unasked."""
    profile = shipped_profiles()[name]
    for role in (Role.REQUESTOR, Role.OFFICER):
        assert not may_request(_operator(role), profile)
        assert not may_request(_operator(role, profiles=frozenset({"tls-server"})), profile)
        assert may_request(_operator(role, profiles=frozenset({name})), profile)
        assert may_request(_operator(role), shipped_profiles()["tls-server"])
    assert may_request(_operator(Role.ADMINISTRATOR, Role.REQUESTOR), profile)
    by_oid = dataclasses.replace(
        profile, extensions=msgspec.structs.replace(profile.extensions, extended_key_usage=(OIDS[name],))
    )
    assert not may_request(_operator(Role.REQUESTOR), by_oid)
