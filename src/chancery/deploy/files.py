"""The files of a host as values: where, what, whose, and a manifest of all of them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable

import msgspec

from chancery.errors import OperatorError

MANIFEST = "/etc/chancery/manifest.json"
"""Where a host keeps what should be on it; only root writes there."""


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    """One file: absolute path, octets (None: a secret that is put there apart), mode, owner and group."""

    path: str
    content: bytes | None
    mode: int = 0o644
    owner: str = "root"
    group: str = "root"

    @classmethod
    def text(cls, path: str, *lines: str, mode: int = 0o644, owner: str = "root", group: str = "root") -> File:
        """Return a file of these lines, each ended by a newline."""
        return cls(path, "".join(f"{line}\n" for line in lines).encode(), mode, owner, group)

    @classmethod
    def secret(cls, path: str, owner: str) -> File:
        """Return a file that only its owner reads, and that no rendering holds."""
        return cls(path, None, 0o600, owner, owner)


class Expected(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file as the manifest has it; `sha256` (hex) is None for a secret."""

    path: str
    mode: str
    owner: str
    group: str
    sha256: str | None


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """
    What a host should be: files, systemd units that run, `protocol/address/port` that are listened on.

    `version` is the program's; `rules` names the file with the nftables rules that should be loaded.
    """

    host: str
    version: str
    files: tuple[Expected, ...]
    units: tuple[str, ...]
    listening: tuple[str, ...]
    rules: str


def expected(files: Iterable[File]) -> tuple[Expected, ...]:
    """Return what the manifest has of files, sorted by path."""
    return tuple(
        Expected(
            path=one.path,
            mode=f"{one.mode:04o}",
            owner=one.owner,
            group=one.group,
            sha256=None if one.content is None else hashlib.sha256(one.content).hexdigest(),
        )
        for one in sorted(files, key=lambda one: one.path)
    )


def write_manifest(manifest: Manifest) -> bytes:
    """Return the manifest as JSON, the same octets for the same host whenever it is made."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def read_manifest(data: bytes) -> Manifest:
    """Decode a manifest; OperatorError when it is none."""
    try:
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise OperatorError(
            f"the manifest cannot be read: {error}", "render the site again with `chancery deploy render`"
        ) from None
