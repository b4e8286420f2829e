"""`chancery timestamp` and `verify-timestamp`, and the checks behind them."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import warnings

import httpx
import pytest
import typer
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from typer.testing import CliRunner

from chancery.asn1 import oids, tsp
from chancery.cli import stamping, timestamp
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.tsa import verification
from fakes import START, FakeEntropy
from unit.tsa.kit import (
    OTHER_POLICY,
    TSA,
    YEAR,
    FakeSource,
    as_der,
    certificate,
    digests_of,
    request,
    root,
    service,
    serving,
)

DOCUMENT = b"document"
DIGESTS = digests_of(DOCUMENT)


def response(tsa=None, **asked) -> bytes:
    answer = (tsa or TSA()).respond(request(**asked))
    assert answer.error is None
    return answer.der


def verify(data: bytes, **arguments):
    return verification.verify(verification.granted_token(data), **({"digests": DIGESTS} | arguments))


def test_a_token_with_its_path():
    tsa, query = TSA(), request()
    found = verify(tsa.respond(query).der, query=query, anchors=[as_der(root("p256"))])
    assert START == found.info.gen_time
    assert (as_der(tsa.certificate), as_der(tsa.root)) == found.path


@pytest.mark.parametrize("kind", ["p256", "ml-dsa-44", "ml-dsa-87"])
def test_without_anchors_the_signer_is_taken_as_it_comes(kind):
    tsa = TSA(kind)
    assert (as_der(tsa.certificate),) == verify(response(tsa)).path


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"digests": digests_of(b"other")}, ErrorType.BAD_REQUEST, "another document"),
        ({"digests": {}}, ErrorType.BAD_ALG, "not supported"),
        ({"query": request(nonce=43)}, ErrorType.BAD_REQUEST, "another nonce"),
        ({"query": request(nonce=None)}, ErrorType.BAD_REQUEST, "another nonce"),
        ({"query": request(policy=OTHER_POLICY)}, ErrorType.BAD_REQUEST, "another policy"),
        ({"query": request(digest=bytes(32))}, ErrorType.BAD_REQUEST, "another message imprint"),
        ({"anchors": [as_der(root("p384"))]}, ErrorType.NOT_AUTHORIZED, "no path"),
    ],
)
def test_what_does_not_fit_is_named(arguments, kind, words):
    with pytest.raises(PKIError, match=words) as caught:
        verify(response(), **arguments)
    assert kind is caught.value.type


def test_a_token_without_certificates_needs_the_signer_s():
    tsa = TSA()
    data = response(tsa, cert_req=False)
    with pytest.raises(PKIError, match="neither in the token nor given"):
        verify(data)
    assert (as_der(tsa.certificate),) == verify(data, certificates=[as_der(tsa.certificate)]).path


@pytest.mark.parametrize(
    "dates",
    [
        {"start": START - YEAR, "end": START - 5 * datetime.timedelta(days=1)},
        {"start": START + YEAR, "end": START + 2 * YEAR},
    ],
)
def test_a_signer_that_was_not_valid_at_gen_time_has_no_path(dates):
    late = certificate("p256", **dates)
    with pytest.raises(PKIError, match="no path that was valid"):
        verification.build_path(late, [], [as_der(root("p256"))], START)


@pytest.mark.parametrize(
    "usage", [None, ([ExtendedKeyUsageOID.TIME_STAMPING], False), ([ExtendedKeyUsageOID.CODE_SIGNING], True)]
)
def test_a_signer_for_something_else_is_refused(usage):
    """R25, from the side of who relies on it."""
    with pytest.raises(PKIError, match="not for timestamps alone"):
        verify(response(under(certificate("p256", usage=usage))))


def under(signer) -> TSA:
    """An authority that signs under a certificate which it would not have started with."""
    tsa = TSA(cert=certificate("p256"))
    tsa.authority._credential._signed_data = type(tsa.authority._credential._signed_data)(
        oids.TST_INFO, as_der(signer), tsa.signer.algorithm, [as_der(signer)]
    )
    return tsa


def test_a_signer_with_a_critical_extension_that_nobody_understands_is_refused():
    """RFC 5280 4.2; one that is not critical is passed over."""
    assert START == verify(response(under(certificate("p256", unknown="not critical")))).info.gen_time
    with pytest.raises(PKIError, match="critical extension that is not understood"):
        verify(response(under(certificate("p256", unknown="critical"))))


@pytest.mark.parametrize("bit", list(tsp.FailInfo))
def test_a_refusal_becomes_its_kind_of_error(bit):
    with pytest.raises(PKIError, match=r"the authority refused: .*: because") as caught:
        verification.granted_token(tsp.rejection(bit, "because"))
    assert bit.name == caught.value.type.name


def test_the_words_of_a_refusal_command_no_terminal():
    """Whoever is between client and authority chooses them: timestamps travel over plain HTTP."""
    with pytest.raises(PKIError) as caught:
        verification.granted_token(tsp.rejection(tsp.FailInfo.BAD_ALG, "a\x1b]0;b\x07\u009b31m\u202ec\nd"))
    assert "the authority refused: badAlg: a\ufffd]0;b\ufffd\ufffd31m\ufffdc\ufffdd" == caught.value.detail


@pytest.mark.parametrize("kind", ["p256", "rsa"])
def test_one_octet_of_a_response_changed_is_an_error_of_this_suite_or_the_same_timestamp(kind):
    good = TSA(kind).respond(request()).der
    document, anchors = digests_of(b"document"), [as_der(root(kind))]
    whole = verification.verify(verification.granted_token(good), digests=document, anchors=anchors)
    with warnings.catch_warnings():
        # pyca's, of a serial number that the change has made negative
        warnings.simplefilter("ignore")
        for at in range(len(good)):
            changed = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
            with contextlib.suppress(PKIError):
                token = verification.granted_token(changed)
                assert whole.info == verification.verify(token, digests=document, anchors=anchors).info


# -- the command line


def app() -> typer.Typer:
    made = typer.Typer()
    timestamp.register(made)
    return made


@pytest.fixture
def ca(tmp_path):
    path = tmp_path / "root.pem"
    path.write_bytes(root("p256").public_bytes(serialization.Encoding.PEM))
    return path


def run(*arguments):
    return CliRunner().invoke(app(), [str(argument) for argument in arguments])


def test_files_are_stamped_and_verified(tmp_path, ca):
    files = [tmp_path / name for name in ("one", "two")]
    for file in files:
        file.write_bytes(file.name.encode() * 1_500_000)
    (tmp_path / "out").mkdir()
    with serving(service()) as port:
        url = f"http://127.0.0.1:{port}/tsa"
        for hash_ in ("sha256", "sha3_512"):
            done = run("timestamp", *files, "--url", url, "--hash", hash_, "--out", tmp_path / "out", "--ca", ca)
            assert 0 == done.exit_code, done.output
            assert 2 == done.stdout.count("2026-11-24T12:00:00+00:00 ± 1 s, serial 0107")
            for file in files:
                done = run("verify-timestamp", file, tmp_path / "out" / f"{file.name}.tsr", "--ca", ca)
                assert 0 == done.exit_code, done.output
                assert "CN=Test TSA\n    CN=Test Root\nrevocation" in done.stdout
        assert ["one.tsr", "two.tsr"] == sorted(path.name for path in (tmp_path / "out").iterdir())
        swapped = run("verify-timestamp", files[0], tmp_path / "out" / "two.tsr", "--ca", ca)
        assert (3, True) == (swapped.exit_code, "another document" in swapped.stdout)


def test_a_refusal_is_said_in_its_words_and_writes_nothing(tmp_path):
    file, source = tmp_path / "file", FakeSource()
    file.write_bytes(b"x")
    source.synchronised = False
    with serving(service(source=source)) as port:
        done = run("timestamp", file, "--url", f"http://127.0.0.1:{port}/tsa")
    assert isinstance(done.exception, PKIError)
    assert ErrorType.TIME_NOT_AVAILABLE is done.exception.type
    assert "timeNotAvailable" in done.exception.detail
    assert ["file"] == [path.name for path in tmp_path.iterdir()]


def test_what_an_operator_can_put_right_is_said(tmp_path, ca):
    file, text = tmp_path / "file", tmp_path / "text"
    file.write_bytes(b"x")
    text.write_text("hello")
    with serving(service()) as port:
        elsewhere = f"http://127.0.0.1:{port}/elsewhere"
        cases = [
            (("timestamp", tmp_path / "missing"), "cannot be read"),
            (("timestamp", file, "--out", text), "not a directory"),
            (("timestamp", file, "--ca", text), "holds no certificates"),
            (("timestamp", file, "--url", elsewhere), "not as a timestamping authority"),
            (("timestamp", file, "--url", "http://127.0.0.1:1/tsa"), "cannot be reached"),
            (("timestamp", file, "--url", "nonsense"), "cannot be reached"),
            (("verify-timestamp", file, tmp_path / "missing", "--ca", ca), "cannot be read"),
        ]
        for arguments, words in cases:
            done = run(*arguments)
            assert isinstance(done.exception, OperatorError), done.output
            assert words in str(done.exception)
            assert done.exception.next_step


def answering(body: bytes, status=200, content_type="application/timestamp-reply") -> httpx.Client:
    """A client whose every request is answered so, without a network."""
    headers = {"content-type": content_type}
    return httpx.Client(
        transport=httpx.MockTransport(lambda _: httpx.Response(status, content=body, headers=headers))
    )


def test_an_answer_to_another_request_is_not_taken():
    """A replayed token has another nonce."""
    digest = hashlib.sha256(DOCUMENT).digest()
    with answering(response()) as client, pytest.raises(PKIError, match="another nonce"):
        stamping.stamp(client, "http://x/tsa", stamping.Wish(), digest, entropy=FakeEntropy())


def test_an_answer_without_end_is_cut():
    with answering(bytes(tsp.MAX_RESPONSE + 1)) as client, pytest.raises(PKIError, match="more than a timestamp"):
        stamping.stamp(client, "http://x/tsa", stamping.Wish(), bytes(32), entropy=FakeEntropy())


def test_garbage_is_refused():
    with answering(b"garbage") as client, pytest.raises(PKIError) as caught:
        stamping.stamp(client, "http://x/tsa", stamping.Wish(), bytes(32), entropy=FakeEntropy())
    assert ErrorType.BAD_DATA_FORMAT is caught.value.type
