"""The inventory of a site: what it may say, and the rows that follow from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from chancery.deploy.flows import crosses, flows
from chancery.deploy.site import host_of, read_site
from chancery.errors import OperatorError

EXAMPLE = Path(__file__).parents[3] / "deploy" / "site.toml"


def changed(tmp_path, *changes):
    text = EXAMPLE.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "site.toml"
    path.write_text(text)
    return path


def test_the_rows_are_those_of_the_requirements_and_no_others():
    rows = {(one.origin, one.target, one.protocol, one.port) for one in flows(read_site(EXAMPLE))}
    servers = ("ca1", "ocsp1", "tsa1", "db1", "hsm1", "mon1")
    clock = {(host, f"10.20.3.{last}", "udp", 123) for host in servers for last in (20, 21, 22)}
    shell = {("management", host, "tcp", 22) for host in (*servers, "router1")}
    assert rows == clock | shell | {
        ("clients", "ca1", "tcp", 443),
        ("clients", "ocsp1", "tcp", 80),
        ("clients", "tsa1", "tcp", 80),
        ("ca1", "db1", "tcp", 5432),
        ("ocsp1", "db1", "tcp", 5432),
        ("tsa1", "db1", "tcp", 5432),
        ("ca1", "hsm1", "tcp", 5696),
        ("ocsp1", "hsm1", "tcp", 5697),
        ("tsa1", "hsm1", "tcp", 5698),
        ("mon1", "ca1", "tcp", 9100),
        ("mon1", "ca1", "tcp", 9107),
        ("mon1", "ocsp1", "tcp", 9108),
        ("mon1", "tsa1", "tcp", 9109),
    }


def test_without_time_servers_and_management_there_are_no_rows_for_them(tmp_path):
    path = changed(
        tmp_path,
        ('servers = ["10.20.3.20", "10.20.3.21", "10.20.3.22"]', "servers = []"),
        ('management = "management"    #', "#"),
    )
    assert not {row.port for row in flows(read_site(path))} & {22, 123, 4460}


def test_nts_has_its_key_exchange_beside_it(tmp_path):
    path = changed(tmp_path, ("[time]", '[time]\nnts = { "10.20.3.20" = "time.example.org" }'))
    rows = [row for row in flows(read_site(path)) if row.port == 4460]
    assert {"10.20.3.20"} == {row.target for row in rows}


def test_each_user_of_a_token_has_a_port_of_its_own(tmp_path):
    more = '[hosts]\nocsp2 = { zone = "secure", address = "10.20.1.21", runs = ["ocsp"] }'
    rows = flows(read_site(changed(tmp_path, ("[hosts]\n", more + "\n"))))
    ports = [row.port for row in rows if row.target == "hsm1" and row.purpose.startswith("PKCS")]
    assert [5696, 5697, 5698, 5699] == sorted(ports)


def test_a_vendor_s_hsms_in_the_network_have_rows_of_their_own(tmp_path):
    path = changed(
        tmp_path,
        ('hsm1 = { zone = "trusted", address = "10.20.2.10", runs = ["hsm"] }', ""),
        ("[time]", '[hsm]\nmodule = "/opt/vendor/libpkcs11.so"\nservers = ["10.20.2.30"]\n[time]'),
    )
    rows = [(row.origin, row.target, row.port) for row in flows(read_site(path)) if row.purpose.startswith("PKCS")]
    assert [(host, "10.20.2.30", 5696) for host in ("ca1", "ocsp1", "tsa1")] == rows


def test_a_vendor_s_module_in_the_machine_needs_no_hsm_host_and_no_row(tmp_path):
    path = changed(
        tmp_path,
        ('hsm1 = { zone = "trusted", address = "10.20.2.10", runs = ["hsm"] }', ""),
        ("[time]", '[hsm]\nmodule = "/opt/vendor/libpkcs11.so"\n[time]'),
    )
    assert not [row for row in flows(read_site(path)) if row.purpose.startswith("PKCS")]


def test_only_rows_between_networks_pass_a_router():
    site = read_site(EXAMPLE)
    crossing = {(row.origin, row.target) for row in flows(site) if crosses(row, site)}
    assert ("clients", "ca1") in crossing
    assert ("ca1", "hsm1") in crossing
    assert ("ca1", "db1") not in crossing


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('clients = "clients" ', 'clients = "world" ', "zone `world` is not one of `zones`"),
        ('networks = ["10.20.2.0/24"]', 'networks = ["10.20.1.0/25"]', "`secure` and `trusted` overlap"),
        ('networks = ["10.20.2.0/24"]', 'networks = ["10.20.2.1/24"]', "has host bits set"),
        ('"10.20.1.13"', '"10.20.2.13"', "host `db1`: 10.20.2.13 is in no network of zone `secure`"),
        ('"10.20.1.13"', '"10.20.1.12"', "`db1` and `tsa1` have the same address"),
        ('"10.20.1.13"', '"db1"', "does not appear to be an IPv4 or IPv6 address"),
        ('runs = ["database"]', 'runs = ["database", "database"]', "names something twice"),
        ('runs = ["database"]', 'runs = ["tsa"]', "exactly one host runs `database`"),
        ('runs = ["hsm"]', 'runs = ["hsm", "ocsp"]', "a host that is `hsm` runs nothing else"),
        ('runs = ["hsm"]', 'runs = ["monitoring"]', "exactly one host runs `hsm`, or `hsm.module`"),
        ('runs = ["ocsp"]', 'runs = ["monitoring"]', "no host runs `ocsp`"),
        ('runs = ["ocsp"]', 'runs = ["ocsp", "tsa"]', "host `ocsp1` would listen twice on one port: "),
        ('runs = ["offline"]', 'runs = ["offline"], zone = "trusted"', "neither zone nor address"),
        ('runs = ["database"]', 'runs = ["postgres"]', "key `hosts"),
        ("db1 =", f"{'d' * 56} =", "has more than 55 characters"),
        ("[time]", '[hsm]\nservers = ["10.20.2.30"]\n[time]', "`servers` are those of the vendor's `module`"),
        ("organization =", "organisation =", "organisation"),
        ('address = "10.20.1.13", ', "", "a host has a `zone` and an `address` in it"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, old, new, message):
    with pytest.raises(OperatorError) as caught:
        read_site(changed(tmp_path, (old, new)))
    assert message in caught.value.what


def test_a_host_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(OperatorError) as caught:
        host_of(read_site(EXAMPLE), "ca2")
    assert "give one of: ca1, db1, hsm1, mon1, ocsp1, offline1, router1, tsa1" == caught.value.next_step


def test_workers_and_timestamping_authorities_are_numbered(tmp_path):
    more = '[hosts]\nca2 = { zone = "secure", address = "10.20.1.20", runs = ["ca", "worker"] }\n'
    site = read_site(changed(tmp_path, ("[hosts]\n", more)))
    assert [1, 2, 1] == [
        site.instance("worker", "ca1"),
        site.instance("worker", "ca2"),
        site.instance("tsa", "tsa1"),
    ]
