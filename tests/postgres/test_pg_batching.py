"""Group commit for coroutines."""

from __future__ import annotations

import asyncio

import pytest

from chancery.batching import Batcher
from chancery.errors import ErrorType, PKIError


class Flush:
    """Doubles numbers, and remembers the batches; a zero fails its batch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        await self.open.wait()
        if 0 in items:
            raise ZeroDivisionError
        return [2 * item for item in items]


def run(act):
    async def main():
        return await act(Flush())

    return asyncio.run(main())


def test_what_arrives_during_a_flush_is_the_next_batch():
    async def act(flush):
        batcher = Batcher(flush, max_batch=3)
        flush.open.clear()
        first = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        rest = [asyncio.create_task(batcher.submit(n)) for n in (2, 3, 4, 5)]
        await asyncio.sleep(0)
        flush.open.set()
        return await asyncio.gather(first, *rest), flush.batches

    assert ([2, 4, 6, 8, 10], [[1], [2, 3, 4], [5]]) == run(act)


def test_a_failure_is_its_own_batches_alone():
    async def act(flush):
        batcher = Batcher(flush, max_batch=2)
        found = await asyncio.gather(*(batcher.submit(n) for n in (1, 0, 2, 3)), return_exceptions=True)
        return [type(one) if isinstance(one, Exception) else one for one in found]

    assert [ZeroDivisionError, ZeroDivisionError, 4, 6] == run(act)


def test_too_much_is_refused_at_once():
    async def act(flush):
        batcher = Batcher(flush, max_batch=1, max_pending=2)
        flush.open.clear()
        pending = [asyncio.create_task(batcher.submit(n)) for n in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(PKIError) as caught:
            await batcher.submit(3)
        flush.open.set()
        return caught.value.type, await asyncio.gather(*pending), await batcher.submit(4)

    assert (ErrorType.SYSTEM_UNAVAIL, [2, 4], 8) == run(act)


def test_one_that_was_cancelled_before_its_batch_is_not_flushed():
    async def act(flush):
        batcher = Batcher(flush, max_batch=1)
        flush.open.clear()
        tasks = [asyncio.create_task(batcher.submit(n)) for n in (1, 2, 3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.sleep(0)
        flush.open.set()
        await batcher.close()
        return flush.batches, tasks[0].result(), tasks[2].result()

    assert ([[1], [3]], 2, 6) == run(act)


def test_limits_are_at_least_one():
    with pytest.raises(ValueError, match="at least 1"):
        Batcher(Flush(), max_batch=0)
