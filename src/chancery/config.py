"""
One strict TOML file per process, decoded into frozen values.

An unknown key, a missing key, a wrong type or a missing file stops the start. `load` says which key is
wrong and what was expected; `chancery check-config FILE` says the same without starting anything.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec
import tomli_w

from chancery.choices import choices_of
from chancery.errors import OperatorError

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}\Z")]
OID = Annotated[str, msgspec.Meta(pattern=r"^[0-2](\.(0|[1-9][0-9]*))+\Z")]
SHA256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
HTTPURL = Annotated[str, msgspec.Meta(pattern=r"^http://[^\s]+\Z")]
KeyKind = Literal[
    "rsa-2048", "rsa-3072", "rsa-4096", "ec-p256", "ec-p384", "ec-p521", "ed25519",
    "ml-dsa-44", "ml-dsa-65", "ml-dsa-87",
]  # fmt: skip
RSASignature = Literal[
    "sha256WithRSAEncryption", "sha384WithRSAEncryption", "sha512WithRSAEncryption",
    "rsassaPss-sha256", "rsassaPss-sha384", "rsassaPss-sha512",
]  # fmt: skip
"""How an RSA key signs; the other kinds of key have one algorithm each."""
ImprintHash = Literal["sha256", "sha384", "sha512", "sha3_256", "sha3_384", "sha3_512"]
IMPRINT_HASHES: tuple[ImprintHash, ...] = get_args(ImprintHash)
SSLMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]
Deployment = Literal["laptop", "production"]
T = TypeVar("T", bound=msgspec.Struct)


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of a configuration file."""


class Listen(Section, frozen=True, kw_only=True):
    """`host` is an address or a name; `port` is TCP."""

    host: str = "127.0.0.1"
    port: Port


class DatabaseSection(Section, frozen=True, kw_only=True):
    """
    How to reach PostgreSQL. `host` is a name, an address, or the directory of a socket.

    The password is read from `password_file` (mode 0600); over a network `sslmode` is `verify-full`
    with `sslrootcert`, and `sslcert` and `sslkey` for a client certificate.
    """

    host: str
    port: Port = 5432
    dbname: str = "chancery"
    user: str
    password_file: Path | None = None
    sslmode: SSLMode = "prefer"
    sslcert: Path | None = None
    sslkey: Path | None = None
    sslrootcert: Path | None = None


class TokenSection(Section, frozen=True, kw_only=True):
    """
    A PKCS#11 token: the module to load, the token's label, and where its PIN comes from.

    Exactly one of `pin_file` (mode 0600), `pin_credential` (the name of a systemd credential) and
    `pin_prompt`. `softhsm_conf` is SoftHSM2's own configuration file. `soft_directory`, in place of `module`,
    is the encrypted software token for machines without any module; production refuses it. `reserved` is
    the parameter string that some modules want at C_Initialize.
    """

    label: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    module: Path | None = None
    softhsm_conf: Path | None = None
    soft_directory: Path | None = None
    reserved: str | None = None
    pin_file: Path | None = None
    pin_credential: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]+\Z")] | None = None
    pin_prompt: bool = False
    max_sessions: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 16

    def __post_init__(self) -> None:
        if sum((self.pin_file is not None, self.pin_credential is not None, self.pin_prompt)) != 1:
            raise ValueError("exactly one of pin_file, pin_credential and pin_prompt is needed")
        if (self.module is None) == (self.soft_directory is None):
            raise ValueError("exactly one of module and soft_directory is needed")


class TLSSection(Section, frozen=True, kw_only=True):
    """Server certificate chain and key (PEM), and the CA certificates that client certificates chain to."""

    certificate: Path
    key: Path
    client_ca: Path


class Served(Section, frozen=True, kw_only=True, tag_field="process"):
    """What every serving process has. `deployment = "production"` refuses insecure stand-ins."""

    deployment: Deployment


