"""Signed OCSP answers as files, for a CDN or for servers that staple."""

from __future__ import annotations

import asyncio
from pathlib import Path

from chancery.cli import build
from chancery.cli.clock import SystemClock
from chancery.cli.serve_hot import report
from chancery.cli.serve_ocsp import keys, policies
from chancery.config import OCSPConfig
from chancery.errors import OperatorError, PKIError
from chancery.ocsp.ahead import START, Ahead
from chancery.ocsp.answering import Answerer, AnswererLimits
from chancery.ocsp.cache import Changes
from chancery.ocsp.delegates import Delegates
from chancery.ocsp.responder import Subject
from chancery.postgres.session import AsyncPool
from chancery.postgres.status import PgStatusReader

POSITION = ".position"


async def run(config: OCSPConfig, directory: Path, per_second: int) -> int:
    """Write one file for every certificate alive, and return how many. OperatorError says what stopped it."""
    clock, token, rules = SystemClock(), build.token(config.token), policies(config)
    signers, every = keys(config, token)
    database = build.connection(config.database, "ocsp export")
    async with AsyncPool(database, size=2) as pool:
        reader = PgStatusReader(pool, clock)
        delegates = Delegates(reader, signers, clock, report, policies=rules, every=every)
        limits = AnswererLimits(signing_threads=config.signing_threads)
        answerer = Answerer(reader, delegates, clock=clock, changes=Changes(), policies=rules, limits=limits)
        try:
            await delegates.refresh()
            for issuer, problem in delegates.problems.items():
                report("ocsp.delegate_missing", {"issuer": issuer, "problem": problem})
            names = delegates.table.names
            return await write(Ahead(reader, delegates, answerer, rules), names, directory, per_second)
        except PKIError as error:
            raise OperatorError(f"the export stopped: {error.detail}", "run it again: it goes on there") from error
        finally:
            await answerer.close()
            token.close()


async def write(ahead: Ahead, names: dict[int, str], directory: Path, per_second: int) -> int:
    """
    Write `ISSUER/SERIAL.ocsp` (DER; the serial in hex) under a directory, and return how many.

    A file is always whole. An export that was stopped left its position behind: then this one goes on there.
    """
    count, position = 0, directory / POSITION
    directory.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - nothing else waits for this loop
    async for last, page in ahead.pages(_read(position)):
        for (issuer_id, serial), _, answered in page:
            folder = directory / names[issuer_id]
            folder.mkdir(exist_ok=True)
            _replace(folder / f"{serial.hex()}.ocsp", answered.response)
        _replace(position, f"{last[0]} {last[1].hex()}\n".encode())
        count += len(page)
        await asyncio.sleep(len(page) / per_second)
    position.unlink(missing_ok=True)
    return count


def _read(position: Path) -> Subject:
    if not position.exists():
        return START
    try:
        issuer_id, serial = position.read_text().split()
        return int(issuer_id), bytes.fromhex(serial)
    except ValueError:
        raise OperatorError(f"{position} holds no position", "remove it, to begin anew") from None


def _replace(path: Path, data: bytes) -> None:
    """Write a file that others read: they see the old one or the new one."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(data)
    fresh.chmod(0o644)
    fresh.replace(path)
