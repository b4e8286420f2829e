"""The whole suite on one machine: its few settings, and each process's strict configuration made from them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chancery.cli.layout import DATABASE_ROLES, TOKENS, Layout
from chancery.cli.tsakeys import following
from chancery.config import (
    AuditorConfig,
    CAConfig,
    CRLSection,
    DatabaseSection,
    Delegate,
    Deployment,
    ForeignConfig,
    JournalSection,
    KeyKind,
    Listen,
    OCSPConfig,
    OfflineConfig,
    OwnerConfig,
    Port,
    ProcessConfig,
    RSASignature,
    Section,
    SSLMode,
    TLSSection,
    TokenSection,
    TSAConfig,
    UnitSection,
    URLSection,
    WorkerConfig,
    decode,
)
from chancery.pkix.name import name_text

OID_POLICY = "1.3.6.1.4.1.99999.1.1"
"""A placeholder arc for a first installation; an organisation sets its own in suite.toml."""

Organization = Annotated[str, msgspec.Meta(min_length=1, max_length=41)]
"""RFC 5280 A.1: a common name has at most 64 characters, and the longest is "… Timestamping Authority"."""

CheckpointKeyKind = Literal["ed25519", "ec-p256"]
"""What `audit.note` signs checkpoints with."""

ROOT, ISSUING = "root", "issuing"
SERVICE_LABELS = {"ocsp": "ocsp-issuing", "tsa": "tsa"}
"""The key in each service's token that signs for it."""
SERIAL_INSTANCE, OFFLINE_INSTANCE, TSA_INSTANCE = 1, 0x70, 1


class ExternalDatabase(Section, frozen=True, kw_only=True):
    """A PostgreSQL server that is already there; `admin` may make roles and a database."""

    host: str
    port: Port = 5432
    admin: str
    admin_database: str = "postgres"
    admin_password_file: Path | None = None
    sslmode: SSLMode = "prefer"
    sslrootcert: Path | None = None


class Suite(Section, frozen=True, kw_only=True):
    """
    `suite.toml`: what `chancery up` was told. Ports are TCP on `address`; `host` is what URLs say.

    Without `module`, keys live in encrypted software tokens, which say so at every start.
    """

    deployment: Deployment = "laptop"
    organization: Organization = "Example"
    host: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\Z")] = "localhost"
    address: str = "127.0.0.1"
    ca_port: Port = 8443
    ocsp_port: Port = 8080
    tsa_port: Port = 8081
    tsa_policy: str = OID_POLICY
    tsa_accuracy_ms: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1000
    ntp_servers: tuple[str, ...] = ()
    root_key: KeyKind = "ec-p384"
    issuing_key: KeyKind = "ec-p256"
    ocsp_key: KeyKind = "ec-p256"
    tsa_key: KeyKind = "ec-p256"
    journal_key: CheckpointKeyKind = "ed25519"
    rsa_signature: RSASignature | None = None
    module: Path | None = None
    database: ExternalDatabase | None = None

    def __post_init__(self) -> None:
        # As `pkix.granting` judges what stands in a certificate.
        if self.organization != self.organization.strip() or not self.organization.isprintable():
            raise ValueError("`organization` has white space at an end, or a character that cannot be printed")

    def signature(self, kind: KeyKind) -> RSASignature | None:
        """Return how a key of this kind signs, where that is a choice."""
        return self.rsa_signature if kind.startswith("rsa-") else None

    @property
    def ca_url(self) -> str:
        return f"https://{self.host}:{self.ca_port}"

    @property
    def ocsp_url(self) -> str:
        return f"http://{self.host}:{self.ocsp_port}"

    @property
    def tsa_url(self) -> str:
        return f"http://{self.host}:{self.tsa_port}/tsa"


def read_suite(layout: Layout) -> Suite:
    """Return the settings of an installation. OperatorError when the file is missing or wrong."""
    suite: Suite = decode(layout.suite, Suite)
    return suite


