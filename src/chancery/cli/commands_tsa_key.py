"""`chancery tsa-key`: a timestamping unit's keys: which there are, a fresh one, the end of an old one (R25)."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.serialization import Encoding

from chancery.cli import build, tsakeys
from chancery.cli.clock import SystemClock
from chancery.cli.commands_key import request
from chancery.cli.show import show_rows
from chancery.config import TSAConfig, UnitSection, load_checked
from chancery.errors import OperatorError
from chancery.pkcs11 import SoftToken, Token
from chancery.pkix.key import spki_der
from chancery.ports import Event, EventDetail, EventKind
from chancery.postgres.session import AsyncPool
from chancery.postgres.timestamps import PgTimestampStore

ACTOR = "tsa-key"
SETTLING = datetime.timedelta(minutes=5)
"""By then every process of a unit has seen that it has a newer key (it looks once a minute)."""
ConfigOption = Annotated[Path, typer.Option(help="The configuration of the timestamping authority.")]
UnitOption = Annotated[str | None, typer.Option(help="The unit, where CONFIG has several.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    keys = typer.Typer(help="Keys of a timestamping unit, from the first to the end.", no_args_is_help=True)
    keys.command("list")(list_keys)
    keys.command("new")(new)
    keys.command("destroy")(destroy)
    app.add_typer(keys, name="tsa-key")


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """A unit, its open token, and the configuration that both are in."""

    config: TSAConfig
    unit: UnitSection
    token: Token | SoftToken

    def labels(self) -> list[str]:
        """The labels of the unit's keys, the newest first."""
        return tsakeys.family([info.label for info in self.token.keys()], self.unit.key_label)  # noqa: SIM118 - no mapping

    def spki_sha256(self, label: str) -> bytes:
        return hashlib.sha256(spki_der(self.token.find_key(label).public_key())).digest()

    def event(self, act: str, label: str, spki_sha256: bytes) -> Event:
        detail: EventDetail = {
            "act": act, "label": label, "spki_sha256": spki_sha256.hex(), "unit": self.unit.name,
        }  # fmt: skip
        return Event(EventKind.TSA_KEY, SystemClock().now(), ACTOR, f"tsa-unit:{self.unit.name}", detail)

    def registered(self) -> dict[bytes, datetime.datetime]:
        """SHA-256 of the SubjectPublicKeyInfo of every key that the unit signed with, and since when."""

        async def ask() -> dict[bytes, datetime.datetime]:
            async with AsyncPool(build.connection(self.config.database, ACTOR), size=1) as pool:
                return await PgTimestampStore(pool).keys(self.unit.name)

        return asyncio.run(ask())

    def journal(self, event: Event) -> None:
        async def write() -> None:
            async with AsyncPool(build.connection(self.config.database, ACTOR), size=1) as pool:
                await PgTimestampStore(pool).record((), [event])

        asyncio.run(write())


@contextlib.contextmanager
def _opened(path: Path, name: str | None) -> Iterator[_Place]:
    config = load_checked(path, TSAConfig)
    units = [one for one in config.units if name in {None, one.name}]
    if len(units) != 1:
        names = ", ".join(one.name for one in config.units)
        raise OperatorError(f"{path} has the units {names}", "say with --unit which one")
    token = build.token(config.token)
    try:
        yield _Place(config, units[0], token)
    finally:
        token.close()


def list_keys(*, config: ConfigOption, unit: UnitOption = None) -> None:
    """List the keys of a unit that are in its token, the newest first."""
    with _opened(config, unit) as place:
        since = place.registered()
        rows = []
        for label in place.labels():
            digest = place.spki_sha256(label)
            first = since.get(digest)
            rows.append((label, digest.hex(), "never" if first is None else f"{first:%Y-%m-%d %H:%M}"))
    show_rows(("label", "SHA-256 of the public key", "signs since (UTC)"), rows)


def new(
    *,
    config: ConfigOption,
    subject: Annotated[str, typer.Option(help="Subject of the request (RFC 4514).")],
    kind: Annotated[str, typer.Option(help="ec-p256, rsa-3072, ed25519, ml-dsa-65 …")] = "ec-p256",
    unit: UnitOption = None,
) -> None:
    """
    Make a fresh key for a unit and print a request for its certificate (PKCS#10, PEM).

    The unit signs with it as soon as there is a certificate; the key of before stays until it is destroyed.
    """
    with _opened(config, unit) as place:
        labels = place.labels()
        base = place.unit.key_label
        label = tsakeys.following(labels[0], base) if labels else base
        key = place.token.generate_key(label, kind)
        digest = place.spki_sha256(label)
        pem = request(key, subject, []).public_bytes(Encoding.PEM)
        place.journal(place.event("generated", label, digest))
    typer.echo(f"{label} {digest.hex()}", err=True)
    typer.echo(pem.decode("ascii"), nl=False)


def destroy(
    label: Annotated[str, typer.Argument(help="The label of the key.")],
    *,
    config: ConfigOption,
    unit: UnitOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without it, only say what would be done.")] = False,
) -> None:
    """Destroy a key that a newer one has followed, for ever, and journal it: before it is done, and once it is."""
    with _opened(config, unit) as place:
        if label not in place.labels():
            raise OperatorError(
                f"the unit {place.unit.name} has no key {label}", "look at `chancery tsa-key list`"
            )
        digest = place.spki_sha256(label)
        _check_followed(place, label)
        if not yes:
            typer.echo(f"would destroy {label} {digest.hex()}; repeat with --yes")
            return
        place.journal(place.event("destroying", label, digest))
        place.token.destroy_key(label)
        if label in place.labels():
            raise OperatorError(f"the token still has {label}", "look at the token with its maker's tools")
        place.journal(place.event("destroyed", label, digest))
    typer.echo(f"destroyed {label} {digest.hex()}")


def _check_followed(place: _Place, label: str) -> None:
    """Refuse a key that the unit may still sign with: the newest in use, or one that follows it."""
    since, now = place.registered(), SystemClock().now()
    newer = [
        since[other]
        for one in place.labels()
        if (tsakeys.number_of(one, place.unit.key_label) or 0)
        > (tsakeys.number_of(label, place.unit.key_label) or 0)
        and (other := place.spki_sha256(one)) in since
    ]
    if not newer:
        raise OperatorError(
            f"no newer key of the unit {place.unit.name} signs yet",
            "make one with `chancery tsa-key new`, issue its certificate, and wait until the unit has taken it",
        )
    if now < min(newer) + SETTLING:
        raise OperatorError(
            f"the newer key signs since {min(newer):%H:%M:%S} only, and this one may still be in use",
            f"try again in {SETTLING.seconds // 60} minutes",
        )
