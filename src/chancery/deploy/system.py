"""What the operating system of a host is told: accounts, directories, names, time, logs, PostgreSQL."""

from __future__ import annotations

from chancery.deploy.configs import ETC, TLS, WORKER_METRICS
from chancery.deploy.files import File
from chancery.deploy.site import DATABASE_USERS, TOKENS, Host, Site
from chancery.deploy.units import PROCESSES, account
from chancery.postgres.embedded import SETTINGS

_OWN = {"listen_addresses", "port", "unix_socket_permissions", "logging_collector", "log_destination"}
"""Settings of the embedded server that are others here, or Debian's."""


def accounts(host: Host) -> list[str]:
    """Return the system accounts of a host."""
    found = [account(process) for process in PROCESSES if process in host.runs]
    found += ["chancery-auditor"] if "ca" in host.runs else []
    found += ["chancery-owner"] if "database" in host.runs else []
    found += [f"chancery-token-{role}" for role in sorted(set(TOKENS.values()))] if "hsm" in host.runs else []
    return found


def system_files(site: Site, host: Host) -> list[File]:
    """Return what is the same in kind on every host."""
    found = [
        File.text(
            "/etc/sysusers.d/chancery.conf",
            *(f'u {user} - "Chancery" - /usr/sbin/nologin' for user in accounts(host)),
        ),
        File.text("/etc/tmpfiles.d/chancery.conf", *_directories(host)),
        File.text("/etc/sysctl.d/90-chancery.conf", *_sysctl(site, host)),
        File.text(
            "/etc/systemd/journald.conf.d/chancery.conf",
            "[Journal]",
            "Storage=persistent",
            "SystemMaxUse=2G",
            "MaxRetentionSec=400day",
            "ForwardToSyslog=yes",
        ),
        File.text(
            "/etc/systemd/system/nftables.service.d/chancery.conf",
            "# The rules are there before the network is, or the network stays down.",
            "[Unit]",
            "Before=network-pre.target",
            "[Service]",
            "ExecStart=",
            f"ExecStart=/usr/sbin/nft -f {ETC}/nftables.conf",
            "ExecReload=",
            f"ExecReload=/usr/sbin/nft -f {ETC}/nftables.conf",
        ),
        File.text("/etc/hosts", *_names(site)),
    ]
    if site.time.servers and host.address is not None:
        found.append(File.text("/etc/chrony/chrony.conf", *_chrony(site)))
    if "database" in host.runs:
        found += _postgresql(site, host)
    if "worker" in host.runs and site.running("monitoring"):
        listen = f"--web.listen-address={host.address}:{site.ports.worker_metrics}"
        collect = f"--collector.textfile.directory={WORKER_METRICS.parent}"
        found.append(File.text("/etc/default/prometheus-node-exporter", f'ARGS="{listen} {collect}"'))
    return found


def _directories(host: Host) -> list[str]:
    lines = [f"d {ETC} 0755 root root -", f"d {TLS} 0711 root root -", f"d {ETC}/pki 0755 root root -"]
    lines += [f"d {ETC}/secrets 0700 root root -"] if set(host.runs) & set(TOKENS) else []
    if "ca" in host.runs:
        lines.append("d /var/lib/chancery-ca 0755 chancery-ca chancery-ca -")
    if "hsm" in host.runs:
        users = [f"chancery-token-{role}" for role in sorted(set(TOKENS.values()))]
        lines += [f"d /var/lib/{user} 0700 {user} {user} -" for user in users]
    return lines


def _sysctl(site: Site, host: Host) -> list[str]:
    lines = [
        "net.ipv4.conf.all.rp_filter = 1",
        "net.ipv4.conf.all.accept_redirects = 0",
        "net.ipv4.conf.all.send_redirects = 0",
        "net.ipv4.conf.all.accept_source_route = 0",
        "net.ipv6.conf.all.accept_redirects = 0",
        "net.ipv6.conf.all.accept_source_route = 0",
        "kernel.kptr_restrict = 2",
        "kernel.dmesg_restrict = 1",
        "kernel.yama.ptrace_scope = 2",
        "fs.suid_dumpable = 0",
    ]
    routes = int("router" in host.runs)
    lines += [f"net.ipv4.ip_forward = {routes}", f"net.ipv6.conf.all.forwarding = {routes}"]
    used = {"ca": site.ports.ca, "ocsp": site.ports.ocsp, "tsa": site.ports.tsa}
    ports = [port for process, port in used.items() if process in host.runs and port < 1024]
    # No process has a capability for it: the lowest port that one of them listens on is open to all accounts.
    return [*lines, f"net.ipv4.ip_unprivileged_port_start = {min(ports)}"] if ports else lines