class CAConfig(Served, frozen=True, kw_only=True, tag="ca"):
    """`chancery serve ca`: the management and enrolment interface. It holds no CA key."""

    listen: Listen
    metrics: Listen | None = None
    tls: TLSSection
    database: DatabaseSection
    profiles: Path | None = None


class URLSection(Section, frozen=True, kw_only=True):
    """What issued certificates say of where to look, or nothing. `{issuer}` stands for the issuer's name."""

    ocsp: HTTPURL | None = None
    crl: HTTPURL | None = None
    ca_issuers: HTTPURL | None = None

    def of(self, issuer: str) -> tuple[str | None, str | None, str | None]:
        """Return (ocsp, crl, ca_issuers) for this issuer."""
        ocsp, crl, certificate = (
            url.replace("{issuer}", issuer) if url else None for url in (self.ocsp, self.crl, self.ca_issuers)
        )
        return ocsp, crl, certificate


class DeltaSection(Section, frozen=True, kw_only=True):
    """Delta CRLs: `validity_hours`, `overlap_hours` and `period_hours` as of the others."""

    validity_hours: Annotated[float, msgspec.Meta(ge=0.1, le=240)]
    overlap_hours: Annotated[float, msgspec.Meta(gt=0, lt=240)] | None = None
    period_hours: Annotated[float, msgspec.Meta(gt=0, lt=240)] | None = None


class CRLSection(Section, frozen=True, kw_only=True):
    """
    `validity_hours` from thisUpdate to nextUpdate; R15: at most 240.

    The next CRL is made `overlap_hours` before that, at latest `period_hours` after the one before. `shards` are
    opened for certificates issued from now on.
    """

    validity_hours: Annotated[int, msgspec.Meta(ge=1, le=240)] = 168
    overlap_hours: Annotated[float, msgspec.Meta(gt=0, lt=240)] | None = None
    period_hours: Annotated[float, msgspec.Meta(gt=0, lt=240)] | None = None
    shards: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    delta: DeltaSection | None = None

    def __post_init__(self) -> None:
        for kind in (self, self.delta):
            longest = max(kind.overlap_hours or 0, kind.period_hours or 0) if kind else 0
            if kind and longest >= kind.validity_hours:
                raise ValueError("overlap_hours and period_hours are less than validity_hours")
        if self.delta and self.delta.validity_hours > self.validity_hours:
            raise ValueError("delta.validity_hours is at most validity_hours")


class JournalSection(Section, frozen=True, kw_only=True):
    """
    The Merkle journal: its origin line, the key that signs checkpoints, and a file outside the database.

    The newest checkpoint is also kept in `checkpoint_file`, so that a database that was rolled back shows. `token`
    names one of the worker's `tokens`, where the key is not in its `token`.
    """

    origin: str
    key_label: str = "journal"
    token: Name | None = None
    checkpoint_file: Path | None = None


class LinterSection(Section, frozen=True, kw_only=True):
    """
    A linter of others, by the name that profiles know it by (`[linters.NAME]`).

    Exactly one of `command`, a program and its words, and `pkilint`, a set of its rules. A command gets `seconds`
    for each certificate and has something against it when it exits with another code than 0 or prints anything, or
    when `faults`, a regular expression, is found in what it prints. `ignore` are codes of pkilint's findings.
    """

    command: tuple[str, ...] = ()
    pkilint: Literal["rfc5280", "tls-br", "etsi"] | None = None
    faults: str | None = None
    seconds: Annotated[int, msgspec.Meta(ge=1, le=600)] = 10
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.command) == (self.pkilint is not None):
            raise ValueError("exactly one of command and pkilint is needed")
        if (self.faults is not None and not self.command) or (self.ignore and self.command):
            raise ValueError("`faults` belongs to a command, `ignore` to pkilint")


