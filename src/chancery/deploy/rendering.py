"""Every file of every host of a site, from its inventory alone: the same octets each time."""

from __future__ import annotations

from chancery.config import encode
from chancery.deploy.configs import ETC, PKI, SERVER_CHAIN, SERVER_KEY, SITE_CA, TLS, host_configs
from chancery.deploy.files import MANIFEST, File, Manifest, expected, write_manifest
from chancery.deploy.flows import flows, hsm_port
from chancery.deploy.identities import links
from chancery.deploy.nftables import host_rules
from chancery.deploy.site import TOKENS, Host, Site
from chancery.deploy.system import system_files
from chancery.deploy.units import account, host_units, tunnels, users

RULES = f"{ETC}/nftables.conf"


def render(site: Site, version: str) -> dict[str, list[File]]:
    """
    Return the files of every host by its name; `version` is the program's that should run there.

    Secrets are among them without content: they are made apart (`chancery.deploy.identities`), never rendered.
    """
    return {name: _host(site, name, host, version) for name, host in sorted(site.hosts.items())}


def _host(site: Site, name: str, host: Host, version: str) -> list[File]:
    configs = host_configs(site, name, host)
    if "offline" in host.runs:
        return [File(f"{ETC}/{process}.toml", encode(config)) for process, config in configs.items()]
    units = host_units(site, name, host)
    files = [
        File.text(RULES, host_rules(site, name).rstrip("\n"), mode=0o600),
        *units,
        *tunnels(site, name, host),
        *(File(f"{ETC}/{process}.toml", encode(config)) for process, config in configs.items()),
        *system_files(site, host),
        *secrets(site, name, host),
    ]
    running = [one.path.rpartition("/")[2] for one in units]
    running += ["nftables.service", *(["chrony.service"] if site.time.servers and host.address else [])]
    running += ["prometheus-node-exporter.service"] if "worker" in host.runs and site.running("monitoring") else []
    running += [f"postgresql@{site.postgresql}-main.service"] if "database" in host.runs else []
    listed = Manifest(
        host=name,
        version=version,
        files=expected(files),
        units=tuple(sorted(running)),
        listening=tuple(sorted(listening(site, name, host))),
        rules=RULES,
    )
    return sorted([*files, File(MANIFEST, write_manifest(listed))], key=lambda one: one.path)


def secrets(site: Site, name: str, host: Host) -> list[File]:
    """Return what a host must have and no rendering holds: its ends of links, PINs, its server certificate."""
    found = []
    for link in links(site):
        if link.host == name:
            found.append(File.secret(f"{TLS}/{link.stem}.key", link.owner))
            found.append(File(f"{TLS}/{link.stem}.pem", None))
    if found:
        found.append(File(str(SITE_CA), None))
    found += [File.secret(f"{ETC}/secrets/{process}.pin", "root") for process in TOKENS if process in host.runs]
    if "ca" in host.runs:
        found.append(File.secret(str(SERVER_KEY), account("ca")))
        found.append(File(str(SERVER_CHAIN), None, 0o644, account("ca"), account("ca")))
        found += [File(f"{PKI}/{one}.pem", None) for one in ("chain", "journal")]
    return found


def listening(site: Site, name: str, host: Host) -> list[str]:
    """Return what a host listens on, as `protocol/address/port`; management by SSH among it."""
    scraped = site.ports.metrics() if site.running("monitoring") else {}
    found = [
        f"tcp/{host.address}/{port}"
        for process in host.runs
        for port in (site.ports.served().get(process), scraped.get(process))
        if port is not None
    ]
    if "hsm" in host.runs:
        for role in set(TOKENS.values()):
            found += [f"tcp/{host.address}/{hsm_port(site, *one)}" for one in users(site, role)]
    if any(row.target == name and row.purpose == "management" for row in flows(site)):
        found.append("tcp/*/22")
    return found
