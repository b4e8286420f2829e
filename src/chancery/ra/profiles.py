"""Profiles as recorded, and switching them off and on, which the worker obeys and the journal holds."""

from __future__ import annotations

from chancery.errors import ErrorType, PKIError
from chancery.pkix.profile import Profile
from chancery.ports import EventKind, Operator, ProfileRecord, ProfileSwitch
from chancery.ra.enrolment import RegistrationAuthority
from chancery.ra.requestor import Operation, authorise

MAX_REASON = 1000


async def switch_profile(
    ra: RegistrationAuthority, operator: Operator, name: str, *, active: bool, reason: str
) -> ProfileSwitch:
    """
    Deactivate a profile in all its versions, or activate it again; what was issued stays as it is.

    Raises PKIError: NOT_AUTHORIZED; BAD_CERT_ID when there is no profile of this name; BAD_REQUEST when it is
    in that state already, or the reason is empty or too long.
    """
    authorise(operator, Operation.ACTIVATE_PROFILE if active else Operation.DEACTIVATE_PROFILE)
    if not 1 <= len(reason) <= MAX_REASON:
        raise PKIError(ErrorType.BAD_REQUEST, f"a reason has 1 to {MAX_REASON} characters")
    if name not in ra.profiles and all(one.name != name for one in await ra.directory.profile_records()):
        raise PKIError(ErrorType.BAD_CERT_ID, "no such profile")
    kind = EventKind.PROFILE_ACTIVATED if active else EventKind.PROFILE_DEACTIVATED
    event = ra.event(kind, operator.name, f"profile:{name}", {"reason": reason})
    switch = ProfileSwitch(name, active, reason, operator.name, event.at)
    if not await ra.directory.switch_profile(switch, event):
        raise PKIError(
            ErrorType.BAD_REQUEST, f"the profile {name} is {'active' if active else 'deactivated'} already"
        )
    return switch


async def recorded(ra: RegistrationAuthority, name: str) -> list[ProfileRecord]:
    """Return what was recorded under this name, the latest first."""
    return [one for one in await ra.directory.profile_records() if one.name == name]


async def find_profile(ra: RegistrationAuthority, name: str, version: int | None) -> Profile | ProfileRecord:
    """
    Return the profile that is in use here, or the recorded text of a version.

    Raises PKIError(BAD_CERT_ID) when there is none.
    """
    used = ra.profiles.get(name)
    if used is not None and version in {None, used.version}:
        return used
    found = [one for one in await recorded(ra, name) if version in {None, one.version}]
    if not found:
        raise PKIError(ErrorType.BAD_CERT_ID, "no such profile, or no such version of it")
    return found[0]