class WorkerConfig(Served, frozen=True, kw_only=True, tag="worker"):
    """
    `chancery serve worker`: holds the CA keys, listens on no socket.

    Each issuer's key is found by the labels of token and key that the database has for it, in `token` or one of
    the `tokens`. `signatures` says by issuer how its RSA key signs. `service_keys` are SHA-256 (hex) of the public
    keys that may have OCSP delegate and timestamping certificates, whoever asks for them; `ca_keys` those that may
    have CA certificates where a profile lets a connected CA sign them. With `added_issuers` every issuer whose key
    is in a token here is served, as soon as it is added. Production serves no key that was imported into its
    token, unless `allow_imported_keys` says so (R7). `crls.NAME` is in place of `crl` for the issuer of that name.
    """

    instance: Annotated[int, msgspec.Meta(ge=1, le=127)]
    issuers: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    default_issuer: Name
    batch: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 128
    signing_threads: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
    health_file: Path | None = None
    metrics_file: Path | None = None
    profiles: Path | None = None
    weak_keys: Path | None = None
    database: DatabaseSection
    token: TokenSection | None = None
    tokens: dict[Name, TokenSection] = {}
    signatures: dict[Name, RSASignature] = {}
    urls: URLSection
    crl: CRLSection = CRLSection()
    crls: dict[Name, CRLSection] = {}
    journal: JournalSection
    service_keys: tuple[SHA256, ...] = ()
    ca_keys: tuple[SHA256, ...] = ()
    added_issuers: bool = True
    allow_imported_keys: bool = False
    linters: dict[Name, LinterSection] = {}
    two_persons_above: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 100

    def __post_init__(self) -> None:
        labels = [one.label for one in token_sections(self)]
        if not labels or len(set(labels)) != len(labels):
            raise ValueError("the worker needs `token` or `tokens`, each with a label of its own")
        if self.journal.token is None and self.token is None:
            raise ValueError("without `token`, journal.token says which of `tokens` has the journal's key")
        if self.journal.token is not None and self.journal.token not in self.tokens:
            raise ValueError("journal.token is none of `tokens`")
        if strange := sorted(set(self.signatures) - set(self.issuers)):
            raise ValueError(f"signatures.{strange[0]} is for none of `issuers`")

    def journal_token(self) -> str:
        """Return the label of the token that has the journal's key."""
        section = self.token if self.journal.token is None else self.tokens[self.journal.token]
        assert section is not None
        return section.label


class Delegate(Section, frozen=True, kw_only=True):
    """A key in this responder's token that answers for one issuer; the first of several is the usual one."""

    issuer: Name
    key_label: str
    signature: RSASignature | None = None


class SignedSection(Section, frozen=True, kw_only=True):
    """Who may ask: the files of CA certificates (PEM) and SHA-256 (hex) of certificates that sign requests."""

    authorities: tuple[Path, ...] = ()
    certificates: tuple[SHA256, ...] = ()

    def __post_init__(self) -> None:
        if not self.authorities and not self.certificates:
            raise ValueError("require_signed needs authorities or certificates")


class PolicySection(Section, frozen=True, kw_only=True):
    """What is different for one issuer from the keys of the same names at the top; see `OCSPConfig`."""

    never_issued: Literal["unknown", "extended-revoked"] | None = None
    validity_hours: Annotated[int, msgspec.Meta(ge=8, le=240)] | None = None
    responder_id: Literal["key", "name"] | None = None
    nonce: Literal["accept", "ignore", "require"] | None = None
    archive_days: Annotated[int, msgspec.Meta(ge=0, le=36525)] | None = None
    crl_reference: HTTPURL | None = None
    require_signed: SignedSection | None = None
    stale_crl: Literal["try-later", "unknown"] | None = None


class PresignSection(Section, frozen=True, kw_only=True):
    """Answers made ahead of time: at most `per_second`, in these hours of the day (UTC)."""

    per_second: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 100
    hours: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0, le=23)], ...], msgspec.Meta(min_length=1)]


