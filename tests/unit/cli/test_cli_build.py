"""Where PINs and passwords come from, and what the command line says when they do not."""

from __future__ import annotations

import getpass

import pytest

from chancery.cli import build
from chancery.config import DatabaseSection, TokenSection
from chancery.errors import OperatorError


def section(**pin):
    return TokenSection(label="x", module="/lib/x.so", **pin)


def test_a_pin_comes_from_a_file_without_its_line_end(tmp_path):
    (tmp_path / "pin").write_bytes(b"12 34\r\n")
    assert b"12 34" == build.pin_source(section(pin_file=tmp_path / "pin"))()


@pytest.mark.parametrize("content", [b"", b"\n", b"1" * 256])
def test_a_pin_file_without_a_pin_is_named(tmp_path, content):
    (tmp_path / "pin").write_bytes(content)
    with pytest.raises(OperatorError, match="empty or too long"):
        build.pin_source(section(pin_file=tmp_path / "pin"))()


def test_a_missing_pin_file_is_named(tmp_path):
    with pytest.raises(OperatorError, match=r"gone cannot be read: No such file"):
        build.pin_source(section(pin_file=tmp_path / "gone"))()


def test_a_pin_comes_from_a_systemd_credential(tmp_path, monkeypatch):
    (tmp_path / "ca.pin").write_bytes(b"4321\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert b"4321" == build.pin_source(section(pin_credential="ca.pin"))()


def test_a_credential_that_nobody_handed_over_says_what_to_do(monkeypatch):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(OperatorError, match="LoadCredential="):
        build.pin_source(section(pin_credential="ca.pin"))


def test_a_pin_is_asked_for_once(monkeypatch):
    asked = []
    monkeypatch.setattr(getpass, "getpass", lambda prompt: asked.append(prompt) or "9999")
    source = build.pin_source(section(pin_prompt=True))
    assert [b"9999", b"9999"] == [source(), source()]
    assert ["PIN of token x: "] == asked


def test_a_database_password_is_read_at_each_connection_and_never_shown(tmp_path):
    path = tmp_path / "password"
    path.write_bytes(b"first\n")
    path.chmod(0o600)
    connection = build.connection(DatabaseSection(host="/run/pg", user="chancery_ra", password_file=path), "ca")
    assert "first" == connection.arguments()["password"]
    path.write_bytes(b"second\n")
    assert "second" == connection.arguments()["password"]
    assert "second" not in repr(connection)
    assert "chancery ca" == connection.application_name


def test_own_profiles_stand_beside_the_shipped_ones(tmp_path):
    shipped = build.profiles(None)
    source = shipped["tls-server"].source
    (tmp_path / "own.toml").write_text(source.replace('name = "tls-server"', 'name = "tls-own"'))
    assert set(shipped) | {"tls-own"} == set(build.profiles(tmp_path))
