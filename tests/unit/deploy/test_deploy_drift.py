"""`chancery deploy drift`: each kind of difference is found, and a host as it should be has none."""

from __future__ import annotations

import dataclasses
import getpass
import grp
import os
from pathlib import Path

import pytest

from chancery.deploy.drift import Difference, Seen, drift
from chancery.deploy.files import MANIFEST, File, expected, read_manifest
from chancery.deploy.machine import ThisHost, install, manifest_of, write_tree
from chancery.deploy.rendering import RULES, render
from chancery.deploy.site import read_site
from chancery.errors import OperatorError

EXAMPLE = Path(__file__).parents[3] / "deploy" / "site.toml"


@dataclasses.dataclass
class Host:
    """A host in memory, as it should be until a test changes it."""

    files: dict[str, Seen]
    units: dict[str, str]
    ports: list[str]
    loaded: str | None = "rules"

    def file(self, path):
        return self.files.get(path)

    def names(self, directory):
        return sorted(path for path in self.files if path.startswith(f"{directory}/"))

    def unit(self, name):
        return self.units.get(name, "not-found/inactive")

    def listening(self):
        return self.ports

    def rules(self):
        return self.loaded

    def rules_of(self, path):
        assert path == RULES
        return "rules"


@pytest.fixture
def right():
    files = render(read_site(EXAMPLE), "1.0")["ca1"]
    manifest = read_manifest(next(one.content for one in files if one.path == MANIFEST))
    seen = {one.path: Seen(one.content, one.mode, one.owner, one.group) for one in files}
    ports = ["tcp/10.20.1.10/443", "tcp/10.20.1.10/9107", "tcp/10.20.1.10/9100", "tcp/*/22"]
    return manifest, Host(seen, dict.fromkeys(manifest.units, "enabled/active"), ports)


def test_a_host_as_it_should_be_has_no_differences(right):
    manifest, host = right
    assert [] == drift(manifest, host, "1.0")


def change(host, path, **what):
    host.files[path] = dataclasses.replace(host.files[path], **what)


@pytest.mark.parametrize(
    ("act", "found"),
    [
        (
            lambda host: change(host, "/etc/chancery/worker.toml", content=b"batch = 1000"),
            Difference("file", "/etc/chancery/worker.toml", "has other content"),
        ),
        (
            lambda host: change(host, "/etc/chancery/worker.toml", content=None),
            Difference("file", "/etc/chancery/worker.toml", "cannot be read"),
        ),
        (
            lambda host: change(host, "/etc/chancery/tls/worker.key", mode=0o644),
            Difference("file", "/etc/chancery/tls/worker.key", "has mode 0644, should have 0600"),
        ),
        (
            lambda host: change(host, "/etc/chancery/secrets/worker.pin", owner="chancery-ca"),
            Difference(
                "file", "/etc/chancery/secrets/worker.pin", "belongs to chancery-ca:root, should to root:root"
            ),
        ),
        (
            lambda host: host.files.pop("/etc/chancery/ca.toml"),
            Difference("file", "/etc/chancery/ca.toml", "is missing"),
        ),
        (
            lambda host: host.files.update({"/etc/chancery/tls/old.key": Seen(b"", 0o600, "root", "root")}),
            Difference("file", "/etc/chancery/tls/old.key", "is not in the manifest"),
        ),
        (
            lambda host: host.files.update(
                {"/etc/systemd/system/chancery-ca.service.d/x.conf": Seen(b"", 0o644, "root", "root")}
            ),
            Difference("file", "/etc/systemd/system/chancery-ca.service.d/x.conf", "is not in the manifest"),
        ),
        (
            lambda host: host.units.update({"chancery-worker.service": "disabled/active"}),
            Difference("unit", "chancery-worker.service", "is disabled/active, should be enabled/active"),
        ),
        (
            lambda host: host.ports.remove("tcp/10.20.1.10/443"),
            Difference("port", "tcp/10.20.1.10/443", "nobody listens there"),
        ),
        (
            lambda host: host.ports.append("tcp/*/8080"),
            Difference("port", "tcp/*/8080", "is listened on and should not be"),
        ),
        (
            lambda host: setattr(host, "loaded", None),
            Difference("firewall", RULES, "is not loaded"),
        ),
        (
            lambda host: setattr(host, "loaded", "other rules"),
            Difference("firewall", RULES, "other rules are loaded than the file has"),
        ),
    ],
)
def test_one_change_is_one_difference(right, act, found):
    manifest, host = right
    act(host)
    assert [found] == drift(manifest, host, "1.0")


def test_a_generator_s_unit_is_enabled_at_run_time(right):
    manifest, host = right
    host.units["chancery-worker.service"] = "enabled-runtime/active"
    assert [] == drift(manifest, host, "1.0")


def test_of_another_host_s_files_nothing_that_runs_is_compared(right):
    manifest, host = right
    host.units.clear()
    host.ports.clear()
    host.loaded = None
    host.files.pop("/etc/chancery/ca.toml")
    found = Difference("file", "/etc/chancery/ca.toml", "is missing")
    assert [found] == drift(manifest, host, "0.9", running=False)


def test_another_version_is_a_difference(right):
    manifest, host = right
    assert [Difference("version", "chancery", "is 0.9, should be 1.0")] == drift(manifest, host, "0.9")


def own(path, content):
    return File(path, content, 0o640, getpass.getuser(), grp.getgrgid(os.getgid()).gr_name)


def test_a_tree_is_installed_whole_and_again_changes_nothing(tmp_path):
    files = [own("/etc/chancery/a.toml", b"a = 1\n"), own("/etc/chancery/tls/a.key", b"key")]
    write_tree(files, tmp_path / "tree")
    root = tmp_path / "root"
    assert [one.path for one in files] == install([tmp_path / "tree"], expected(files), root)
    assert [] == install([tmp_path / "tree"], expected(files), root)
    seen = ThisHost(root).file("/etc/chancery/tls/a.key")
    assert seen is not None
    assert (b"key", 0o640) == (seen.content, seen.mode)
    assert ["/etc/chancery/a.toml", "/etc/chancery/tls/a.key"] == ThisHost(root).names("/etc/chancery")


def test_a_link_in_a_file_s_place_is_not_followed(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "there").write_text("secret")
    (tmp_path / "etc" / "here").symlink_to(tmp_path / "etc" / "there")
    seen = ThisHost(tmp_path).file("/etc/here")
    assert seen is not None
    assert seen.content is None


def test_an_account_that_is_missing_is_named_with_what_makes_it(tmp_path):
    files = [File("/etc/x", b"", 0o600, "nobody-has-this", "nobody-has-this")]
    write_tree(files, tmp_path / "tree")
    with pytest.raises(OperatorError) as caught:
        install([tmp_path / "tree"], expected(files), tmp_path / "root")
    assert "/etc/x belongs to nobody-has-this:nobody-has-this" in caught.value.what
    assert "systemd-sysusers" in caught.value.next_step
    assert not (tmp_path / "root/etc/x").exists()


def test_a_host_without_a_manifest_is_told_how_to_get_one(tmp_path):
    with pytest.raises(OperatorError, match="cannot be read"):
        manifest_of(tmp_path)
