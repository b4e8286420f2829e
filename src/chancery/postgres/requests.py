"""The registration side of the table that joins RA and CA: submissions by group commit, outcomes by NOTIFY."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import datetime
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Any, TypeVar

from chancery.batching import Batcher
from chancery.errors import ErrorType, PKIError
from chancery.pkix.weak import KEY_COMPROMISED
from chancery.ports import (
    Event,
    NewRequest,
    NewRevocation,
    RequestOutcome,
    RequestState,
    RevocationOutcome,
    Submission,
)
from chancery.postgres.journal import event_body
from chancery.postgres.listen import OUTCOMES, AsyncListener
from chancery.postgres.rows import columns, is_storable, text_array
from chancery.postgres.session import AsyncPool
from chancery.postgres.statement import Rows, Statement

MAX_CSR = 65536
MAX_TRANSACTION_ID = 200
_POLL = 5.0
"""Seconds between looks while notifications arrive; every `_RETRY` while they do not."""
_RETRY = 0.5
_FIRST_LOOK = 0.5
"""Seconds until the first look where a notification will tell; it is made all the same, should that be lost."""
_MAX_HEARD = 8192
_MAX_MANY = 16
"""Calls of `submit_many` in one statement."""
_FINAL = (RequestState.DONE, RequestState.REFUSED)

T = TypeVar("T")
Outcome = TypeVar("Outcome", RequestOutcome, RevocationOutcome)
Result = RequestOutcome | PKIError

# One statement, its own transaction: the requests that are new and whose key is not blocked, and the events of
# those alone. What is blocked comes back without an id.
_SUBMIT = Rows("""
WITH asked AS (
    SELECT * FROM <integer, text, text, text, text, text, bytea, text, bytea, timestamptz, text, bytea>
    AS t (n, transaction_id, protocol, requestor, profile, issuer, csr, names, fingerprint, received_at, wish,
        spki_sha256)
), blocked AS (
    SELECT n FROM asked WHERE EXISTS (
        SELECT FROM chancery.blocked_key AS b WHERE b.spki_sha256 = asked.spki_sha256)
), stored AS (
    INSERT INTO chancery.request (transaction_id, protocol, requestor, profile, issuer, csr, names, fingerprint,
        received_at, wish)
    SELECT transaction_id, protocol, requestor, profile, issuer, csr, names::text[], fingerprint, received_at, wish
    FROM asked WHERE n NOT IN (SELECT n FROM blocked) ORDER BY n
    ON CONFLICT (requestor, transaction_id) DO NOTHING
    RETURNING request_id, requestor, transaction_id
), journal AS (
    INSERT INTO chancery.journal_event (body)
    SELECT e.body FROM <integer, integer, text> AS e (n, position, body)
    JOIN asked USING (n) JOIN stored USING (requestor, transaction_id) ORDER BY position
)
SELECT n, request_id FROM stored JOIN asked USING (requestor, transaction_id)
UNION ALL SELECT n, NULL FROM blocked""")

_OUTCOMES = """
SELECT r.request_id, r.transaction_id, r.requestor, r.state, r.fingerprint, c.der, coalesce(i.name, r.issuer),
    r.error, r.detail
