"""Shared work and races: who waits for what, what is signed how often, and what may be kept."""

from __future__ import annotations

import asyncio
import datetime
import threading

import pytest
from cryptography.x509 import ocsp as pyca

import ocspkit
from chancery.asn1 import ocsp
from chancery.asn1.signature import KeySigner
from chancery.errors import ErrorType, PKIError
from chancery.ocsp.answering import AnswererLimits
from chancery.web.ocsp import OCSPSettings
from fakes import START, CountingSigner, Faults
from ocspkit import GOOD, ISSUING, NEVER, REVOKED, UNCONFIRMED, with_bench


class HeldSigner(CountingSigner):
    """Signs when it is let go."""

    def __init__(self) -> None:
        super().__init__(KeySigner(ocspkit.key("Responder")))
        self.asked = threading.Event()
        self.release = threading.Event()

    def sign(self, data: bytes) -> bytes:
        self.asked.set()
        self.release.wait(10)
        return super().sign(data)


def state(body: bytes) -> pyca.OCSPCertStatus:
    return pyca.load_der_ocsp_response(body).certificate_status


async def turns(count: int = 20) -> None:
    """Let everything that can run on the loop run."""
    for _ in range(count):
        await asyncio.sleep(0)


@with_bench()
async def test_concurrent_misses_for_one_certid_share_one_lookup_and_one_signature(bench):
    request = ocspkit.request(GOOD)
    answers = await asyncio.gather(*(bench.ask(request) for _ in range(50)))
    assert 1 == len({body for _, _, body in answers})
    assert (1, [[(ISSUING, GOOD)]]) == (len(bench.signer.signed), bench.reader.batches)


@with_bench()
async def test_a_get_and_a_post_share_too(bench):
    request = ocspkit.request(GOOD)
    answers = await asyncio.gather(bench.ask(request), bench.ask(ocspkit.get(ocspkit.path(request))))
    assert answers[0][2] == answers[1][2]
    assert 1 == len(bench.signer.signed)


@with_bench()
async def test_concurrent_lookups_share_statements(bench):
    serials = [bytes([0x11, n]) for n in range(200)]
    await asyncio.gather(*(bench.ask(ocspkit.request(serial)) for serial in serials))
    assert sorted(serials) == sorted(serial for batch in bench.reader.batches for _, serial in batch)
    assert len(bench.reader.batches) <= 3


@with_bench()
async def test_every_nonce_has_its_own_signature(bench):
    await asyncio.gather(*(bench.ask(ocspkit.request(GOOD, nonce=bytes([n]))) for n in range(10)))
    same = ocspkit.request(GOOD, nonce=b"same")
    await asyncio.gather(bench.ask(same), bench.ask(same))
    assert 12 == len(bench.signer.signed)


@with_bench()
async def test_a_revocation_is_in_the_next_answer_with_and_without_nonce(bench):
    for nonce in (None, b"n"):
        assert pyca.OCSPCertStatus.GOOD is state((await bench.ask(ocspkit.request(GOOD, nonce=nonce)))[2])
    bench.reader.revoke(GOOD)
    bench.service.invalidate(ISSUING, GOOD)
    for nonce in (None, b"n"):
        assert pyca.OCSPCertStatus.REVOKED is state((await bench.ask(ocspkit.request(GOOD, nonce=nonce)))[2])


@with_bench()
async def test_another_certificates_revocation_leaves_the_rest_alone(bench):
    await bench.ask(ocspkit.request(GOOD))
    bench.service.invalidate(ISSUING, REVOKED)
    await bench.ask(ocspkit.request(GOOD))
    assert 1 == len(bench.signer.signed)


@with_bench()
async def test_r19_a_certificate_is_good_as_soon_as_its_intent_became_one(bench):
    """Nobody is notified when a serial that was only meant to be used is used."""
    requests = [ocspkit.request(UNCONFIRMED, nonce=nonce) for nonce in (None, b"n")]
    for request in requests:
        assert pyca.OCSPCertStatus.UNKNOWN is state((await bench.ask(request))[2])
    bench.reader.known[ISSUING, UNCONFIRMED] = ocspkit.status(UNCONFIRMED)
    for request in requests:
        assert pyca.OCSPCertStatus.GOOD is state((await bench.ask(request))[2])


@with_bench()
async def test_r19_a_certificate_is_good_as_soon_as_it_is_issued(bench):
    """There is no notification of an issue: what is said of a serial never used is not kept."""
    assert pyca.OCSPCertStatus.UNKNOWN is state((await bench.ask(ocspkit.request(NEVER)))[2])
    bench.reader.known[ISSUING, NEVER] = ocspkit.status(NEVER)
    assert pyca.OCSPCertStatus.GOOD is state((await bench.ask(ocspkit.request(NEVER)))[2])


