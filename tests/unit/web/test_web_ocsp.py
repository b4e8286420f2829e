"""OCSP over HTTP: every spelling of a request, every kind of answer, and what may be kept by whom."""

from __future__ import annotations

import asyncio
import base64
import datetime
import json
import urllib.parse

import hypothesis
import pytest
from cryptography.x509 import ocsp as pyca
from hypothesis import strategies as st

import ocspkit
from chancery.asn1 import der, ocsp, oids
from chancery.errors import ErrorType, PKIError
from chancery.web import failures
from chancery.web import ocsp as web
from ocspkit import GOOD, ISSUING, NEVER, REVOKED, get, post, with_bench

REQUEST = ocspkit.request(GOOD)
# A request whose base64 holds every awkward character: + / // and padding.
AWKWARD = next(
    one
    for one in (ocspkit.request(bytes([0x11, a, b]) + b"\xff\xff\xfe" * 5) for a in range(256) for b in range(256))
    if all(sign in base64.b64encode(one) for sign in (b"+", b"/", b"//", b"="))
)


def word(body: bytes) -> str:
    return pyca.load_der_ocsp_response(body).response_status.name


@with_bench()
async def test_post(bench):
    for target in (b"/ocsp", b"/ocsp/", b"/"):
        status, headers, body = await bench.ask(post(REQUEST, target))
        assert (200, "application/ocsp-response", "SUCCESSFUL") == (status, headers["Content-Type"], word(body))
        assert str(len(body)) == headers["Content-Length"]


@pytest.mark.parametrize(
    "content_type",
    [b"application/OCSP-Request", b"application/ocsp-request; charset=binary", b"application/ocsp-request "],
)
def test_a_content_type_may_be_written_in_its_ways(content_type):
    @with_bench()
    async def run(bench):
        assert 200 == (await bench.ask(post(REQUEST, content_type=content_type)))[0]

    run()


@pytest.mark.parametrize("content_type", [None, b"", b"application/ocsp-response", b"text/plain", b"\xff"])
def test_another_content_type_is_415(content_type):
    @with_bench()
    async def run(bench):
        status, headers, _ = await bench.ask(post(REQUEST, content_type=content_type))
        assert (415, "no-store") == (status, headers["Cache-Control"])

    run()


def every_spelling(body: bytes) -> list[str]:
    plain = base64.b64encode(body).decode()
    spaced = plain.replace("+", "%20")
    return [
        plain,
        plain.rstrip("="),
        urllib.parse.quote(plain, safe=""),
        urllib.parse.quote(plain),
        urllib.parse.quote(plain, safe="/+="),
        "".join(f"%{ord(char):02X}" for char in plain),
        plain.replace("+", "%2b").replace("/", "%2f").replace("=", "%3d"),
        spaced,
        "/" + plain,
        "%2F" + plain,
    ]


@pytest.mark.parametrize("spelling", every_spelling(AWKWARD))
def test_r18_get_in_every_spelling(spelling):
    assert AWKWARD == web.from_path(spelling.encode())

    @with_bench()
    async def run(bench):
        status, headers, body = await bench.ask(get(b"/ocsp/" + spelling.encode()))
        assert (200, "application/ocsp-response", "SUCCESSFUL") == (status, headers["Content-Type"], word(body))

    run()


@hypothesis.given(st.binary(max_size=200))
@hypothesis.settings(max_examples=100, deadline=None)
def test_what_clients_write_is_read_back(body):
    # A request begins with the octet of a SEQUENCE.
    for spelling in web.spellings(b"\x30" + body):
        assert b"\x30" + body == web.from_path(spelling)


@pytest.mark.parametrize(
    "path", [b"", b"/", b"?", b"M", b"MA*A", b"MAA=MAA=", b"%ZZ", b"\xff\xfe", b"-_-_", b"MAA%0A"]
)
def test_a_get_that_is_no_request_is_malformed_with_200(path):
    @with_bench()
    async def run(bench):
        status, headers, body = await bench.ask(get(b"/ocsp/" + path))
        assert (200, "no-store", "MALFORMED_REQUEST") == (status, headers["Cache-Control"], word(body))

    run()


@with_bench()
async def test_the_bare_address_is_malformed_and_other_addresses_are_404(bench):
    assert "MALFORMED_REQUEST" == word((await bench.ask(get(b"/ocsp")))[2])
    assert 404 == (await bench.ask(get(b"/elsewhere")))[0]
    assert 404 == (await bench.ask(post(REQUEST, b"/elsewhere")))[0]
    assert 404 == (await bench.ask(post(REQUEST, b"/crl/issuing.crl")))[0]


