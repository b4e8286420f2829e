"""The auditor follows a status through its suspensions, and finds one that was not journalled (R27, R29)."""

from __future__ import annotations

import datetime

import pytest

from chancery.audit.auditor import audit
from chancery.audit.findings import Kind
from chancery.ports import RevocationReason
from fakes import START
from unit.audit.auditworld import World, honest

HOLD, RELEASE = RevocationReason.CERTIFICATE_HOLD, RevocationReason.REMOVE_FROM_CRL
SUPERSEDED = RevocationReason.SUPERSEDED
SECOND = datetime.timedelta(seconds=1)


def _found(world: World) -> list[Kind]:
    return [one.kind for one in audit(world, world.at).findings]


@pytest.mark.parametrize(
    "then",
    [
        (HOLD,),
        (HOLD, RELEASE),
        (HOLD, RELEASE, HOLD),
        (HOLD, RELEASE, HOLD, RELEASE),
        (HOLD, SUPERSEDED),
        (HOLD, RELEASE, HOLD, SUPERSEDED),
        (HOLD, RELEASE, SUPERSEDED),
    ],
)
def test_there_is_nothing_against_what_was_journalled(then):
    assert [] == list(map(str, audit(honest(then=then), honest(then=then).at).findings))


def _lose(kind: str):
    def plant(world: World) -> None:
        world.drop(world.event_of(f"certificate.{kind}", 4))

    return plant


def _status(**changes):
    def plant(world: World) -> None:
        world.edit(4, "status", **changes)

    return plant


def _requests_gone(world: World) -> None:
    world.put(world.serial(4), revocations=())


@pytest.mark.parametrize(
    ("then", "plant"),
    [
        ((HOLD,), _lose("suspended")),
        ((HOLD,), _status(state="good", revoked_at=None, reason=None)),
        ((HOLD,), _status(reason=4)),
        ((HOLD,), _requests_gone),
        ((HOLD, RELEASE), _lose("reinstated")),
        ((HOLD, RELEASE), _lose("suspended")),
        ((HOLD, RELEASE), _status(released_at=None)),
        ((HOLD, RELEASE), _status(state="revoked", revoked_at=START, reason=6)),
        ((HOLD, RELEASE), _requests_gone),
        ((HOLD, SUPERSEDED), _lose("suspended")),
        ((HOLD, SUPERSEDED), _lose("revoked")),
        ((HOLD, SUPERSEDED), _status(reason=6)),
        ((), _status(released_at=START)),
    ],
)
def test_what_is_not_as_journalled_is_found(then, plant):
    world = honest(then=then)
    plant(world)
    assert _found(world)
