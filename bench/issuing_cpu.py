"""
Processor time that the worker's own code spends on a certificate: no database, no web process, no waiting.

The store is one that forgets, the key is P-256 in SoftHSM2, the requests are fresh ones with keys and names of
their own. Beside the stages stands what their cryptography alone costs on this processor at that moment. The limit
is all of that together: verify the proof of possession, sign in the token, verify the token's signature.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cryptography import x509

from bench import common
from bench.issuance import csrs
from cakit import PROFILES, URLS, enrolment, root_issuer
from chancery.asn1.oids import ATTRIBUTES
from chancery.asn1.signature import KeySigner
from chancery.ca.issuance import Issuing, issue_batch, make_serial
from chancery.ca.issuer import Issuer
from chancery.cli.clock import SystemEntropy
from chancery.pkcs11 import TokenSettings, find_softhsm_module, open_token, prepare_softhsm
from chancery.pkix.granting import Requested, grant, requested
from chancery.ports import EnrolmentRequest, IssuerRecord
from fakes import START, FakeClock

BATCH, BATCHES = 64, 16
PROFILE = PROFILES["tls-server"]
A, B = TypeVar("A"), TypeVar("B")


class Forgetting:
    """An issuance store that only makes what would be written; it refuses to hear of a refusal."""

    def record_intents(
        self,
        _worker: str,
        _: Sequence[Any],
        refusals: Sequence[Any],
        events: Sequence[Any],
        _keys: Sequence[bytes],
    ) -> set[bytes]:
        self.record_certificates([], refusals, events)
        return set()

    def record_certificates(self, _: Sequence[Any], refusals: Sequence[Any], events: Sequence[Any]) -> None:
        assert not refusals, refusals
        for event in events:
            event.body()


def lap(act: Callable[[list[A]], list[B]], items: list[A]) -> tuple[float, list[B]]:
    """Processor seconds for one item: the median over batches, as another program may have been in the way."""
    took, found = [], []
    for at in range(0, len(items), BATCH):
        batch = items[at : at + BATCH]
        began = time.process_time()
        found += act(batch)
        took.append((time.process_time() - began) / len(batch))
    return statistics.median(took), found


def each(act: Callable[[A], B]) -> Callable[[list[A]], list[B]]:
    return lambda items: [act(one) for one in items]


def issuer_of(signer: KeySigner) -> Issuer:
    """An issuing CA with this key, under a root of the tests."""
    root = root_issuer()
    asked = Requested(signer.public_key, ((ATTRIBUTES["CN"], "Issuing"),))
    granted = grant(PROFILES["sub-ca"], asked, root.limits, START)
    certificate = root.issue(root.prepare(granted, make_serial(1, SystemEntropy(), granted.not_after)))
    return Issuer(IssuerRecord(2, "issuing", certificate, 1, "bench", "issuing"), signer, URLS)


def fresh() -> list[EnrolmentRequest]:
    return [enrolment(number, csr) for number, csr in enumerate(csrs(BATCH * BATCHES))]


def measure(signer: KeySigner) -> str:
    """Measure whole batches, then stage by stage with the floor of each, and put the result together."""
    issuer, entropy = issuer_of(signer), SystemEntropy()
    issuing = Issuing(
        store=Forgetting(),
        issuers={"issuing": issuer},
        default_issuer="issuing",
        profiles=PROFILES,
        clock=FakeClock(),
        entropy=entropy,
        instance=1,
        worker="bench",
    )
    issue_batch(issuing, fresh()[:BATCH])  # what is remembered for a profile is made once
    whole, _ = lap(lambda some: [issue_batch(issuing, some)], fresh())
    stages: list[tuple[str, float]] = [("whole batches of 64", whole)]

    def stage(name: str, act: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        took, found = lap(each(act), items)
        stages.append((name, took))
        return found

    asked = stage("read, gate, proof of possession", lambda one: requested(one.csr), fresh())
    granted = stage("grant", lambda one: grant(PROFILE, one, issuer.limits, START), asked)
    linted = stage("build, lint", lambda one: issuer.prepare(one, make_serial(1, entropy, one.not_after)), granted)
    tbs = [one.der for one in linted]
    stage("sign, verify, compare", issuer.issue, linted)
    proof = stage("alone: proof of possession", _proof, [x509.load_der_x509_csr(one.csr) for one in fresh()])
    assert all(proof)
    signatures = stage("alone: signature in the token", signer.sign, tbs)
    pairs = list(zip(signatures, tbs, strict=True))
    stage("alone: its verification", lambda one: signer.algorithm.verify(signer.public_key, *one), pairs)
    for name, took in stages:
        print(f"{name:34} {1e6 * took:7.1f} us", flush=True)
    floor = sum(took for name, took in stages if name.startswith("alone"))
    return common.result(
        "issuing-cpu",
        1 / whole,
        "certificates per processor second",
        1 / floor,
        "proof of possession, signature and its verification alone",
        durable=False,
        us={name: round(1e6 * took, 1) for name, took in stages},
    )


def _proof(request: x509.CertificateSigningRequest) -> bool:
    return request.is_signature_valid


def main() -> None:
    """Make a token in a directory of its own, measure, and print one JSON object as the last line."""
    library = find_softhsm_module()
    if library is None:
        raise SystemExit("this needs SoftHSM2; scripts/prepare test installs what is missing")
    pin, so_pin = (SystemEntropy().draw(8).hex().encode() for _ in range(2))
    with tempfile.TemporaryDirectory() as place:
        conf = prepare_softhsm(Path(place), "bench", so_pin, pin, library=library)
        settings = TokenSettings(module=library, label="bench", pin=lambda: pin, softhsm_conf=str(conf))
        with open_token(settings) as token:
            found = measure(KeySigner(token.generate_key("issuing", "ec-p256")))
    print(found)


if __name__ == "__main__":
    main()