@with_bench()
async def test_answers_that_last_say_so_as_rfc_5019_wants(bench):
    _, headers, body = await bench.ask(get(ocspkit.path(REQUEST)))
    assert "max-age=3600, public, no-transform, must-revalidate" == headers["Cache-Control"]
    assert ("Tue, 24 Nov 2026 12:00:00 GMT", "Wed, 25 Nov 2026 12:00:00 GMT") == (
        headers["Last-Modified"],
        headers["Expires"],
    )
    assert headers["ETag"].startswith('"')
    _, again, same = await bench.ask(get(ocspkit.path(REQUEST)))
    assert (headers, body) == (again, same)


@pytest.mark.parametrize(
    "body",
    [ocspkit.request(GOOD, nonce=b"n"), ocspkit.request(NEVER), ocspkit.request(GOOD, NEVER)],
    ids=["nonce", "never issued", "one never issued"],
)
def test_answers_that_do_not_last_are_not_to_be_stored(body):
    @with_bench()
    async def run(bench):
        for request in (post(body), get(ocspkit.path(body))):
            _, headers, answer = await bench.ask(request)
            assert ("no-store", "SUCCESSFUL") == (headers["Cache-Control"], word(answer))
            assert not {"ETag", "Expires", "Last-Modified"} & set(headers)
        assert 0 == bench.service.health()["cached"]

    run()


@with_bench()
async def test_304_when_the_client_has_it(bench):
    target = ocspkit.path(REQUEST)
    _, headers, _ = await bench.ask(get(target))
    tag = headers["ETag"].encode()
    for asked in (tag, b"W/" + tag, b'"other", ' + tag, b"*"):
        status, fields, body = await bench.ask(get(target, asked))
        assert (304, b"") == (status, body)
        assert headers["Cache-Control"] == fields["Cache-Control"]
        assert not {"Content-Length", "Content-Type"} & set(fields)
    assert 200 == (await bench.ask(get(target, b'"other"')))[0]
    bench.service.invalidate(ISSUING, GOOD)
    bench.reader.revoke(GOOD)
    assert 200 == (await bench.ask(get(target, tag)))[0]


@with_bench()
async def test_a_hit_reads_and_signs_nothing(bench):
    for request in (post(REQUEST), get(ocspkit.path(REQUEST)), post(REQUEST)):
        await bench.ask(request)
    assert isinstance(bench.service.handler(post(REQUEST)), bytes)
    assert isinstance(bench.service.handler(get(ocspkit.path(REQUEST))), bytes)
    assert (1, 1) == (len(bench.signer.signed), len(bench.reader.batches))


@with_bench()
async def test_odd_spellings_share_an_answer_and_take_no_room(bench):
    await bench.ask(post(REQUEST))
    plain = base64.b64encode(REQUEST).decode()
    for at in range(20):
        odd = f"/ocsp/{plain[:at]}%{ord(plain[at]):02x}{plain[at + 1 :]}".encode()
        assert "SUCCESSFUL" == word((await bench.ask(get(odd)))[2])
    passed_over = der.sequence(der.sequence(der.oid("1.2.3"), der.octet_string(b"x")))
    listed = der.sequence(der.sequence(ocspkit.cert_id(GOOD).raw))
    await bench.ask(post(der.sequence(der.sequence(listed, der.explicit(2, passed_over)))))
    assert (1, 1) == (len(bench.signer.signed), bench.service.health()["cached"])


@with_bench()
async def test_a_revocation_drops_every_spelling(bench):
    targets = [b"/ocsp/" + one for one in web.spellings(REQUEST)]
    for target in targets:
        await bench.ask(get(target))
    assert len(targets) + 1 == bench.service.health()["cached"]
    bench.reader.revoke(GOOD)
    bench.service.invalidate(ISSUING, GOOD)
    assert 0 == bench.service.health()["cached"]
    for target in targets:
        theirs = pyca.load_der_ocsp_response((await bench.ask(get(target)))[2])
        assert pyca.OCSPCertStatus.REVOKED is theirs.certificate_status


@pytest.mark.parametrize("type_", ErrorType)
def test_every_error_has_its_ocsp_answer(type_):
    _, headers, body = ocspkit.parts(web.refused(type_))
    expected = failures.OCSP[type_]
    assert "".join(one.capitalize() for one in word(body).split("_")) == expected[0].upper() + expected[1:]
    assert ("application/ocsp-response", "no-store") == (headers["Content-Type"], headers["Cache-Control"])


