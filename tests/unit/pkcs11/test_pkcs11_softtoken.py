"""The software token: `Token`'s interface, encrypted files, and a warning every time."""

from __future__ import annotations

import contextlib
import threading

import pytest
from cryptography.hazmat.primitives import serialization

from chancery.asn1.signature import KeySigner
from chancery.errors import InsecureWarning, OperatorError
from chancery.pkcs11 import KINDS, SoftToken, TokenSettings, open_token
from chancery.pkcs11 import softtoken as softtoken_file
from chancery.pkcs11.check import check_token

PIN = b"soft-pin"


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    monkeypatch.setattr(softtoken_file, "_COST", 2**10)


def settings(directory, label="soft", pin=PIN):
    return TokenSettings(module=None, label=label, pin=lambda: pin, soft_directory=str(directory))


def open_soft(directory, **changed):
    with pytest.warns(InsecureWarning, match="no hardware guards its keys"):
        return open_token(settings(directory, **changed))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "rsa-4096"])
def test_a_key_of_each_kind_signs_now_and_after_a_restart(tmp_path, kind):
    made = KeySigner(open_soft(tmp_path).generate_key("key", kind))
    again = open_soft(tmp_path)
    listed = again.keys()
    signer = KeySigner(again.find_key("key"))
    signer.algorithm.verify(made.public_key, signer.sign(b"m"), b"m")
    assert [(kind, True)] == [(info.kind, info.extractable) for info in listed]


def test_every_opening_warns(tmp_path):
    for _ in range(3):
        open_soft(tmp_path).close()


def test_files_are_private_and_encrypted(tmp_path):
    open_soft(tmp_path / "soft").generate_key("key", "ec-p256")
    files = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "soft").iterdir()}
    assert {"token.json": 0o600, "key.key": 0o600} == files
    assert 0o700 == (tmp_path / "soft").stat().st_mode & 0o777
    pem = (tmp_path / "soft" / "key.key").read_bytes()
    assert pem.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    with pytest.raises(ValueError, match=r"password|decrypt"):
        serialization.load_pem_private_key(pem, PIN)


def test_a_wrong_pin_or_label_is_refused_before_any_key_is_touched(tmp_path):
    open_soft(tmp_path)
    with pytest.raises(OperatorError, match="PIN of software token `soft` is wrong"):
        open_soft(tmp_path, pin=b"wrong")
    with pytest.raises(OperatorError, match="labelled `soft`, not `other`"):
        open_soft(tmp_path, label="other")


def test_labels_are_unique_known_and_safe_as_file_names(tmp_path):
    token = open_soft(tmp_path)
    token.generate_key("key", "ec-p256")
    with pytest.raises(OperatorError, match="already has a key labelled `key`"):
        token.generate_key("key", "ec-p256")
    with pytest.raises(OperatorError, match="no key labelled `other`; it holds key"):
        token.find_key("other")
    for label in ("../key", "", ".hidden", "a/b", "a\0b", "x" * 64, "key\n"):
        with pytest.raises(OperatorError, match="cannot be the label"):
            token.generate_key(label, "ec-p256")
    with pytest.raises(OperatorError, match="no kind of key"):
        token.generate_key("x", "rsa-1024")


def test_a_destroyed_key_is_gone(tmp_path):
    token = open_soft(tmp_path)
    token.generate_key("key", "ed25519")
    token.destroy_key("key")
    with pytest.raises(OperatorError, match="it holds none"):
        token.destroy_key("key")
    assert [] == token.keys()


def test_damaged_files_are_explained(tmp_path):
    token = open_soft(tmp_path)
    token.generate_key("key", "ec-p256")
    (tmp_path / "key.key").write_bytes(b"damaged")
    with pytest.raises(OperatorError, match="file of key `key` is damaged"):
        token.find_key("key")
    (tmp_path / "token.json").write_bytes(b"{}")
    with pytest.raises(OperatorError, match=r"token\.json is damaged"):
        open_soft(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OperatorError, match="cannot be opened"):
        open_soft(tmp_path / "file")


def test_one_label_is_made_once_by_many_threads(tmp_path):
    token, made = open_soft(tmp_path), []

    def make():
        with contextlib.suppress(OperatorError):
            made.append(token.generate_key("key", "ed25519"))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 == len(made)


def test_hsm_check_tries_a_software_token_too(tmp_path):
    open_soft(tmp_path).generate_key("key", "ec-p256")
    with pytest.warns(InsecureWarning):
        report = check_token(settings(tmp_path), ["key", "missing"])
    assert [("key", ("ecdsa-with-SHA256",))] == [(key.label, key.signs) for key in report.keys]
    assert ["token `soft` holds no key labelled `missing`, which the configuration names; it holds key"] == [
        problem.what for problem in report.problems
    ]


def test_settings_name_one_kind_of_token(tmp_path):
    neither = TokenSettings(module=None, label="x", pin=lambda: PIN)
    with pytest.raises(OperatorError, match="has no PKCS#11 module"):
        open_token(neither)
    both = TokenSettings(module="/lib.so", label="x", pin=lambda: PIN, soft_directory=str(tmp_path))
    with pytest.raises(OperatorError, match="both"):
        open_token(both)
    assert isinstance(open_soft(tmp_path), SoftToken)
