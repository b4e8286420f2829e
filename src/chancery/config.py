"""
One strict TOML file per process, decoded into frozen values. An unknown key stops the start.

`load` decodes a file; `problems` looks at what it names on this machine. Both name the key and what was
expected, so that `chancery check-config FILE` can say everything that is wrong before anything runs.
"""

from __future__ import annotations

import re
import stat
import tomllib
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from chancery.errors import OperatorError

Port = Annotated[int, Meta(ge=0, le=65535)]
Oid = Annotated[str, Meta(pattern=r"^[0-2](\.(0|[1-9][0-9]*))+$", max_length=128)]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Label = Annotated[str, Meta(min_length=1, max_length=32)]
Instance = Annotated[int, Meta(ge=1, le=127)]
KeyKind = Literal["rsa-2048", "rsa-3072", "rsa-4096", "ec-p256", "ec-p384", "ec-p521", "ed25519"]
Deployment = Literal["laptop", "production"]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of a file."""

    def _absolute(self, *keys: str) -> None:
        for key in keys:
            value = getattr(self, key)
            if value is not None and not value.startswith("/"):
                raise ValueError(f"{key}: `{value}` is not an absolute path")


class Listen(Section, frozen=True, kw_only=True):
    """Where a server listens; port 0 takes a free one."""

    port: Port
    host: str = "127.0.0.1"


class Database(Section, frozen=True, kw_only=True):
    """The PostgreSQL server: `host` is a name, an address, or the directory of a Unix socket."""

    host: str
    user: str
    port: Port = 5432
    name: str = "chancery"
    password_file: str | None = None
    sslmode: Literal["disable", "require", "verify-ca", "verify-full"] | None = None
    sslrootcert: str | None = None
    sslcert: str | None = None
    sslkey: str | None = None

    def __post_init__(self) -> None:
        self._absolute("password_file", "sslrootcert", "sslcert", "sslkey")


class TokenSection(Section, frozen=True, kw_only=True):
    """
    A PKCS#11 token, and where its PIN comes from.

    Exactly one of `pin_file` (mode 0600), `pin_credential` (the name of a systemd credential) and
    `pin_prompt`. `softhsm_conf` is SoftHSM2's own configuration file; `soft_directory`, in place of
    `module`, is the encrypted software token for machines without any PKCS#11 module.
    """

    label: Label
    module: str | None = None
    softhsm_conf: str | None = None
    soft_directory: str | None = None
    reserved: str | None = None
    pin_file: str | None = None
    pin_credential: str | None = None
    pin_prompt: bool = False
    max_sessions: Annotated[int, Meta(ge=1, le=1024)] = 16

    def __post_init__(self) -> None:
        if (self.pin_file is not None) + (self.pin_credential is not None) + self.pin_prompt != 1:
            raise ValueError("exactly one of pin_file, pin_credential and pin_prompt is needed")
        if (self.module is None) == (self.soft_directory is None):
            raise ValueError("exactly one of module and soft_directory is needed")
        self._absolute("module", "softhsm_conf", "soft_directory", "pin_file")


class Tls(Section, frozen=True, kw_only=True):
    """The server's certificate chain and key (PEM), and the certificates that clients' chains end in."""

    certificate: str
    key: str
    client_ca: str

    def __post_init__(self) -> None:
        self._absolute("certificate", "key", "client_ca")


class IssuerSection(Section, frozen=True, kw_only=True):
    """An issuer of the worker: its name in the database and the label of its key in the token."""

    name: Name
    key_label: Label


class Urls(Section, frozen=True, kw_only=True):
    """Base of the addresses written into certificates, such as `http://pki.example.org`; empty leaves them out."""

    base: str = ""

    def __post_init__(self) -> None:
        if self.base and not re.fullmatch(r"http://[^/\s]+(/[^\s]*[^/\s])?", self.base):
            raise ValueError(f"base: `{self.base}` is not an http address without a slash at its end")


class Process(Section, frozen=True, kw_only=True, tag_field="process"):
    """
    What every process has: `deployment = "production"` refuses insecure stand-ins; `run_as` is the numeric
    user id that a process started by root changes to before it opens its token.
    """

    deployment: Deployment
    run_as: Annotated[int, Meta(ge=1)] | None = None


class WorkerConfig(Process, frozen=True, kw_only=True, tag="worker"):
    """The issuing worker: CA keys, no network socket."""

    instance: Instance
    database: Database
    token: TokenSection
    issuers: Annotated[tuple[IssuerSection, ...], Meta(min_length=1)]
    default_issuer: Name
    journal_key_label: Label
    journal_origin: Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\s+]+$")]
    urls: Urls = Urls()
    batch: Annotated[int, Meta(ge=1, le=1000)] = 128
    sign_threads: Annotated[int, Meta(ge=1, le=64)] = 2
    crl_lifetime_hours: Annotated[int, Meta(ge=1, le=240)] = 168
    crl_refresh_hours: Annotated[int, Meta(ge=1, le=168)] = 24
    profiles_directory: str | None = None

    def __post_init__(self) -> None:
        if self.default_issuer not in {issuer.name for issuer in self.issuers}:
            raise ValueError(f"default_issuer: `{self.default_issuer}` is not one of the issuers")
        if self.crl_refresh_hours >= self.crl_lifetime_hours:
            raise ValueError("crl_refresh_hours: must be below crl_lifetime_hours")
        self._absolute("profiles_directory")


class CAConfig(Process, frozen=True, kw_only=True, tag="ca"):
    """The web process: enrolment and management over HTTPS. It holds no CA key."""

    listen: Listen
    database: Database
    tls: Tls
    profiles_directory: str | None = None

    def __post_init__(self) -> None:
        self._absolute("profiles_directory")


class OCSPConfig(Process, frozen=True, kw_only=True, tag="ocsp"):
    """The OCSP responder and repository. `validity_hours` is what an answer promises (R18)."""

    listen: Listen
    database: Database
    token: TokenSection
    key_label: Label
    validity_hours: Annotated[int, Meta(ge=8, le=240)] = 24
    never_issued: Literal["unknown", "extended-revoked"] = "unknown"
    cache_entries: Annotated[int, Meta(ge=0, le=10_000_000)] = 200_000
    sign_threads: Annotated[int, Meta(ge=1, le=64)] = 2


class TSAConfig(Process, frozen=True, kw_only=True, tag="tsa"):
    """The timestamping authority. `policy` is the default TSAPolicyId; `policies` are accepted beside it."""

    instance: Instance
    listen: Listen
    database: Database
    token: TokenSection
    key_label: Label
    policy: Oid
    time_source: Literal["kernel", "trust-system-clock"]
    policies: tuple[Oid, ...] = ()
    accuracy_ms: Annotated[int, Meta(ge=1, le=1000)] = 1000
    sign_threads: Annotated[int, Meta(ge=1, le=64)] = 2


class OfflineConfig(Process, frozen=True, kw_only=True, tag="offline"):
    """The offline CA: its own token and its own local store, no network."""

    directory: str
    name: Name
    subject: str
    instance: Instance
    token: TokenSection
    key_kind: KeyKind = "ec-p384"
    urls: Urls = Urls()

    def __post_init__(self) -> None:
        self._absolute("directory")


class AuditorConfig(Process, frozen=True, kw_only=True, tag="auditor"):
    """Who reads the journal: `journal_key` is the log's public key (PEM), kept apart from the database."""

    database: Database
    journal_key: str
    journal_origin: str

    def __post_init__(self) -> None:
        self._absolute("journal_key")


