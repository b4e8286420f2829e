"""A site as it is rendered, on hosts of its own: what is allowed works, and nothing else does."""

from __future__ import annotations

import ipaddress
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chancery.deploy.flows import flows
from lab.namespaces import LabError, sh, wait_for

PROBING = Path(__file__).with_name("probing.py")
OTHERS = (21, 22, 25, 53, 80, 443, 3128, 5432, 5433, 5696, 5697, 5698, 8080, 8443, 9100, 9107, 9108, 9109)
"""Every port of the site, and some that attackers like."""
ADMIN = {"CHANCERY_CLIENT": "/run/admin/client.toml"}
AUDIT = ("audit", "verify", "--config", "/etc/chancery/auditor.toml")


def issue(lab, name):
    """Have a certificate issued for a new key, from the clients' zone; its path on client1."""
    client, stem = lab.hosts["client1"], f"/run/admin/{name}"
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{stem}.key"]
    client.run(
        "openssl",
        "req",
        "-new",
        *key,
        "-out",
        f"{stem}.csr",
        "-subj",
        f"/CN={name}",
        "-addext",
        f"subjectAltName=DNS:{name}",
    )
    words = ["--profile", "tls-server", "--csr", f"{stem}.csr", "--out", f"{stem}.pem"]
    lab.chancery("client1", "request", *words, **ADMIN)
    return f"{stem}.pem"


def status(lab, path):
    """What the OCSP responder says of a certificate, asked by openssl from the clients' zone."""
    client = lab.hosts["client1"]
    client.run(
        "sh",
        "-c",
        "curl -fsS http://ocsp.example.org/ca/issuing.cer | openssl x509 -inform DER -out /run/admin/issuing.pem",
    )
    client.run("sh", "-c", "cat /run/admin/issuing.pem /run/admin/root.pem > /run/admin/chain.pem")
    words = [
        "openssl",
        "ocsp",
        "-issuer",
        "/run/admin/issuing.pem",
        "-cert",
        path,
        "-url",
        "http://ocsp.example.org/ocsp",
    ]
    done = client.tries(*words, "-CAfile", "/run/admin/chain.pem", "-no_nonce")
    assert b"Response verify OK" in done.stderr, done.stderr
    return done.stdout.decode().splitlines()[0].rpartition(": ")[2]


def stamped(lab):
    """Whether a client gets a timestamp that openssl verifies, within five seconds."""
    client, above = (
        lab.hosts["client1"],
        ["-CAfile", "/run/admin/root.pem", "-untrusted", "/run/admin/issuing.pem"],
    )
    client.run("openssl", "ts", "-query", "-data", "/run/admin/root.pem", "-cert", "-out", "/run/admin/1.tsq")
    ask = ["-H", "Content-Type: application/timestamp-query", "--data-binary", "@/run/admin/1.tsq"]
    client.tries("curl", "-fsS", "-m", "5", *ask, "-o", "/run/admin/1.tsr", "http://tsa.example.org/tsa")
    verify = ["openssl", "ts", "-verify", "-in", "/run/admin/1.tsr", "-queryfile", "/run/admin/1.tsq", *above]
    return b"Verification: OK" in client.tries(*verify).stdout


def fresh(lab, path):
    """What the OCSP responder says with a nonce, so that it has to sign; nothing after five seconds."""
    words = ["openssl", "ocsp", "-issuer", "/run/admin/issuing.pem", "-cert", path]
    words += ["-url", "http://ocsp.example.org/ocsp", "-CAfile", "/run/admin/chain.pem", "-nonce"]
    done = lab.hosts["client1"].tries("timeout", "5", *words)
    return done.stdout.decode().partition(": ")[2].partition("\n")[0]


def test_clients_get_certificates_status_lists_and_timestamps(lab):
    client = lab.hosts["client1"]
    path = issue(lab, "www.example.org")
    assert "good" == status(lab, path)
    client.run(
        "openssl",
        "verify",
        "-x509_strict",
        "-CAfile",
        "/run/admin/root.pem",
        "-untrusted",
        "/run/admin/issuing.pem",
        path,
    )
    fetch = "curl -fsS http://ocsp.example.org/crl/issuing.crl"
    check = "openssl crl -inform DER -CAfile /run/admin/chain.pem -noout 2>&1"
    crl = client.run("sh", "-c", f"{fetch} | {check}")
    assert "verify OK" in crl
    assert stamped(lab)
    assert "good" == fresh(lab, path)


def test_a_revocation_is_seen_from_the_clients_zone(lab):
    path = issue(lab, "gone.example.org")
    assert "good" == status(lab, path)
    serial = (
        lab.hosts["client1"].run("openssl", "x509", "-in", path, "-noout", "-serial").strip().partition("=")[2]
    )
    lab.chancery("client1", "revoke", serial, "--reason", "superseded", "--yes", **ADMIN)
    wait_for("revoked", lambda: status(lab, path) == "revoked")


