"""`chancery request --bulk`: many requests in few calls, gone on with where it was broken off."""

from __future__ import annotations

import asyncio
import base64
import collections
import contextlib
import dataclasses
import ssl
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Final

import httpx
import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from chancery.cli.api_client import PAUSES, REFUSED, UNAVAILABLE, USAGE, Client, fail, fail_with_problem
from chancery.cli.bulk_items import Broken, Common, Directory, Item, JSONLines, Result, Results, Source
from chancery.cli.bulk_stream import BrokenOffError, Stream
from chancery.cli.show import show_json, show_pairs, show_rows
from chancery.ports import RequestState
from chancery.web.views import BulkAnswer, BulkEnd

LINES_AT_ONCE: Final = 2048
"""Sent and not answered yet; the server takes fewer, the rest lies ready for it."""
LINES_A_CALL: Final = 50_000
OCTETS_A_MESSAGE: Final = 16 * 1024
MAX_SHOWN: Final = 20
MAX_LISTED: Final = 1000
_answer = msgspec.json.Decoder(BulkAnswer | BulkEnd)


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """
    The options; `beside` as in `Common`.

    `wait`: seconds without a certificate after which those that are left are given up.
    """

    path: Path
    beside: Mapping[str, str | None]
    names: tuple[str, ...]
    out: Path | None
    job: str | None
    wait: float
    der: bool
    json: bool


def request_all(client: Client, wanted: Wanted) -> None:
    """Ask for everything that has no certificate yet, write what comes, say how it went, and end with its code."""
    source = _source(wanted.path)
    if wanted.out is not None:
        try:
            wanted.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fail(f"{wanted.out} cannot be made: {error.strerror}", "name another directory with --out", USAGE)
    place = source.default_results
    with contextlib.closing(Results(wanted.out / place.name if wanted.out else place, wanted.job)) as results:
        run = Run(client, source, results, wanted)
        with _progress() as progress:
            run.go(progress)
        run.tell()


def _source(path: Path) -> Source:
    try:
        return Directory(path) if path.is_dir() else JSONLines(path)
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}", "name a directory of CSRs or a file of JSON lines", USAGE)


