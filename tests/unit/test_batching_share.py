"""A batcher with a share hands over more when more waits."""

from __future__ import annotations

import asyncio

from chancery.batching import Batcher


def test_a_batch_is_a_share_of_what_waits_where_that_is_more():
    sizes: list[int] = []
    gate = asyncio.Event()

    async def flush(items: list[int]) -> list[int]:
        sizes.append(len(items))
        await gate.wait()
        return items

    async def main() -> None:
        batcher = Batcher(flush, max_batch=2, share=0.5)
        tasks = [asyncio.create_task(batcher.submit(n)) for n in range(11)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gate.set()
        assert list(range(11)) == await asyncio.gather(*tasks)

    asyncio.run(main())
    assert [5, 3, 2, 1] == sizes