def test_metrics_are_scraped_from_the_monitoring_host(lab):
    for address in ("10.20.1.10:9107", "10.20.1.11:9108", "10.20.1.12:9109"):
        assert "# TYPE" in lab.hosts["mon1"].run("curl", "-fsS", f"http://{address}/metrics")


def test_the_journal_of_the_site_is_whole(lab):
    assert lab.chancery("ca1", *AUDIT, user="chancery-auditor")


def _matrix(lab):
    """Every pair of hosts and every port: what an attempt found, with a listener on every port of every host."""
    hosts = {name: list(places.values()) for name, places in lab.addresses.items() if places}
    for name, addresses in hosts.items():
        for number, address in enumerate(addresses):
            words = [sys.executable, PROBING]
            told = json.dumps({"listen": address, "ports": OTHERS}).encode()
            lab.hosts[name].processes[f"probe{number}"] = process = subprocess.Popen(
                lab.hosts[name].words(words), stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            process.stdin.write(told)
            process.stdin.close()
            assert b"ready\n" == process.stdout.readline()
            process.stdout.close()
    found = {}
    for name in hosts:
        targets = [
            (other, address, port)
            for other, addresses in hosts.items()
            if other != name
            for address in addresses
            for port in OTHERS
        ]
        data = json.dumps({"targets": [(address, port) for _, address, port in targets]}).encode()
        answers = json.loads(lab.hosts[name].run(sys.executable, PROBING, data=data))
        found |= {(name, *target): answer for target, answer in zip(targets, answers, strict=True)}
    for name, addresses in hosts.items():
        for number, _ in enumerate(addresses):
            lab.hosts[name].stop(f"probe{number}", signal.SIGKILL)
    return found


def test_every_allowed_row_is_open_and_every_other_pair_and_port_is_refused(lab):
    rows = [row for row in flows(lab.site) if row.protocol == "tcp"]

    def allowed(origin, address, port):
        if origin in lab.site.hosts:  # its own firewall lets out what is its own, whatever its zone may
            return any(row.origin == origin and row.port == port and address in row.destinations for row in rows)
        sources = [ipaddress.ip_address(one) for one in lab.addresses[origin].values()]
        return any(
            row.port == port
            and address in row.destinations
            and any(source in ipaddress.ip_network(text) for source in sources for text in row.sources)
            for row in rows
        )

    # Only the site's own hosts have firewalls; of the others' traffic the router's is what counts.
    outside = {"client1", "admin1", "time1", "time2", "time3"}
    wrong, opened = [], 0
    for (origin, target, address, port), answer in _matrix(lab).items():
        neighbours = (
            origin in outside and target in outside and set(lab.addresses[origin]) & set(lab.addresses[target])
        )
        if neighbours:
            continue
        expected = "open" if allowed(origin, address, port) else "silent"
        opened += answer == "open"
        if answer != expected:
            wrong.append((origin, target, address, port, answer))
    assert [] == wrong
    assert opened >= len(rows)


def test_the_offline_host_reaches_nobody(lab):
    targets = [
        (address, port) for places in lab.addresses.values() for address in places.values() for port in (80, 443)
    ]
    data = json.dumps({"targets": targets}).encode()
    assert {"silent"} == set(json.loads(lab.hosts["offline1"].run(sys.executable, PROBING, data=data)))


def test_who_has_the_ocsp_host_has_neither_ca_keys_nor_statuses_nor_pins(lab):
    host = lab.hosts["ocsp1"]
    sees = host.tries("sh", "-c", "ls /etc/chancery/secrets /etc/chancery/tls").stdout.decode().split()
    assert {"ocsp.pin", "ocsp.key", "ocsp.pem", "site-ca.pem"} == {one for one in sees if "." in one}
    data = json.dumps({"targets": [("10.20.2.10", port) for port in (5696, 5697, 5698)]}).encode()
    assert ["silent", "open", "silent"] == json.loads(host.run(sys.executable, PROBING, data=data))
    words = ["pkcs11-tool", "--module", lab.site.hsm.client, "--list-token-slots"]
    tokens = host.run(*words, P11_KIT_SERVER_ADDRESS="unix:path=/run/chancery-hsm-ocsp/pkcs11")
    assert "chancery-ocsp" in tokens
    assert "chancery-issuing" not in tokens
    for user, refusal in (("chancery_worker", "no pg_hba.conf entry"), ("chancery_ra", "no pg_hba.conf entry")):
        assert refusal in _sql(lab, host, user, "SELECT 1")
    assert "requires a valid client certificate" in _sql(lab, host, "chancery_ocsp", "SELECT 1", process="site-ca")
    for statement in (
        "UPDATE chancery.certificate_status SET state = 'good'",
        "INSERT INTO chancery.journal_event (body) VALUES ('{}')",
        "DELETE FROM chancery.certificate_status",
    ):
        assert "permission denied" in _sql(lab, host, "chancery_ocsp", f"BEGIN READ WRITE; {statement}")


def _sql(lab, host, user, statement, process="ocsp"):
    tls = "/etc/chancery/tls"
    parts = [
        f"host=10.20.1.13 port=5432 dbname=chancery user={user} sslmode=verify-full sslrootcert={tls}/site-ca.pem"
    ]
    if process == "ocsp":
        parts.append(f"sslcert={tls}/ocsp.pem sslkey={tls}/ocsp.key")
    words = [lab.postgresql / "psql", "-X", "-c", statement, " ".join(parts)]
    # root there may read the key; libpq wants it to be its own.
    done = host.tries(*words, user="chancery-ocsp")
    return (done.stdout + done.stderr).decode()


@pytest.mark.parametrize(
    "unit", ["chancery-ocsp", "chancery-tsa", "chancery-worker", "chancery-ca", "chancery-token-ocsp"]
)
def test_a_killed_process_comes_back_to_work(lab, unit):
    path = issue(lab, f"{unit}.example.org")
    lab.stop(unit, signal.SIGKILL)
    lab.start(unit)
    if unit == "chancery-token-ocsp":
        wait_for(unit, lab.hosts["hsm1"].at(f"/run/{unit}/pkcs11").is_socket)
    wait_for("works again", lambda: _works(lab, path))


def _works(lab, path):
    try:
        issue(lab, "again.example.org")
        return "good" == status(lab, path)
    except (LabError, AssertionError, IndexError):
        return False


def test_without_the_hsm_s_link_answers_that_are_there_go_on_and_issuance_waits(lab):
    path = issue(lab, "kept.example.org")
    assert "good" == status(lab, path)
    switch = lab.hosts["switch"]
    switch.run("ip", "link", "set", "hsm1-0", "down")
    try:
        assert "good" == status(lab, path)
        words = ["request", "--profile", "tls-server", "--csr", "/run/admin/kept.example.org.csr"]
        asking = [sys.executable, "-m", "chancery.cli.main", *words, "--out", "/run/admin/x.pem"]
        command = lab.hosts["client1"].words(asking, environment=ADMIN)
        with pytest.raises(subprocess.TimeoutExpired):
            sh(*command, timeout=5)
        assert not stamped(lab)
        assert "good" != fresh(lab, path)
    finally:
        switch.run("ip", "link", "set", "hsm1-0", "up")
    wait_for("works again", lambda: _works(lab, path), 120)
    wait_for("stamps again", lambda: stamped(lab), 120)
    wait_for("signs answers again", lambda: fresh(lab, path) == "good", 120)


def test_a_killed_database_is_an_outage_and_then_over(lab):
    path = issue(lab, "database.example.org")
    assert "good" == status(lab, path)
    lab.hosts["db1"].stop("postgresql", signal.SIGKILL)
    for pid in sh("ip", "netns", "pids", lab.hosts["db1"].namespace).split():
        if "postgres" in Path(f"/proc/{pid}/comm").read_text():
            sh("kill", "-9", pid)
    assert "good" == status(lab, path)
    lab.start_database()
    wait_for("works again", lambda: _works(lab, path), 120)
    assert lab.chancery("ca1", *AUDIT, user="chancery-auditor")


def test_drift_finds_nothing_but_what_the_lab_lacks_and_then_what_was_changed(lab):
    host = lab.hosts["ca1"]
    words = [sys.executable, "-m", "chancery.cli.main", "deploy", "drift", "--json"]

    def found():
        done = host.tries(*words)
        assert 1 == done.returncode, done.stderr  # the lab has no systemd, no sshd, no node_exporter
        assert done.stdout, done.stderr
        return {(one["kind"], one["what"]) for one in json.loads(done.stdout) if one["kind"] != "unit"}

    lacks = {("port", "tcp/*/22"), ("port", "tcp/10.20.1.10/9100")}
    assert lacks == found()
    host.run("nft", "add", "rule", "inet", "chancery", "input", "tcp", "dport", "4444", "accept")
    config = host.at("/etc/chancery/worker.toml")
    config.write_text(config.read_text() + "# seen to\n")
    try:
        changed = {("firewall", "/etc/chancery/nftables.conf"), ("file", "/etc/chancery/worker.toml")}
        assert lacks | changed == found()
    finally:
        lab.install("ca1")
    assert lacks == found()


def test_an_edit_by_the_database_s_superuser_is_found(lab):
    def edit(old, new):
        sql = f"UPDATE chancery.journal_event SET body = replace(body, '{old}', '{new}') WHERE body LIKE '%{old}%'"
        words = [lab.postgresql / "psql", "-X", "-q", "-h", "/run/postgresql", "chancery"]
        data = f"SET session_replication_role = replica; {sql};".encode()
        lab.hosts["db1"].run(*words, user="postgres", data=data)

    verify = [sys.executable, "-m", "chancery.cli.main", *AUDIT]
    edit("gone.example.org", "g0ne.example.org")
    found = lab.hosts["ca1"].tries(*verify, user="chancery-auditor")
    edit("g0ne.example.org", "gone.example.org")
    assert 0 != found.returncode
    assert b"edited" in found.stdout + found.stderr
    assert lab.chancery("ca1", *AUDIT, user="chancery-auditor")