class OCSPConfig(Served, frozen=True, kw_only=True, tag="ocsp"):
    """
    `chancery serve ocsp`: OCSP, CRLs and CA certificates over HTTP.

    `delegate_key` is the label of the key that answers for every issuer of the installation that `delegates` does
    not name, those added later included. `archive_days` is how long after their end certificates are answered for
    (0: not said); `crl_reference` is the URL of the CRL, `{issuer}` in it the issuer's name.
    """

    listen: Listen
    metrics: Listen | None = None
    database: DatabaseSection
    token: TokenSection
    delegates: list[Delegate]
    delegate_key: str | None = None
    delegate_signature: RSASignature | None = None
    never_issued: Literal["unknown", "extended-revoked"] = "unknown"
    validity_hours: Annotated[int, msgspec.Meta(ge=8, le=240)] = 24
    responder_id: Literal["key", "name"] = "key"
    nonce: Literal["accept", "ignore", "require"] = "accept"
    archive_days: Annotated[int, msgspec.Meta(ge=0, le=36525)] = 0
    crl_reference: HTTPURL | None = None
    require_signed: SignedSection | None = None
    stale_crl: Literal["try-later", "unknown"] = "try-later"
    policies: dict[Name, PolicySection] = {}
    presign: PresignSection | None = None
    cache_mebibytes: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 256
    signing_threads: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2


class AccessSection(Section, frozen=True, kw_only=True):
    """
    Who may have timestamps besides the clients of `chancery timestamp-client`.

    `open` lets everybody else ask too, for `policies` (none given: all), at most `per_second` times a second from
    each address, `burst` at once. `waiting` is how many requests of one client may wait.
    """

    open: bool = True
    policies: Annotated[tuple[OID, ...], msgspec.Meta(max_length=64)] = ()
    per_second: Annotated[float, msgspec.Meta(gt=0, le=1e6)] | None = None
    burst: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 20
    waiting: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1024


class HTTPSSection(Section, frozen=True, kw_only=True):
    """A second port, with TLS: for browsers, for API keys over a network, and for clients with a certificate."""

    listen: Listen
    tls: TLSSection


class TSAPolicySection(Section, frozen=True, kw_only=True):
    """A TSA policy: its OID, the digests of imprints, and whether its tokens say that they are qualified."""

    oid: OID
    hashes: Annotated[tuple[ImprintHash, ...], msgspec.Meta(min_length=1)] = IMPRINT_HASHES
    qualified: bool = False


