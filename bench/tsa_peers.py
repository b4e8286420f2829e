"""
Side by side with `openssl ts -reply` and pyHanko's timestamper (which signs with RSA alone), an RSA-2048 key each.

Ours goes over HTTP, records durably and signs in SoftHSM2; the peers sign with a key in memory, record nothing
but openssl's serial file and answer nobody: openssl a process for each reply, as its own CGI does, pyHanko a call.
The limit is the better peer.
"""

from __future__ import annotations

import datetime
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from asn1crypto import keys, x509
from cryptography import x509 as pyca
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pyhanko.sign.timestamps import DummyTimeStamper

from bench import common, tsa
from chancery.asn1 import tsp

SECONDS = 4
_CONF = """
[tsa]
default_tsa = own
[own]
dir = {folder}
serial = $dir/serial
signer_digest = sha256
default_policy = 1.3.6.1.4.1.99999.1.1
digests = sha256
accuracy = secs:1
ess_cert_id_chain = no
"""


def rate(act: Callable[[], object], seconds: float = SECONDS) -> float:
    """How often it can be done in a second."""
    count, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        act()
        count += 1
    return count / elapsed


def openssl(folder: Path, key: rsa.RSAPrivateKey, certificate: bytes, query: bytes) -> float:
    """Replies a second of `openssl ts -reply`."""
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "tsa.pem").write_bytes(pyca.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM))
    (folder / "serial").write_text("01\n")
    (folder / "ts.cnf").write_text(_CONF.format(folder=folder))
    (folder / "query").write_bytes(query)
    command = [
        "openssl", "ts", "-reply", "-config", folder / "ts.cnf", "-queryfile", folder / "query",
        "-inkey", folder / "key.pem", "-signer", folder / "tsa.pem", "-out", folder / "reply",
    ]  # fmt: skip
    return rate(lambda: subprocess.run(command, check=True, capture_output=True))


def pyhanko(key: rsa.RSAPrivateKey, certificate: bytes) -> float:
    """Tokens a second of pyHanko's timestamper."""
    now = datetime.datetime.now(datetime.UTC)  # noqa: TID251 - a benchmark
    stamper = DummyTimeStamper(
        x509.Certificate.load(certificate),
        keys.PrivateKeyInfo.load(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())),
        fixed_dt=now,
    )
    _, request = stamper.request_cms(bytes(32), "sha256")
    return rate(lambda: stamper.request_tsa_response(request))


def summary(ours: float, peers: dict[str, float]) -> str:
    """The last line."""
    best = max(peers, key=lambda name: peers[name])
    return common.result(
        "tsa-peers",
        ours,
        "tokens/s",
        peers[best],
        f"tokens/s of {best}, without HTTP, records and PKCS#11",
        durable=True,
        **{f"{name.replace(' ', '_')}_per_s": round(value, 1) for name, value in peers.items()},
    )


def main() -> None:
    """Measure the peers on the server's core, then ours."""
    common.need("openssl")
    key = rsa.generate_private_key(65537, 2048)
    certificate = tsa.timestamping_certificate(key)
    query = tsp.encode_request(tsp.DIGEST_OIDS["sha256"], bytes(32), nonce=2**62, cert_req=False)
    with tempfile.TemporaryDirectory() as folder:
        common.pin(common.SERVER_CORE)
        peers = {"openssl": openssl(Path(folder), key, certificate, query), "pyhanko": pyhanko(key, certificate)}
    print("  ".join(f"{name} {value:,.0f}/s" for name, value in peers.items()), flush=True)
    with tsa.running("rsa-2048") as bench:
        common.load(bench.port, bench.script, 1, tsa.CONNECTIONS)
        ours = common.load(bench.port, bench.script, SECONDS, tsa.CONNECTIONS)
    print(summary(ours.rate, peers))


if __name__ == "__main__":
    main()
