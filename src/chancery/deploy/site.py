"""
The inventory of a site, `site.toml`: zones, hosts, what runs where. Everything else is made from it.

What a firewall must allow follows from it too (`chancery.deploy.flows`); nothing is said twice.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from chancery.config import OID, SHA256, Name, Port, Section, decode
from chancery.errors import OperatorError

Runs = Literal["ca", "worker", "ocsp", "tsa", "database", "hsm", "router", "monitoring", "offline"]
DNSName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\Z")]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

TOKENS = {"worker": "issuing", "ocsp": "ocsp", "tsa": "tsa"}
"""The process that may use a token, and the token's role."""
DATABASE_USERS = {"ca": "ra", "worker": "worker", "ocsp": "ocsp", "tsa": "tsa"}
"""The process that has a database role, and its short name."""
MAX_NAME = 55
"""Characters of a host's name: with a process's before it, it is a common name of 64 (RFC 5280 A.1)."""
SERIAL_INSTANCES = 0x6F
"""Instances of workers are 1 to this; above it are offline CAs."""


class Zone(Section, frozen=True, kw_only=True):
    """`networks` in CIDR form; that of the clients may be everything (`0.0.0.0/0`)."""

    networks: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]

    def __post_init__(self) -> None:
        for text in self.networks:
            ipaddress.ip_network(text)

    def parsed(self) -> list[Network]:
        """Return the networks as values."""
        return [ipaddress.ip_network(text) for text in self.networks]


class Host(Section, frozen=True, kw_only=True):
    """
    A machine. `address` is its one address, in its zone; a router has one in each zone it joins (`addresses`).

    An offline host has no address at all.
    """

    zone: Name | None = None
    address: str | None = None
    addresses: dict[Name, str] = msgspec.field(default_factory=dict)
    runs: Annotated[tuple[Runs, ...], msgspec.Meta(min_length=1)]

    def __post_init__(self) -> None:
        for text in [*self.addresses.values(), *([self.address] if self.address else [])]:
            ipaddress.ip_address(text)
        if len(set(self.runs)) != len(self.runs):
            raise ValueError("`runs` names something twice")
        if (alone := {"router", "offline", "hsm"} & set(self.runs)) and len(self.runs) > 1:
            raise ValueError(f"a host that is `{min(alone)}` runs nothing else")
        if "offline" in self.runs:
            if self.address or self.addresses or self.zone:
                raise ValueError("an offline host has neither zone nor address")
        elif "router" in self.runs:
            if self.address or self.zone or len(self.addresses) < 2:
                raise ValueError("a router has `addresses`, one in each zone that it joins, and no `address`")
        elif not self.address or not self.zone or self.addresses:
            raise ValueError("a host has a `zone` and an `address` in it")


class Ports(Section, frozen=True, kw_only=True):
    """TCP ports of the site; the first three are the clients' own."""

    ca: Port = 443
    ocsp: Port = 80
    tsa: Port = 80
    database: Port = 5432
    hsm: Annotated[int, msgspec.Meta(ge=1, le=65000)] = 5696
    ca_metrics: Port = 9107
    worker_metrics: Port = 9100
    ocsp_metrics: Port = 9108
    tsa_metrics: Port = 9109

    def served(self) -> dict[Runs, int]:
        """Return the port that each process listens on for others."""
        return {"ca": self.ca, "ocsp": self.ocsp, "tsa": self.tsa, "database": self.database}

    def metrics(self) -> dict[Runs, int]:
        """Return the port where monitoring asks about each process; the worker's is node_exporter's."""
        return {
            "ca": self.ca_metrics,
            "worker": self.worker_metrics,
            "ocsp": self.ocsp_metrics,
            "tsa": self.tsa_metrics,
        }


class HSM(Section, frozen=True, kw_only=True):
    """
    How keys are reached: `module` is the vendor's PKCS#11 library on each host that has keys, and `servers` are
    the addresses of the vendor's HSMs in the network, asked at `ports.hsm`.

    Without it the site's `hsm` host serves SoftHSM2 (`softhsm`) by p11-kit through mutual TLS, and `client` is
    p11-kit's module on the hosts that use it. That passes RSA and ECDSA, and no Ed25519 (docs/deployment.md).
    """

    module: Path | None = None
    servers: tuple[str, ...] = ()
    client: Path = Path("/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so")
    softhsm: Path = Path("/usr/lib/softhsm/libsofthsm2.so")
    reserved: str | None = None

    def __post_init__(self) -> None:
        for text in self.servers:
            ipaddress.ip_address(text)
        if self.servers and self.module is None:
            raise ValueError("`servers` are those of the vendor's `module`")