class UnitSection(Section, frozen=True, kw_only=True):
    """One timestamping unit with a key of its own, asked at `/tsa/NAME`; see docs/timestamping.md."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}\Z")] = "tsa"
    key_label: str
    signature: RSASignature | None = None
    policies: Annotated[tuple[OID | TSAPolicySection, ...], msgspec.Meta(min_length=1)]
    ordering: bool = False
    tsa_name: bool = False
    authenticode: bool = False


class TSAConfig(Served, frozen=True, kw_only=True, tag="tsa"):
    """
    `chancery serve tsa`: RFC 3161 timestamps. Accuracy is at most one second (R23).

    `/tsa` is the first unit, or the one that serves the policy asked for. With the time source `ntp` the clock is
    compared every `ntp_poll_s` seconds with the majority of `ntp_servers` (`host`, `host:port` or
    `[address]:port`), three or more.
    """

    instance: Annotated[int, msgspec.Meta(ge=1, le=127)]
    listen: Listen
    metrics: Listen | None = None
    database: DatabaseSection
    token: TokenSection
    units: Annotated[tuple[UnitSection, ...], msgspec.Meta(min_length=1, max_length=32)]
    accuracy_us: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1_000_000
    gen_time_digits: Annotated[int, msgspec.Meta(ge=1, le=6)] = 3
    time_source: Literal["kernel", "chrony", "ntp", "trust-system-clock"]
    chrony: str = "127.0.0.1:323"
    ntp_servers: Annotated[tuple[str, ...], msgspec.Meta(max_length=15)] = ()
    ntp_poll_s: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 64
    signing_threads: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    access: AccessSection = AccessSection()
    https: HTTPSSection | None = None
    page: bool = True

    def __post_init__(self) -> None:
        if self.time_source == "ntp" and len(set(self.ntp_servers)) < 3:
            raise ValueError(
                "time_source `ntp` needs three different ntp_servers, so that one that lies is outvoted"
            )
        if self.time_source != "ntp" and self.ntp_servers:
            raise ValueError("`ntp_servers` are asked with time_source `ntp` alone")


class ForeignConfig(Section, frozen=True, kw_only=True, tag="foreign", tag_field="process"):
    """`chancery ocsp foreign …`, over HTTP (by the proxy `proxy`) or from files; a download takes `seconds`."""

    database: DatabaseSection
    max_mebibytes: Annotated[int, msgspec.Meta(ge=1, le=4095)] = 64
    seconds: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 60
    proxy: HTTPURL | None = None


class AuditorConfig(Section, frozen=True, kw_only=True, tag="auditor", tag_field="process"):
    """`chancery audit …`: reads everything, changes nothing."""

    database: DatabaseSection
    origin: str
    journal_key: Path
    checkpoint_file: Path | None = None
    linters: dict[Name, LinterSection] = {}


class OfflineConfig(Section, frozen=True, kw_only=True, tag="offline", tag_field="process"):
    """
    `chancery offline …`: the root's token and local store, on a machine without network.

    `urls` are written into what the root signs; `signature` is how an RSA root signs it. `profiles` is a directory
    of further profiles, such as those of cross-certificates.
    """

    deployment: Deployment
    directory: Path
    name: Name = "root"
    subject: str
    instance: Annotated[int, msgspec.Meta(ge=1, le=127)]
    token: TokenSection
    urls: URLSection | None = None
    profiles: Path | None = None
    key_kind: KeyKind = "ec-p384"
    signature: RSASignature | None = None


class OwnerConfig(Section, frozen=True, kw_only=True, tag="owner", tag_field="process"):
    """`chancery db migrate`: the role that owns the schema."""

    database: DatabaseSection


def token_sections(config: object) -> list[TokenSection]:
    """Return every token of a process, its `token` first."""
    found = [one for one in (getattr(config, "token", None),) if isinstance(one, TokenSection)]
    return found + list(getattr(config, "tokens", {}).values())


def token_labelled(config: object, label: str | None) -> TokenSection:
    """
    Return the token of a process with this label; None: its `token`, or else the only one.

    Raises OperatorError when there is none, or more than one to choose from.
    """
    sections = token_sections(config)
    usual = getattr(config, "token", None) or (sections[0] if len(sections) == 1 else None)
    found = usual if label is None else next((one for one in sections if one.label == label), None)
    if not isinstance(found, TokenSection):
        raise OperatorError(
            f"the configuration has the tokens {', '.join(one.label for one in sections) or 'none'}",
            "give the label of one of them with --token, or the configuration of a process that has keys",
        )
    return found


ProcessConfig = (
    CAConfig | WorkerConfig | OCSPConfig | TSAConfig | ForeignConfig | AuditorConfig | OfflineConfig | OwnerConfig
)
_PATH = re.compile(r"\$((?:\.[\w-]+|\[\.\.\.\]|\[\d+\])+)")
_CLOSED = re.compile(r"Invalid (?:enum )?value|Object missing required field `(\w+)`")


def decode_hook(type_: type, value: object) -> object:
    """Make an absolute Path of a text, for msgspec; ValueError says what is wrong with it."""
    if type_ is Path and isinstance(value, str):
        path = Path(value)
        if not path.is_absolute():
            raise ValueError(f"`{value}` is not an absolute path")
        return path
    raise TypeError(f"cannot make {type_.__name__} of {type(value).__name__}")


def load(file: Path) -> ProcessConfig:
    """
    Read and check one process's configuration.

    Raises OperatorError naming the file, the key and what was expected of it.
    """
    config: ProcessConfig = decode(file, ProcessConfig)
    return config


def decode(file: Path, type_: Any) -> Any:
    """Decode a TOML file as this type, or raise OperatorError naming file, key and expected value."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"{file} cannot be read: {error}", "give the path of a readable UTF-8 file") from error
    try:
        return msgspec.toml.decode(text, type=type_, dec_hook=decode_hook)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        found = _PATH.search(str(error))
        where = f"key `{found[1].lstrip('.')}`" if found else "the file"
        what = _PATH.sub("", str(error)).removesuffix(" - at ``")
        if closed := _CLOSED.match(what):
            key = closed[1] or (found[1].rpartition(".")[2] if found else "")
            what += f": expected one of {', '.join(choices)}" if (choices := choices_of(type_, key)) else ""
        raise OperatorError(
            f"{file}: {where}: {what}", "correct the key and run `chancery check-config` on it"
        ) from None


