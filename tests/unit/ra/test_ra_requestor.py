"""The one table of operations and roles."""

from __future__ import annotations

import pytest

from chancery.errors import ErrorType, PKIError
from chancery.ports import Operator, Role
from chancery.ra.requestor import PERMISSIONS, Operation, Reach, authorise, authorise_profile, own_name


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
