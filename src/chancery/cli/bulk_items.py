"""What a bulk request asks for and what came of it: a directory or JSON lines, and the file of results."""

from __future__ import annotations

import base64
import collections
import dataclasses
import hashlib
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol

import msgspec

from chancery.cli.api_client import USAGE, fail
from chancery.errors import PKIError
from chancery.ports import RequestState
from chancery.ra.enrolment import csr_der
from chancery.web.views import BulkAnswer

SUFFIXES: Final = (".pem", ".csr", ".der")
RESULTS: Final = "bulk-results.jsonl"


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of a JSON lines file: as the interface takes it, but profile and transaction id may be missing."""

    csr: str
    profile: str | None = None
    names: list[str] = []
    issuer: str | None = None
    transaction_id: str | None = None
    not_before: str | None = None
    not_after: str | None = None
    duration: str | None = None


class Result(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the file of results. `certificate` (PEM) where it is not written to a file of its own."""

    source: str
    state: RequestState
    transaction_id: str | None = None
    issuer: str | None = None
    serial: str | None = None
    certificate: str | None = None
    error: str | None = None
    detail: str | None = None


class Job(msgspec.Struct, frozen=True):
    """The first line of the file of results: what the transaction ids of this job begin with."""

    job: str


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One request: where it comes from, the file for its certificate (None: the results), and its line."""

    source: str
    transaction_id: str
    out: Path | None
    line: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Broken:
    """What cannot be asked for: where it comes from, and why."""

    source: str
    detail: str


@dataclasses.dataclass(frozen=True, slots=True)
class Common:
    """
    What the options say for every request: `job` begins the transaction ids that are not given.

    `beside` stands in for what a line does not say: its profile, issuer and validity. `suffix` is of certificates.
    """

    job: str
    beside: Mapping[str, str | None]
    names: tuple[str, ...]
    suffix: str


class Source(Protocol):
    """Where requests come from. `default_results`: the file of results unless another is named."""

    default_results: Path

    def count(self) -> int:
        """How many there are, broken ones included."""

    def items(self, common: Common, out: Path | None) -> Iterator[Item | Broken]:
        """Each of them, in a fixed order; certificates are to be written into the directory `out`."""


class Directory:
    """Every *.pem, *.csr and *.der file of one directory, by name. Certificates go next to them, or into `out`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = sorted(one.name for one in os.scandir(path) if one.name.endswith(SUFFIXES) and one.is_file())
        self._stems = collections.Counter(Path(name).stem for name in self._files)
        self.default_results = path / RESULTS

    def count(self) -> int:
        return len(self._files)

    def items(self, common: Common, out: Path | None) -> Iterator[Item | Broken]:
        for name in self._files:
            stem = Path(name).stem
            # web.csr and web.pem must not take each other's place.
            target = (out or self._path) / ((stem if self._stems[stem] == 1 else name) + common.suffix)
            try:
                csr = base64.b64encode(csr_der((self._path / name).read_bytes())).decode()
            except OSError as error:
                yield Broken(name, f"cannot be read: {error.strerror}")
            except PKIError as error:
                yield Broken(name, error.detail)
            else:
                yield _item(name, Line(csr=csr), common, target)


class JSONLines:
    """One request a line of a file. Certificates go into the results, or into `out` by the line's number."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.default_results = path.with_name(f"{path.name}.results.jsonl")

    def count(self) -> int:
        with self._path.open("rb") as file:
            return sum(1 for line in file if line.strip())

    def items(self, common: Common, out: Path | None) -> Iterator[Item | Broken]:
        decoder = msgspec.json.Decoder(Line)
        with self._path.open("rb") as file:
            for number, text in enumerate(file, 1):
                if not text.strip():
                    continue
                target = None if out is None else out / f"{number:07}{common.suffix}"
                try:
                    line = decoder.decode(text)
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                    yield Broken(str(number), str(error)[:300])
                else:
                    yield _item(str(number), line, common, target)


def _item(source: str, line: Line, common: Common, out: Path | None) -> Item | Broken:
    said = {**common.beside, **{name: value for name, value in msgspec.structs.asdict(line).items() if value}}
    asked = {name: value for name, value in said.items() if value is not None}
    asked["names"] = [*line.names, *common.names]
    if "profile" not in asked:
        return Broken(source, "no profile: name one in the line, or with --profile")
    if line.transaction_id is None:
        # Over what is asked: a file that has changed since is another request, a line that has moved is not.
        digest = hashlib.sha256(msgspec.json.encode(asked, order="sorted")).hexdigest()
        asked["transaction_id"] = f"{common.job}:{digest[:40]}"
    return Item(source, asked["transaction_id"], out, msgspec.json.encode(asked) + b"\n")


class Results:
    """
    The file of results, which is also where a job that was broken off goes on.

    Its first line names the job. It is only appended to; of a line that was cut off in the middle nothing is kept.
    """

    def __init__(self, path: Path, job: str | None) -> None:
        """Open or begin it. Ends the program when it cannot be used, or belongs to another job than `job`."""
        self.path = path
        self.job = job or uuid.uuid4().hex
        self.done: set[str] = set()
        try:
            torn = self._read(job)
            self._file = path.open("ab")
            if torn:
                self._file.write(b"\n")
            if self._file.tell() == 0:
                # Before anything is asked: a job whose id is lost cannot be gone on with.
                self._write(Job(self.job))
                self.flush()
        except OSError as error:
            fail(f"{path} cannot be written: {error.strerror}", "name a directory with --out", USAGE)

    def _read(self, job: str | None) -> bool:
        """Read what is there; tell whether its last line was cut off."""
        if not self.path.exists() or not self.path.stat().st_size:
            return False
        line = b""
        with self.path.open("rb") as file:
            try:
                found = msgspec.json.decode(file.readline(), type=Job).job
            except msgspec.MsgspecError:
                fail(
                    f"{self.path} is no file of results",
                    "move it away, or name another directory with --out",
                    USAGE,
                )
            if job not in {None, found}:
                fail(
                    f"{self.path} belongs to the job {found}", "leave --transaction-id out, or move it away", USAGE
                )
            self.job = found
            for line in file:
                self._note(line)
        return bool(line) and not line.endswith(b"\n")

    def _note(self, line: bytes) -> None:
        try:
            result = msgspec.json.decode(line, type=Result)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return
        if result.state is RequestState.DONE and result.transaction_id is not None:
            self.done.add(result.transaction_id)

    def _write(self, line: msgspec.Struct) -> None:
        self._file.write(msgspec.json.encode(line) + b"\n")

    def flush(self) -> None:
        """Hand what was added to the operating system; what it never got is asked again, and answered the same."""
        self._file.flush()

    def add(self, item: Item, answer: BulkAnswer, content: bytes | None) -> Result:
        """Write the certificate to its file, then the result. Raises OSError."""
        if content is not None and item.out is not None:
            part = item.out.with_name(f".{item.out.name}.part")
            part.write_bytes(content)
            part.replace(item.out)
        result = Result(
            source=item.source,
            state=answer.state,
            transaction_id=item.transaction_id,
            issuer=answer.issuer,
            serial=answer.serial,
            certificate=answer.certificate if item.out is None else None,
            error=answer.error,
            detail=answer.detail,
        )
        self._write(result)
        return result

    def refuse(self, broken: Broken) -> Result:
        """Write down what could not be asked for."""
        result = Result(source=broken.source, state=RequestState.REFUSED, detail=broken.detail)
        self._write(result)
        return result

    def close(self) -> None:
        self._file.close()
