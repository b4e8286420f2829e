"""What is rendered: the same each time, accepted by the programs that read it, and strict."""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from chancery.cli.main import command_line
from chancery.config import load
from chancery.deploy.files import MANIFEST, read_manifest
from chancery.deploy.identities import links, make_identities
from chancery.deploy.machine import write_tree
from chancery.deploy.rendering import render
from chancery.deploy.site import HSM, Time, read_site
from chancery.deploy.system import accounts
from chancery.errors import OperatorError

EXAMPLE = Path(__file__).parents[3] / "deploy" / "site.toml"
NOW = datetime.datetime(2026, 11, 24, tzinfo=datetime.UTC)
MOST_EXPOSED = 2.0


def run(*words, cwd=None):
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site():
    # Units name programs that exist: systemd-analyze looks for them.
    return msgspec.structs.replace(read_site(EXAMPLE), prefix=Path(sys.prefix))


@pytest.fixture(scope="module")
def tree(site, tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    for name, files in render(site, "1.0").items():
        write_tree(files, out / name)
    return out


def test_rendering_again_gives_the_same_octets(site):
    again = msgspec.structs.replace(read_site(EXAMPLE), prefix=site.prefix)
    assert render(site, "1.0") == render(again, "1.0")


def test_every_file_is_in_the_manifest_and_no_secret_is_rendered(site):
    made = render(site, "1.0")
    assert ["/etc/chancery/offline.toml"] == [one.path for one in made.pop("offline1")]
    for name, files in made.items():
        (listed,) = [one.content for one in files if one.path == MANIFEST]
        manifest = read_manifest(listed)
        assert name == manifest.host
        assert {one.path for one in files} - {MANIFEST} == {one.path for one in manifest.files}
        assert all(one.content is None for one in files if one.path.endswith((".key", ".pin")))


def test_every_configuration_is_read_by_its_process(tree):
    read = {path.stem: load(path) for path in tree.glob("*/etc/chancery/*.toml")}
    assert {"ca", "worker", "ocsp", "tsa", "auditor", "owner", "offline"} == set(read)
    assert {"production"} == {read[name].deployment for name in ("ca", "worker", "ocsp", "tsa")}
    assert {"verify-full"} == {read[name].database.sslmode for name in ("ca", "worker", "ocsp", "tsa", "auditor")}


def test_every_host_s_rules_are_accepted_by_nft(tree):
    rules = sorted(tree.glob("*/etc/chancery/nftables.conf"))
    assert ["ca1", "db1", "hsm1", "mon1", "ocsp1", "router1", "tsa1"] == [one.parents[2].name for one in rules]
    for path in rules:
        done = run("unshare", "--map-root-user", "--net", "nft", "-c", "-f", path)
        assert (0, "") == (done.returncode, done.stderr), path


def test_every_unit_is_accepted_by_systemd_and_little_exposed(tree):
    units = sorted(tree.glob("*/etc/systemd/system/*.service"))
    assert 13 == len(units)
    for path in units:
        verified = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", path)
        assert not [line for line in verified.stderr.splitlines() if path.name in line], path
        judged = run("systemd-analyze", "security", "--offline=true", path)
        found = re.search(r"Overall exposure level for \S+: ([\d.]+)", judged.stdout)
        assert found is not None, judged.stderr
        assert float(found[1]) <= MOST_EXPOSED, path


def test_each_process_has_its_own_account_and_no_capability(tree):
    seen = {}
    for path in tree.glob("*/etc/systemd/system/chancery-*.service"):
        text = path.read_text()
        seen[path.stem] = re.search(r"^User=(.*)$", text, re.MULTILINE)[1]
        assert "\nCapabilityBoundingSet=\n" in text
    serving = {f"chancery-{one}" for one in ("ca", "worker", "ocsp", "tsa")}
    assert serving == {seen[one] for one in serving}
    assert "root" not in seen.values()


def test_a_process_talks_to_what_its_rows_name_and_to_nobody_else(tree):
    def allowed(host, process):
        text = (tree / host / f"etc/systemd/system/chancery-{process}.service").read_text()
        assert "\nIPAddressDeny=any\n" in text
        return set(re.search(r"^IPAddressAllow=(.*)$", text, re.MULTILINE)[1].split())

    clock = {"10.20.3.20", "10.20.3.21", "10.20.3.22"}
    assert {"localhost", "10.20.1.10", "10.20.1.13"} == allowed("ca1", "worker")
    asked = {"localhost", "10.20.1.13", "10.20.0.0/24", "10.20.3.10"}
    assert asked | {"10.20.1.10"} == allowed("ca1", "ca")
    assert asked | clock | {"10.20.1.12"} == allowed("tsa1", "tsa")
    assert {"localhost", "10.20.1.11", "10.20.2.10"} == allowed("ocsp1", "hsm-ocsp")
    assert {"localhost", "10.20.2.10", "10.20.1.11"} == allowed("hsm1", "tunnel-ocsp")


def test_processes_of_one_host_meet_at_its_address(site, tmp_path):
    both = msgspec.structs.replace(site.hosts["ca1"], runs=("ca", "worker", "database"))
    hosts = {name: host for name, host in site.hosts.items() if name != "db1"} | {"ca1": both}
    files = {one.path: one.content for one in render(msgspec.structs.replace(site, hosts=hosts), "1.0")["ca1"]}
    unit = files["/etc/systemd/system/chancery-worker.service"].decode()
    assert "10.20.1.10" in re.search(r"^IPAddressAllow=(.*)$", unit, re.MULTILINE)[1].split()


def test_a_device_of_the_machine_can_be_opened_by_a_vendor_s_module(site):
    def worker(**hsm):
        made = msgspec.structs.replace(site, hsm=HSM(**hsm))
        (found,) = [one for one in render(made, "1.0")["ca1"] if one.path.endswith("chancery-worker.service")]
        return "PrivateDevices=yes" in found.content.decode()

    module = Path("/opt/vendor/libpkcs11.so")
    assert [True, True, False] == [worker(), worker(module=module, servers=("10.20.2.30",)), worker(module=module)]


def test_what_the_system_is_told_is_read_by_its_programs(tree, tmp_path):
    for name in ("ca1", "db1", "hsm1", "ocsp1", "router1", "tsa1"):
        root = tmp_path / name
        (root / "etc").mkdir(parents=True)
        run("cp", "-a", f"{tree / name}/.", root)
        for path in ("passwd", "group", "shadow", "gshadow"):
            (root / "etc" / path).write_text("root:x:0:0::/root:/bin/sh\n" if path == "passwd" else "")
        made = run("systemd-sysusers", f"--root={root}")
        assert 0 == made.returncode, made.stderr
        users = {line.split(":")[0] for line in (root / "etc/passwd").read_text().splitlines()}
        assert set(accounts(read_site(EXAMPLE).hosts[name])) <= users
        said = run("systemd-tmpfiles", "--create", f"--root={root}", "chancery.conf")
        assert 0 == said.returncode, said.stderr
    assert 0o700 == (tmp_path / "hsm1/var/lib/chancery-token-ocsp").stat().st_mode & 0o777
    for path in tree.glob("*/etc/chrony/chrony.conf"):
        read = run("chronyd", "-p", "-f", path)
        assert (0, 3) == (read.returncode, read.stdout.count("server "))


def test_nts_servers_have_names_without_a_name_server(site):
    time = Time(servers=("10.20.3.20",), nts={"10.20.3.20": "time.example.org"})
    files = {one.path: one.content for one in render(msgspec.structs.replace(site, time=time), "1.0")["tsa1"]}
    assert b"10.20.3.20 time.example.org\n" in files["/etc/hosts"]
    assert b"server time.example.org iburst nts\n" in files["/etc/chrony/chrony.conf"]


def test_only_the_host_of_a_role_may_log_in_as_it(tree):
    hba = (tree / "db1/etc/postgresql/15/main/pg_hba.conf").read_text().splitlines()
    assert [
        "hostssl chancery chancery_auditor 10.20.1.10/32 cert map=chancery",
        "hostssl chancery chancery_ocsp 10.20.1.11/32 cert map=chancery",
        "hostssl chancery chancery_ra 10.20.1.10/32 cert map=chancery",
        "hostssl chancery chancery_tsa 10.20.1.12/32 cert map=chancery",
        "hostssl chancery chancery_worker 10.20.1.10/32 cert map=chancery",
    ] == [line for line in hba if line.startswith("host")]
    ident = (tree / "db1/etc/postgresql/15/main/pg_ident.conf").read_text().splitlines()
    assert "chancery ocsp.ocsp1 chancery_ocsp" in ident
    assert 1 + 5 == len(ident)


def test_links_have_certificates_that_openssl_verifies_and_the_authority_s_key_is_nowhere(site, tmp_path):
    made = make_identities(site, NOW)
    for name, files in made.items():
        write_tree(files, tmp_path / name)
    assert {link.host for link in links(site)} == set(made)
    keys = {one.content for files in made.values() for one in files if one.path.endswith(".key")}
    assert len(links(site)) == len(keys)
    authorities = {one.content for files in made.values() for one in files if one.path.endswith("site-ca.pem")}
    assert 1 == len(authorities)
    for link in links(site):
        folder = tmp_path / link.host / "etc/chancery/tls"
        words = [
            "openssl",
            "verify",
            "-x509_strict",
            "-attime",
            str(int(NOW.timestamp())),
            "-CAfile",
            "site-ca.pem",
        ]
        words += ["-verify_hostname", link.name, *(["-verify_ip", link.address] if link.address else [])]
        done = run(*words, f"{link.stem}.pem", cwd=folder)
        assert f"{link.stem}.pem: OK\n" == done.stdout, done.stderr
        assert 0o600 == (folder / f"{link.stem}.key").stat().st_mode & 0o777
    again = make_identities(site, NOW)
    other = next(one.content for one in again["db1"] if one.path.endswith("site-ca.pem"))
    (first,) = authorities
    assert x509.load_pem_x509_certificate(other).public_key() != x509.load_pem_x509_certificate(first).public_key()


def test_the_commands_write_and_show(tmp_path, capsys):
    for words in (["render", EXAMPLE, "--out", tmp_path], ["rows", EXAMPLE], ["rows", EXAMPLE, "--json"]):
        with pytest.raises(SystemExit) as ended:
            command_line("deploy")(["deploy", *map(str, words)])
        assert 0 == ended.value.code
    said = capsys.readouterr().out
    assert f"ca1: 17 files in {tmp_path / 'ca1'}\n" in said
    assert '"purpose": "PKCS#11 of worker"' in said
    assert (tmp_path / "db1/etc/chancery/owner.toml").exists()


def test_a_manifest_that_is_none_is_refused():
    with pytest.raises(OperatorError, match="the manifest cannot be read"):
        read_manifest(b'{"host": "ca1"}')