def _names(site: Site) -> list[str]:
    lines = ["# Made from site.toml: no host of the site asks a name server.", "127.0.0.1 localhost"]
    lines += [
        "::1 localhost ip6-localhost",
        *(f"{address} {name}" for address, name in sorted(site.time.nts.items())),
    ]
    for name, host in sorted(site.hosts.items()):
        if host.address is not None:
            public = {"ca": site.names.ca, "ocsp": site.names.ocsp, "tsa": site.names.tsa}
            names = dict.fromkeys(public[process] for process in public if process in host.runs)
            lines.append(" ".join([host.address, name, *names]))
    return lines


def _chrony(site: Site) -> list[str]:
    lines = []
    for server in site.time.servers:
        # An address, so that no name server is needed; NTS checks the certificate by the name of `nts`, in hosts.
        nts = site.time.nts.get(server)
        lines.append(f"server {nts} iburst nts" if nts else f"server {server} iburst")
    return [
        *lines,
        "minsources 2" if len(site.time.servers) > 2 else "minsources 1",
        "driftfile /var/lib/chrony/chrony.drift",
        "ntsdumpdir /var/lib/chrony",
        "makestep 1 3",
        "rtcsync",
        "leapsectz right/UTC",
        "maxupdateskew 100",
        "cmdport 0",
        "port 0",
    ]


def _postgresql(site: Site, host: Host) -> list[File]:
    base = f"/etc/postgresql/{site.postgresql}/main"
    assert host.address is not None
    settings = [
        f"listen_addresses = '{host.address}'",
        f"port = {site.ports.database}",
        "ssl = on",
        "ssl_min_protocol_version = 'TLSv1.3'",
        f"ssl_cert_file = '{TLS}/postgresql.pem'",
        f"ssl_key_file = '{TLS}/postgresql.key'",
        f"ssl_ca_file = '{TLS}/site-ca.pem'",
        *(f"{key} = '{value}'" for key, value in SETTINGS.items() if key not in _OWN),
        "log_connections = on",
        "log_disconnections = on",
        "log_line_prefix = '%m [%p] %u@%d/%a %h '",
    ]
    return [
        File.text(f"{base}/conf.d/chancery.conf", *settings),
        File.text(f"{base}/pg_hba.conf", *_hba(site), mode=0o640, owner="postgres", group="postgres"),
        File.text(f"{base}/pg_ident.conf", *_ident(site), mode=0o640, owner="postgres", group="postgres"),
    ]


def _clients(site: Site) -> list[tuple[str, str, str]]:
    """(role, process, host) of everything that may log in over the network."""
    found = [
        (f"chancery_{role}", process, name)
        for process, role in DATABASE_USERS.items()
        for name, host in sorted(site.hosts.items())
        if process in host.runs
    ]
    return [*found, *[("chancery_auditor", "auditor", name) for name, _ in site.running("ca")]]


def _hba(site: Site) -> list[str]:
    lines = [
        "# Made from site.toml. The local lines are for migrations and for the server's own administrator.",
        "local chancery chancery_owner peer map=chancery",
        "local all postgres peer",
    ]
    for role, _, name in sorted(_clients(site)):
        address = site.hosts[name].address
        bits = 128 if ":" in str(address) else 32
        lines.append(f"hostssl chancery {role} {address}/{bits} cert map=chancery")
    return lines


def _ident(site: Site) -> list[str]:
    lines = ["chancery chancery-owner chancery_owner"]
    return lines + [f"chancery {process}.{name} {role}" for role, process, name in sorted(_clients(site))]