@pytest.mark.parametrize("everything", [False, True])
def test_a_revocation_during_a_lookup_is_not_hidden_by_what_was_read_before(everything):
    @with_bench()
    async def run(bench):
        request = ocspkit.request(GOOD)
        bench.reader.gate = asyncio.Event()
        early = asyncio.create_task(bench.ask(request))
        await turns()
        assert [[(ISSUING, GOOD)]] == bench.reader.batches
        bench.reader.revoke(GOOD)
        if everything:
            bench.service.invalidate_all()
        else:
            bench.service.invalidate(ISSUING, GOOD)
        # Asked after the revocation: it neither joins the early answer nor finds it kept.
        late = asyncio.create_task(bench.ask(request))
        await turns()
        bench.reader.gate.set()
        assert pyca.OCSPCertStatus.GOOD is state((await early)[2])
        assert pyca.OCSPCertStatus.REVOKED is state((await late)[2])
        for again in (request, ocspkit.request(GOOD, nonce=b"n")):
            assert pyca.OCSPCertStatus.REVOKED is state((await bench.ask(again))[2])

    run()


@with_bench()
async def test_a_revocation_while_the_token_signs_is_not_hidden_either(bench):
    signer = HeldSigner()
    bench.service._delegates._signers = {"issuing": (signer,)}
    await bench.service.refresh()
    bench.service._delegates._found.clear()
    await bench.service.refresh()
    request = ocspkit.request(GOOD)
    early = asyncio.create_task(bench.ask(request))
    await asyncio.to_thread(signer.asked.wait, 10)
    bench.reader.revoke(GOOD)
    bench.service.invalidate(ISSUING, GOOD)
    signer.release.set()
    assert pyca.OCSPCertStatus.GOOD is state((await early)[2])
    assert pyca.OCSPCertStatus.REVOKED is state((await bench.ask(request))[2])


@with_bench()
async def test_a_client_that_goes_away_takes_nobody_along(bench):
    request = ocspkit.request(GOOD)
    bench.reader.gate = asyncio.Event()
    tasks = [asyncio.create_task(bench.ask(request)) for _ in range(3)]
    await turns()
    tasks[0].cancel()
    bench.reader.gate.set()
    assert pyca.OCSPCertStatus.GOOD is state((await tasks[1])[2])
    assert (await tasks[1]) == (await tasks[2])
    assert 1 == len(bench.signer.signed)


@with_bench()
async def test_answers_say_when_their_status_was_read(bench):
    request = ocspkit.request(GOOD, nonce=b"n")
    await bench.ask(request)
    bench.clock.advance(59)
    theirs = pyca.load_der_ocsp_response((await bench.ask(request))[2])
    assert (START, START + datetime.timedelta(seconds=59)) == (theirs.this_update_utc, theirs.produced_at_utc)
    bench.clock.advance(1)
    theirs = pyca.load_der_ocsp_response((await bench.ask(request))[2])
    assert START + datetime.timedelta(seconds=60) == theirs.this_update_utc
    assert 2 == len(bench.reader.batches)


# -- what fails, and how it is said


async def status_of(bench, body: bytes) -> str:
    return pyca.load_der_ocsp_response((await bench.ask(body))[2]).response_status.name


@with_bench()
async def test_the_database_away_means_try_later_and_then_it_goes_on(bench):
    bench.reader.away = True
    assert "TRY_LATER" == await status_of(bench, ocspkit.request(GOOD))
    bench.reader.away = False
    assert "SUCCESSFUL" == await status_of(bench, ocspkit.request(GOOD))


@with_bench()
async def test_kept_answers_go_on_while_the_database_is_away_until_they_end(bench):
    request = ocspkit.request(GOOD)
    _, headers, body = await bench.ask(request)
    bench.reader.away = True
    assert body == (await bench.ask(request))[2]
    # Past half of its life it would be made anew; that fails, and it is still true.
    bench.clock.advance(13 * 3600)
    _, late, again = await bench.ask(request)
    assert body == again
    assert ("no-store", True) == (late["Cache-Control"], "max-age=3600" in headers["Cache-Control"])
    assert "TRY_LATER" == await status_of(bench, ocspkit.request(GOOD, nonce=b"n"))
    bench.clock.advance(11 * 3600)
    assert "TRY_LATER" == await status_of(bench, request)