def test_a_handler_that_broke_is_internal_error_and_says_no_more():
    answer = web.on_error(post(REQUEST))
    assert (200, "INTERNAL_ERROR", 5) == (answer.status, word(answer.body), len(answer.body))


@pytest.mark.parametrize(
    "body",
    [b"", b"\x00", REQUEST[:-1], REQUEST + b"\x00", b"\x30" * 500, bytes(range(256))],
    ids=["empty", "zero", "short", "long", "nested", "anything"],
)
def test_malformed_requests_are_answered_so_with_200(body):
    @with_bench()
    async def run(bench):
        status, headers, answer = await bench.ask(post(body))
        assert (200, "MALFORMED_REQUEST", "no-store") == (status, word(answer), headers["Cache-Control"])

    run()


@with_bench()
async def test_head_is_a_get(bench):
    status, headers, _ = await bench.ask(get(ocspkit.path(REQUEST), method=b"HEAD"))
    assert (200, True) == (status, "ETag" in headers)


@with_bench()
async def test_health_says_what_is_wrong(bench):
    for target in (b"/healthz", b"/readyz", b"/health"):
        status, headers, body = await bench.ask(get(target))
        assert (200, "application/json", True) == (status, headers["Content-Type"], json.loads(body)["ok"])
    bench.reader.away = True
    await bench.service.refresh()
    status, _, body = await bench.ask(get(b"/readyz"))
    assert (503, "systemUnavail: the database is away") == (status, json.loads(body)["database"])
    assert 200 == (await bench.ask(get(b"/healthz")))[0]
    assert [("ocsp.database", {"problem": "systemUnavail: the database is away"})] == bench.reports[-1:]
    bench.reader.away = False
    await bench.service.refresh()
    assert 200 == (await bench.ask(get(b"/readyz")))[0]


@with_bench()
async def test_without_notifications_nothing_is_kept_past_the_next_look_at_the_database(bench):
    await bench.ask(post(REQUEST))
    bench.reader.revoke(GOOD)
    # While nobody can say what is true now: better what was than nothing.
    bench.reader.away = True
    await bench.service.refresh()
    for _ in range(2):
        bench.service.not_listening()
    assert 1 == bench.reports.count(("ocsp.notifications", {"problem": "not heard"}))
    health = json.loads((await bench.ask(get(b"/readyz")))[2])
    assert (False, "not heard") == (health["ok"], health["notifications"])
    await bench.service.refresh()
    answer = pyca.load_der_ocsp_response((await bench.ask(post(REQUEST)))[2])
    assert pyca.OCSPCertStatus.GOOD is answer.certificate_status
    bench.reader.away = False
    await bench.service.refresh()
    answer = pyca.load_der_ocsp_response((await bench.ask(post(REQUEST)))[2])
    assert pyca.OCSPCertStatus.REVOKED is answer.certificate_status
    bench.service.listening()
    assert [("ocsp.notifications", {"problem": "none"})] == bench.reports[-1:]
    assert 200 == (await bench.ask(get(b"/readyz")))[0]


@with_bench(web.OCSPSettings(refresh_in_need=datetime.timedelta(seconds=0.01)))
async def test_the_loss_of_notifications_does_not_wait_for_the_next_turn(bench):
    await bench.ask(post(REQUEST))
    bench.reader.revoke(GOOD)
    bench.service.not_listening()
    for _ in range(2000):
        answer = pyca.load_der_ocsp_response((await bench.ask(post(REQUEST)))[2])
        if answer.certificate_status is pyca.OCSPCertStatus.REVOKED:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("still what it was before")


@with_bench()
async def test_figures_of_health(bench):
    for body in (REQUEST, REQUEST, ocspkit.request(GOOD, nonce=b"n"), b"\x00"):
        await bench.ask(post(body))
    health = bench.service.health()
    assert (1, 2, 1, 1) == (health["hits"], health["signed"], health["refused"], health["cached"])
    assert health["cached_bytes"] > 1000


@with_bench()
async def test_sha256_certids_are_answered_apart(bench):
    for hash_oid in sorted(ocsp.HASHES):
        theirs = pyca.load_der_ocsp_response((await bench.ask(ocspkit.request(REVOKED, hash_oid=hash_oid)))[2])
        assert ocsp.HASHES[hash_oid] == theirs.hash_algorithm.name
    assert oids.SHA1 in ocsp.HASHES
    assert len(ocsp.HASHES) == len(bench.signer.signed)


def test_a_path_that_is_not_base64_is_bad_data():
    with pytest.raises(PKIError) as caught:
        web.from_path(b"!")
    assert ErrorType.BAD_DATA_FORMAT is caught.value.type
