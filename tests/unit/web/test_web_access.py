"""Logins, good and bad, are journalled (R27); strangers cannot fill the journal."""

from __future__ import annotations

import asyncio

import pytest

from chancery.errors import PKIError
from chancery.ports import Role
from chancery.web.access import REFUSALS_AT_ONCE, Gate, Peer
from chancery.web.failures import NotAuthenticatedError
from unit.web.world import World


def test_a_login_is_journalled_once_per_connection():
    world = World()
    operator = world.enrol("olga", Role.OFFICER)

    async def go():
        for _ in range(2):
            async with world.client("olga") as client:
                for _ in range(3):
                    assert 200 == (await client.get("/api/v1/me")).status_code

    asyncio.run(go())
    assert ["login.accepted"] * 2 == world.memory.kinds()
    event = world.memory.events[0]
    assert ("olga", "operator:olga") == (event.actor, event.subject)
    assert {"address": "192.0.2.1", "certificate_sha256": operator.fingerprint.hex()} == event.detail


def test_a_flood_of_strangers_leaves_a_few_events_and_a_count():
    world = World()
    for _ in range(500):
        assert 401 == world.ask(None, "GET", "me").status_code
    assert ["login.refused"] * REFUSALS_AT_ONCE == world.memory.kinds()
    world.clock.advance(6.0)
    world.ask(None, "GET", "me")
    assert REFUSALS_AT_ONCE + 1 == len(world.memory.events)
    assert 500 - REFUSALS_AT_ONCE == world.memory.events[-1].detail["held_back"]


def test_a_flood_of_forbidden_questions_leaves_a_few_events_too():
    world = World()
    world.enrol("rita", Role.REQUESTOR)
    for _ in range(100):
        assert 403 == world.ask("rita", "GET", "operators").status_code
    assert REFUSALS_AT_ONCE == world.memory.kinds().count("request.refused")


def test_who_cannot_be_journalled_does_not_enter():
    world = World()
    world.enrol("olga", Role.OFFICER)

    async def go():
        async with world.client("olga") as client:
            world.memory.faults.at = world.memory.faults.calls + 2  # the directory answers, the journal does not
            first = await client.get("/api/v1/me")
            second = await client.get("/api/v1/me")
            return first.status_code, second.status_code

    assert (503, 200) == asyncio.run(go())
    assert ["login.accepted"] == world.memory.kinds()


def test_a_refusal_stands_when_it_cannot_be_journalled():
    world = World()
    world.memory.away = True
    assert 401 == world.ask(None, "GET", "me").status_code


def test_what_was_asked_before_forgetting_is_not_remembered():
    """The answer of a lookup that began before a removal must not outlive it."""
    world = World()
    world.enrol("olga", Role.OFFICER)
    peer = Peer(world.certificate("olga"))

    class SlowDirectory:
        def __init__(self) -> None:
            self.arrived = asyncio.Event()
            self.leave = asyncio.Event()

        async def operator(self, fingerprint):
            found = await world.memory.operator(fingerprint)
            self.arrived.set()
            await self.leave.wait()
            return found

        async def record(self, events):
            await world.memory.record(events)

    async def go():
        directory = SlowDirectory()
        gate = Gate(directory, world.clock)
        first = asyncio.create_task(gate.admit(peer, "192.0.2.1"))
        await directory.arrived.wait()
        world.memory.people.clear()
        gate.forget()
        directory.leave.set()
        assert "olga" == (await first).name
        with pytest.raises(NotAuthenticatedError):
            await gate.admit(peer, "192.0.2.1")

    asyncio.run(go())


def test_a_directory_that_is_away_is_not_a_refusal():
    world = World()
    world.enrol("olga", Role.OFFICER)
    world.memory.away = True
    with pytest.raises(PKIError) as caught:
        asyncio.run(Gate(world.memory, world.clock).admit(Peer(world.certificate("olga")), "x"))
    assert not isinstance(caught.value, NotAuthenticatedError)