class Time(Section, frozen=True, kw_only=True):
    """
    Where the hosts' clocks come from: addresses of NTP servers, which the firewall then lets through.

    `nts` are among them those that speak NTS (RFC 8915), by the name in their certificate.
    """

    servers: tuple[str, ...] = ()
    nts: dict[str, DNSName] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        for text in (*self.servers, *self.nts):
            ipaddress.ip_address(text)


class Names(Section, frozen=True, kw_only=True):
    """What clients call the three services."""

    ca: DNSName
    ocsp: DNSName
    tsa: DNSName


class Site(Section, frozen=True, kw_only=True):
    """
    `site.toml`. `clients` and `management` name zones: who may ask, and from where hosts are managed by SSH.

    `service_keys` are SHA-256 (hex) of the services' public keys, once they are made.
    `prefix` is where the program is installed on each host; `postgresql` is the server's major version.
    """

    organization: Annotated[str, msgspec.Meta(min_length=1, max_length=41)]
    names: Names
    clients: Name
    management: Name | None = None
    zones: Annotated[dict[Name, Zone], msgspec.Meta(min_length=1)]
    hosts: Annotated[dict[Name, Host], msgspec.Meta(min_length=1)]
    ports: Ports = Ports()
    hsm: HSM = HSM()
    time: Time = Time()
    issuer: Name = "issuing"
    tsa_policy: OID
    tsa_accuracy_ms: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1000
    service_keys: tuple[SHA256, ...] = ()
    prefix: Path = Path("/opt/chancery")
    postgresql: Annotated[int, msgspec.Meta(ge=14, le=30)] = 15

    def __post_init__(self) -> None:
        found = _zone_faults(self) or _host_faults(self) or _sum_faults(self)
        if found:
            raise ValueError(found)

    def running(self, what: Runs) -> list[tuple[str, Host]]:
        """Return the hosts that run this, by name."""
        return [(name, host) for name, host in sorted(self.hosts.items()) if what in host.runs]

    def one(self, what: Runs) -> tuple[str, Host]:
        """Return the only host that runs this."""
        ((name, host),) = self.running(what)
        return name, host

    def instance(self, process: Runs, name: str) -> int:
        """Return the octet of serials (1 and up) of this host's worker or timestamping authority."""
        return [other for other, _ in self.running(process)].index(name) + 1


def _zone_faults(site: Site) -> str | None:
    for zone in (site.clients, site.management):
        if zone is not None and zone not in site.zones:
            return f"zone `{zone}` is not one of `zones`"
    inner = [(name, net) for name, zone in site.zones.items() if name != site.clients for net in zone.parsed()]
    for index, (name, network) in enumerate(inner):
        for other, second in inner[index + 1 :]:
            if network.version == second.version and network.overlaps(second):
                return f"networks of the zones `{name}` and `{other}` overlap"
    return None


def _host_faults(site: Site) -> str | None:
    seen: dict[str, str] = {}
    for name, host in sorted(site.hosts.items()):
        if len(name) > MAX_NAME:
            return f"host `{name}` has more than {MAX_NAME} characters"
        places = dict(host.addresses) if host.addresses else {}
        if host.zone is not None and host.address is not None:
            places[host.zone] = host.address
        for zone, text in places.items():
            if zone not in site.zones:
                return f"host `{name}`: zone `{zone}` is not one of `zones`"
            address = ipaddress.ip_address(text)
            if not any(address in network for network in site.zones[zone].parsed()):
                return f"host `{name}`: {text} is in no network of zone `{zone}`"
            if text in seen:
                return f"hosts `{seen[text]}` and `{name}` have the same address {text}"
            seen[text] = name
    return None


def _sum_faults(site: Site) -> str | None:
    if len(site.running("database")) != 1:
        return "exactly one host runs `database`"
    if site.hsm.module is None and len(site.running("hsm")) != 1:
        return "exactly one host runs `hsm`, or `hsm.module` names the vendor's library"
    for needed in ("ca", "worker", "ocsp", "tsa"):
        if not site.running(needed):
            return f"no host runs `{needed}`"
    if len(site.running("worker")) > SERIAL_INSTANCES:
        return f"at most {SERIAL_INSTANCES} hosts run `worker`"
    for name, host in site.hosts.items():
        listened = [*site.ports.served().items(), *site.ports.metrics().items()]
        shared = [port for process, port in listened if process in host.runs]
        if len(set(shared)) != len(shared):
            return f"host `{name}` would listen twice on one port: {sorted(shared)}"
    return None


def read_site(file: Path) -> Site:
    """Return the inventory in a file. OperatorError names the key that is wrong and what was expected."""
    site: Site = decode(file, Site)
    return site


def host_of(site: Site, name: str) -> Host:
    """Return a host by name; OperatorError when the site has none of that name."""
    if name not in site.hosts:
        raise OperatorError(f"the site has no host `{name}`", f"give one of: {', '.join(sorted(site.hosts))}")
    return site.hosts[name]