class OwnerConfig(Process, frozen=True, kw_only=True, tag="owner"):
    """`chancery db migrate`: the role that owns the schema."""

    database: Database


class SiteConfig(Process, frozen=True, kw_only=True, tag="site"):
    """
    What `chancery up` builds: names, addresses and key kinds of a whole installation on one machine.

    `postgres`, when given, is an existing server on which the roles and the database are already made
    (see `docs/operations.md`); otherwise the embedded one is started.
    """

    organisation: Annotated[str, Meta(min_length=1, max_length=64)] = "Example Organisation"
    host: Annotated[str, Meta(pattern=r"^[A-Za-z0-9.-]+$")] = "localhost"
    bind: str = "127.0.0.1"
    ca_port: Port = 8443
    ocsp_port: Port = 8080
    tsa_port: Port = 8081
    root_key: KeyKind = "ec-p384"
    issuing_key: KeyKind = "ec-p256"
    ocsp_key: KeyKind = "ec-p256"
    tsa_key: KeyKind = "ec-p256"
    tsa_policy: Oid = "1.3.6.1.4.1.99999.1"
    time_source: Literal["kernel", "trust-system-clock"] = "trust-system-clock"
    pkcs11_module: str | None = None
    uid_base: Annotated[int, Meta(ge=1000)] = 300_000
    postgres: Database | None = None


