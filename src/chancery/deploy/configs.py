"""Each process's strict configuration on each host of a site."""

from __future__ import annotations

from pathlib import Path

import msgspec

from chancery.config import (
    AuditorConfig,
    CAConfig,
    DatabaseSection,
    Delegate,
    JournalSection,
    Listen,
    OCSPConfig,
    OfflineConfig,
    OwnerConfig,
    ProcessConfig,
    TLSSection,
    TokenSection,
    TSAConfig,
    UnitSection,
    URLSection,
    WorkerConfig,
)
from chancery.deploy.site import DATABASE_USERS, TOKENS, Host, Site

ETC = Path("/etc/chancery")
TLS = ETC / "tls"
PKI = ETC / "pki"
SITE_CA = TLS / "site-ca.pem"
CHECKPOINT = Path("/var/lib/chancery-worker/checkpoint")
SERVER_CHAIN, SERVER_KEY = Path("/var/lib/chancery-ca/server.pem"), Path("/var/lib/chancery-ca/server.key")
"""Its own process has them renewed, so they are in its own directory."""
WORKER_METRICS = Path("/var/lib/chancery-worker/chancery_worker.prom")
"""For the textfile collector of node_exporter: the worker listens on nothing."""
SOCKETS = Path("/var/run/postgresql")
OCSP_KEY, TSA_KEY = "ocsp-issuing", "tsa"
OFFLINE_INSTANCE = 0x70


def host_configs(site: Site, name: str, host: Host) -> dict[str, ProcessConfig]:
    """Return the configurations of one host by process, those of the auditor and of migrations included."""
    found: dict[str, ProcessConfig] = {}
    if "ca" in host.runs:
        found["ca"] = _ca(site, host)
        found["auditor"] = AuditorConfig(
            database=database(site, "auditor"),
            origin=origin(site),
            journal_key=PKI / "journal.pem",
            checkpoint_file=CHECKPOINT if "worker" in host.runs else None,
        )
    if "worker" in host.runs:
        found["worker"] = _worker(site, name)
    if "ocsp" in host.runs:
        found["ocsp"] = _ocsp(site, host)
    if "tsa" in host.runs:
        found["tsa"] = _tsa(site, name, host)
    if "offline" in host.runs:
        found["offline"] = _offline(site)
    if "database" in host.runs:
        found["owner"] = OwnerConfig(
            database=DatabaseSection(
                host=str(SOCKETS), port=site.ports.database, user="chancery_owner", sslmode="disable"
            )
        )
    return found


def origin(site: Site) -> str:
    """Return the journal's origin line."""
    return f"{site.names.ca}/chancery/journal"


def database(site: Site, process: str) -> DatabaseSection:
    """How a process reaches the site's database: by TLS with its certificate, no password."""
    _, there = site.one("database")
    assert there.address is not None
    return DatabaseSection(
        host=there.address,
        port=site.ports.database,
        user=f"chancery_{DATABASE_USERS.get(process, process)}",
        sslmode="verify-full",
        sslrootcert=SITE_CA,
        sslcert=TLS / f"{process}.pem",
        sslkey=TLS / f"{process}.key",
    )


def token(site: Site, process: str) -> TokenSection:
    """The token of a process: the vendor's module, or p11-kit's with the tunnel to the HSM host behind it."""
    return TokenSection(
        label=f"chancery-{TOKENS[process]}",
        module=site.hsm.module or site.hsm.client,
        reserved=site.hsm.reserved,
        pin_credential="pin",
    )


def _ca(site: Site, host: Host) -> CAConfig:
    assert host.address is not None
    return CAConfig(
        deployment="production",
        listen=Listen(host=host.address, port=site.ports.ca),
        metrics=Listen(host=host.address, port=site.ports.ca_metrics) if site.running("monitoring") else None,
        tls=TLSSection(certificate=SERVER_CHAIN, key=SERVER_KEY, client_ca=PKI / "chain.pem"),
        database=database(site, "ca"),
    )


def _worker(site: Site, name: str) -> WorkerConfig:
    return WorkerConfig(
        deployment="production",
        instance=site.instance("worker", name),
        issuers=(site.issuer,),
        default_issuer=site.issuer,
        health_file=Path("/run/chancery-worker/health"),
        metrics_file=WORKER_METRICS if site.running("monitoring") else None,
        database=database(site, "worker"),
        token=token(site, "worker"),
        urls=urls(site),
        journal=JournalSection(origin=origin(site), checkpoint_file=CHECKPOINT),
        service_keys=site.service_keys,
    )


def _ocsp(site: Site, host: Host) -> OCSPConfig:
    assert host.address is not None
    return OCSPConfig(
        deployment="production",
        listen=Listen(host=host.address, port=site.ports.ocsp),
        metrics=Listen(host=host.address, port=site.ports.ocsp_metrics) if site.running("monitoring") else None,
        database=database(site, "ocsp"),
        token=token(site, "ocsp"),
        delegates=[Delegate(issuer=site.issuer, key_label=OCSP_KEY)],
        delegate_key=OCSP_KEY,
    )


def _tsa(site: Site, name: str, host: Host) -> TSAConfig:
    assert host.address is not None
    # A majority that it measures itself, where there can be one and nobody asks for authenticated time.
    measured = site.time.servers if len(site.time.servers) >= 3 and not site.time.nts else ()
    return TSAConfig(
        deployment="production",
        instance=site.instance("tsa", name),
        listen=Listen(host=host.address, port=site.ports.tsa),
        metrics=Listen(host=host.address, port=site.ports.tsa_metrics) if site.running("monitoring") else None,
        database=database(site, "tsa"),
        token=token(site, "tsa"),
        units=(UnitSection(key_label=TSA_KEY, policies=(site.tsa_policy,)),),
        accuracy_us=site.tsa_accuracy_ms * 1000,
        time_source="ntp" if measured else "kernel",
        ntp_servers=measured,
    )


def _offline(site: Site) -> OfflineConfig:
    return OfflineConfig(
        deployment="production",
        directory=Path("/var/lib/chancery-offline/journal"),
        subject=f"CN={site.organization} Root CA,O={site.organization}",
        instance=OFFLINE_INSTANCE,
        token=TokenSection(
            label="chancery-offline",
            module=site.hsm.module or site.hsm.softhsm,
            softhsm_conf=None if site.hsm.module else Path("/var/lib/chancery-offline/token/softhsm2.conf"),
            pin_prompt=True,
        ),
        # No address for OCSP: the root has no delegate; its sub-CAs are on its CRL.
        urls=msgspec.structs.replace(urls(site), ocsp=None),
    )


def urls(site: Site) -> URLSection:
    """Where relying parties find what belongs to a certificate."""
    port = "" if site.ports.ocsp == 80 else f":{site.ports.ocsp}"
    base = f"http://{site.names.ocsp}{port}"
    return URLSection(
        ocsp=f"{base}/ocsp", crl=f"{base}/crl/{{issuer}}.crl", ca_issuers=f"{base}/ca/{{issuer}}.cer"
    )