def encode(config: msgspec.Struct) -> bytes:
    """Return a configuration as TOML text (UTF-8), without the keys that are not set."""
    plain = msgspec.to_builtins(config, enc_hook=str)
    found = _without_none(plain)
    assert isinstance(found, dict)
    return tomli_w.dumps(found).encode()


def _without_none(value: object) -> object:
    """Leave out what is not set, in tables and in arrays of them."""
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return [_without_none(inner) for inner in value] if isinstance(value, list | tuple) else value


def problems(config: msgspec.Struct, prefix: str = "") -> list[str]:
    """
    Name everything in a decoded configuration that would stop the start: files that are missing or open to others.

    Production refuses what only a laptop may do.
    """
    found = []
    for key in config.__struct_fields__:
        value, name = getattr(config, key), f"{prefix}{key}"
        if isinstance(value, msgspec.Struct):
            found += problems(value, f"{name}.")
        elif isinstance(value, dict):
            for inner, one in value.items():
                found += problems(one, f"{name}.{inner}.") if isinstance(one, msgspec.Struct) else []
        elif isinstance(value, Path) and key not in {
            "health_file",
            "metrics_file",
            "checkpoint_file",
            "directory",
        }:
            found += _file_problem(name, value)
    if (
        getattr(config, "deployment", "") == "production"
        and getattr(config, "time_source", "") == "trust-system-clock"
    ):
        found.append("time_source: production needs `kernel`, `chrony` or `ntp`, not `trust-system-clock`")
    database = getattr(config, "database", None)
    if getattr(config, "deployment", "") == "production" and isinstance(database, DatabaseSection):
        here = database.host.startswith("/") or database.host in {"localhost", "127.0.0.1", "::1"}
        if not here and database.sslmode != "verify-full":
            found.append(f"database.sslmode: production needs `verify-full` for {database.host}, another host")
    if getattr(config, "deployment", "") == "production":
        tables = {"token": getattr(config, "token", None)}
        tables |= {f"tokens.{name}": one for name, one in getattr(config, "tokens", {}).items()}
        found += [
            f"{name}.soft_directory: production needs a PKCS#11 module, not the software token"
            for name, token in tables.items()
            if token is not None and token.soft_directory
        ]
    return found


def _file_problem(name: str, path: Path) -> list[str]:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return [f"{name}: {path}: {error.strerror}"]
    secret = name.rsplit(".", 1)[-1] in {"pin_file", "password_file", "key", "sslkey"}
    if secret and stat.S_ISREG(mode) and mode & 0o077:
        return [f"{name}: {path} can be read by others (mode {mode & 0o777:04o}); run chmod 600 on it"]
    return []


def load_checked(file: Path, type_: type[T]) -> T:
    """`load`, then refuse another process's file and every problem; OperatorError names them all."""
    config = load(file)
    if not isinstance(config, type_):
        wanted = type_.__struct_config__.tag
        raise OperatorError(
            f"{file} is not the configuration of this process", f'give one with process = "{wanted}"'
        )
    if found := problems(config):
        raise OperatorError(f"{file}: " + "; ".join(found), "put these right and start again")
    return config
