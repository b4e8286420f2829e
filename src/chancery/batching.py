"""Group commit for coroutines: what arrives while one batch is in flight becomes the next batch."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from chancery.errors import ErrorType, PKIError

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """
    Hands items to `flush` in batches of at most `max_batch`, in the order in which they were submitted.

    `flush` returns one result per item, in the same order. At most `concurrency` batches are in flight,
    and at most `max_pending` items wait or are in flight. For one event loop.

    With a `share`, a batch is as large as that part of what waits, where that is more than `max_batch`: a busy
    loop comes round seldom, and must hand over more each time.
    """

    def __init__(
        self,
        flush: Callable[[list[T]], Awaitable[list[R]]],
        max_batch: int = 256,
        max_pending: int = 8192,
        concurrency: int = 1,
        share: float = 0.0,
    ) -> None:
        if min(max_batch, max_pending, concurrency) < 1:
            raise ValueError("max_batch, max_pending and concurrency are at least 1")
        self._flush = flush
        self._max_batch = max_batch
        self._max_pending = max_pending
        self._concurrency = concurrency
        self._share = share
        self._waiting: collections.deque[tuple[T, asyncio.Future[R]]] = collections.deque()
        self._in_flight = 0
        # Counted apart from the tasks: a task that has drained the queue is in the set for a moment longer.
        self._draining = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def full(self) -> bool:
        """Tell whether the next item would be refused."""
        return len(self._waiting) + self._in_flight >= self._max_pending

    async def submit(self, item: T) -> R:
        """
        Return what `flush` made of this item.

        Raises PKIError(SYSTEM_UNAVAIL) when too much waits already, and whatever `flush` raised for the
        item's batch. Cancelled before its batch starts, the item is not handled; later it is, unheard.
        """
        if self.full:
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, "too many requests are waiting; try again later")
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._draining < self._concurrency:
            self._draining += 1
            task = asyncio.create_task(self._drain())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def _drain(self) -> None:
        try:
            while batch := self._next_batch():
                self._in_flight += len(batch)
                try:
                    await self._settle(batch)
                finally:
                    self._in_flight -= len(batch)
        finally:
            self._draining -= 1

    async def _settle(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._flush([item for item, _ in batch])
            pairs = list(zip(batch, results, strict=True))
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - it belongs to the waiters
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), result in pairs:
                if not future.done():
                    future.set_result(result)

    def _next_batch(self) -> list[tuple[T, asyncio.Future[R]]]:
        batch: list[tuple[T, asyncio.Future[R]]] = []
        most = max(self._max_batch, int(len(self._waiting) * self._share))
        while self._waiting and len(batch) < most:
            entry = self._waiting.popleft()
            if not entry[1].done():
                batch.append(entry)
        return batch

    async def close(self) -> None:
        """Wait until everything submitted so far has been flushed. Items may still be submitted afterwards."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))
