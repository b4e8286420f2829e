"""
Who may have timestamps, and how many: by API key, by the certificate of the connection, by network, or anybody.

What is asked of every request is in memory: the clients are read again every few seconds, a quota is reserved in
the database in portions. A client that is revoked is refused at the latest when the clients were read again.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import collections
import contextlib
import dataclasses
import datetime
import hashlib
import hmac
import ipaddress
import math
from collections import Counter

import structlog

from chancery.errors import PKIError
from chancery.ports import Clock
from chancery.ports.timestamps import ClientKind, Span, TimestampClient, TimestampUsage
from chancery.web.access import Trickle
from chancery.web.hot import Request

MAX_STRANGERS = 16384
"""Addresses whose rate is remembered; the one that was silent longest makes room."""
MAX_PLACES = 16384
MAX_PORTION = 256
RECHECK_SECONDS = 10.0
"""How long a quota that was used up is not asked about again: another process may have given some back."""
_log = structlog.get_logger("chancery.web.tsp")
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclasses.dataclass(frozen=True, slots=True)
class AccessSettings:
    """
    `open`: whoever is no client may ask too, for `policies` (None: all), `per_second` times a second with `burst`
    at once from each address. `waiting` is how many requests of one client, or of all strangers, may wait.
    """

    open: bool = True
    policies: tuple[str, ...] | None = None
    per_second: float | None = None
    burst: int = 20
    waiting: int = 1024


class RefusedError(Exception):
    """
    A request that is not even looked at: `status` is HTTP's word for it, `why` the one of the metrics.

    `after` are the seconds after which it may be tried again.
    """

    def __init__(self, status: int, why: str, words: str, after: float | None = None) -> None:
        super().__init__(words)
        self.status, self.why, self.words = status, why, words
        self.after = None if after is None else max(1, math.ceil(after))


class _Allowance:
    """What is left in this process of one client's quota over one span."""

    def __init__(self, usage: TimestampUsage, client: str, span: Span, limit: int, clock: Clock) -> None:
        self._usage, self._client, self._span, self._limit, self._clock = usage, client, span, limit, clock
        # Small quotas are counted one by one; of large ones a process that dies takes at most a hundredth along.
        self._portion = max(1, min(MAX_PORTION, limit // 100))
        self._began = span.began(clock.now())
        self._left = 0
        self._empty_until = -math.inf
        self._asking = asyncio.Lock()

    async def take(self) -> datetime.date:
        """
        Take one; return the first day of the span that it was taken from.

        RefusedError when the quota is used up, PKIError(SYSTEM_UNAVAIL) when it cannot be asked for.
        """
        began = self._span.began(self._clock.now())
        if began != self._began:
            self._began, self._left, self._empty_until = began, 0, -math.inf
        if self._left < 1:
            async with self._asking:
                await self._reserve()
        self._left -= 1
        return self._began

    async def _reserve(self) -> None:
        if self._left > 0:
            return
        if self._clock.monotonic() >= self._empty_until:
            began = self._began
            got = await self._usage.reserve(self._client, self._span, began, self._portion, self._limit)
            if began != self._began:
                raise RefusedError(429, "quota", "the quota has just begun anew", 1.0)
            self._left += got
        if self._left < 1:
            self._empty_until = self._clock.monotonic() + RECHECK_SECONDS
            wait = self._span.ends(self._began) - self._clock.now()
            words = f"the quota of {self._limit} timestamps for each {self._span.value} is used up"
            raise RefusedError(429, "quota", words, wait / datetime.timedelta(seconds=1))

    def put_back(self, began: datetime.date) -> None:
        """One that was taken from the span that began then came to nothing."""
        if began == self._began:
            self._left += 1

    async def close(self) -> None:
        """Give back what was reserved and not used."""
        if self._left > 0:
            left, self._left = self._left, 0
            await self._usage.give_back(self._client, self._span, self._began, left)


class _Known:
    """One client and what this process counts for it; None stands for all strangers together."""

    def __init__(self, client: TimestampClient | None, usage: TimestampUsage | None, clock: Clock) -> None:
        self.client = client
        self.waiting = 0
        self.networks: tuple[_Network, ...] = ()
        self.rate: Trickle | None = None
        self.allowances: list[_Allowance] = []
        if client is not None and usage is not None:
            self.networks = tuple(ipaddress.ip_network(one) for one in client.networks)
            if client.per_second is not None:
                self.rate = Trickle(clock, client.burst, 1 / client.per_second)
            self.allowances = [
                _Allowance(usage, client.name, span, limit, clock) for span, limit in client.quotas().items()
            ]


def _is_readable(client: TimestampClient) -> bool:
    try:
        for one in client.networks:
            ipaddress.ip_network(one)
    except ValueError:
        _log.warning("timestamp client", name=client.name, error="its networks cannot be read")
        return False
    return True


class Entry:
    """A request that was let in: under which name it is recorded and which policies it may have (None: all)."""

    __slots__ = ("_known", "_taken", "policies", "recorded_as")

    def __init__(self, recorded_as: str, policies: tuple[str, ...] | None, known: _Known) -> None:
        self.recorded_as, self.policies, self._known = recorded_as, policies, known
        self._taken: list[tuple[_Allowance, datetime.date]] = []

    async def take(self) -> None:
        """Count it against its client's quotas. Raises as `_Allowance.take`; then `leave` counts it back."""
        for one in self._known.allowances:
            self._taken.append((one, await one.take()))

    def leave(self, *, granted: bool) -> None:
        """It has been answered; what was not granted does not count."""
        self._known.waiting -= 1
        if not granted:
            for one, began in self._taken:
                one.put_back(began)


class Access:
    """
    Lets requests in. `usage` None: there are no clients, only strangers.

    `refused` counts refusals by their word, `entered` requests by the client's name (strangers under "").
    """

    def __init__(self, settings: AccessSettings, usage: TimestampUsage | None, clock: Clock) -> None:
        self._settings = settings
        self._usage = usage
        self._clock = clock
        self._clients: dict[str, _Known] = {}
        self._by_credential: dict[tuple[ClientKind, bytes], _Known] = {}
        self._by_network: list[tuple[_Network, _Known]] = []
        self._places: dict[str, tuple[_Address | None, _Known | None]] = {}
        self._strangers = _Known(None, None, clock)
        self._rates: collections.OrderedDict[str, Trickle] = collections.OrderedDict()
        self.refused: Counter[str] = Counter()
        self.entered: Counter[str] = Counter()

    async def refresh(self) -> None:
        """Read the clients again; what is counted for those that stayed goes on. PKIError(SYSTEM_UNAVAIL)."""
        if self._usage is None:
            return
        # One that cannot be read is none: what was written by a hand of its own must not keep all out.
        found = [one for one in await self._usage.clients() if _is_readable(one)]
        before = self._clients
        # Added, never changed: a client of the same name is the same.
        self._clients = {one.name: before.get(one.name) or _Known(one, self._usage, self._clock) for one in found}
        self._by_credential = {
            (one.client.kind, one.client.credential): one
            for one in self._clients.values()
            if one.client is not None and one.client.credential is not None
        }
        networks = [
            (network, one)
            for one in self._clients.values()
            if one.client is not None and one.client.kind is ClientKind.NETWORK
            for network in one.networks
        ]
        self._by_network = sorted(networks, key=lambda pair: pair[0].prefixlen, reverse=True)
        self._places.clear()

    async def close(self) -> None:
        """Give unused quota back, as far as the database can be reached."""
        for known in self._clients.values():
            for one in known.allowances:
                with contextlib.suppress(PKIError):
                    await one.close()

    def enter(self, request: Request) -> Entry:
        """
        Let a request in; `Entry.leave` has to follow.

        Raises RefusedError: 401 without or with a wrong credential, 403 from a network where the credential is not
        taken, 429 above the rate or with too many waiting. It is counted.
        """
        try:
            known = self._known(request)
            self._check_bounds(known, request.client)
        except RefusedError as error:
            self.refused[error.why] += 1
            raise
        known.waiting += 1
        if known.client is None:
            self.entered[""] += 1
            return Entry(request.client, self._settings.policies, known)
        self.entered[known.client.name] += 1
        return Entry(f"{known.client.name}@{request.client}", known.client.policies, known)

    def _known(self, request: Request) -> _Known:
        address, here = self._place(request.client)
        known: _Known | None = None
        if request.authorization is not None:
            known = self._by_key(request.authorization)
            if known is None:
                raise RefusedError(401, "unauthorized", "this API key is not, or no longer, valid")
        elif request.certificate is not None:
            digest = hashlib.sha256(request.certificate).digest()
            known = self._by_credential.get((ClientKind.CERTIFICATE, digest))
        if known is not None and known.networks and not any(_lies_in(address, one) for one in known.networks):
            raise RefusedError(403, "forbidden", "this client is not taken from this address")
        if (found := known or here) is not None:
            return found
        if self._settings.open:
            return self._strangers
        if request.certificate is not None:
            raise RefusedError(403, "forbidden", "this certificate is no timestamp client's, or no longer")
        raise RefusedError(401, "unauthorized", "an API key is needed")

    def _by_key(self, authorization: bytes) -> _Known | None:
        key = presented_key(authorization)
        if key is None:
            return None
        digest = hashlib.sha256(key).digest()
        known = self._by_credential.get((ClientKind.API_KEY, digest))
        if known is None or known.client is None or known.client.credential is None:
            return None
        return known if hmac.compare_digest(known.client.credential, digest) else None

    def _place(self, client: str) -> tuple[_Address | None, _Known | None]:
        """Return the address and whose network it lies in, the smallest one first; remembered."""
        found = self._places.get(client)
        if found is None:
            address = _address(client)
            here = next((known for network, known in self._by_network if _lies_in(address, network)), None)
            if len(self._places) >= MAX_PLACES:
                self._places.clear()
            found = self._places[client] = address, here
        return found

    def _check_bounds(self, known: _Known, client: str) -> None:
        if known.waiting >= self._settings.waiting:
            raise RefusedError(429, "waiting", "too many requests of this client are waiting", 1.0)
        rate, seconds = known.rate, self._settings.per_second
        if known is self._strangers and seconds is not None:
            rate = self._rate_of(client, seconds)
        elif known.client is not None:
            seconds = known.client.per_second
        if rate is not None and seconds is not None and rate.take() is None:
            raise RefusedError(429, "rate", "too many requests of this client; try again later", 1 / seconds)

    def _rate_of(self, client: str, per_second: float) -> Trickle:
        address = _address(client)
        if isinstance(address, ipaddress.IPv6Address):
            # One subscriber has a /64 at least (RFC 6177).
            client = str(ipaddress.IPv6Network((address, 64), strict=False))
        rate = self._rates.get(client)
        if rate is None:
            if len(self._rates) >= MAX_STRANGERS:
                self._rates.popitem(last=False)
            rate = self._rates[client] = Trickle(self._clock, self._settings.burst, 1 / per_second)
        self._rates.move_to_end(client)
        return rate


def presented_key(authorization: bytes) -> bytes | None:
    """Return the API key of an Authorization field: Bearer (RFC 6750 2.1), or Basic's password (RFC 7617 2)."""
    scheme, _, value = authorization.strip().partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip() or None
    if scheme.lower() != b"basic":
        return None
    try:
        _, colon, password = base64.b64decode(value.strip(), validate=True).partition(b":")
    except binascii.Error:
        return None
    return password if colon and password else None


def _address(client: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _lies_in(address: _Address | None, network: _Network) -> bool:
    return address is not None and address.version == network.version and address in network
