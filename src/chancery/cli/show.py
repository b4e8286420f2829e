"""How the client commands read what they are given and show what they were answered."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from chancery.cli.api_client import USAGE, clean, fail

JSONOption = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
IssuerOption = Annotated[str | None, typer.Option(help="The issuer's name.")]


def show_json(value: object) -> None:
    """Print JSON, indented."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


@contextlib.contextmanager
def working(console: Console, step: str) -> Iterator[Callable[[str], None]]:
    """Show what is at work until it is done, and give what names the next step; a line each without a terminal."""
    if console.is_terminal:
        with console.status(step) as status:
            yield status.update
        return

    def say(step: str) -> None:
        console.print(f"{step} …", markup=False)

    say(step)
    yield say


def show_rows(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table: drawn on a terminal, else tab-separated lines without a heading."""
    text = [[clean("" if cell is None else cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        sys.stdout.write("".join("\t".join(row) + "\n" for row in text))
        return
    table = Table(*columns, box=None, pad_edge=False)
    for row in text:
        table.add_row(*row)
    Console(markup=False, highlight=False).print(table)


def show_pairs(pairs: Sequence[tuple[str, object]]) -> None:
    """Print name and value a line, without those that have none."""
    known = [(name, value) for name, value in pairs if value is not None]
    width = max((len(name) for name, _ in known), default=0)
    sys.stdout.write("".join(f"{name:<{width}}  {clean(value)}\n" for name, value in known))


def write(path: Path | None, content: bytes, *, text: bool = True) -> None:
    """Write to a file, or to standard output (binary: not a terminal); ends the program when it cannot."""
    if path is None:
        if not text and sys.stdout.isatty():
            fail("binary output is not for a terminal", "name a file with --out, or use --format pem", USAGE)
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    try:
        path.write_bytes(content)
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}", "name another file with --out", USAGE)


def read(path: Path) -> bytes:
    """Read a file; ends the program when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}", "name a readable file", USAGE)


def serial_of(text: str) -> str:
    """Upper-case hexadecimal of a serial as people paste it: with colons, 0x or serial= around."""
    bare = text.strip().removeprefix("serial=").replace(":", "").replace(" ", "").upper().removeprefix("0X")
    if not bare or len(bare) > 42 or set(bare) - set("0123456789ABCDEF"):
        raise typer.BadParameter(f"{text!r} is not a serial number in hexadecimal")
    return bare


SerialArgument = Annotated[str, typer.Argument(help="Serial number in hexadecimal.", callback=serial_of)]
