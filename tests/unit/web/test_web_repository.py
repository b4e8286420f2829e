"""CRLs and CA certificates over HTTP."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs7

import ocspkit
from chancery.ports import CRLRecord, CRLScope, FurtherCertificate
from fakes import START
from ocspkit import ISSUING, get, with_bench

WEEK = datetime.timedelta(days=7)


def crl(number: int, der: bytes = b"", start: datetime.datetime = START) -> CRLRecord:
    # The repository hands out octets and does not look into them.
    return CRLRecord(ISSUING, number, start, start + WEEK, start, der or b"crl %d" % number)


@with_bench()
async def test_a_crl_is_read_once_and_says_how_long_it_lasts(bench):
    bench.reader.crls[ISSUING] = crl(1)
    for target in (b"/crl/issuing.crl", b"/crl/issuing.crl?x=1"):
        status, headers, body = await bench.ask(get(target))
        assert (200, "application/pkix-crl", b"crl 1") == (status, headers["Content-Type"], body)
    assert ("max-age=3600, public, no-transform, must-revalidate", "Tue, 01 Dec 2026 12:00:00 GMT") == (
        headers["Cache-Control"],
        headers["Expires"],
    )
    assert 1 == bench.reader.crl_reads
    assert 304 == (await bench.ask(get(b"/crl/issuing.crl", headers["ETag"].encode())))[0]


@with_bench()
async def test_shards_and_deltas_have_places_of_their_own(bench):
    places = {
        b"/crl/issuing.crl": ISSUING,
        b"/crl/issuing/delta.crl": (ISSUING, CRLScope(delta=True)),
        b"/crl/issuing/3.crl": (ISSUING, CRLScope(3)),
        b"/crl/issuing/3/delta.crl": (ISSUING, CRLScope(3, delta=True)),
    }
    bench.reader.crls |= {key: crl(number) for number, key in enumerate(places.values())}
    assert [b"crl %d" % number for number in range(4)] == [(await bench.ask(get(one)))[2] for one in places]
    # Another one of a shard leaves the others as they are.
    reads = bench.reader.crl_reads
    bench.reader.crls[ISSUING, CRLScope(3)] = crl(9)
    bench.service.crl_changed(ISSUING, CRLScope(3))
    assert [b"crl 0", b"crl 1", b"crl 9", b"crl 3"] == [(await bench.ask(get(one)))[2] for one in places]
    assert reads + 1 == bench.reader.crl_reads
    for strange in (b"/crl/issuing/0.crl", b"/crl/issuing/99999.crl", b"/crl/issuing/delta/3.crl"):
        assert 404 == (await bench.ask(get(strange)))[0]


@with_bench()
async def test_max_age_counts_down_to_nextupdate(bench):
    bench.reader.crls[ISSUING] = crl(1)
    await bench.ask(get(b"/crl/issuing.crl"))
    bench.clock.advance(WEEK.total_seconds() - 600)
    _, headers, _ = await bench.ask(get(b"/crl/issuing.crl"))
    assert headers["Cache-Control"].startswith("max-age=540,")
    bench.clock.advance(600)
    _, headers, _ = await bench.ask(get(b"/crl/issuing.crl"))
    assert headers["Cache-Control"].startswith("max-age=0,")
    assert 1 == bench.reader.crl_reads


@pytest.mark.parametrize("everything", [False, True])
def test_a_new_crl_is_served_at_once(everything):
    @with_bench()
    async def run(bench):
        bench.reader.crls[ISSUING] = crl(1)
        await bench.ask(get(b"/crl/issuing.crl"))
        bench.reader.crls[ISSUING] = crl(2)
        bench.service.invalidate_all() if everything else bench.service.crl_changed(ISSUING)
        assert b"crl 2" == (await bench.ask(get(b"/crl/issuing.crl")))[2]

    run()


@with_bench()
async def test_a_crl_published_while_the_last_one_is_read_is_not_hidden(bench):
    bench.reader.crls[ISSUING] = crl(1)
    bench.reader.gate = asyncio.Event()
    early = asyncio.create_task(bench.ask(get(b"/crl/issuing.crl")))
    while not bench.reader.crl_reads:  # noqa: ASYNC110 - the fake has no event for it
        await asyncio.sleep(0)
    bench.reader.crls[ISSUING] = crl(2)
    bench.service.crl_changed(ISSUING)
    bench.reader.gate.set()
    assert b"crl 1" == (await early)[2]
    assert b"crl 2" == (await bench.ask(get(b"/crl/issuing.crl")))[2]


@with_bench()
async def test_all_who_ask_at_once_share_one_reading(bench):
    bench.reader.crls[ISSUING] = crl(1)
    bench.reader.gate = asyncio.Event()
    early = [asyncio.create_task(bench.ask(get(b"/crl/issuing.crl"))) for _ in range(50)]
    while not bench.reader.crl_reads:  # noqa: ASYNC110 - the fake has no event for it
        await asyncio.sleep(0)
    early.pop().cancel()
    bench.reader.crls[ISSUING] = crl(2)
    bench.service.crl_changed(ISSUING)
    late = [asyncio.create_task(bench.ask(get(b"/crl/issuing.crl"))) for _ in range(50)]
    while bench.reader.crl_reads < 2:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0)
    bench.reader.gate.set()
    assert {b"crl 1"} == {body for _, _, body in await asyncio.gather(*early)}
    assert {b"crl 2"} == {body for _, _, body in await asyncio.gather(*late)}
    assert b"crl 2" == (await bench.ask(get(b"/crl/issuing.crl")))[2]
    assert 2 == bench.reader.crl_reads


@with_bench()
async def test_without_a_crl_404_and_without_a_database_503_or_the_last_one(bench):
    assert 404 == (await bench.ask(get(b"/crl/issuing.crl")))[0]
    bench.reader.away = True
    status, headers, _ = await bench.ask(get(b"/crl/issuing.crl"))
    assert (503, "5", "no-store") == (status, headers["Retry-After"], headers["Cache-Control"])
    bench.reader.away = False
    bench.reader.crls[ISSUING] = crl(1)
    await bench.ask(get(b"/crl/issuing.crl"))
    bench.reader.away = True
    bench.clock.advance(3600)
    assert b"crl 1" == (await bench.ask(get(b"/crl/issuing.crl")))[2]


@with_bench()
async def test_ca_certificates(bench):
    record = ocspkit.records()[ISSUING - 1]
    expected = x509.load_der_x509_certificate(record.certificate)
    status, headers, body = await bench.ask(get(b"/ca/issuing.cer"))
    assert (200, "application/pkix-cert", record.certificate) == (status, headers["Content-Type"], body)
    status, headers, body = await bench.ask(get(b"/ca/issuing.pem"))
    assert (200, "application/x-pem-file", expected) == (
        status,
        headers["Content-Type"],
        x509.load_pem_x509_certificate(body),
    )
    status, headers, body = await bench.ask(get(b"/ca/issuing.p7c"))
    assert (200, "application/pkcs7-mime") == (status, headers["Content-Type"])
    assert [expected] == pkcs7.load_der_pkcs7_certificates(body)
    assert 304 == (await bench.ask(get(b"/ca/issuing.p7c", b"*")))[0]
    (root,) = pkcs7.load_der_pkcs7_certificates((await bench.ask(get(b"/ca/root.p7c")))[2])
    assert ocspkit.issuer(1) == root


@with_bench()
async def test_a_chain_goes_up_to_below_the_root(bench):
    deeper = ocspkit.certificate("Deeper", "Issuing", 77, ca=True)
    bench.reader.records.append(ocspkit.IssuerRecord(3, "deeper", deeper, ISSUING, "ca", "deeper"))
    assert 404 == (await bench.ask(get(b"/ca/deeper.p7c")))[0]
    await bench.service.refresh()
    found = pkcs7.load_der_pkcs7_certificates((await bench.ask(get(b"/ca/deeper.p7c")))[2])
    assert {"Deeper", "Issuing"} == {one.subject.rfc4514_string().split("=")[1].split(",")[0] for one in found}


@with_bench()
async def test_every_path_of_a_cross_certified_issuer_is_offered(bench):
    crossed = ocspkit.certificate("Issuing", "Other", 78, ca=True)
    other = ocspkit.certificate("Other", "Other", 1, ca=True)
    records = bench.reader.records
    records.append(ocspkit.IssuerRecord(3, "other", other, None, None, None))
    further = (FurtherCertificate(crossed, 3),)
    index = next(n for n, one in enumerate(records) if one.issuer_id == ISSUING)
    records[index] = dataclasses.replace(records[index], further=further)
    await bench.service.refresh()
    found = pkcs7.load_der_pkcs7_certificates((await bench.ask(get(b"/ca/issuing.p7c")))[2])
    issuers = {one.issuer.rfc4514_string() for one in found}
    assert (2, True) == (len(found), any("Other" in one for one in issuers))
    assert records[index].certificate == (await bench.ask(get(b"/ca/issuing.cer")))[2]


@pytest.mark.parametrize(
    "target", [b"/ca/nobody.cer", b"/ca/issuing", b"/ca/../ca/issuing.cer", b"/crl/", b"/", b"/ca/issuing.key"]
)
def test_there_is_nothing_else(target):
    @with_bench()
    async def run(bench):
        assert 404 == (await bench.ask(get(target)))[0]

    run()