@with_bench()
async def test_kept_answers_go_on_while_no_more_signatures_fit_until_they_end(bench):
    request = ocspkit.request(GOOD)
    _, _, body = await bench.ask(request)
    bench.service._answerer._signing._max_pending = 0
    bench.clock.advance(13 * 3600)
    _, late, again = await bench.ask(request)
    assert (body, "no-store") == (again, late["Cache-Control"])
    assert "TRY_LATER" == await status_of(bench, ocspkit.request(GOOD, nonce=b"n"))
    bench.clock.advance(11 * 3600)
    assert "TRY_LATER" == await status_of(bench, request)


@with_bench()
async def test_r18_an_answer_is_made_anew_at_half_of_its_life(bench):
    request = ocspkit.request(GOOD)
    _, _, body = await bench.ask(request)
    bench.clock.advance(12 * 3600 - 1)
    assert body == (await bench.ask(request))[2]
    bench.clock.advance(1)
    theirs = pyca.load_der_ocsp_response((await bench.ask(request))[2])
    assert START + datetime.timedelta(hours=12) == theirs.this_update_utc


@pytest.mark.parametrize("error", [PKIError(ErrorType.SYSTEM_UNAVAIL, "the token is away"), RuntimeError("ckr 5")])
def test_the_token_away_means_try_later_for_its_own_request_only(error):
    class Flaky(CountingSigner):
        def sign(self, data: bytes) -> bytes:
            if b"bad" in data:
                raise error
            return super().sign(data)

    async def run() -> None:
        bench = await ocspkit.start(issuing=(Flaky(KeySigner(ocspkit.key("Responder"))),))
        bodies = [ocspkit.request(GOOD, nonce=nonce) for nonce in (b"one", b"bad", b"two")]
        answers = await asyncio.gather(*(status_of(bench, body) for body in bodies))
        assert ["SUCCESSFUL", "TRY_LATER", "SUCCESSFUL"] == answers
        await bench.service.close()

    asyncio.run(run())


def test_every_port_call_may_fail_and_only_its_own_requests_hear_of_it():
    async def run(at: int, mode: str) -> int:
        bench = await ocspkit.start()
        bench.reader.faults = bench.signer._faults = Faults(at, mode)
        heard = [await status_of(bench, ocspkit.request(serial)) for serial in (GOOD, REVOKED, GOOD)]
        calls = bench.reader.faults.calls
        assert {"SUCCESSFUL", "TRY_LATER"} >= set(heard)
        assert heard.count("TRY_LATER") == (1 if at <= calls else 0)
        # Whatever happened, it answers again, and truly.
        assert pyca.OCSPCertStatus.GOOD is state((await bench.ask(ocspkit.request(GOOD)))[2])
        await bench.service.close()
        return calls

    for mode in ("fail-before", "fail-after"):
        at = 1
        while asyncio.run(run(at, mode)) >= at:
            at += 1
        assert at > 4


@with_bench(OCSPSettings(limits=AnswererLimits(signing_threads=1, max_signing=2, max_reading=2)))
async def test_what_waits_is_bounded(bench):
    bench.reader.gate = asyncio.Event()
    tasks = [asyncio.create_task(bench.ask(ocspkit.request(bytes([0x11, n])))) for n in range(5)]
    await turns()
    bench.reader.gate.set()
    heard = [pyca.load_der_ocsp_response((await task)[2]).response_status.name for task in tasks]
    assert ["SUCCESSFUL"] * 2 + ["TRY_LATER"] * 3 == heard


def test_whoever_asks_while_too_many_signatures_wait_hears_so_late_and_costs_none():
    async def main() -> None:
        signer = HeldSigner()
        limits = AnswererLimits(signing_threads=1, max_signing=2)
        bench = await ocspkit.start(OCSPSettings(limits=limits), issuing=(signer,))
        ask = lambda: asyncio.create_task(bench.ask(ocspkit.request(GOOD, nonce=ocspkit.random_nonce())))
        let_in = [ask(), ask()]
        await turns()
        refused = [ask() for _ in range(3)]
        await turns()
        # Not at once: nobody who asks again and again takes the time of those who were let in.
        assert [False] * 3 == [one.done() for one in refused]
        answers = [await one for one in refused]
        signer.release.set()
        answers += [await one for one in let_in]
        statuses = [pyca.load_der_ocsp_response(one[2]).response_status.name for one in answers]
        assert ["TRY_LATER"] * 3 + ["SUCCESSFUL"] * 2 == statuses
        assert (3, 2) == (bench.service.health()["refused"], bench.service.health()["signed"])
        # And then as before.
        assert "SUCCESSFUL" == await status_of(bench, ocspkit.request(GOOD, nonce=b"n" * 16))
        await bench.service.close()

    asyncio.run(main())


