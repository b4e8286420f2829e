"""The one place where ports meet adapters: configuration in, working parts out."""

from __future__ import annotations

import ctypes
import getpass
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from chancery.asn1.signature import KeySigner, algorithm_for
from chancery.cli.clock import SystemClock
from chancery.cli.layout import Layout
from chancery.config import DatabaseSection, LinterSection, OwnerConfig, TokenSection, load_checked
from chancery.errors import OperatorError, PKIError
from chancery.linters import CommandLinter, PkilintLinter
from chancery.pkcs11 import Token, TokenSettings, open_token
from chancery.pkcs11.softtoken import SoftToken
from chancery.pkix.profile import Profile, parse_profile, shipped_profiles
from chancery.pkix.weak import KnownKeys, read_list
from chancery.ports import SecondOpinion
from chancery.postgres import migrate as migrations
from chancery.postgres import roles
from chancery.postgres.embedded import EmbeddedPostgres
from chancery.postgres.session import Connection, password_file

PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 4, 38
MAX_PIN = 255


def harden() -> None:
    """Give up what a serving process never needs: new privileges, core files, being traced by its own user."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    os.umask(0o077)


def connection(section: DatabaseSection, process: str = "") -> Connection:
    """Return how to reach PostgreSQL as this configuration says; `process` is shown in pg_stat_activity."""
    return Connection(
        host=section.host,
        port=section.port,
        database=section.dbname,
        user=section.user,
        password=None if section.password_file is None else password_file(section.password_file),
        sslmode=None if section.host.startswith("/") else section.sslmode,
        sslrootcert=_text(section.sslrootcert),
        sslcert=_text(section.sslcert),
        sslkey=_text(section.sslkey),
        application_name=f"chancery {process}".strip(),
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def pin_source(section: TokenSection) -> Callable[[], bytes]:
    """Return a function that gives the PIN: from a file, a systemd credential, or a prompt (asked once)."""
    if section.pin_prompt:
        asked: list[bytes] = []

        def prompt() -> bytes:
            if not asked:
                asked.append(getpass.getpass(f"PIN of token {section.label}: ").encode())
            return asked[0]

        return prompt
    if section.pin_credential is not None:
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if folder is None:
            raise OperatorError(
                f"pin_credential = {section.pin_credential!r}, but no credentials were handed over",
                "start it from a systemd unit with LoadCredential=, or use pin_file",
            )
        return lambda: _read_pin(Path(folder) / str(section.pin_credential))
    path = section.pin_file
    assert path is not None
    return lambda: _read_pin(path)


def _read_pin(path: Path) -> bytes:
    return read_secret(path, "PIN", "check pin_file")


def read_secret(path: Path, what: str, next_step: str) -> bytes:
    """Return the one line of a file with a PIN or password (`what`); OperatorError when it cannot be had."""
    try:
        secret = path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise OperatorError(f"the {what} file {path} cannot be read: {error.strerror}", next_step) from None
    if not 0 < len(secret) <= MAX_PIN:
        raise OperatorError(
            f"the {what} file {path} is empty or too long", f"write the {what} into it, on one line"
        )
    return secret


def token_settings(section: TokenSection) -> TokenSettings:
    """Return what `pkcs11.open_token` wants to know."""
    return TokenSettings(
        module=_text(section.module),
        label=section.label,
        pin=pin_source(section),
        softhsm_conf=_text(section.softhsm_conf),
        soft_directory=_text(section.soft_directory),
        reserved=section.reserved,
        max_sessions=section.max_sessions,
    )


def token(section: TokenSection) -> Token | SoftToken:
    """Open and log in to the token. OperatorError names what is wrong and the next step."""
    return open_token(token_settings(section))


def signer(opened: Token | SoftToken, label: str, signature: str | None = None) -> KeySigner:
    """Return the signer of a key of an open token; OperatorError when the configured `signature` does not fit."""
    key = opened.find_key(label)
    try:
        return KeySigner(key, algorithm_for(key.public_key(), signature))
    except PKIError as error:
        raise OperatorError(
            f"key `{label}`: {error.detail}", "correct `signature`, which is for RSA keys"
        ) from None


def profiles(directory: Path | None) -> Mapping[str, Profile]:
    """Return the shipped profiles, with those of a directory (`*.toml`) beside or in place of them."""
    found = dict(shipped_profiles())
    for path in sorted(directory.glob("*.toml")) if directory else ():
        profile = parse_profile(path.read_text(encoding="utf-8"))
        found[profile.name] = profile
    return found


def linters(sections: Mapping[str, LinterSection]) -> dict[str, SecondOpinion]:
    """Return the linters of others by name; OperatorError for one that is not installed."""
    return {
        name: PkilintLinter(one.pkilint, one.ignore)
        if one.pkilint is not None
        else CommandLinter(one.command, seconds=one.seconds, faults=one.faults)
        for name, one in sections.items()
    }


def weak_keys(directory: Path | None) -> KnownKeys | None:
    """Return the keys on all the lists in a directory (R5), None without one; OperatorError for another file."""
    if directory is None:
        return None
    digests: list[bytes] = []
    try:
        for path in sorted(directory.iterdir()):
            digests += _listed(path)
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"{directory} cannot be read: {error}", "correct `weak_keys`") from None
    return KnownKeys(digests)


def _listed(path: Path) -> list[bytes]:
    try:
        return read_list(path.read_text(encoding="ascii"))
    except OperatorError as error:
        raise OperatorError(f"{path}: {error.what}", error.next_step) from None


def embedded_server(place: Layout) -> EmbeddedPostgres:
    """Return the embedded PostgreSQL of an installation, not started."""
    return EmbeddedPostgres(place.database)


def migrate(owner_config: Path) -> list[str]:
    """Bring the schema up to date as its owner; return the names of what was applied."""
    config = load_checked(owner_config, OwnerConfig)
    return migrations.migrate(connection(config.database, "migrate"), at=SystemClock().now())


def create_roles(superuser: Connection, place: Layout) -> None:
    """Make one role per process with the passwords that the installation keeps; idempotent."""
    short = {role: role.removeprefix("chancery_") for role in roles.ROLES}
    passwords = {role: place.database_password(name).read_bytes().strip() for role, name in short.items()}
    roles.create_roles(superuser, passwords)
