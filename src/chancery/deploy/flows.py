"""
What may cross the network of a site, and by that everything that may not.

The rows are those of the requirements ("Network rows that the firewall must allow, and no others"), with those
for time and for managing the hosts only where the inventory names servers or a zone for it (ADR 0011).
"""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Literal

from chancery.deploy.site import TOKENS, Host, Runs, Site

NTP, NTS_KE, SSH = 123, 4460, 22


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Flow:
    """
    One row: from some networks or addresses to some others, one protocol and port, and what it is for.

    `origin` and `target` are the zone's or host's name; outside addresses are their own name.
    """

    origin: str
    target: str
    sources: tuple[str, ...]
    destinations: tuple[str, ...]
    protocol: Literal["tcp", "udp"]
    port: int
    purpose: str


def hsm_port(site: Site, process: str, name: str) -> int:
    """Return the port of the HSM host that gives this process of this host its token: one for each."""
    users = [(role, host) for role in TOKENS for host, _ in site.running(_runs(role))]
    return site.ports.hsm + users.index((process, name))


def _runs(process: str) -> Runs:
    found: dict[str, Runs] = {"worker": "worker", "ocsp": "ocsp", "tsa": "tsa"}
    return found[process]


def flows(site: Site) -> list[Flow]:
    """Return every row of the site, sorted; two processes of one host need none."""
    return sorted({*_services(site), *_inner(site), *_metrics(site), *_time(site), *_management(site)})


def _services(site: Site) -> list[Flow]:
    zone = site.zones[site.clients]
    served: list[tuple[Runs, int, str]] = [
        ("ca", site.ports.ca, "REST and enrolment"),
        ("ocsp", site.ports.ocsp, "OCSP, CRL, CA certificates"),
        ("tsa", site.ports.tsa, "timestamps"),
    ]
    return [
        Flow(site.clients, name, zone.networks, (_address(host),), "tcp", port, purpose)
        for process, port, purpose in served
        for name, host in site.running(process)
    ]


def _inner(site: Site) -> list[Flow]:
    found = []
    database, there = site.one("database")
    users: tuple[Runs, ...] = ("ca", "worker", "ocsp", "tsa")
    for process in users:
        for name, host in site.running(process):
            if name != database:
                target = (_address(there),)
                found.append(
                    Flow(name, database, (_address(host),), target, "tcp", site.ports.database, "PostgreSQL")
                )
            if process in TOKENS and site.hsm.module is None:
                hsm, holder = site.one("hsm")
                port, target = hsm_port(site, process, name), (_address(holder),)
                found.append(Flow(name, hsm, (_address(host),), target, "tcp", port, f"PKCS#11 of {process}"))
            elif process in TOKENS:
                what, port = f"PKCS#11 of {process}", site.ports.hsm
                found += [
                    Flow(name, one, (_address(host),), (one,), "tcp", port, what) for one in site.hsm.servers
                ]
    return found


def _metrics(site: Site) -> list[Flow]:
    return [
        Flow(watcher, name, (_address(seat),), (_address(host),), "tcp", port, f"metrics of {process}")
        for watcher, seat in site.running("monitoring")
        for process, port in site.ports.metrics().items()
        for name, host in site.running(process)
        if name != watcher
    ]


def _time(site: Site) -> list[Flow]:
    found = []
    for name, host in _networked(site):
        for server in site.time.servers:
            found.append(Flow(name, server, (_address(host),), (server,), "udp", NTP, "time"))
            if server in site.time.nts:
                found.append(Flow(name, server, (_address(host),), (server,), "tcp", NTS_KE, "time (NTS keys)"))
    return found


def _management(site: Site) -> list[Flow]:
    if site.management is None:
        return []
    sources = site.zones[site.management].networks
    reached = [(name, _address(host)) for name, host in _networked(site)]
    reached += [
        (name, host.addresses[site.management])
        for name, host in site.running("router")
        if site.management in host.addresses
    ]
    return [Flow(site.management, name, sources, (to,), "tcp", SSH, "management") for name, to in reached]


def _networked(site: Site) -> list[tuple[str, Host]]:
    return [(name, host) for name, host in sorted(site.hosts.items()) if host.address is not None]


def _address(host: Host) -> str:
    assert host.address is not None
    return host.address


def crosses(flow: Flow, site: Site) -> bool:
    """Tell whether a row passes a router: its two ends are not in one network."""
    networks = [network for zone in site.zones.values() for network in zone.parsed() if network.prefixlen]
    return not any(
        all(_inside(text, network) for text in (*flow.sources, *flow.destinations)) for network in networks
    )


def _inside(text: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    inner = ipaddress.ip_network(text)
    if isinstance(inner, ipaddress.IPv4Network) and isinstance(network, ipaddress.IPv4Network):
        return inner.subnet_of(network)
    if isinstance(inner, ipaddress.IPv6Network) and isinstance(network, ipaddress.IPv6Network):
        return inner.subnet_of(network)
    return False