def _progress() -> Progress:
    columns = (TextColumn("certificates"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


@contextlib.contextmanager
def _written() -> Generator[None, None, None]:
    try:
        yield
    except OSError as error:
        what = error.filename or "the file of results"
        fail(f"{what} cannot be written: {error.strerror}", "make room, and run the same again", USAGE)


class Run:
    """One run over a source: calls until everything is settled, or nothing moves any more."""

    def __init__(self, client: Client, source: Source, results: Results, wanted: Wanted) -> None:
        self._client = client
        self._results = results
        self._wanted = wanted
        self._source = source
        common = Common(results.job, wanted.beside, wanted.names, ".cer" if wanted.der else ".crt")
        self._items: Iterator[Item | Broken] | None = source.items(common, wanted.out)
        self._again: collections.deque[Item] = collections.deque()
        # Of the call under way: what was sent and not answered, by its line.
        self._sent: dict[int, Item] = {}
        self._room = asyncio.Event()
        self._counts: collections.Counter[str] = collections.Counter()
        self._refused: list[Result] = []
        self._moved = self._began = time.monotonic()
        self._why: Exception | None = None

    def go(self, progress: Progress) -> None:
        """Ask for everything. Ends the program when the server will not have it."""
        try:
            total = self._source.count()
        except OSError as error:
            fail(f"the requests cannot be read: {error.strerror}", "name a readable directory or file", USAGE)
        self._task = progress.add_task("", total=total)
        self._progress = progress
        asyncio.run(self._all())

    async def _all(self) -> None:
        fruitless = 0
        while (item := self._next()) is not None:
            self._again.appendleft(item)
            before = self._moved
            await self._call()
            fruitless = fruitless + 1 if self._moved == before else 0
            if fruitless and time.monotonic() - self._moved >= self._wanted.wait:
                break
            if fruitless:
                await asyncio.sleep(PAUSES[min(fruitless, len(PAUSES)) - 1])

    def _next(self) -> Item | None:
        """Return what is to be asked next; what cannot be asked or is done already is only counted."""
        if self._again:
            return self._again.popleft()
        for item in self._items or ():
            if isinstance(item, Broken):
                self._refuse(self._results.refuse(item))
            elif item.transaction_id in self._results.done and (item.out is None or item.out.exists()):
                self._count("already there")
            else:
                return item
        self._items = None
        return None

    async def _call(self) -> None:
        self._sent, self._why = {}, None
        try:
            async with Stream(self._client, min(self._wanted.wait, 20.0)) as stream:
                await self._converse(stream)
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                fail_with_problem(error.response)
            self._why = error
        except ssl.SSLError as error:
            self._client.unreachable(error)
        except (OSError, BrokenOffError) as error:
            self._why = error
        finally:
            # In the order in which they were asked for.
            self._again.extendleft(reversed(self._sent.values()))

    async def _converse(self, stream: Stream) -> None:
        sending = asyncio.create_task(self._send(stream))
        try:
            async for lines in stream.answers():
                for line in lines:
                    answer = _answer.decode(line)
                    if isinstance(answer, BulkEnd):
                        if answer.error is not None:
                            self._why = BrokenOffError(answer.detail)
                        return
                    self._take(answer)
                self._settle()
            raise BrokenOffError("the last line is missing")
        except msgspec.MsgspecError as error:
            raise BrokenOffError(f"an answer that cannot be read: {error}") from None
        finally:
            self._settle()
            sending.cancel()
            # Why sending ended is told by the answers, or by their end.
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await sending

    async def _send(self, stream: Stream) -> None:
        part: list[bytes] = []
        size = 0
        for line in range(1, LINES_A_CALL + 1):
            if (item := self._next()) is None:
                break
            self._sent[line] = item
            part.append(item.line)
            size += len(item.line)
            full = len(self._sent) >= LINES_AT_ONCE
            if full or size >= OCTETS_A_MESSAGE:
                await stream.send(b"".join(part))
                part, size = [], 0
            while len(self._sent) >= LINES_AT_ONCE:
                self._room.clear()
                await self._room.wait()
        if part:
            await stream.send(b"".join(part))
        await stream.finish()

    def _take(self, answer: BulkAnswer) -> None:
        item = self._sent.pop(answer.line, None)
        if item is None:
            raise BrokenOffError("an answer to what was not asked")
        self._room.set()
        if answer.state not in {RequestState.DONE, RequestState.REFUSED}:
            # For the next call: in this one it would be asked in a circle.
            self._again.append(item)
            return
        content = None
        if answer.certificate is not None and item.out is not None:
            content = answer.certificate.encode()
            if self._wanted.der:
                content = base64.b64decode("".join(answer.certificate.splitlines()[1:-1]))
        with _written():
            result = self._results.add(item, answer, content)
        self._moved = time.monotonic()
        if answer.state is RequestState.DONE:
            self._count("done")
        else:
            self._refuse(result)

    def _refuse(self, result: Result) -> None:
        self._count("refused")
        if len(self._refused) < MAX_LISTED:
            self._refused.append(result)

    def _count(self, what: str) -> None:
        self._counts[what] += 1

    def _settle(self) -> None:
        """Show, and keep, what has come since the last time."""
        with _written():
            self._results.flush()
        self._progress.update(self._task, completed=self._counts.total())

    def tell(self) -> None:
        """Show how it went, and end the program unless everything has its certificate."""
        left = len(self._again) + sum(1 for _ in self._items or ())
        counts, seconds = self._counts, time.monotonic() - self._began
        rate = round(counts["done"] / seconds, 1)
        if self._wanted.json:
            found = {name.replace(" ", "_"): counts[name] for name in ("done", "already there", "refused")}
            shown = {**found, "left": left, "seconds": round(seconds, 3), "results": str(self._results.path)}
            show_json({**shown, "job": self._results.job, "refusals": self._refused})
        else:
            show_pairs(
                [
                    *((name, counts[name] or None) for name in ("done", "already there", "refused")),
                    ("left", left or None),
                    ("seconds", f"{seconds:.1f} ({rate:,.1f} certificates/s)"),
                    ("results", self._results.path),
                ]
            )
            if self._refused:
                rows = [[one.source, one.error, one.detail] for one in self._refused[:MAX_SHOWN]]
                show_rows(("refused", "error", "why"), rows)
        if left:
            why = f": {self._why or 'not settled in time'}"
            fail(
                f"{left} of the requests are not settled{why}", "run the same command again to go on", UNAVAILABLE
            )
        if counts["refused"]:
            raise typer.Exit(REFUSED)
