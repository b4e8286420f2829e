"""Run on a host of the lab: listens on every port it is told, or tries to reach others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys

SECONDS = 1.5
AT_ONCE = 400


async def listen(address: str, ports: list[int]) -> None:
    """Take TCP connections on each port that nobody else has."""

    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    servers = []
    for port in ports:
        with contextlib.suppress(OSError):  # the real one is there
            servers.append(await asyncio.start_server(greet, address, port))
    print("ready", flush=True)
    await asyncio.Event().wait()


async def reach(targets: list[tuple[str, int]]) -> list[str]:
    """Say of each target: `open`, `refused` (an answer), or `silent` (none: dropped on the way)."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(address: str, port: int) -> str:
        async with gate:
            try:
                _, writer = await asyncio.wait_for(asyncio.open_connection(address, port), SECONDS)
            except TimeoutError:
                return "silent"
            except PermissionError:  # this host's own output chain, seen by connect()
                return "silent"
            except OSError as error:
                return "refused" if error.errno == 111 else "silent"
            writer.close()
            return "open"

    return await asyncio.gather(*(one(*target) for target in targets))


if __name__ == "__main__":
    told = json.load(sys.stdin)
    if "listen" in told:
        asyncio.run(listen(told["listen"], told["ports"]))
    else:
        print(json.dumps(asyncio.run(reach([tuple(one) for one in told["targets"]]))))
