"""What differs between a host and its manifest: configuration control by a machine, not by memory."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import Protocol

from chancery.deploy.files import MANIFEST, Expected, Manifest

_UNITS = "/etc/systemd/system"
OWN_DIRECTORIES = ("/etc/chancery", _UNITS)
"""Where a file of ours that no manifest knows is a difference; of units only those whose name is ours."""


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """A file as it is: octets (None when this account may not read it), mode, owner, group."""

    content: bytes | None
    mode: int
    owner: str
    group: str


class Machine(Protocol):
    """A host that can be looked at."""

    def file(self, path: str) -> Seen | None:
        """Return a file, never following a link; None when it is not there."""

    def names(self, directory: str) -> list[str]:
        """Return the absolute paths of all files below a directory."""

    def unit(self, name: str) -> str:
        """Return `enabled/active` and the like of a systemd unit."""

    def listening(self) -> list[str]:
        """Return what is listened on but for loopback, as `protocol/address/port`; every address is `*`."""

    def rules(self) -> str | None:
        """Return the loaded rules of our table as nft prints them; None when there is none."""

    def rules_of(self, path: str) -> str:
        """Return what nft would print after loading this file."""


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Difference:
    """One thing that is not as it should be: its kind, what, and how it is wrong."""

    kind: str
    what: str
    how: str


def drift(manifest: Manifest, machine: Machine, version: str, *, running: bool = True) -> list[Difference]:
    """
    Return every difference, sorted; empty when the host is what its manifest says.

    Without `running`, of files alone: those of a host that is not the one that this runs on.
    """
    if not running:
        return sorted(_files(manifest, machine))
    found = [*_files(manifest, machine), *_units(manifest, machine), *_ports(manifest, machine)]
    if version != manifest.version:
        found.append(Difference("version", "chancery", f"is {version}, should be {manifest.version}"))
    loaded = machine.rules()
    if loaded is None:
        found.append(Difference("firewall", manifest.rules, "is not loaded"))
    elif machine.file(manifest.rules) is not None and loaded != machine.rules_of(manifest.rules):
        found.append(Difference("firewall", manifest.rules, "other rules are loaded than the file has"))
    return sorted(found)


def _files(manifest: Manifest, machine: Machine) -> Iterable[Difference]:
    for expected in manifest.files:
        seen = machine.file(expected.path)
        if seen is None:
            yield Difference("file", expected.path, "is missing")
        else:
            yield from (Difference("file", expected.path, how) for how in _differs(expected, seen))
    known = {one.path for one in manifest.files} | {MANIFEST}
    for directory in OWN_DIRECTORIES:
        for path in machine.names(directory):
            # A drop-in beside one of our units is in a directory of its name.
            ours = directory != _UNITS or path.startswith(f"{_UNITS}/chancery-")
            if ours and path not in known:
                yield Difference("file", path, "is not in the manifest")


def _differs(expected: Expected, seen: Seen) -> Iterable[str]:
    if f"{seen.mode:04o}" != expected.mode:
        yield f"has mode {seen.mode:04o}, should have {expected.mode}"
    if (seen.owner, seen.group) != (expected.owner, expected.group):
        yield f"belongs to {seen.owner}:{seen.group}, should to {expected.owner}:{expected.group}"
    if expected.sha256 is None:
        return
    if seen.content is None:
        yield "cannot be read"
    elif hashlib.sha256(seen.content).hexdigest() != expected.sha256:
        yield "has other content"


def _units(manifest: Manifest, machine: Machine) -> Iterable[Difference]:
    for name in manifest.units:
        # A generator's unit, such as Debian's PostgreSQL cluster, is enabled at run time.
        if (state := machine.unit(name)) not in {"enabled/active", "enabled-runtime/active"}:
            yield Difference("unit", name, f"is {state}, should be enabled/active")


def _ports(manifest: Manifest, machine: Machine) -> Iterable[Difference]:
    seen = machine.listening()
    for wanted in manifest.listening:
        protocol, address, port = wanted.split("/")
        if not any(_same(one, protocol, address, port) for one in seen):
            yield Difference("port", wanted, "nobody listens there")
    for one in seen:
        if not any(_same(one, *wanted.split("/")) for wanted in manifest.listening):
            yield Difference("port", one, "is listened on and should not be")


def _same(one: str, protocol: str, address: str, port: str) -> bool:
    own_protocol, own_address, own_port = one.split("/")
    return (own_protocol, own_port) == (protocol, port) and address in {own_address, "*"}
