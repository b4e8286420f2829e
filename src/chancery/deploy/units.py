"""
systemd units: each process its own account, nothing writable but its own state, no address but its rows'.

Not taken: MemoryDenyWriteExecute, which CPython's ctypes (PKCS#11) and uvloop's cffi do without but PKCS#11
modules of vendors may not.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from chancery.deploy.configs import ETC, TLS
from chancery.deploy.files import File
from chancery.deploy.flows import NTP, flows, hsm_port
from chancery.deploy.site import TOKENS, Host, Site

PROCESSES = ("worker", "ca", "ocsp", "tsa")
_DIRECTORY = "/etc/systemd/system"
_HARDENING = """\
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
UMask=0077
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
PrivateUsers=yes
DevicePolicy=closed
ProtectProc=invisible
ProcSubset=pid
ProtectClock=yes
ProtectHostname=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
LockPersonality=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources @mount @debug
SystemCallErrorNumber=EPERM
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
LimitCORE=0
TasksMax=256""".splitlines()
_NO_DEVICES = {"PrivateDevices=yes", "DevicePolicy=closed"}


def account(process: str) -> str:
    """Return the system account that a process runs as."""
    return f"chancery-{process}"


def host_units(site: Site, name: str, host: Host) -> list[File]:
    """Return the units of one host; every one of them should be enabled and running."""
    found = []
    for process in PROCESSES:
        if process in host.runs:
            found.append(_serving(site, name, process))
            if process in TOKENS and site.hsm.module is None:
                found.append(_tunnel(site, name, process))
    if "hsm" in host.runs:
        for role in sorted({TOKENS[process] for process in TOKENS}):
            found.append(_token_server(site, role))
            found.append(_token_tunnel(site, name, role))
    return found


def _unit(
    name: str, head: Iterable[str], service: Iterable[str], allow: Iterable[str] | None, *, devices: bool = False
) -> File:
    # None: whoever the firewall lets through; a range of everything would say the same in more words.
    network = [] if allow is None else ["IPAddressDeny=any", f"IPAddressAllow={' '.join(sorted(allow))}"]
    hardening = [line for line in _HARDENING if devices is False or line not in _NO_DEVICES]
    lines = ["[Unit]", *head, "", "[Service]", *service, *network, *hardening]
    return File.text(f"{_DIRECTORY}/{name}.service", *lines, "", "[Install]", "WantedBy=multi-user.target")


def _again(seconds: int) -> list[str]:
    return ["Restart=always", f"RestartSec={seconds}", "RestartPreventExitStatus=78"]


def _peers(site: Site, name: str, ports: Iterable[int]) -> set[str] | None:
    """The addresses that a host's rows name, and `localhost`; None when the whole network is among them."""
    # Two processes of one host meet at its own address, and no row names that.
    found = {"localhost", str(site.hosts[name].address)}
    for row in flows(site):
        if row.port not in ports:
            continue
        others = row.destinations if row.origin == name else row.sources if row.target == name else ()
        found.update(others)
    everything = any(ipaddress.ip_network(text).prefixlen == 0 for text in found if text != "localhost")
    return None if everything else found


def _serving(site: Site, name: str, process: str) -> File:
    user, tunnel = account(process), f"chancery-hsm-{process}"
    tunnelled = process in TOKENS and site.hsm.module is None
    head = [f"Description=Chancery {process}", "After=network-online.target time-sync.target"]
    head += ["Wants=network-online.target"]
    head += [f"Requires={tunnel}.service", f"After={tunnel}.service"] if tunnelled else []
    service = [
        "Type=exec",
        f"User={user}",
        f"Group={user}",
        f"ExecStart={site.prefix}/bin/chancery serve {process} --config {ETC}/{process}.toml",
        f"StateDirectory={user}",
        "StateDirectoryMode=0755",
        f"RuntimeDirectory={user}",
        "RuntimeDirectoryMode=0755",
    ]
    if process in TOKENS:
        service.append(f"LoadCredential=pin:{ETC}/secrets/{process}.pin")
    if tunnelled:
        service.append(f"Environment=P11_KIT_SERVER_ADDRESS=unix:path={socket(process)}")
    # A vendor's module without servers in the network opens a device of the machine.
    devices = process in TOKENS and site.hsm.module is not None and not site.hsm.servers
    peers = _peers(site, name, _ports(site, process))
    return _unit(user, head, [*service, *_again(2)], peers, devices=devices)


def _ports(site: Site, process: str) -> set[int]:
    """Return the ports of the rows that are a process's own."""
    found = {site.ports.database}
    listened = (*site.ports.served().items(), *site.ports.metrics().items())
    # What is said of the worker is said by node_exporter: it listens on nothing.
    found |= {port for runs, port in listened if runs == process != "worker"}
    if process == "tsa":  # it may measure the clock itself
        found.add(NTP)
    if process in TOKENS and site.hsm.servers:
        found.add(site.ports.hsm)
    return found