Config = (
    WorkerConfig | CAConfig | OCSPConfig | TSAConfig | OfflineConfig | AuditorConfig | OwnerConfig | SiteConfig
)
C = TypeVar("C", bound=Process)


def load(path: Path) -> Config:
    """Read and decode one file; OperatorError names the key and what was expected."""
    again = f"put it right, then run chancery check-config {path}"
    try:
        text = path.read_text()
    except OSError as error:
        raise OperatorError(f"{path} cannot be read: {error.strerror}", again) from None
    except UnicodeDecodeError:
        raise OperatorError(f"{path} is not UTF-8 text", again) from None
    try:
        config: Config = msgspec.convert(tomllib.loads(text), Config)
    except tomllib.TOMLDecodeError as error:
        raise OperatorError(f"the file {path} is not TOML: {error}", again) from None
    except msgspec.ValidationError as error:
        raise OperatorError(f"{path}: {_words(str(error))}", again) from None
    return config


def _words(message: str) -> str:
    """Turn msgspec's message, with its path at the end, into "key `a.b`: what is wrong"."""
    text, _, where = message.partition(" - at `$")
    key = where.rstrip("`").removeprefix(".")
    inner = re.match(r"(\w+): ", text)
    if inner and not text.startswith(("Expected", "Invalid")):
        key, text = f"{key}.{inner[1]}".removeprefix("."), text[inner.end() :]
    text = text.replace("Object missing", "missing").replace("Object contains unknown", "there is no")
    return f"key `{key}`: {text}" if key else text


def load_checked(path: Path, kind: type[C]) -> C:
    """Load a file of this kind of process; OperatorError also for anything `problems` finds."""
    config = load(path)
    if not isinstance(config, kind):
        tag = msgspec.inspect.type_info(kind).tag  # type: ignore[attr-defined] # every Process has a tag
        raise OperatorError(f"{path} is for another process", f'give one with process = "{tag}"')
    if found := problems(config):
        raise OperatorError(f"{path}: {'; '.join(found)}", f"put it right, then run chancery check-config {path}")
    return config


def problems(config: Config) -> list[str]:
    """Say what is wrong with the files that the configuration names, and with its use in production."""
    found: list[str] = []
    token = getattr(config, "token", None)
    if token is not None:
        _readable(found, "token.module", token.module)
        _readable(found, "token.softhsm_conf", token.softhsm_conf)
        _secret(found, "token.pin_file", token.pin_file)
        if config.deployment == "production" and token.soft_directory is not None:
            found.append("token.soft_directory: production needs a PKCS#11 module, not the software token")
    database = getattr(config, "database", None)
    if database is not None:
        _secret(found, "database.password_file", database.password_file)
        _readable(found, "database.sslrootcert", database.sslrootcert)
        _readable(found, "database.sslcert", database.sslcert)
        _secret(found, "database.sslkey", database.sslkey)
        remote = not database.host.startswith("/") and database.host not in {"localhost", "127.0.0.1", "::1"}
        if config.deployment == "production" and remote and database.sslmode != "verify-full":
            found.append("database.sslmode: production needs `verify-full` for a server on another host")
    if isinstance(config, CAConfig):
        _readable(found, "tls.certificate", config.tls.certificate)
        _secret(found, "tls.key", config.tls.key)
        _readable(found, "tls.client_ca", config.tls.client_ca)
    source = getattr(config, "time_source", "kernel")
    if config.deployment == "production" and source != "kernel":
        found.append(f"time_source: production needs `kernel`, not `{source}`")
    return found


def _readable(found: list[str], key: str, path: str | None) -> bool:
    if path is None:
        return False
    try:
        with Path(path).open("rb"):
            return True
    except OSError as error:
        found.append(f"{key}: {path}: {error.strerror}")
        return False


def _secret(found: list[str], key: str, path: str | None) -> None:
    if path is not None and _readable(found, key, path):
        mode = stat.S_IMODE(Path(path).stat().st_mode)
        if mode & 0o077:
            found.append(f"{key}: {path} can be read by others (mode {mode:04o}); run chmod 600 on it")
