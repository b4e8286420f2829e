"""`ports.timestamps` in memory: the registration's clients, and the authority's count of what they used."""

from __future__ import annotations

import dataclasses

from chancery.errors import ErrorType, PKIError
from chancery.ports.timestamps import ClientKind, TimestampClient
from fakes import START


def tsa_client(name="robot", kind=ClientKind.API_KEY, credential=bytes(32), **changes) -> TimestampClient:
    """A client without any bound, but for `changes`."""
    values = {
        "networks": (), "policies": None, "per_second": None, "burst": 20, "per_day": None, "per_month": None,
        "added_at": START, "added_by": "anna",
    }  # fmt: skip
    return TimestampClient(name, kind, credential, **(values | changes))


class MemoryTimestampClients:
    """`memory` gets the events; `around` makes calls fail as they do there."""

    def __init__(self, memory, around) -> None:
        self._memory = memory
        self._around = around
        self.kept: dict[str, TimestampClient] = {}

    async def add(self, client, events) -> None:
        def act() -> None:
            credentials = {one.credential for one in self.kept.values()} - {None}
            if client.name in self.kept or client.credential in credentials:
                raise PKIError(ErrorType.BAD_REQUEST, "that name or credential was given before")
            self.kept[client.name] = client
            self._memory.events += events

        self._around(act)

    async def revoke(self, name, at, events) -> None:
        def act() -> None:
            if name not in self.kept or self.kept[name].revoked_at is not None:
                raise PKIError(ErrorType.BAD_CERT_ID, "no such client")
            self.kept[name] = dataclasses.replace(self.kept[name], revoked_at=at)
            self._memory.events += events

        self._around(act)

    async def clients(self):
        return self._around(lambda: sorted(self.kept.values(), key=lambda one: one.name))


class MemoryUsage:
    """What several processes share; `away` fails every call."""

    def __init__(self, *clients: TimestampClient) -> None:
        self.current = list(clients)
        self.used: dict[tuple, int] = {}
        self.reservations = 0
        self.away = False

    def _check(self) -> None:
        if self.away:
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the database is away")

    async def clients(self):
        self._check()
        return list(self.current)

    async def reserve(self, client, span, began, wanted, limit) -> int:
        self._check()
        self.reservations += 1
        used = self.used.get((client, span, began), 0)
        many = max(0, min(wanted, limit - used))
        self.used[client, span, began] = used + many
        return many

    async def give_back(self, client, span, began, unused) -> None:
        self._check()
        self.used[client, span, began] -= unused
