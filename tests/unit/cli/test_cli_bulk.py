"""`chancery request --bulk` against a real server over fakes: what it asks, writes and ends with."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
from pathlib import Path

import pytest
import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from chancery.cli import bulk, bulk_items, client
from chancery.errors import ErrorType, PKIError
from chancery.ports import Role
from fakes import Killed
from unit.web.served import serving
from unit.web.world import make_csr

APP = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
client.register(APP)
CSRS = [make_csr(f"host-{number}.example.org") for number in range(12)]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("served")) as found:
        found.enrol("rita", Role.REQUESTOR)
        found.enrol("ada", Role.AUDITOR)
        for label in ("rita", "ada"):
            text = f'url = "{found.url}"\ncertificate = "{label}.pem"\nkey = "{label}.key"\nca = "root.pem"\n'
            (found.directory / f"{label}.toml").write_text(text)
        yield found


@pytest.fixture
def directory(tmp_path):
    """Eight CSRs in three forms."""
    place = tmp_path / "csrs"
    place.mkdir()
    for number, csr in enumerate(CSRS[:8]):
        form, suffix = [(Encoding.PEM, "pem"), (Encoding.PEM, "csr"), (Encoding.DER, "der")][number % 3]
        (place / f"host-{number}.{suffix}").write_bytes(csr.public_bytes(form))
    return place


def run(served, *words: object, who: str = "rita"):
    runner = CliRunner(env={"CHANCERY_CLIENT": str(served.directory / f"{who}.toml"), "COLUMNS": "200"})
    return runner.invoke(APP, ["request", *(str(word) for word in words)])


def bulk_request(served, place, *more: object, who: str = "rita"):
    return run(served, "--profile", "tls-server", "--bulk", place, *more, who=who)


def names_in(place: Path, pattern: str = "*.crt") -> list[str]:
    found = [x509.load_pem_x509_certificate(one.read_bytes()) for one in sorted(place.glob(pattern))]
    return [one.subject.rfc4514_string() for one in found]


def results(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def test_a_directory_gets_its_certificates_and_the_same_again_asks_for_nothing(served, directory):
    before = len(served.world.memory.stored)
    done = bulk_request(served, directory)
    assert (0, True) == (done.exit_code, "done     8" in done.stdout), done.output
    assert [f"CN=host-{n}.example.org" for n in range(8)] == names_in(directory)
    assert before + 8 == len(served.world.memory.stored)
    again = bulk_request(served, directory)
    assert (0, True) == (again.exit_code, "already there  8" in again.stdout), again.output
    assert before + 8 == len(served.world.memory.stored)


def test_a_lost_certificate_is_fetched_again_and_a_changed_request_is_another(served, directory):
    bulk_request(served, directory, "--format", "der")
    before = len(served.world.memory.stored)
    lost = directory / "host-3.cer"
    kept = lost.read_bytes()
    lost.unlink()
    (directory / "host-4.csr").write_bytes(CSRS[9].public_bytes(Encoding.PEM))
    done = bulk_request(served, directory, "--format", "der", "--json")
    found = json.loads(done.stdout)
    assert (2, 6, 0) == (found["done"], found["already_there"], found["left"])
    assert kept == lost.read_bytes()
    changed = x509.load_der_x509_certificate((directory / "host-4.cer").read_bytes())
    assert "CN=host-9.example.org" == changed.subject.rfc4514_string()
    assert before + 1 == len(served.world.memory.stored)


def test_what_is_refused_is_listed_and_does_not_stop_the_rest(served, directory):
    (directory / "broken.csr").write_text("no request")
    (directory / "cut.der").write_bytes(CSRS[0].public_bytes(Encoding.DER)[:-3])
    done = bulk_request(served, directory)
    assert 1 == done.exit_code, done.output
    assert ["done     8", "refused  2"] == done.stdout.splitlines()[:2]
    listed = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
    assert [("broken.csr", ""), ("cut.der", "badDataFormat")] == sorted((one[0], one[1]) for one in listed)
    assert 8 == len(names_in(directory))


def test_json_lines_have_profiles_names_and_ids_of_their_own(served, tmp_path):
    csr = base64.b64encode(CSRS[0].public_bytes(Encoding.DER)).decode()
    lines = [
        {"csr": csr, "names": ["dns:a.example.org"]},
        {"csr": CSRS[1].public_bytes(Encoding.PEM).decode(), "profile": "tls-client", "transaction_id": "mine"},
        {"csr": csr, "profile": "no-such"},
        {"csr": csr, "unknown": 1},
    ]
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in lines[:2]) + "\n" + json.dumps(lines[2]) + "\n{")
    done = bulk_request(served, path, "--name", "dns:b.example.org")
    assert 1 == done.exit_code, done.output
    found = {one["source"]: one for one in results(tmp_path / "asked.jsonl.results.jsonl")}
    assert {"1": "done", "2": "done", "4": "refused", "5": "refused"} == {
        n: one["state"] for n, one in found.items()
    }
    assert "mine" == found["2"]["transaction_id"]
    assert "CN=host-1.example.org" == _subject(found["2"]["certificate"])
    asked = {request.transaction_id: request for request, _ in served.world.memory.requests.values()}
    first = asked[found["1"]["transaction_id"]]
    assert ("tls-server", ("dns:a.example.org", "dns:b.example.org")) == (first.profile, first.names)
    out = tmp_path / "out"
    assert 1 == bulk_request(served, path, "--name", "dns:b.example.org", "--out", out).exit_code
    assert ["CN=host-0.example.org", "CN=host-1.example.org"] == names_in(out)


def _subject(pem: str) -> str:
    return x509.load_pem_x509_certificate(pem.encode()).subject.rfc4514_string()


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_killed_anywhere_and_run_again_each_has_one_certificate(served, tmp_path_factory, data):
    """The program dies after any number of results, the last line of the file of results cut off anywhere."""
    place = tmp_path_factory.mktemp("killed")
    for number, csr in enumerate(CSRS):
        (place / f"host-{number:02}.csr").write_bytes(csr.public_bytes(Encoding.PEM))
    before = len(served.world.memory.stored)
    add = bulk_items.Results.add
    for _ in range(data.draw(st.integers(1, 3), label="kills")):
        left = data.draw(st.integers(0, len(CSRS)), label="results before the kill")

        def dies(self, item, answer, content):
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return add(self, item, answer, content)

        bulk_items.Results.add = dies
        try:
            with contextlib.suppress(Killed):
                bulk_request(served, place)
        finally:
            bulk_items.Results.add = add
        file = place / bulk_items.RESULTS
        whole = file.read_bytes()
        begin = whole.rstrip(b"\n").rfind(b"\n") + 1
        if begin:
            file.write_bytes(whole[: data.draw(st.integers(begin, len(whole)), label="cut")])
    done = bulk_request(served, place)
    assert 0 == done.exit_code, done.output
    assert [f"CN=host-{n}.example.org" for n in range(len(CSRS))] == names_in(place)
    assert before + len(CSRS) == len(served.world.memory.stored)
    shutil.rmtree(place)


def test_a_broken_connection_is_taken_up_again(served, directory):
    """The first call ends in the middle: what it had not answered is asked again, under the same ids."""
    memory, seen = served.world.memory, []
    submit_many = memory.submit_many

    async def breaks(submissions):
        found = await submit_many(submissions)
        seen.append(len(submissions))
        if len(seen) == 1:
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the connection broke")
        return found

    before = len(memory.stored)
    memory.submit_many = breaks
    try:
        done = bulk_request(served, directory)
    finally:
        memory.submit_many = submit_many
    assert 0 == done.exit_code, done.output
    assert before + 8 == len(memory.stored)
    assert 8 == len(names_in(directory))


def test_what_is_not_settled_in_time_is_left_for_the_next_run(served, directory):
    memory = served.world.memory
    memory.asleep = True
    try:
        done = bulk_request(served, directory, "--wait", 0)
    finally:
        memory.asleep = False
    assert (3, True) == (done.exit_code, "left     8" in done.stdout), done.output
    assert "run the same command again" in done.stderr
    memory.work()
    assert 0 == bulk_request(served, directory).exit_code
    assert 8 == len(names_in(directory))


def test_who_may_not_is_told_so(served, directory):
    done = bulk_request(served, directory, who="ada")
    assert (1, True) == (done.exit_code, "notAuthorized" in done.stderr), done.output
    (served.directory / "nowhere.toml").write_text(
        'url = "https://localhost:1"\ncertificate = "rita.pem"\nkey = "rita.key"\nca = "root.pem"\n'
    )
    away = bulk_request(served, directory, "--wait", 0, who="nowhere")
    assert (3, True) == (away.exit_code, "left     8" in away.stdout), away.output


@pytest.mark.parametrize(
    "words",
    [
        ("--bulk", "{place}", "--csr", "x"),
        ("--bulk", "{place}", "--chain"),
        ("--bulk", "{place}", "--format", "p7b"),
        ("--bulk", "{place}/nothing"),
        ("--profile", "tls-server"),
        ("--bulk", "{place}", "--out", "{place}/host-1.csr"),
    ],
)
def test_what_does_not_go_together_is_refused(served, directory, words):
    assert 2 == run(served, *(word.format(place=directory) for word in words)).exit_code


def test_a_file_of_results_is_of_one_job(served, directory):
    assert 0 == bulk_request(served, directory, "--transaction-id", "spring").exit_code
    found = results(directory / bulk_items.RESULTS)
    assert {"spring"} == {one["transaction_id"].partition(":")[0] for one in found}
    assert 2 == bulk_request(served, directory, "--transaction-id", "autumn").exit_code
    (directory / bulk_items.RESULTS).write_text("something else\n")
    assert 2 == bulk_request(served, directory).exit_code


def test_more_than_a_call_takes_are_several_calls(served, directory, monkeypatch):
    monkeypatch.setattr(bulk, "LINES_A_CALL", 3)
    monkeypatch.setattr(bulk, "LINES_AT_ONCE", 2)
    monkeypatch.setattr(bulk, "OCTETS_A_MESSAGE", 1)
    assert 0 == bulk_request(served, directory).exit_code
    assert 8 == len(names_in(directory))