# -- delegates (R20)


@with_bench()
async def test_a_key_without_certificate_means_try_later_until_one_is_issued(bench):
    known = bench.reader.certificates
    bench.reader.certificates = {}
    await bench.service.refresh()
    assert "TRY_LATER" == await status_of(bench, ocspkit.request(GOOD))
    assert (
        "ocsp.delegate_missing",
        {"issuer": "issuing", "problem": "no certificate was issued for its key"},
    ) == (bench.reports[-1])
    assert not bench.service.health()["ok"]
    bench.reader.certificates = known
    await bench.service.refresh()
    assert "SUCCESSFUL" == await status_of(bench, ocspkit.request(GOOD))
    assert bench.service.health()["ok"]


@with_bench()
async def test_an_expired_delegate_means_try_later_and_is_reported_once(bench):
    bench.reader.certificates = {
        ocspkit.spki_sha256("Responder"): [ocspkit.delegate_certificate(start=START - ocspkit.DAY, days=3)]
    }
    await bench.service.refresh()
    assert "SUCCESSFUL" == await status_of(bench, ocspkit.request(GOOD))
    bench.clock.advance(2 * 86400)
    assert "TRY_LATER" == await status_of(bench, ocspkit.request(GOOD))
    assert {"issuing": "the certificate of its key is not valid now"} == bench.service.health()["delegates"]
    before = len(bench.reports)
    await bench.service.refresh()
    await bench.service.refresh()
    (missing,) = bench.reports[before:]
    assert "is valid from" in missing[1]["problem"]


@with_bench()
async def test_a_successor_is_used_without_a_restart_and_old_answers_go(bench):
    request = ocspkit.request(GOOD)
    _, _, before = await bench.ask(request)
    successor = ocspkit.delegate_certificate(serial=1 << 131)
    bench.reader.certificates[ocspkit.spki_sha256("Responder")].insert(0, successor)
    await bench.service.refresh()
    _, _, after = await bench.ask(request)
    assert (False, True) == (successor in before, successor in after)


@with_bench()
async def test_the_newest_certificate_that_fits_is_taken(bench):
    fitting = ocspkit.delegate_certificate(serial=1 << 132)
    bench.reader.certificates[ocspkit.spki_sha256("Responder")] = [
        ocspkit.delegate_certificate(start=START + ocspkit.DAY),
        ocspkit.delegate_certificate(nocheck=False),
        fitting,
        ocspkit.delegate_certificate(),
    ]
    await bench.service.refresh()
    assert fitting in (await bench.ask(ocspkit.request(GOOD)))[2]


@with_bench()
async def test_an_issuer_without_a_key_here_is_unauthorized(bench):
    of_root = ocsp.encode_request(ocsp.OCSPRequest((ocspkit.cert_id(GOOD, of=ocspkit.issuer(1)),), None))
    assert "UNAUTHORIZED" == await status_of(bench, of_root)


@with_bench()
async def test_a_configured_issuer_that_does_not_exist_is_reported(bench):
    bench.service._delegates._signers = {"nobody": bench.signer}
    await bench.service.refresh()
    assert {"nobody": "there is no issuer of this name"} == bench.service.health()["delegates"]
    assert "UNAUTHORIZED" == await status_of(bench, ocspkit.request(GOOD))


def test_a_start_without_database_is_a_start():
    async def run() -> None:
        reader = ocspkit.FakeReader()
        reader.away = True
        signer = CountingSigner(KeySigner(ocspkit.key("Responder")))
        quick = OCSPSettings(refresh_in_need=datetime.timedelta(0))
        reports: list[str] = []
        well = asyncio.Event()

        def report(event: str, detail) -> None:
            reports.append(event)
            if detail.get("problem") == "none":
                well.set()

        service = ocspkit.OCSPService(reader, {"issuing": (signer,)}, ocspkit.FakeClock(), quick, report)
        await service.start()
        bench = ocspkit.Bench(reader, ocspkit.FakeClock(), signer, service, [])
        assert not service.health()["ok"]
        # Without issuers nobody can say whose certificate it is; that must not be remembered as "not ours".
        assert "TRY_LATER" == await status_of(bench, ocspkit.request(GOOD))
        reader.away = False
        await well.wait()
        assert service.health()["ok"]
        assert "SUCCESSFUL" == await status_of(bench, ocspkit.request(GOOD))
        assert ["ocsp.delegate", "ocsp.database"] == reports[-2:]
        await service.close()

    asyncio.run(run())
