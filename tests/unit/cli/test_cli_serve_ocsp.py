"""What the OCSP server makes of its configuration: keys, settings per issuer, answers ahead of time."""

from __future__ import annotations

import datetime

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

import ocspkit
from cakit import key
from chancery.cli import serve_ocsp
from chancery.config import OCSPConfig
from chancery.errors import OperatorError
from chancery.ocsp.responder import NeverIssued, Nonces, ResponderSettings, Stale

TEXT = """
process = "ocsp"
deployment = "laptop"
delegates = [
    { issuer = "one", key_label = "rsa", signature = "rsassaPss-sha256" },
    { issuer = "one", key_label = "ec" },
]
listen = { port = 8080 }
database = { host = "/run", user = "chancery_ocsp" }
token = { label = "ocsp", module = "/m.so", pin_prompt = true }
"""


def config(more: str = "") -> OCSPConfig:
    from chancery.config import decode_hook

    return msgspec.toml.decode(TEXT + more, type=OCSPConfig, dec_hook=decode_hook)


class FakeToken:
    """A token with one key of each kind."""

    def find_key(self, label: str):
        kinds = {"rsa": "rsa-2048", "ec": "ec-p256", "all": "ec-p256"}
        if label not in kinds:
            raise OperatorError(f"no key {label}", "correct it")
        return key(label, kinds[label])


def test_keys_are_found_by_issuer_in_their_order_and_one_may_answer_for_all_others():
    signers, every = serve_ocsp.keys(config(), FakeToken())
    assert ["rsassaPss-sha256", "ecdsa-with-SHA256"] == [one.algorithm.name for one in signers["one"]]
    assert (["one"], None) == (list(signers), every)
    first = 'delegate_key = "all"\n' + TEXT
    found = msgspec.toml.decode(first, type=OCSPConfig, dec_hook=lambda type_, value: type_(value))
    _, every = serve_ocsp.keys(found, FakeToken())
    assert key("all", "ec-p256").public_key() == every.public_key


@pytest.mark.parametrize("change", [('"ec" }', '"none" }'), ('"ec" }', '"ec", signature = "rsassaPss-sha256" }')])
def test_a_key_that_is_not_there_or_does_not_sign_so_stops_the_start(change):
    found = msgspec.toml.decode(TEXT.replace(*change), type=OCSPConfig, dec_hook=lambda type_, value: type_(value))
    with pytest.raises(OperatorError):
        serve_ocsp.keys(found, FakeToken())


def test_without_policies_the_settings_are_the_defaults():
    found = serve_ocsp.policies(config())
    assert ResponderSettings() == found.of("anyone")


def test_a_policy_is_in_place_of_what_stands_at_the_top_key_by_key(tmp_path):
    ca = tmp_path / "ca.pem"
    ca.write_bytes(ocspkit.issuer().public_bytes(Encoding.PEM))
    found = serve_ocsp.policies(
        config(
            f"""
[policies.one]
never_issued = "extended-revoked"
validity_hours = 8
responder_id = "name"
nonce = "require"
archive_days = 30
crl_reference = "http://crl.example.org/{{issuer}}.crl"
stale_crl = "unknown"
[policies.one.require_signed]
authorities = ["{ca}"]
certificates = ["{"0b" * 32}"]
"""
        )
    )
    one = found.of("one")
    assert (NeverIssued.EXTENDED_REVOKED, datetime.timedelta(hours=8)) == (one.never_issued, one.validity)
    assert (True, Nonces.REQUIRE, Stale.UNKNOWN) == (one.by_name, one.nonces, one.stale)
    assert (datetime.timedelta(days=30), "http://crl.example.org/one.crl") == (one.archive, one.crl_url)
    assert ((ocspkit.issuer(),), {b"\x0b" * 32}) == (one.signers.authorities, one.signers.certificates)
    assert ResponderSettings() == found.of("another")


def test_an_authority_that_cannot_be_read_stops_the_start(tmp_path):
    none = tmp_path / "none.pem"
    for content in (None, b"noise"):
        if content is not None:
            none.write_bytes(content)
        with pytest.raises(OperatorError, match=r"none\.pem"):
            serve_ocsp.policies(config(f'[require_signed]\nauthorities = ["{none}"]\n'))


def test_answers_ahead_of_time_only_where_the_configuration_says_so():
    assert serve_ocsp._presign(None) is None
    found = serve_ocsp._presign(config("[presign]\nhours = [1, 2]\n").presign)
    assert (100, {1, 2}) == (found.per_second, set(found.hours))
