"""`chancery timestamp` for many files, `verify-timestamp` with CRLs: what goes on, what stops, what is said."""

from __future__ import annotations

import json

import pytest
import typer
from cryptography.hazmat.primitives import serialization
from typer.testing import CliRunner

from chancery.asn1 import tsp
from chancery.cli import stamping, timestamp
from chancery.tsa import verification
from chancery.web.tspaccess import Access, AccessSettings
from fakes import FakeClock, FakeEntropy
from unit.tsa.kit import OTHER_POLICY, FakeTimestampStore, as_der, certificate, root, service, serving
from unit.tsa.test_tsa_revocation import crl, entry
from unit.web.test_web_tsp_access import CLOSED, KEY, robot
from unit.web.tsaclientmemory import MemoryUsage


def run(*words, stdin=None):
    app = typer.Typer()
    timestamp.register(app)
    return CliRunner().invoke(app, [str(word) for word in words], input=stdin)


@pytest.fixture
def ca(tmp_path):
    path = tmp_path / "root.pem"
    path.write_bytes(root("p256").public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def files(tmp_path):
    made = [tmp_path / f"{number}.txt" for number in range(9)]
    for file in made:
        file.write_bytes(file.name.encode())
    return made


@pytest.fixture
def store():
    return FakeTimestampStore()


@pytest.fixture
def url(store):
    with serving(service(store=store)) as port:
        yield f"http://127.0.0.1:{port}/tsa"


def test_many_files_are_stamped_at_once_and_told_in_their_order(files, url, store, ca):
    done = run("timestamp", *files, "--url", url, "--jobs", 4, "--ca", ca)
    assert 0 == done.exit_code, done.output
    assert [f"{file}.tsr" for file in files] == [line.partition(": ")[0] for line in done.stdout.splitlines()]
    assert 9 == len(store.tokens)


def test_one_that_fails_does_not_stop_the_others_and_the_next_run_goes_on(files, url, store, tmp_path):
    missing = tmp_path / "missing.txt"
    done = run("timestamp", files[0], missing, *files[1:3], "--url", url)
    assert (1, 3) == (done.exit_code, len(store.tokens))
    assert f"{missing}: {missing} cannot be read" in done.stderr
    assert "3 of 4 files are stamped" in done.stdout
    missing.write_bytes(b"now there")
    # A response that was cut off is not one to keep.
    (tmp_path / "1.txt.tsr").write_bytes(b"cut off")
    (tmp_path / "2.txt.tsr").write_bytes((tmp_path / "0.txt.tsr").read_bytes())
    done = run("timestamp", files[0], missing, *files[1:3], "--url", url, "--skip-existing")
    assert (0, 6) == (done.exit_code, len(store.tokens))
    assert f"{files[0]}.tsr: is there and right" in done.stdout


def test_a_list_of_files_and_standard_input_are_taken(files, url, tmp_path):
    names = tmp_path / "list"
    names.write_text("".join(f"{file}\n" for file in files[:2]))
    out = tmp_path / "out"
    out.mkdir()
    done = run("timestamp", "-", "--files-from", names, "--url", url, "--out", out, stdin=b"piped")
    assert 0 == done.exit_code, done.output
    assert ["0.txt.tsr", "1.txt.tsr", "stdin.tsr"] == sorted(path.name for path in out.iterdir())
    assert 2 == run("timestamp").exit_code


def test_policy_hash_and_certificates_are_asked_for(files, url, store, ca):
    words = ("--policy", OTHER_POLICY, "--hash", "sha512", "--no-certificates")
    done = run("timestamp", files[0], "--url", url, *words)
    assert (0, True) == (done.exit_code, OTHER_POLICY in done.stdout)
    [token] = store.tokens.values()
    assert (OTHER_POLICY, tsp.DIGEST_OIDS["sha512"]) == (token.policy, token.hash_oid)
    bare = files[0].with_name("0.txt.tsr")
    assert as_der(certificate("p256")) not in bare.read_bytes()
    assert "neither in the token nor given" in run("verify-timestamp", files[0], "--ca", ca).stdout


def test_an_api_key_is_sent_from_its_file(files, store, tmp_path):
    key = tmp_path / "key"
    key.write_bytes(KEY + b"\n")
    with serving(service(store=store, access=Access(CLOSED, MemoryUsage(robot()), FakeClock()))) as port:
        url = f"http://127.0.0.1:{port}/tsa"
        refused = run("timestamp", files[0], "--url", url)
        assert "an API key is needed" in str(refused.exception)
        assert 0 == run("timestamp", files[0], "--url", url, "--key-file", key).exit_code
    assert ["robot@127.0.0.1"] == [one.client for one in store.tokens.values()]


def test_a_busy_authority_is_asked_again_and_a_spent_quota_is_not_waited_for(files):
    clock, pauses = FakeClock(), []

    def pause(seconds):
        pauses.append(seconds)
        clock.advance(seconds)

    def ask(access, **wish):
        with serving(service(clock=clock, access=access)) as port, stamping.connect() as client:
            digest = stamping.digests_of(files[0], ["sha256"])[tsp.DIGEST_OIDS["sha256"]]
            url, given = f"http://127.0.0.1:{port}/tsa", stamping.Wish()
            for _ in range(2):
                stamping.stamp(client, url, given, digest, entropy=FakeEntropy(), pause=pause)

    ask(Access(AccessSettings(per_second=1.0, burst=1), None, clock))
    assert [1.0] == pauses


# -- checking


@pytest.fixture
def stamped(files, url):
    assert 0 == run("timestamp", *files[:3], "--url", url).exit_code
    return files[:3]


def test_files_are_checked_each_against_its_own_or_the_one_that_is_named(stamped, ca, tmp_path):
    moved = tmp_path / "elsewhere.tsr"
    (tmp_path / "1.txt.tsr").rename(moved)
    done = run("verify-timestamp", stamped[0], stamped[1], moved, stamped[2], "--ca", ca)
    assert (0, 3) == (done.exit_code, done.stdout.count("existed at 2026-11-24T12:00:00+00:00"))


def test_what_is_not_proved_is_said_with_code_3_and_the_rest_is_checked(stamped, ca):
    stamped[1].write_bytes(b"changed since")
    done = run("verify-timestamp", *stamped, "--ca", ca)
    assert (3, 2) == (done.exit_code, done.stdout.count("existed at"))
    assert f"{stamped[1]} is NOT proved: the timestamp is of another document" in done.stdout
    shown = json.loads(run("verify-timestamp", *stamped, "--ca", ca, "--json").stdout)
    assert [True, False, True] == [one["good"] for one in shown]
    assert ["CN=Test TSA", "CN=Test Root"] == shown[0]["path"]


def test_crls_are_looked_at(stamped, ca, tmp_path):
    good, bad = tmp_path / "good.crl", tmp_path / "bad.crl"
    good.write_bytes(crl())
    bad.write_bytes(crl(entry()))
    words = ("verify-timestamp", stamped[0], "--ca", ca)
    assert "not revoked, by CRLs of 2026-11-23" in run(*words, "--crl", good).stdout
    done = run(*words, "--crl", good, "--crl", bad)
    assert (3, True) == (done.exit_code, "no reason given" in done.stdout)
    text = tmp_path / "text"
    text.write_text("no CRL")
    assert "is no CRL" in str(run(*words, "--crl", text).exception)


def test_the_words_of_a_token_need_no_trust_to_be_read(stamped):
    token = verification.granted_token(stamped[0].with_name("0.txt.tsr").read_bytes())
    assert verification.info_of(token).serial
