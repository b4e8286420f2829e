"""Two tokens at once: the real one goes away and comes back; issuers in the other go on meanwhile."""

from __future__ import annotations

import dataclasses
import time

import pytest
from softhsmkit import LIBRARY

from cakit import CA, PROFILES, issuing_issuer, issuing_record, make_csr, root_issuer
from chancery.ca.issuance import make_serial
from chancery.ca.issuer import Issuer, issuer_key
from chancery.ca.worker import Worker, WorkerSettings
from chancery.cli.tokens import WorkerTokens
from chancery.config import TokenSection
from chancery.errors import InsecureWarning, PKIError
from chancery.pkcs11 import softtoken as softtoken_file
from chancery.pkix.profile import grant, requested
from chancery.ports import RequestState
from fakes import START, FakeEntropy

pytestmark = pytest.mark.softhsm
SOFT_ID = 3


def _issuer(tokens: WorkerTokens, label: str, number: int, name: str) -> Issuer:
    """An issuer below the test's root, whose key `ca` is in the token of this label."""
    key, root = tokens.opened(label).find_key("ca"), root_issuer()
    asked = requested(make_csr("CN=Issuing,O=Example,C=XX", (), key))
    granted = grant(PROFILES["sub-ca"], asked, root.limits, START)
    certificate = root.issue(root.prepare(granted, make_serial(1, FakeEntropy(number))))
    record = dataclasses.replace(
        issuing_record(), issuer_id=number, name=name, certificate=certificate, token_label=label, key_label="ca"
    )
    return Issuer(record, tokens.signer(label, "ca", issuer_key(record)), issuing_issuer().urls)


@pytest.fixture
def tokens(scratch, tmp_path, monkeypatch):
    monkeypatch.setattr(softtoken_file, "_COST", 2**10)
    (tmp_path / "pin").write_bytes(scratch.settings().pin())
    (tmp_path / "pin").chmod(0o600)
    common = {"pin_file": tmp_path / "pin"}
    real = TokenSection(label=scratch.label, module=LIBRARY, softhsm_conf=scratch.conf, **common)
    soft = TokenSection(label="soft", soft_directory=tmp_path / "soft", **common)
    with pytest.warns(InsecureWarning):
        opened = WorkerTokens({one.label: one for one in (real, soft)})
    opened.opened(scratch.label).generate_key("ca", "ec-p256")
    opened.opened("soft").generate_key("ca", "ml-dsa-44")
    yield opened
    opened.close()


def _settle(ca: CA, worker: Worker) -> None:
    for _ in range(40):
        try:
            if not worker.run_once():
                return
        except PKIError:
            ca.clock.advance(10)
    raise AssertionError("the worker spins")


def test_issuers_in_the_other_token_go_on(scratch, tokens):
    real, soft = _issuer(tokens, scratch.label, 2, "real"), _issuer(tokens, "soft", SOFT_ID, "soft")
    ca = CA(issuers={"real": real, "soft": soft}, default_issuer="real")
    ca.store.issuers |= {2: "real", SOFT_ID: "soft"}
    worker = Worker(ca.issuing, ca.store, WorkerSettings(), lambda *_: None, tokens.reach)
    _settle(ca, worker)
    (scratch.directory / "tokens").rename(scratch.directory / "elsewhere")
    away = ca.ask(issuer="real")
    _settle(ca, worker)
    others = [ca.ask(issuer="soft") for _ in range(3)]
    _settle(ca, worker)
    assert {RequestState.DONE} == {ca.store.states[one] for one in others}
    assert "ML-DSA-44" == soft.algorithm.name
    if RequestState.DONE is not ca.store.states[away]:  # SoftHSM signs on without its files until it is restarted
        assert [scratch.label] == worker.tokens_away
    (scratch.directory / "elsewhere").rename(scratch.directory / "tokens")
    for _ in range(200):
        ca.clock.advance(10)
        _settle(ca, worker)
        if RequestState.DONE is ca.store.states[away]:
            break
        time.sleep(0.05)  # the token has pauses of its own, by the real clock
    assert RequestState.DONE is ca.store.states[away]
    assert [] == worker.tokens_away
