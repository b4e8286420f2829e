"""Answers ahead of time: who gets one, what is kept, where it goes on, and the files."""

from __future__ import annotations

import asyncio
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as pyca

import ocspkit
from chancery.cli import export_ocsp
from chancery.errors import OperatorError, PKIError
from chancery.ocsp.ahead import PAGE, Ahead
from chancery.ocsp.answering import Answerer, AnswererLimits
from chancery.ocsp.cache import Changes
from chancery.ocsp.delegates import Delegates
from chancery.ocsp.responder import Nonces, Policies, ResponderSettings
from chancery.web.ocsp import OCSPSettings, Presign
from fakes import START, CountingSigner, FakeClock, Faults
from ocspkit import GOOD, ISSUING, NEVER, REVOKED, SILENT, UNCONFIRMED, with_bench

ALWAYS = Presign(10**6, frozenset(range(24)))
MANY = [bytes([0x30]) + n.to_bytes(16, "big") for n in range(3 * PAGE)]


@with_bench()
async def test_everyone_alive_has_an_answer_and_a_client_gets_it(bench):
    await bench.service.presign(ALWAYS)
    assert (3, 3) == (bench.service.health()["cached"], len(bench.signer.signed))
    for serial in (GOOD, REVOKED, SILENT):
        await bench.ask(ocspkit.request(serial))
    assert 3 == bench.service.health()["hits"]
    await bench.service.presign(ALWAYS)
    assert 3 == len(bench.signer.signed)
    # What changes is signed anew, and no other.
    bench.reader.revoke(GOOD)
    bench.service.invalidate(ISSUING, GOOD)
    await bench.service.presign(ALWAYS)
    found = pyca.load_der_ocsp_response((await bench.ask(ocspkit.request(GOOD)))[2])
    assert (4, pyca.OCSPCertStatus.REVOKED) == (len(bench.signer.signed), found.certificate_status)
    for serial in (NEVER, UNCONFIRMED):
        await bench.ask(ocspkit.request(serial))
    assert 3 == bench.service.health()["cached"]


@with_bench()
async def test_it_goes_on_where_it_was_stopped(bench):
    for one in MANY:
        bench.reader.known[ISSUING, one] = ocspkit.status(one)
    # Each page: its serials, then its statuses.
    bench.reader.faults = Faults(4)
    with pytest.raises(PKIError):
        await bench.service.presign(ALWAYS)
    first = bench.service.health()["cached"]
    await bench.service.presign(ALWAYS)
    assert (PAGE, len(MANY) + 3) == (first, bench.service.health()["cached"])
    assert len(MANY) + 3 == len(bench.signer.signed)


@with_bench(OCSPSettings(cache_entries=PAGE))
async def test_it_stops_when_the_cache_is_nearly_full(bench):
    for one in MANY:
        bench.reader.known[ISSUING, one] = ocspkit.status(one)
    await bench.service.presign(ALWAYS)
    assert PAGE == len(bench.signer.signed)


@pytest.mark.parametrize("hours", [{START.hour}, {START.hour + 1}])
def test_it_keeps_to_its_hours(hours):
    @with_bench(OCSPSettings(presign=Presign(10**6, frozenset(hours))))
    async def test(bench):
        for _ in range(200):
            await asyncio.sleep(0.001)
            if bench.service.health()["cached"]:
                break
        families = {one.name: one.values for one in bench.service.metrics()}
        expected = 3 if START.hour in hours else 0
        assert {(): expected} == families["chancery_ocsp_presigned"]

    test()


@with_bench(OCSPSettings(policies=Policies(ResponderSettings(nonces=Nonces.REQUIRE))))
async def test_where_a_nonce_is_required_there_is_nothing_to_make(bench):
    await bench.service.presign(ALWAYS)
    assert [] == bench.signer.signed


# -- files


class World:
    """What an export needs, over a reader of its own."""

    def __init__(self) -> None:
        self.reader, clock, policies = ocspkit.FakeReader(), FakeClock(), Policies()
        signer = CountingSigner(ocspkit.KeySigner(ocspkit.key("Responder")))
        self.signer = signer
        self.delegates = Delegates(
            self.reader, {"issuing": (signer,)}, clock, lambda _, __: None, policies=policies
        )
        self.answerer = Answerer(
            self.reader,
            self.delegates,
            clock=clock,
            changes=Changes(),
            policies=policies,
            limits=AnswererLimits(),
        )
        self.ahead = Ahead(self.reader, self.delegates, self.answerer, policies)

    async def write(self, directory) -> int:
        await self.delegates.refresh()
        return await export_ocsp.write(self.ahead, self.delegates.table.names, directory, 10**6)


def test_openssl_reads_the_files(tmp_path):
    async def main() -> None:
        world = World()
        assert 3 == await world.write(tmp_path)
        await world.answerer.close()

    asyncio.run(main())
    files = {one.name for one in (tmp_path / "issuing").iterdir()}
    assert {f"{serial.hex()}.ocsp" for serial in (GOOD, REVOKED, SILENT)} == files
    assert ["issuing"] == [one.name for one in tmp_path.iterdir()]
    issuing = x509.load_der_x509_certificate(ocspkit.records()[1].certificate)
    (tmp_path / "ca.pem").write_bytes(issuing.public_bytes(Encoding.PEM))
    for serial, word in ((GOOD, "good"), (REVOKED, "revoked")):
        command = ["openssl", "ocsp", "-respin", tmp_path / "issuing" / f"{serial.hex()}.ocsp"]
        about = ["-issuer", tmp_path / "ca.pem", "-serial", f"0x{serial.hex()}", "-no_nonce"]
        trusted = ["-CAfile", tmp_path / "ca.pem", "-partial_chain", "-attime", str(int(START.timestamp()))]
        done = subprocess.run([*command, *about, *trusted], capture_output=True, text=True, check=False)
        assert "Response verify OK" in done.stderr, done.stderr
        assert f": {word}" in done.stdout


def test_an_export_that_was_stopped_goes_on(tmp_path):
    async def main() -> None:
        world = World()
        for one in MANY:
            world.reader.known[ISSUING, one] = ocspkit.status(one)
        # issuers, the delegate's certificate, then the serials and the statuses of each page.
        world.reader.faults = Faults(6)
        with pytest.raises(PKIError):
            await world.write(tmp_path)
        assert PAGE == len(list((tmp_path / "issuing").iterdir()))
        assert len(MANY) + 3 - PAGE == await world.write(tmp_path)
        assert len(MANY) + 3 == len(list((tmp_path / "issuing").iterdir())) == len(world.signer.signed)
        (tmp_path / export_ocsp.POSITION).write_text("nonsense")
        with pytest.raises(OperatorError, match="holds no position"):
            await world.write(tmp_path)
        await world.answerer.close()

    asyncio.run(main())