def socket(process: str) -> str:
    """Return the socket in which a process finds its token, behind the tunnel to the HSM host."""
    return f"/run/chancery-hsm-{process}/pkcs11"


def _tunnel(site: Site, name: str, process: str) -> File:
    user = account(process)
    head = [f"Description=PKCS#11 of Chancery {process}, to the HSM host", "After=network-online.target"]
    service = [
        "Type=exec",
        f"User={user}",
        f"Group={user}",
        f"ExecStart=/usr/bin/stunnel4 {ETC}/stunnel-{process}.conf",
        f"RuntimeDirectory=chancery-hsm-{process}",
        "RuntimeDirectoryMode=0700",
    ]
    peers = _peers(site, name, {hsm_port(site, process, name)})
    return _unit(f"chancery-hsm-{process}", head, [*service, *_again(1)], peers)


def token_socket(role: str) -> str:
    """Return the socket in which the HSM host offers one token."""
    return f"/run/chancery-token-{role}/pkcs11"


def _token_server(site: Site, role: str) -> File:
    user = f"chancery-token-{role}"
    command = f"ExecStart=/usr/bin/p11-kit server --foreground --name {token_socket(role)}"
    command += f" --provider {site.hsm.softhsm} pkcs11:token=chancery-{role}"
    service = [
        "Type=exec",
        f"User={user}",
        f"Group={user}",
        f"Environment=SOFTHSM2_CONF=/var/lib/{user}/softhsm2.conf",
        command,
        f"StateDirectory={user}",
        "StateDirectoryMode=0700",
        f"RuntimeDirectory={user}",
        "RuntimeDirectoryMode=0700",
        f"ExecStartPre=-/bin/rm -f {token_socket(role)}",
    ]
    return _unit(user, [f"Description=Token chancery-{role}"], [*service, *_again(1)], ())


def _token_tunnel(site: Site, name: str, role: str) -> File:
    user = f"chancery-token-{role}"
    head = [f"Description=Token chancery-{role}, to the hosts that use it"]
    head += [f"Requires={user}.service", f"After={user}.service network-online.target"]
    service = [
        "Type=exec",
        f"User={user}",
        f"Group={user}",
        f"ExecStart=/usr/bin/stunnel4 {ETC}/stunnel-{role}.conf",
    ]
    ports = {hsm_port(site, *one) for one in users(site, role)}
    return _unit(f"chancery-tunnel-{role}", head, [*service, *_again(1)], _peers(site, name, ports))


def users(site: Site, role: str) -> list[tuple[str, str]]:
    """Return the (process, host) pairs that use a token."""
    processes = [process for process, token in TOKENS.items() if token == role]
    return [
        (process, name)
        for process in processes
        for name, host in sorted(site.hosts.items())
        if process in host.runs
    ]


def tunnels(site: Site, name: str, host: Host) -> list[File]:
    """Return stunnel's configurations of one host: mutual TLS 1.3, each end knowing the other's name."""
    found = []
    if site.hsm.module is not None:
        return []
    hsm, holder = site.one("hsm")
    for process in TOKENS:
        if process in host.runs:
            port = hsm_port(site, process, name)
            ends = ["client = yes", f"accept = {socket(process)}", f"connect = {_at(holder.address, port)}"]
            found.append(File.text(f"{ETC}/stunnel-{process}.conf", *_stunnel(process, [("pkcs11", ends, hsm)])))
    if "hsm" in host.runs:
        for role in sorted(set(TOKENS.values())):
            services = [
                (
                    f"{process}.{user}",
                    [
                        f"accept = {_at(host.address, hsm_port(site, process, user))}",
                        f"connect = {token_socket(role)}",
                    ],
                    f"{process}.{user}",
                )
                for process, user in users(site, role)
            ]
            found.append(File.text(f"{ETC}/stunnel-{role}.conf", *_stunnel(f"token-{role}", services)))
    return found


def _at(address: str | None, port: int) -> str:
    assert address is not None
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _stunnel(owner: str, services: Iterable[tuple[str, list[str], str]]) -> list[str]:
    lines = ["foreground = yes", "pid =", "syslog = no", "debug = warning", "sslVersionMin = TLSv1.3"]
    for title, ends, peer in services:
        lines += [
            "",
            f"[{title}]",
            *ends,
            f"cert = {TLS}/{owner}.pem",
            f"key = {TLS}/{owner}.key",
            f"CAfile = {TLS}/site-ca.pem",
            "verifyChain = yes",
            f"checkHost = {peer}",
        ]
    return lines
