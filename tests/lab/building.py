"""
The whole site of `deploy/site.toml` on one machine, as it is rendered: `make lab`, and what the lab's tests drive.

Zones are bridges, hosts are network namespaces with files of their own, the router routes and filters, every
process runs under its unit's account. What is run on each host is what docs/deployment.md says.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import ipaddress
import os
import pwd
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chancery.cli import layout
from chancery.cli.clock import SystemClock
from chancery.config import encode
from chancery.deploy.files import MANIFEST
from chancery.deploy.identities import make_identities
from chancery.deploy.machine import write_tree
from chancery.deploy.rendering import render
from chancery.deploy.site import Site, read_site
from chancery.postgres.embedded import ensure_traversable

sys.path.insert(0, str(Path(__file__).parents[1]))
from lab.namespaces import Machine, Unit, sh, wait_for

ROOT = Path(__file__).parents[2]
INVENTORY = ROOT / "deploy" / "site.toml"
PROGRAM = [sys.executable, "-m", "chancery.cli.main"]
VERSION = importlib.metadata.version("chancery")
CLIENT = "client1"


def installed_postgresql() -> Path:
    """Return the programs of the newest PostgreSQL that the distribution has installed."""
    return max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))


class Lab:
    """A site that runs. `up` makes it, `down` takes everything away again."""

    def __init__(self, work: Path, inventory: Path = INVENTORY) -> None:
        self.work = work
        self.tag = f"chy{os.getpid():x}"
        self.postgresql = installed_postgresql()
        version = int(self.postgresql.parent.name)
        site = read_site(inventory)
        # The units start this very program.
        self.site: Site = msgspec.structs.replace(site, prefix=Path(sys.prefix), postgresql=version)
        self.hosts: dict[str, Machine] = {}
        self.units: dict[str, tuple[str, Unit]] = {}
        self.links = self.work / "links"
        self.tree = self.work / "site"

    def up(self) -> Lab:
        """Make the site, from nothing to a first administrator."""
        try:
            self._files()
            self._network()
            self._install()
            self._time()
            self._database()
            self._tokens()
            self._authorities()
            self._services()
        except BaseException:
            self.down()
            raise
        return self

    def down(self) -> None:
        """End what runs and take the namespaces away."""
        for machine in reversed(list(self.hosts.values())):
            machine.end()
        self.hosts.clear()

    # Files

    def _files(self) -> None:
        for path in {Path(sys.prefix), Path(sys.base_prefix), Path(layout.__file__).parent}:
            ensure_traversable(path)
        self._render()
        for name, files in make_identities(self.site, SystemClock().now()).items():
            write_tree(files, self.links / name)

    def _render(self) -> None:
        shutil.rmtree(self.tree, ignore_errors=True)
        for name, files in render(self.site, VERSION).items():
            write_tree(files, self.tree / name)

    # Network

    def _network(self) -> None:
        plugged = {
            name: ({host.zone: host.address} if host.zone else host.addresses)
            for name, host in self.site.hosts.items()
        }
        for index, server in enumerate(self.site.time.servers):
            plugged[f"time{index + 1}"] = {self._zone_of(server): server}
        clients = ipaddress.ip_network(self.site.zones[self.site.clients].networks[0])
        assert self.site.management is not None
        management = ipaddress.ip_network(self.site.zones[self.site.management].networks[0])
        plugged[CLIENT] = {self.site.clients: str(clients[50])}
        plugged["admin1"] = {self.site.management: str(management[50])}
        switch = Machine("switch", f"{self.tag}-switch", self.work / "hosts" / "switch")
        self.hosts["switch"] = switch
        switch.begin()
        for zone in self.site.zones:
            switch.run("ip", "link", "add", f"br-{zone}"[:15], "type", "bridge")
            switch.run("ip", "link", "set", f"br-{zone}"[:15], "up")
        for accounts in self.tree.glob("*/etc/sysusers.d/chancery.conf"):
            for user in re.findall(r"^u (\S+) ", accounts.read_text(), re.MULTILINE):
                self._account(user)
        self.addresses = plugged
        for name, places in sorted(plugged.items()):
            self._plug(name, places)

    def _zone_of(self, address: str) -> str:
        found = ipaddress.ip_address(address)
        return next(
            name for name, zone in self.site.zones.items() if any(found in network for network in zone.parsed())
        )

    @staticmethod
    def _account(user: str) -> None:
        try:
            pwd.getpwnam(user)
        except KeyError:
            sh(
                "useradd",
                "--system",
                "--no-create-home",
                "--home-dir",
                "/nonexistent",
                "--shell",
                "/usr/sbin/nologin",
                user,
            )

    def _plug(self, name: str, places: dict[str, str]) -> None:
        machine = Machine(name, f"{self.tag}-{name}", self.work / "hosts" / name)
        self.hosts[name] = machine
        machine.begin()
        switch = self.hosts["switch"]
        for number, (zone, address) in enumerate(sorted(places.items())):
            port = f"{name}-{number}"[:15]
            sh(
                "ip",
                "-n",
                switch.namespace,
                "link",
                "add",
                port,
                "type",
                "veth",
                "peer",
                "name",
                f"eth{number}",
                "netns",
                machine.namespace,
            )
            switch.run("ip", "link", "set", port, "master", f"br-{zone}"[:15], "up")
            networks = self.site.zones[zone].parsed()
            network = next(one for one in networks if ipaddress.ip_address(address) in one)
            machine.run("ip", "address", "add", f"{address}/{network.prefixlen}", "dev", f"eth{number}")
            machine.run("ip", "link", "set", f"eth{number}", "up")
        (_, router), *_ = self.site.running("router")
        if len(places) == 1:
            (zone,) = places
            machine.run("ip", "route", "add", "default", "via", router.addresses[zone])

    # Each host

    def _install(self) -> None:
        for name in self.site.hosts:
            self.install(name)

    def install(self, name: str) -> None:
        """Put the rendered files of a host in their places, load its firewall and its kernel's settings."""
        machine, tree = self.hosts[name], self.tree / name
        files = machine.files
        if not (tree / MANIFEST.lstrip("/")).exists():  # the offline host
            shutil.copytree(tree, files, dirs_exist_ok=True)
            return
        links = ["--links", self.links / name] if (self.links / name).exists() else []
        sh(*PROGRAM, "deploy", "install", tree, *links, "--root", files)
        for line in (tree / "etc/tmpfiles.d/chancery.conf").read_text().splitlines():
            _, path, mode, user, _, _ = line.split()
            machine.own(path, int(mode, 8), pwd.getpwnam(user))
        for line in (tree / "etc/sysctl.d/90-chancery.conf").read_text().splitlines():
            # The others are of the whole machine, not of a network namespace.
            if line.startswith("net."):
                machine.run("sysctl", "-q", "-w", line.replace(" ", ""))
        machine.run("nft", "-f", "/etc/chancery/nftables.conf")
        for path in sorted((tree / "etc/systemd/system").glob("*.service")):
            self.units[path.stem] = (name, Unit.read(path))

    def start(self, unit: str) -> None:
        """Start a unit on its host."""
        name, read = self.units[unit]
        self.hosts[name].start(read)

    def stop(self, unit: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End a unit's process."""
        name, _ = self.units[unit]
        self.hosts[name].stop(unit, how)

    def chancery(self, host: str, *words: object, user: str = "root", **environment: str) -> str:
        """Run the program on a host."""
        return self.hosts[host].run(*PROGRAM, *words, user=user, **environment)

    def _time(self) -> None:
        for index, server in enumerate(self.site.time.servers):
            machine = self.hosts[f"time{index + 1}"]
            lines = ["local stratum 1", "allow", f"bindaddress {server}", "cmdport 0", "driftfile /run/drift"]
            machine.at("/etc/lab-chrony.conf").write_text("\n".join([*lines, "pidfile /run/chronyd.pid", ""]))
            machine.spawn(
                "chronyd", ["chronyd", "-x", "-d", "-u", "root", "-f", "/etc/lab-chrony.conf"], "root", {}
            )

    def _database(self) -> None:
        name, _ = self.site.one("database")
        machine, entry = self.hosts[name], pwd.getpwnam("postgres")
        machine.own("/var/lib/postgresql", 0o700, entry)
        machine.own("/run/postgresql", 0o2775, entry)
        base = f"/etc/postgresql/{self.site.postgresql}/main"
        machine.run(
            self.postgresql / "initdb",
            "-D",
            "/var/lib/postgresql/data",
            "-E",
            "UTF8",
            "--locale=C",
            "-A",
            "peer",
            user="postgres",
        )
        machine.at("/etc/lab-postgresql.conf").write_text(
            f"data_directory = '/var/lib/postgresql/data'\nhba_file = '{base}/pg_hba.conf'\n"
            f"ident_file = '{base}/pg_ident.conf'\nunix_socket_directories = '/run/postgresql'\n"
            f"include_dir = '{base}/conf.d'\n"
        )
        self.start_database()
        self.chancery(name, "db", "create", "--config", "/etc/chancery/owner.toml", user="postgres")
        self.chancery(name, "db", "migrate", "--config", "/etc/chancery/owner.toml", user="chancery-owner")

    def start_database(self) -> None:
        """Start PostgreSQL with the rendered settings; wait until it answers."""
        name, _ = self.site.one("database")
        machine = self.hosts[name]
        words = [self.postgresql / "postgres", "-c", "config_file=/etc/lab-postgresql.conf"]
        machine.spawn("postgresql", words, "postgres", {})
        ready = [self.postgresql / "pg_isready", "-h", "/run/postgresql", "-q"]
        wait_for("PostgreSQL", lambda: machine.tries(*ready).returncode == 0)

    def _tokens(self) -> None:
        hsm, _ = self.site.one("hsm")
        machine = self.hosts[hsm]
        self.pins = {}
        for process, role in (("worker", "issuing"), ("ocsp", "ocsp"), ("tsa", "tsa")):
            user = f"chancery-token-{role}"
            machine.own(f"/var/lib/{user}", 0o700, pwd.getpwnam(user))
            words = ["--directory", f"/var/lib/{user}", "--label", f"chancery-{role}"]
            words += ["--pin-file", f"/var/lib/{user}/pin", "--so-pin-file", f"/var/lib/{user}/so-pin"]
            self.chancery(hsm, "hsm", "prepare", *words, user=user)
            # A person carries the PIN over, and takes it away here.
            pin = machine.at(f"/var/lib/{user}/pin")
            for name, _ in self.site.running(process):
                there = self.hosts[name].at(f"/etc/chancery/secrets/{process}.pin")
                there.write_bytes(pin.read_bytes())
                there.chmod(0o600)
            pin.unlink()
            self.start(f"chancery-token-{role}")
            wait_for(role, machine.at(f"/run/{user}/pkcs11").exists)
            self.start(f"chancery-tunnel-{role}")
            for name, _ in self.site.running(process):
                self.start(f"chancery-hsm-{process}")
                wait_for(process, self.hosts[name].at(f"/run/chancery-hsm-{process}/pkcs11").exists)

    def process(self, process: str, *words: object) -> str:
        """Run a command with the rights, the token and the PIN of a process, on its host."""
        name, unit = self.units[f"chancery-{process}"]
        machine, entry = self.hosts[name], pwd.getpwnam(unit.user)
        folder = machine.own("/run/credentials/by-hand", 0o500, entry)
        shutil.copy(machine.at(f"/etc/chancery/secrets/{process}.pin"), folder / "pin")
        os.chown(folder / "pin", entry.pw_uid, entry.pw_gid)
        given = {"CREDENTIALS_DIRECTORY": "/run/credentials/by-hand", **unit.environment}
        try:
            return machine.run(*PROGRAM, *words, user=unit.user, **given)
        finally:
            shutil.rmtree(folder)

    def key(self, process: str, label: str, subject: str | None = None) -> bytes:
        """Make a P-256 key in a process's token: p11-kit passes no Ed25519."""
        words = ["key", "make", "--config", f"/etc/chancery/{process}.toml", "--label", label, "--kind", "ec-p256"]
        return self.process(process, *words, *(["--subject", subject] if subject else [])).encode()

    def _authorities(self) -> None:
        ca, _ = self.site.running("worker")[0]
        machine, organization = self.hosts[ca], self.site.organization
        requests = {
            "ocsp": self.key("ocsp", "ocsp-issuing", f"CN={organization} OCSP,O={organization}"),
            "tsa": self.key("tsa", "tsa", f"CN={organization} TSA,O={organization}"),
        }
        for process, csr in requests.items():
            machine.at(f"/var/lib/chancery-ca/{process}.csr").write_bytes(csr)
        self.site = msgspec.structs.replace(self.site, service_keys=tuple(sorted(map(_spki, requests.values()))))
        self._render()
        self._install()
        journal = machine.at("/etc/chancery/pki/journal.pem")
        journal.write_bytes(self.key("worker", "journal"))
        machine.own("/var/lib/chancery-worker", 0o755, pwd.getpwnam("chancery-worker"))
        machine.at("/var/lib/chancery-worker/issuing.csr").write_bytes(
            self.key("worker", "issuing", f"CN={organization} Issuing CA,O={organization}")
        )
        out = machine.own("/var/lib/chancery-worker/bundles", 0o700, pwd.getpwnam("chancery-worker"))
        words = [
            "--key-label",
            "journal",
            "--csr",
            "/var/lib/chancery-worker/issuing.csr",
            "--transaction-id",
            "issuing-1",
        ]
        words += [
            "--crl",
            "--reason",
            "the site's issuing CA",
            "--out",
            "/var/lib/chancery-worker/bundles/1.request",
        ]
        self.process("worker", "bundle", "request", "--config", "/etc/chancery/worker.toml", *words)
        self._ceremony(out)
        words = ["--request", "1.request", "--response", "1.response", "--bundle-key", "root-bundles.pem"]
        paths = [
            f"/var/lib/chancery-worker/bundles/{word}" if not word.startswith("-") else word for word in words
        ]
        paths += ["--name", "issuing", "--key-label", "issuing", "--root-name", "root"]
        paths += ["--out", "/var/lib/chancery-worker/bundles"]
        self.process("worker", "bundle", "import", "--config", "/etc/chancery/worker.toml", *paths)
        for name, _ in self.site.running("ca"):
            shutil.copy(out / "chain.pem", self.hosts[name].at("/etc/chancery/pki/chain.pem"))
        self.root = (out / "root.pem").read_bytes()

    def _ceremony(self, carried: Path) -> None:
        """On the machine without network: root, answer, and back. A stick carries the files."""
        name, _ = self.site.one("offline")
        machine = self.hosts[name]
        stick = machine.at("/run/stick")
        stick.mkdir(mode=0o700)
        shutil.copy(carried / "1.request", stick)
        token = ["--directory", "/var/lib/chancery-offline/token", "--label", "chancery-offline"]
        token += [
            "--pin-file",
            "/var/lib/chancery-offline/pin",
            "--so-pin-file",
            "/var/lib/chancery-offline/so-pin",
        ]
        machine.at("/var/lib/chancery-offline").mkdir(mode=0o700)
        self.chancery(name, "hsm", "prepare", *token)
        # The lab has nobody to type the PIN.
        config = machine.at("/etc/chancery/offline.toml")
        config.write_text(
            config.read_text().replace("pin_prompt = true", 'pin_file = "/var/lib/chancery-offline/pin"')
        )
        offline = ["--config", "/etc/chancery/offline.toml"]
        self.chancery(name, "offline", "init", *offline)
        self.chancery(name, "offline", "export", *offline, "--out", "/run/stick")
        answer = ["/run/stick/1.request", "--out", "/run/stick/1.response", "--yes"]
        self.chancery(name, "offline", "sign", *offline, *answer)
        entry = pwd.getpwnam("chancery-worker")
        for path in stick.iterdir():
            shutil.copy(path, carried)
            os.chown(carried / path.name, entry.pw_uid, entry.pw_gid)

    def _services(self) -> None:
        ca, host = self.site.running("ca")[0]
        machine = self.hosts[ca]
        self.start("chancery-worker")
        own = ["--config", "/etc/chancery/ca.toml"]
        for process in ("ocsp", "tsa"):
            csr = ["--csr", f"/var/lib/chancery-ca/{process}.csr"]
            self.chancery(ca, "deploy", "service", process, *own, *csr, user="chancery-ca")
        names = ["--host", self.site.names.ca, "--host", str(host.address)]
        self.chancery(ca, "deploy", "server", *own, *names, user="chancery-ca")
        self._administrator(machine, own)
        for process in ("ca", "ocsp", "tsa"):
            self.start(f"chancery-{process}")
        for process, port in (
            ("ca", self.site.ports.ca),
            ("ocsp", self.site.ports.ocsp),
            ("tsa", self.site.ports.tsa),
        ):
            name, _ = self.units[f"chancery-{process}"]
            wait_for(process, lambda name=name, port=port: self.hosts[name].listens(port))

    def _administrator(self, machine: Machine, own: list[str]) -> None:
        """The first administrator makes a key on a machine of the clients' zone; only the request travels."""
        client = self.hosts[CLIENT]
        folder = client.at("/run/admin")
        folder.mkdir(mode=0o700)
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "/run/admin/admin.key"]
        client.run("openssl", "req", "-new", *key, "-out", "/run/admin/admin.csr", "-subj", "/CN=Ada Admin")
        entry = pwd.getpwnam("chancery-ca")
        place = machine.own("/run/lab-admin", 0o700, entry)
        shutil.copy(folder / "admin.csr", place)
        os.chown(place / "admin.csr", entry.pw_uid, entry.pw_gid)
        words = ["--csr", "/run/lab-admin/admin.csr", "--out", "/run/lab-admin/admin.pem"]
        self.chancery(machine.name, "deploy", "administrator", *own, *words, user="chancery-ca")
        shutil.copy(place / "admin.pem", folder)
        (folder / "root.pem").write_bytes(self.root)
        shutil.copy(self.tree / "ca1/etc/hosts", client.at("/etc/hosts"))
        settings = {"url": f"https://{self.site.names.ca}:{self.site.ports.ca}", "ca": "root.pem"}
        (folder / "client.toml").write_bytes(encode(_Client(**settings, certificate="admin.pem", key="admin.key")))


class _Client(msgspec.Struct):
    url: str
    ca: str
    certificate: str
    key: str


def _spki(csr: bytes) -> str:
    key = x509.load_pem_x509_csr(csr).public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def main() -> None:
    """Build the lab, say how to walk about in it, and take it away at Ctrl-C."""
    with tempfile.TemporaryDirectory(prefix="chancery-lab-") as work:
        began = time.monotonic()
        lab = Lab(Path(work)).up()
        try:
            print(f"the site runs ({time.monotonic() - began:.0f} s); a shell on a host of it:")
            for name, machine in sorted(lab.hosts.items()):
                print(f"    {name:10} {' '.join(machine.words(['bash']))}")
            program = f"CHANCERY_CLIENT=/run/admin/client.toml {sys.prefix}/bin/chancery"
            print(f"as the administrator, on client1:  {program} whoami")
            print("Ctrl-C ends it")
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
        finally:
            lab.down()


if __name__ == "__main__":
    main()
