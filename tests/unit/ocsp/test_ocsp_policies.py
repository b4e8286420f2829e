"""Settings per issuer: nonces, signed requests, preferred algorithms, what stands beside a status; rotation."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as pyca

import cakit
import ocspkit
from chancery.asn1 import der, ocsp, oids
from chancery.asn1.signature import ALGORITHMS, KeySigner
from chancery.config import OCSPConfig, PolicySection
from chancery.ocsp.responder import Nonces, Policies, ResponderSettings
from chancery.ocsp.signed import RequestSigners
from chancery.ports import RevocationReason
from chancery.web.ocsp import OCSPSettings
from fakes import START
from ocspkit import DAY, GOOD, ISSUING, NEVER, REVOKED, post

NONCE = b"n" * 32


def with_policy(test, default: ResponderSettings | None = None, **issuers: ResponderSettings):
    policies = Policies(default or ResponderSettings(), issuers)
    ocspkit.with_bench(OCSPSettings(policies=policies))(test)()


async def said(bench, body: bytes) -> pyca.OCSPResponse:
    return pyca.load_der_ocsp_response((await bench.ask(post(body)))[2])


def with_extension(oid: str, value: bytes) -> bytes:
    """A request about GOOD with one extension."""
    listed = der.sequence(der.sequence(ocspkit.cert_id(GOOD).raw))
    extension = der.sequence(der.oid(oid), der.octet_string(value))
    return der.sequence(der.sequence(listed, der.explicit(2, der.sequence(extension))))


def values(theirs: pyca.OCSPResponse) -> dict[str, object]:
    (one,) = theirs.responses
    return {found.oid.dotted_string: found.value for found in theirs.single_extensions} if one else {}


# -- beside a status


def test_r21_beside_a_status_stand_cutoff_crl_and_invalidity_and_never_the_reason():
    async def test(bench):
        bench.reader.revoke(REVOKED, RevocationReason.KEY_COMPROMISE, invalidity_date=START - 9 * DAY)
        good, revoked, never = [await said(bench, ocspkit.request(one)) for one in (GOOD, REVOKED, NEVER)]
        cutoff = der.generalized_time(START - 10 * DAY)
        address = der.sequence(der.explicit(0, der.tlv(der.IA5_STRING, b"http://c.example/issuing.crl")))
        assert {oids.OCSP_ARCHIVE_CUTOFF: cutoff} == {oid: one.value for oid, one in values(good).items()}
        found = values(revoked)
        assert {oids.OCSP_ARCHIVE_CUTOFF, oids.OCSP_CRL, oids.INVALIDITY_DATE} == set(found)
        assert (address, START - 9 * DAY) == (
            found[oids.OCSP_CRL].value,
            found[oids.INVALIDITY_DATE].invalidity_date_utc,
        )
        assert {} == values(never)

    with_policy(test, issuing=ResponderSettings(archive=10 * DAY, crl_url="http://c.example/{issuer}.crl"))


def test_several_answers_have_each_their_own():
    async def test(bench):
        bench.reader.revoke(REVOKED, invalidity_date=START - 9 * DAY)
        body = (await bench.ask(post(ocspkit.request(GOOD, REVOKED))))[2]
        assert [False, True] == [der.oid(oids.INVALIDITY_DATE) in one for one in _singles(body)]

    with_policy(test)


def _singles(body: bytes) -> list[bytes]:
    data = der.Reader(pyca.load_der_ocsp_response(body).tbs_response_bytes).enter()
    data.raw(), data.raw()
    return [one for _, one in der.elements(data.raw(der.SEQUENCE))]


def test_a_suspension_is_shown_and_so_is_its_end():
    async def test(bench):
        for held in (True, False, True):
            if held:
                bench.reader.revoke(GOOD, RevocationReason.CERTIFICATE_HOLD)
            else:
                bench.reader.known[ISSUING, GOOD] = ocspkit.status(GOOD, released_at=START)
            bench.service.invalidate(ISSUING, GOOD)
            theirs = await said(bench, ocspkit.request(GOOD))
            assert (x509.ReasonFlags.certificate_hold if held else None) == theirs.revocation_reason

    with_policy(test)


# -- nonces


@pytest.mark.parametrize("size", [1, 16, 32, 33, 128])
def test_a_nonce_of_rfc_8954_or_rfc_9654_comes_back(size):
    async def test(bench):
        theirs = await said(bench, ocspkit.request(GOOD, nonce=b"x" * size))
        assert b"x" * size == theirs.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce

    with_policy(test)


def test_an_ignored_nonce_is_not_answered_and_the_answer_is_kept():
    async def test(bench):
        answers = [await bench.ask(post(ocspkit.request(GOOD, nonce=bytes([n]) * 8))) for n in range(5)]
        assert (1, 1) == (len({body for _, _, body in answers}), len(bench.signer.signed))
        assert [] == list(pyca.load_der_ocsp_response(answers[0][2]).extensions)
        # Of a wrong length, it is no request all the same.
        assert "MALFORMED_REQUEST" == (await said(bench, ocspkit.request(GOOD, nonce=b""))).response_status.name

    with_policy(test, issuing=ResponderSettings(nonces=Nonces.IGNORE))


def test_a_required_nonce_that_is_missing_is_unauthorized_for_that_issuer_alone():
    async def test(bench):
        assert "UNAUTHORIZED" == (await said(bench, ocspkit.request(GOOD))).response_status.name
        assert "SUCCESSFUL" == (await said(bench, ocspkit.request(GOOD, nonce=NONCE))).response_status.name

    with_policy(test, issuing=ResponderSettings(nonces=Nonces.REQUIRE))
    other = ResponderSettings(nonces=Nonces.REQUIRE)

    async def free(bench):
        assert "SUCCESSFUL" == (await said(bench, ocspkit.request(GOOD))).response_status.name

    with_policy(free, root=other)


# -- acceptable responses, preferred algorithms


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (der.sequence(der.oid(oids.OCSP_BASIC)), "SUCCESSFUL"),
        (der.sequence(der.oid("1.2.3"), der.oid(oids.OCSP_BASIC)), "SUCCESSFUL"),
        (der.sequence(der.oid("1.2.3")), "MALFORMED_REQUEST"),
        (der.sequence(), "MALFORMED_REQUEST"),
        (der.sequence(der.null()), "MALFORMED_REQUEST"),
        (b"", "MALFORMED_REQUEST"),
    ],
)
def test_a_client_must_accept_basic_responses(value, status):
    async def test(bench):
        assert status == (await said(bench, with_extension(oids.OCSP_RESPONSE, value))).response_status.name

    with_policy(test)


def prefer(*identifiers: bytes) -> bytes:
    return with_extension(oids.OCSP_PREFERRED_ALGORITHMS, der.sequence(*map(der.sequence, identifiers)))


def identifier(name: str) -> bytes:
    return ALGORITHMS[name].identifier


def test_the_key_of_the_preferred_algorithm_signs(monkeypatch):
    """RFC 6960 4.4.7.2.1."""
    others, strong = ocspkit.key, cakit.key("delegate", "ec-p384")
    monkeypatch.setattr(ocspkit, "key", lambda label: strong if label == "Strong" else others(label))

    async def main():
        bench = await ocspkit.start(issuing=(KeySigner(others("Responder")), KeySigner(strong)))
        # One without a certificate does not sign, and is named.
        assert ["issuing (ecdsa-with-SHA384)"] == list(bench.service.health()["waiting"])
        certificate = ocspkit.delegate_certificate(subject_key="Strong")
        bench.reader.certificates[ocspkit.spki_sha256("Strong")] = [certificate]
        await bench.service.refresh()
        weak, sha384 = identifier("ecdsa-with-SHA256"), identifier("ecdsa-with-SHA384")
        loose = der.sequence(der.oid("1.2.840.10045.4.3.3"), der.null())
        asked = {
            ocspkit.request(GOOD): "sha256",
            prefer(sha384): "sha384",
            prefer(loose): "sha384",
            prefer(sha384 + der.sequence(der.oid("1.2.840.10045.2.1"))): "sha384",
            prefer(identifier("Ed25519"), sha384, weak): "sha384",
            prefer(weak, sha384): "sha256",
            prefer(identifier("Ed25519")): "sha256",
        }
        for _ in range(2):
            for body, expected in asked.items():
                theirs = await said(bench, body)
                signer = x509.load_der_x509_certificate(theirs.certificates[0].public_bytes(_der())).public_key()
                signer.verify(
                    theirs.signature, theirs.tbs_response_bytes, ec.ECDSA(theirs.signature_hash_algorithm)
                )
                assert expected == theirs.signature_hash_algorithm.name
        # Each is kept once, whatever the words of the client.
        assert 2 == bench.service.health()["cached"]
        await bench.service.close()

    asyncio.run(main())


def _der():
    return Encoding.DER


@pytest.mark.parametrize("value", [b"", der.null(), der.sequence(der.null()), der.sequence(der.sequence())])
def test_preferred_algorithms_that_are_none_are_malformed(value):
    async def test(bench):
        found = (await said(bench, with_extension(oids.OCSP_PREFERRED_ALGORITHMS, value))).response_status
        assert "MALFORMED_REQUEST" == found.name

    with_policy(test)


def test_there_are_limits_to_preferences_and_certificates():
    body = prefer(*[identifier("Ed25519")] * (ocsp.MAX_PREFERRED + 1))
    certificates = [der.sequence()] * (ocsp.MAX_CERTIFICATES + 1)
    for one in (body, signed(certificates=certificates)):
        with pytest.raises(ocsp.PKIError, match="badRequest: more than"):
            ocsp.decode_request(one)


# -- signed requests


def signed(
    *, by: str = "Somebody", certificates: list[bytes] | None = None, other: bytes = b"", serial: bytes = GOOD
) -> bytes:
    tbs = der.sequence(der.sequence(der.sequence(ocspkit.cert_id(serial).raw)))
    signer = KeySigner(ocspkit.key(by))
    sent = [ocspkit.certificate("Somebody", "Issuing", 99)] if certificates is None else certificates
    fields = (signer.algorithm.identifier, der.bit_string(signer.sign(other or tbs)))
    signature = der.sequence(*fields, der.explicit(0, der.sequence(*sent)) if sent else b"")
    return der.sequence(tbs, der.explicit(0, signature))


def signers(**more: object) -> ResponderSettings:
    return ResponderSettings(signers=RequestSigners(**more))


def test_a_required_signature_is_verified():
    expired = ocspkit.certificate("Somebody", "Issuing", 99, start=START - 9 * DAY, days=3)
    stranger = ocspkit.certificate("Somebody", "Root", 99)
    asked = {
        "SUCCESSFUL": [signed()],
        "SIG_REQUIRED": [ocspkit.request(GOOD), ocspkit.request(GOOD, nonce=NONCE)],
        "UNAUTHORIZED": [
            signed(by="Other"),
            signed(other=b"something else"),
            signed(certificates=[]),
            *(signed(certificates=[one]) for one in (expired, stranger)),
        ],
        "MALFORMED_REQUEST": [signed(certificates=[der.sequence()])],
    }

    async def test(bench):
        bench.reader.known[ISSUING, b"\x63"] = ocspkit.status(b"\x63")
        for _ in range(2):
            for status, bodies in asked.items():
                assert [status] * len(bodies) == [(await said(bench, one)).response_status.name for one in bodies]
        # Nobody else is given it.
        _, headers, _ = await bench.ask(post(signed()))
        assert ("no-store", 0) == (headers["Cache-Control"], bench.service.health()["cached"])
        bench.reader.revoke(b"\x63")
        bench.service.invalidate(ISSUING, b"\x63")
        assert "UNAUTHORIZED" == (await said(bench, signed())).response_status.name

    with_policy(test, issuing=signers(authorities=(ocspkit.issuer(),)))


def test_a_certificate_may_be_trusted_by_itself():
    mine = ocspkit.certificate("Somebody", "Elsewhere", 99)

    async def test(bench):
        assert "SUCCESSFUL" == (await said(bench, signed(certificates=[mine]))).response_status.name
        assert "UNAUTHORIZED" == (await said(bench, signed())).response_status.name

    with_policy(test, signers(certificates=frozenset({hashlib.sha256(mine).digest()})))


def test_a_signature_nobody_asked_for_says_nothing():
    async def test(bench):
        assert "SUCCESSFUL" == (await said(bench, signed(other=b"something else"))).response_status.name

    with_policy(test)


def test_every_key_of_a_policy_is_a_default_too():
    defaults = set(OCSPConfig.__struct_fields__)
    assert set() == set(PolicySection.__struct_fields__) - defaults


# -- rotation


def test_delegates_follow_each_other_without_a_gap_and_one_that_is_late_is_reported():
    async def main():
        bench = await ocspkit.start()
        key = ocspkit.spki_sha256("Responder")
        issued = []
        for turn in range(4):
            # Renewed when a third of 30 days is left.
            start = START + turn * 20 * DAY
            issued.insert(0, ocspkit.delegate_certificate(serial=1000 + turn, start=start, days=30))
            bench.reader.certificates[key] = list(issued)
            for day in range(20):
                bench.clock.advance((start + day * DAY - bench.clock.now()).total_seconds())
                await bench.service.refresh()
                theirs = await said(bench, ocspkit.request(GOOD, nonce=NONCE))
                assert [1000 + turn] == [one.serial_number for one in theirs.certificates]
        assert ({}, True) == (bench.service.health()["ending"], bench.service.health()["ok"])
        assert not [one for one in bench.reports if one[0] == "ocsp.delegate_ends_soon"]
        # No successor: less than a quarter is left after 22.5 days.
        for days in (22, 23, 24):
            bench.clock.advance((start + days * DAY - bench.clock.now()).total_seconds())
            await bench.service.refresh()
            assert (days > 22) == ("issuing" in bench.service.health()["ending"])
        end = {"issuer": "issuing", "not_after": (start + 30 * DAY).isoformat()}
        assert [end] == [detail for event, detail in bench.reports if event == "ocsp.delegate_ends_soon"]
        families = {one.name: one.values for one in bench.service.metrics()}
        assert {("issuing",): 1.0} == families["chancery_ocsp_delegate_ending"]
        assert bench.service.health()["ok"]
        await bench.service.close()

    asyncio.run(main())