def process_configs(layout: Layout, suite: Suite, socket: Path) -> dict[str, ProcessConfig]:
    """Make each process's configuration; `socket` is the directory of the embedded server's socket."""
    database = {process: _database(layout, suite, socket, process) for process in DATABASE_ROLES}
    checkpoint = layout.run / "worker" / "checkpoint"
    return {
        "ca": CAConfig(
            deployment=suite.deployment,
            listen=Listen(host=suite.address, port=suite.ca_port),
            tls=TLSSection(
                certificate=layout.tls / "server.pem",
                key=layout.tls / "server.key",
                client_ca=layout.pki / "chain.pem",
            ),
            database=database["ca"],
        ),
        "worker": WorkerConfig(
            deployment=suite.deployment,
            instance=SERIAL_INSTANCE,
            issuers=(ISSUING,),
            default_issuer=ISSUING,
            health_file=layout.run / "worker" / "health",
            metrics_file=layout.run / "worker" / "chancery_worker.prom",
            database=database["worker"],
            token=token_section(layout, suite, "issuing"),
            signatures={ISSUING: signature} if (signature := suite.signature(suite.issuing_key)) else {},
            urls=urls(suite),
            crl=CRLSection(),
            journal=JournalSection(origin=_origin(suite), checkpoint_file=checkpoint),
            service_keys=service_keys(layout),
        ),
        "ocsp": OCSPConfig(
            deployment=suite.deployment,
            listen=Listen(host=suite.address, port=suite.ocsp_port),
            database=database["ocsp"],
            token=token_section(layout, suite, "ocsp"),
            delegates=[
                Delegate(
                    issuer=ISSUING, key_label=SERVICE_LABELS["ocsp"], signature=suite.signature(suite.ocsp_key)
                )
            ],
            delegate_key=SERVICE_LABELS["ocsp"],
            delegate_signature=suite.signature(suite.ocsp_key),
        ),
        "tsa": _tsa(layout, suite, database["tsa"]),
        "foreign": ForeignConfig(database=database["foreign"]),
        "auditor": AuditorConfig(
            database=database["auditor"],
            origin=_origin(suite),
            journal_key=layout.pki / "journal.pem",
            checkpoint_file=checkpoint,
        ),
        "owner": OwnerConfig(database=database["owner"]),
        "offline": _offline(layout, suite),
    }


def tsa_label(layout: Layout) -> str:
    """Return the label of the timestamping key in use."""
    path = layout.tsa_label
    return path.read_text().strip() if path.exists() else SERVICE_LABELS["tsa"]


def service_keys(layout: Layout) -> tuple[str, ...]:
    """SHA-256 (hex) of the public keys for which the installation's services have made requests."""
    found = []
    spare = following(tsa_label(layout), SERVICE_LABELS["tsa"])
    for label in sorted({*SERVICE_LABELS.values(), tsa_label(layout), spare}):
        if (path := layout.service_request(label)).exists():
            key = x509.load_pem_x509_csr(path.read_bytes()).public_key()
            spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            found.append(hashlib.sha256(spki).hexdigest())
    return tuple(found)


def _tsa(layout: Layout, suite: Suite, database: DatabaseSection) -> TSAConfig:
    return TSAConfig(
        deployment=suite.deployment,
        instance=TSA_INSTANCE,
        listen=Listen(host=suite.address, port=suite.tsa_port),
        database=database,
        token=token_section(layout, suite, "tsa"),
        units=(
            UnitSection(
                key_label=SERVICE_LABELS["tsa"],
                signature=suite.signature(suite.tsa_key),
                policies=(suite.tsa_policy,),
            ),
        ),
        accuracy_us=suite.tsa_accuracy_ms * 1000,
        time_source=_time_source(suite),
        ntp_servers=suite.ntp_servers,
    )


def _time_source(suite: Suite) -> Literal["kernel", "chrony", "ntp", "trust-system-clock"]:
    if suite.ntp_servers:
        return "ntp"
    return "kernel" if suite.deployment == "production" else "trust-system-clock"


def _offline(layout: Layout, suite: Suite) -> OfflineConfig:
    return OfflineConfig(
        deployment=suite.deployment,
        directory=layout.offline,
        name=ROOT,
        subject=subject(suite, "Root CA"),
        instance=OFFLINE_INSTANCE,
        token=token_section(layout, suite, "offline"),
        # No address for OCSP: the root has no delegate; its sub-CAs are on its CRL.
        urls=msgspec.structs.replace(urls(suite), ocsp=None),
        key_kind=suite.root_key,
        signature=suite.signature(suite.root_key),
    )


def urls(suite: Suite) -> URLSection:
    """Return where relying parties find what belongs to a certificate."""
    return URLSection(
        ocsp=f"{suite.ocsp_url}/ocsp",
        crl=f"{suite.ocsp_url}/crl/{{issuer}}.crl",
        ca_issuers=f"{suite.ocsp_url}/ca/{{issuer}}.cer",
    )


def _origin(suite: Suite) -> str:
    return f"{suite.host}/chancery/journal"


def _database(layout: Layout, suite: Suite, socket: Path, process: str) -> DatabaseSection:
    role = DATABASE_ROLES[process]
    external = suite.database
    return DatabaseSection(
        host=external.host if external else str(socket),
        port=external.port if external else 5432,
        user=f"chancery_{role}",
        password_file=layout.database_password(role),
        sslmode=external.sslmode if external else "disable",
        sslrootcert=external.sslrootcert if external else None,
    )


def token_section(layout: Layout, suite: Suite, role: str) -> TokenSection:
    """Return the settings of one of `TOKENS`, each in a SoftHSM2 directory of its own."""
    assert role in TOKENS
    directory = layout.token(role)
    soft = suite.module is None
    return TokenSection(
        module=suite.module,
        label=f"chancery-{role}",
        pin_file=directory / "pin",
        softhsm_conf=None if soft else directory / "softhsm2.conf",
        soft_directory=directory / "keys" if soft else None,
    )


def subject(suite: Suite, name: str) -> str:
    """RFC 4514 text of the suite's own certificates."""
    return name_text(
        x509.Name(
            [
                x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, suite.organization),
                x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{suite.organization} {name}"),
            ]
        )
    )