FROM chancery.request AS r
LEFT JOIN chancery.certificate AS c ON (c.serial, c.issuer_id) = (r.certificate_serial, r.certificate_issuer_id)
LEFT JOIN chancery.issuer AS i ON i.issuer_id = r.certificate_issuer_id
WHERE """
_BY_ID = Statement(_OUTCOMES + "r.request_id = ANY ({bigint[]})")
_KEYS = "SELECT * FROM unnest({text[]}, {text[]})"
_BY_TRANSACTION = Statement(f"{_OUTCOMES}(r.requestor, r.transaction_id) IN ({_KEYS})")

_REVOKE = """
WITH stored AS (
    INSERT INTO chancery.revocation_request (issuer_id, serial, reason, invalidity_date, requestor, received_at)
    SELECT issuer_id, %s, %s, %s::timestamptz, %s, %s FROM chancery.issuer WHERE name = %s RETURNING revocation_id
), journal AS (
    INSERT INTO chancery.journal_event (body)
    SELECT body FROM stored, unnest(%b::text[]) WITH ORDINALITY AS e (body, n) ORDER BY n
)
SELECT revocation_id FROM stored"""
_REVOCATION = "SELECT revocation_id, state, detail FROM chancery.revocation_request WHERE revocation_id = %s"

_WISH = """
WITH stored AS (
    INSERT INTO chancery.crl_wish (issuer_id, requestor, asked_at, shard, delta)
    SELECT issuer_id, %(requestor)s, %(at)s::timestamptz, %(shard)s::smallint, %(delta)s FROM chancery.issuer AS i
    WHERE name = %(issuer)s AND (coalesce(%(shard)s::smallint, 0) = 0 OR EXISTS (
        SELECT FROM chancery.crl_shard AS s WHERE s.issuer_id = i.issuer_id AND s.shard = %(shard)s::smallint))
    RETURNING issuer_id
), journal AS (
    INSERT INTO chancery.journal_event (body)
    SELECT body FROM stored, unnest(%(bodies)b::text[]) WITH ORDINALITY AS e (body, n) ORDER BY n
)
SELECT issuer_id FROM stored"""


def request_fingerprint(request: NewRequest) -> bytes:
    """Return SHA-256 over everything that was asked, each part with its length; the time is not part of it."""
    issuer = () if request.issuer is None else (request.issuer,)
    wish = () if request.wish is None else (request.wish,)
    parts = (request.transaction_id, request.protocol, request.requestor, request.profile, *request.names, *wish)
    # The first octet says which of the optional parts there are.
    digest = hashlib.sha256(bytes((len(issuer) + 2 * len(wish),)) + len(request.names).to_bytes(4, "big"))
    for part in (request.csr, *(text.encode() for text in (*issuer, *parts))):
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.digest()


class PgRequestQueue:
    """
    `ports.RequestQueue` as the role `chancery_ra`, inside one event loop.

    Submissions that arrive while one commit is in flight share the next one; so do reads. Under load the settings
    of `pool` are `keyed`. `close` before the loop ends.
    """

    def __init__(self, pool: AsyncPool, *, max_batch: int = 256, max_pending: int = 8192) -> None:
        self._pool = pool
        self._submissions: Batcher[Submission, Result] = Batcher(self._store, max_batch, max_pending)
        self._reads: Batcher[int, RequestOutcome | None] = Batcher(self._read, max_batch, 8 * max_pending)
        self._many: Batcher[Sequence[Submission], list[Result]] = Batcher(self._store_many, _MAX_MANY, max_pending)
        self._waiting: collections.defaultdict[str, set[_Watch]] = collections.defaultdict(set)
        # What was settled before anybody waited for it: the worker may be quicker than our own insert's answer.
        self._heard: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._listener = AsyncListener(pool.settings, (OUTCOMES,), self._settled, self._gap)

    async def submit(
        self, request: NewRequest, events: Sequence[Event], spki_sha256: bytes | None = None
    ) -> RequestOutcome:
        """
        Store a request with its events, or return the outcome of the one already stored under its ids.

        Raises PKIError: TRANSACTION_ID_IN_USE when that one asked for something else, BAD_CERT_TEMPLATE for a
        blocked key, BAD_DATA_FORMAT for what cannot be stored, SYSTEM_UNAVAIL when the database is away or too
        much is waiting.
        """
        _check(request)
        result = await self._submissions.submit(Submission(request, tuple(events), spki_sha256))
        if isinstance(result, PKIError):
            raise result
        return result

    async def submit_many(self, submissions: Sequence[Submission]) -> list[Result]:
        """
        Store requests as `submit` does, in one transaction: in their order what it returns or raises.

        Calls that arrive while one commit is in flight share the next one. PKIError(SYSTEM_UNAVAIL) for all.
        """
        refused: dict[int, Result] = {}
        for n, one in enumerate(submissions):
            try:
                _check(one.request)
            except PKIError as error:
                refused[n] = error
        fit = [one for n, one in enumerate(submissions) if n not in refused]
        results = iter(await self._many.submit(fit) if fit else ())
        return [refused[n] if n in refused else next(results) for n in range(len(submissions))]

    async def outcome(self, request_id: int) -> RequestOutcome | None:
        """Return where a request stands, None when there is none."""
        return await self._reads.submit(request_id)

    async def wait(self, request_id: int, seconds: float) -> RequestOutcome:
        """
        Return the outcome as soon as it is final, else as it stands after `seconds`.

        An outage in the middle is waited out. Raises PKIError: BAD_REQUEST when there is no such request,
        SYSTEM_UNAVAIL when the database is still away at the end.
        """

        async def read() -> RequestOutcome:
            if (outcome := await self._reads.submit(request_id)) is None:
                raise PKIError(ErrorType.BAD_REQUEST, "there is no such request")
            return outcome

        return await self._wait(str(request_id), read, seconds)

    async def settled(self, request_ids: Collection[int], seconds: float) -> AsyncIterator[list[RequestOutcome]]:
        """
        Give the outcomes as they become final, those of one notification together; after `seconds` the others.

        An outage in the middle is waited out; PKIError(SYSTEM_UNAVAIL) when it lasts to the end.
        """
        self._listener.start()
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        waiting = {str(one): one for one in request_ids}
        watch = _Watch({key for key in waiting if key in self._heard})
        for key in waiting:
            # Before the first look, as in `_wait`.
            self._waiting[key].add(watch)
        # Without notifications each of them is looked at, again and again.
        look_at_all = not self._listener.connected
        try:
            while True:
                left = until - loop.time()
                keys = watch.take(waiting)
                if look_at_all or left <= 0:
                    keys = list(waiting)
                if found := await self._look([waiting[key] for key in keys], left):
                    for outcome in found:
                        self._unwatch(str(outcome.request_id), watch)
                        del waiting[str(outcome.request_id)]
                    yield found
                if left <= 0 or not waiting:
                    return
                pause = _POLL if self._listener.connected else _RETRY
                look_at_all = not await _pause(watch.woken, min(until - loop.time(), pause))
        finally:
            for key in waiting:
                self._unwatch(key, watch)

    async def _look(self, request_ids: list[int], left: float) -> list[RequestOutcome]:
        """Those of these that are final, all of them when no time is left; none while the database is away."""
        if not request_ids:
            return []
        with contextlib.suppress(_Away):
            found = await _tolerating(lambda: self._read(request_ids), left)
            return [one for one in found if one is not None and (left <= 0 or one.state in _FINAL)]
        return []

    async def submit_revocation(self, request: NewRevocation, events: Sequence[Event]) -> RevocationOutcome:
        """Store a revocation request. PKIError(BAD_CERT_ID) for an unknown issuer or an impossible serial."""
        if not 1 <= len(request.serial) <= 20:
            raise PKIError(ErrorType.BAD_CERT_ID, "a serial number has 1 to 20 octets")
        _check_text(request.requestor, request.issuer)
        found = await self._pool.fetch(
            _REVOKE,
            (
                request.serial,
                int(request.reason),
                request.invalidity_date,
                request.requestor,
                request.received_at,
                request.issuer,
                [event_body(event) for event in events],
            ),
        )
        if not found:
            raise PKIError(ErrorType.BAD_CERT_ID, "there is no such issuer")
        return RevocationOutcome(found[0][0], RequestState.WAITING, None)

    async def wait_revocation(self, revocation_id: int, seconds: float) -> RevocationOutcome:
        """Return where a revocation request stands once it is settled, or after `seconds`; errors as `wait`."""

        async def read() -> RevocationOutcome:
            found = await self._pool.fetch(_REVOCATION, (revocation_id,))
            if not found:
                raise PKIError(ErrorType.BAD_REQUEST, "there is no such revocation request")
            return RevocationOutcome(found[0][0], RequestState(found[0][1]), found[0][2])

        return await self._wait(f"r{revocation_id}", read, seconds)

    async def ask_crl(
        self,
        issuer: str,
        requestor: str,
        at: datetime.datetime,
        events: Sequence[Event],
        *,
        shard: int | None = None,
        delta: bool = False,
    ) -> None:
        """Ask the worker to publish. PKIError(BAD_CERT_ID) for an issuer or a shard that does not exist."""
        _check_text(issuer, requestor)
        bodies = [event_body(event) for event in events]
        asked = {"requestor": requestor, "at": at, "issuer": issuer, "shard": shard, "delta": delta}
        if not await self._pool.fetch(_WISH, {**asked, "bodies": bodies}):
            raise PKIError(ErrorType.BAD_CERT_ID, "there is no such issuer, or it has no such shard")

    async def close(self) -> None:
        """Finish what was submitted and stop listening; the pool stays open."""
        await self._submissions.close()
        await self._many.close()
        await self._listener.close()

    async def _store(self, batch: list[Submission]) -> list[Result]:
        """One commit for the batch. One that the database refuses fails alone, not its neighbours."""
        try:
            return await self._store_together(batch)
        except PKIError as error:
            if error.type is not ErrorType.SYSTEM_FAILURE:
                raise
            if len(batch) == 1:
                return [error]
            return [result for one in batch for result in await self._store([one])]

    async def _store_together(self, batch: list[Submission]) -> list[Result]:
        # Twice the same ids in one batch: the first is stored, the others are retries of it.
        first = {_key(one.request): n for n, one in reversed(list(enumerate(batch)))}
        chosen = sorted(first.values())
        told = [(n, event) for n in chosen for event in batch[n].events]
        events = [(n, position, event_body(event)) for position, (n, event) in enumerate(told)]
        fingerprints = [request_fingerprint(one.request) for one in batch]
        rows = [_row(n, batch[n], fingerprints[n]) for n in chosen]
        found = await self._pool.run(*_SUBMIT.of(rows, events))
        new: dict[int, int] = {n: request_id for n, request_id in found if request_id is not None}
        blocked = {n for n, request_id in found if request_id is None}
        known = await self._known([key for key, n in first.items() if n not in new and n not in blocked])
        results: list[Result] = []
        for one, fingerprint in zip(batch, fingerprints, strict=True):
            key = _key(one.request)
            n = first[key]
            if n in blocked:
                # Another that came under the same ids is not stored with it: it was refused first.
                results.append(_blocked() if fingerprint == fingerprints[n] else _in_use())
                continue
            stored = known.get(key) or _waiting(new[n], batch[n].request, fingerprints[n])
            results.append(stored if stored.fingerprint == fingerprint else _in_use())
        return results

    async def _store_many(self, calls: list[Sequence[Submission]]) -> list[list[Result]]:
        results = iter(await self._store([one for call in calls for one in call]))
        return [[next(results) for _ in call] for call in calls]

    async def _known(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], RequestOutcome]:
        if not keys:
            return {}
        found = map(_outcome, await self._pool.run(_BY_TRANSACTION, columns(keys, 2)))
        return {(outcome.requestor, outcome.transaction_id): outcome for outcome in found}

    async def _read(self, ids: list[int]) -> list[RequestOutcome | None]:
        found = map(_outcome, await self._pool.run(_BY_ID, [ids]))
        by_id = {outcome.request_id: outcome for outcome in found}
        return [by_id.get(request_id) for request_id in ids]

    async def _wait(self, key: str, read: Callable[[], Awaitable[Outcome]], seconds: float) -> Outcome:
        self._listener.start()
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        watch = _Watch()
        # Before the first look, so that nothing can settle unheard between the look and the wait.
        self._waiting[key].add(watch)
        try:
            if self._listener.connected and key not in self._heard:
                await _pause(watch.woken, min(seconds, _FIRST_LOOK))
            while True:
                watch.woken.clear()
                with contextlib.suppress(_Away):
                    outcome = await _tolerating(read, until - loop.time())
                    left = until - loop.time()
                    if outcome.state in _FINAL or left <= 0:
                        return outcome
                pause = _POLL if self._listener.connected else _RETRY
                await _pause(watch.woken, min(until - loop.time(), pause))
        finally:
            self._unwatch(key, watch)

    def _unwatch(self, key: str, watch: _Watch) -> None:
        self._waiting[key].discard(watch)
        if not self._waiting[key]:
            del self._waiting[key]

    def _settled(self, _channel: str, payload: str) -> None:
        for key in payload.split(","):
            waiting = self._waiting.get(key)
            if waiting is None:
                self._heard[key] = None
                continue
            for watch in waiting:
                watch.tell(key)
        while len(self._heard) > _MAX_HEARD:
            self._heard.popitem(last=False)

    def _gap(self) -> None:
        for key, waiting in self._waiting.items():
            for watch in waiting:
                watch.tell(key)


class _Watch:
    """What has been heard of that somebody waits for; `woken` when there is something to look at."""

    __slots__ = ("heard", "woken")

    def __init__(self, heard: set[str] | None = None) -> None:
        self.heard = heard or set()
        self.woken = asyncio.Event()

    def tell(self, key: str) -> None:
        self.heard.add(key)
        self.woken.set()

    def take(self, among: Collection[str]) -> list[str]:
        """Return what was heard of since the last call and is still waited for."""
        heard, self.heard = self.heard, set()
        self.woken.clear()
        return [key for key in heard if key in among]


async def _pause(woken: asyncio.Event, seconds: float) -> bool:
    """Sleep until woken, at most `seconds`; tell whether it was. A timer is cheaper than a timeout."""
    late = False

    def give_up() -> None:
        nonlocal late
        late = True
        woken.set()

    timer = asyncio.get_running_loop().call_later(max(0.0, seconds), give_up)
    try:
        await woken.wait()
    finally:
        timer.cancel()
    return not late


class _Away(Exception):  # noqa: N818 - it never leaves this module
    """The database is away, and there is time to look again."""


async def _tolerating(read: Callable[[], Awaitable[T]], left: float) -> T:
    try:
        return await read()
    except PKIError as error:
        if error.type is ErrorType.SYSTEM_UNAVAIL and left > 0:
            raise _Away from error
        raise


def _check(request: NewRequest) -> None:
    _check_text(
        request.transaction_id,
        request.protocol,
        request.requestor,
        request.profile,
        request.issuer or "",
        request.wish or "",
        *request.names,
    )
    if not 1 <= len(request.transaction_id) <= MAX_TRANSACTION_ID:
        raise PKIError(ErrorType.BAD_DATA_FORMAT, f"a transaction id has 1 to {MAX_TRANSACTION_ID} characters")
    if len(request.csr) > MAX_CSR:
        raise PKIError(ErrorType.BAD_DATA_FORMAT, f"a request has at most {MAX_CSR} octets")


def _check_text(*texts: str) -> None:
    if not all(map(is_storable, texts)):
        raise PKIError(ErrorType.BAD_DATA_FORMAT, "NUL or an unpaired surrogate in a text")


def _key(request: NewRequest) -> tuple[str, str]:
    return request.requestor, request.transaction_id


def _row(n: int, submission: Submission, fingerprint: bytes) -> tuple[object, ...]:
    request = submission.request
    return (
        n,
        request.transaction_id,
        request.protocol,
        request.requestor,
        request.profile,
        request.issuer,
        request.csr,
        text_array(request.names),
        fingerprint,
        request.received_at,
        request.wish,
        submission.spki_sha256,
    )


def _waiting(request_id: int, request: NewRequest, fingerprint: bytes) -> RequestOutcome:
    return RequestOutcome(
        request_id,
        request.transaction_id,
        request.requestor,
        RequestState.WAITING,
        fingerprint,
        None,
        request.issuer,
        None,
        None,
    )


def _outcome(row: Sequence[Any]) -> RequestOutcome:
    request_id, transaction_id, requestor, state, fingerprint, der, issuer, error, detail = row
    return RequestOutcome(
        request_id,
        transaction_id,
        requestor,
        RequestState(state),
        fingerprint,
        der,
        issuer,
        None if error is None else ErrorType(error),
        detail,
    )


def _in_use() -> PKIError:
    return PKIError(ErrorType.TRANSACTION_ID_IN_USE, "that transaction id asked for something else")


def _blocked() -> PKIError:
    return PKIError(ErrorType.BAD_CERT_TEMPLATE, KEY_COMPROMISED)
