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


class HeldDirectory:
    """Counts what it is asked, and answers once `leave` is set; away when told to be."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.asked = 0
        self.leave = asyncio.Event()

    async def operator(self, fingerprint):
        self.asked += 1
        await self.leave.wait()
        return await self.world.memory.operator(fingerprint)

    async def record(self, events):
        await self.world.memory.record(events)


def crowd(act):
    """Run `act(world, directory, come)`; `come` is one more request of the same operator, under way."""
    world = World()
    world.enrol("olga", Role.OFFICER)

    async def go():
        directory = HeldDirectory(world)
        gate = Gate(directory, world.clock)

        async def come():
            peer = Peer(world.certificate("olga"), welcomed=True)
            task = asyncio.create_task(gate.admit(peer, "x"))
            for _ in range(3):
                await asyncio.sleep(0)
            return task

        return await act(world, directory, come)

    return asyncio.run(go())


def test_requests_at_once_share_a_question_and_one_that_gives_up_does_not_end_it():
    async def act(_, directory, come):
        first, *others = [await come() for _ in range(4)]
        first.cancel()
        await asyncio.wait([first])
        directory.leave.set()
        return directory.asked, [(await one).name for one in others]

    assert (1, ["olga"] * 3) == crowd(act)


def test_a_question_older_than_a_second_is_not_joined():
    async def act(world, directory, come):
        first = await come()
        world.clock.advance(1.0)
        second = await come()
        directory.leave.set()
        await asyncio.gather(first, second)
        return directory.asked

    assert 2 == crowd(act)


def test_a_question_that_failed_is_asked_again():
    async def act(world, directory, come):
        world.memory.away = True
        directory.leave.set()
        failed = await asyncio.gather(await come(), return_exceptions=True)
        world.memory.away = False
        return [type(one) for one in failed], (await (await come())).name, directory.asked

    assert ([PKIError], "olga", 2) == crowd(act)
