"""Who may do what: the one table of operations and roles, and the question put to it before every act."""

from __future__ import annotations

import enum
import functools
from collections.abc import Mapping

from chancery.errors import ErrorType, PKIError
from chancery.pkix.profile import Profile
from chancery.ports import Operator, Role


class Operation(enum.Enum):
    """Everything that the management interface can be asked for; the value completes "may not …"."""

    SUBMIT = "request a certificate"
    SEE_REQUEST = "see a request"
    SEARCH = "search certificates"
    SHOW = "see a certificate"
    REVOKE = "revoke a certificate"
    REINSTATE = "reinstate a certificate"
    REVOKE_MANY = "revoke many certificates at once"
    APPROVE_REVOCATION = "approve that many are revoked"
    SEE_REVOCATIONS = "see mass revocations"
    REPORT = "record a problem report"
    SEE_REPORTS = "see problem reports"
    DECIDE_REPORT = "decide about a problem report"
    BLOCK_KEY = "block a key"
    SEE_BLOCKED_KEYS = "see blocked keys"
    SEE_ISSUERS = "see issuers and their CRLs"
    SEE_HIERARCHY = "see where the issuers' keys are"
    PUBLISH_CRL = "have a CRL published"
    SEE_PROFILES = "see profiles"
    DEACTIVATE_PROFILE = "deactivate a profile"
    ACTIVATE_PROFILE = "activate a profile"
    SEE_OPERATORS = "see operators"
    ADD_OPERATOR = "enrol an operator"
    REMOVE_OPERATOR = "remove an operator"
    SEE_TIMESTAMP_CLIENTS = "see timestamp clients"
    ADD_TIMESTAMP_CLIENT = "add a timestamp client"
    REVOKE_TIMESTAMP_CLIENT = "revoke a timestamp client"
    STATUS = "see the status"


class Reach(enum.Enum):
    """How far a permission goes: to what the operator asked for itself, or to everything."""

    OWN = "own"
    ANY = "any"


_OWN, _ANY = Reach.OWN, Reach.ANY
_ADMINISTRATOR, _OFFICER, _REQUESTOR, _AUDITOR = Role.ADMINISTRATOR, Role.OFFICER, Role.REQUESTOR, Role.AUDITOR

PERMISSIONS: Mapping[Operation, Mapping[Role, Reach]] = {
    Operation.SUBMIT: {_REQUESTOR: _OWN, _OFFICER: _ANY},
    Operation.SEE_REQUEST: {_REQUESTOR: _OWN, _OFFICER: _ANY, _AUDITOR: _ANY},
    Operation.SEARCH: {_REQUESTOR: _OWN, _OFFICER: _ANY, _AUDITOR: _ANY},
    Operation.SHOW: {_REQUESTOR: _OWN, _OFFICER: _ANY, _AUDITOR: _ANY},
    Operation.REVOKE: {_REQUESTOR: _OWN, _OFFICER: _ANY},
    Operation.REINSTATE: {_ADMINISTRATOR: _ANY, _OFFICER: _ANY},
    Operation.REVOKE_MANY: {_OFFICER: _ANY},
    Operation.APPROVE_REVOCATION: {_ADMINISTRATOR: _ANY, _OFFICER: _ANY},
    Operation.SEE_REVOCATIONS: {_ADMINISTRATOR: _ANY, _OFFICER: _ANY, _AUDITOR: _ANY},
    Operation.REPORT: {_ADMINISTRATOR: _ANY, _OFFICER: _ANY, _REQUESTOR: _ANY},
    Operation.SEE_REPORTS: {_ADMINISTRATOR: _ANY, _OFFICER: _ANY, _AUDITOR: _ANY},
    Operation.DECIDE_REPORT: {_OFFICER: _ANY},
    Operation.BLOCK_KEY: {_ADMINISTRATOR: _ANY, _OFFICER: _ANY},
    Operation.SEE_BLOCKED_KEYS: {_ADMINISTRATOR: _ANY, _OFFICER: _ANY, _AUDITOR: _ANY},
    # Public by nature: a requestor needs them to ask for, and to install, its certificate.
    Operation.SEE_ISSUERS: dict.fromkeys(Role, _ANY),
    Operation.SEE_HIERARCHY: {_ADMINISTRATOR: _ANY, _OFFICER: _ANY, _AUDITOR: _ANY},
    Operation.SEE_PROFILES: dict.fromkeys(Role, _ANY),
    # To stop is for whoever sees the harm; to go on again is not.
    Operation.DEACTIVATE_PROFILE: {_ADMINISTRATOR: _ANY, _OFFICER: _ANY},
    Operation.ACTIVATE_PROFILE: {_ADMINISTRATOR: _ANY},
    Operation.PUBLISH_CRL: {_ADMINISTRATOR: _ANY},
    Operation.SEE_OPERATORS: {_ADMINISTRATOR: _ANY, _AUDITOR: _ANY},
    Operation.ADD_OPERATOR: {_ADMINISTRATOR: _ANY},
    Operation.REMOVE_OPERATOR: {_ADMINISTRATOR: _ANY},
    Operation.SEE_TIMESTAMP_CLIENTS: {_ADMINISTRATOR: _ANY, _OFFICER: _ANY, _AUDITOR: _ANY},
    Operation.ADD_TIMESTAMP_CLIENT: {_ADMINISTRATOR: _ANY},
    Operation.REVOKE_TIMESTAMP_CLIENT: {_ADMINISTRATOR: _ANY, _OFFICER: _ANY},
    Operation.STATUS: {_ADMINISTRATOR: _ANY, _AUDITOR: _ANY},
}


def authorise(operator: Operator, operation: Operation) -> Reach:
    """
    Return how far this operator may go with the operation, by the strongest of its roles.

    Raises PKIError(NOT_AUTHORIZED) naming the roles that would do.
    """
    reach = _reach(operator.roles, operation)
    if reach is None:
        row = PERMISSIONS[operation]
        wanted = " or ".join(role.value for role in Role if role in row)
        raise PKIError(
            ErrorType.NOT_AUTHORIZED, f"{operator.name} may not {operation.value}: the role {wanted} is needed"
        )
    return reach


@functools.lru_cache(maxsize=1024)
def _reach(roles: frozenset[Role], operation: Operation) -> Reach | None:
    row = PERMISSIONS[operation]
    granted = {row[role] for role in roles if role in row}
    return Reach.ANY if Reach.ANY in granted else Reach.OWN if granted else None


def authorise_profile(operator: Operator, profile: str) -> None:
    """Raise PKIError(NOT_AUTHORIZED) unless profiles of this name are among those of the operator."""
    if operator.profiles is not None and profile not in operator.profiles:
        allowed = ", ".join(sorted(operator.profiles)) or "none"
        raise PKIError(
            ErrorType.NOT_AUTHORIZED,
            f"{operator.name} may not request the profile {profile!r}; allowed: {allowed}",
        )


def may_request(operator: Operator, profile: Profile) -> bool:
    """
    Tell whether this operator may request under this profile.

    "Every profile" does not take in those of CAs and of the authority's own services; an administrator's does.
    """
    if operator.profiles is not None:
        return profile.name in operator.profiles
    return Role.ADMINISTRATOR in operator.roles or not (profile.service or profile.extensions.ca)


def own_name(operator: Operator, reach: Reach) -> str | None:
    """Return the requestor's name that results have to be limited to, or None for no limit."""
    return operator.name if reach is Reach.OWN else None
