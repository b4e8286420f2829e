"""Requesting, fetching, searching and revoking over REST."""

from __future__ import annotations

import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from chancery.errors import ErrorType, PKIError
from chancery.ports import Role
from unit.web.world import World, csr_pem, make_csr, spki_sha256, to_der

CSR = make_csr()
PKCS10 = {"content-type": "application/pkcs10"}


@pytest.fixture
def world() -> World:
    made = World()
    made.enrol("olga", Role.OFFICER)
    made.enrol("rita", Role.REQUESTOR)
    made.enrol("paul", Role.REQUESTOR)
    return made


def _submit(world: World, who: str = "olga", query: str = "", **body):
    given = {"profile": "tls-server", "csr": csr_pem(), **body}
    return world.ask(who, "POST", f"certificates{query}", json=given)


def _load(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def test_a_csr_becomes_a_certificate(world):
    answer = _submit(world, names=["dns:www.example.org"], transaction_id="t-1")
    assert 201 == answer.status_code
    found = answer.json()
    certificate = _load(found["certificate"])
    assert certificate.public_key() == CSR.public_key()
    assert ("done", "t-1", "issuing") == (found["state"], found["transaction_id"], found["issuer"])
    assert certificate.serial_number == int(found["serial"], 16)
    assert [world.memory.issuing] == [_load(one) for one in found["chain"]]
    again = world.ask("olga", "GET", answer.headers["location"])
    assert (200, found["certificate"]) == (again.status_code, again.json()["certificate"])


@pytest.mark.parametrize("encoding", [Encoding.DER, Encoding.PEM], ids=["der", "pem"])
def test_a_raw_pkcs10_body_is_taken(world, encoding):
    query = "?profile=tls-server&name=dns:a.example.org&name=ip:192.0.2.7&transaction_id=x&wait=5"
    body = CSR.public_bytes(encoding)
    answer = world.ask("olga", "POST", f"certificates{query}", content=body, headers=PKCS10)
    assert 201 == answer.status_code
    [(request, _)] = world.memory.requests.values()
    assert ("tls-server", ("dns:a.example.org", "ip:192.0.2.7"), "x") == (
        request.profile,
        request.names,
        request.transaction_id,
    )
    assert CSR.public_bytes(Encoding.DER) == request.csr


def test_a_raw_body_needs_its_profile_and_json_takes_none_of_the_query(world):
    answer = world.ask("olga", "POST", "certificates", content=CSR.public_bytes(Encoding.DER), headers=PKCS10)
    assert (400, True) == (answer.status_code, "profile" in answer.json()["detail"])
    assert 400 == _submit(world, query="?profile=tls-server").status_code
    assert {} == world.memory.requests


FORMS = {
    "pem": ("application/x-pem-file", ".pem"),
    "chain": ("application/pem-certificate-chain", ".chain.pem"),
    "der": ("application/pkix-cert", ".cer"),
    "p7b": ("application/pkcs7-mime", ".p7b"),
}


def _certificates(form: str, content: bytes) -> list[x509.Certificate]:
    if form == "der":
        return [x509.load_der_x509_certificate(content)]
    if form == "p7b":
        return pkcs7.load_der_pkcs7_certificates(content)
    return x509.load_pem_x509_certificates(content)


@pytest.mark.parametrize("form", FORMS)
def test_a_certificate_is_given_in_every_form_by_query_accept_and_suffix(world, form):
    media, suffix = FORMS[form]
    posted = _submit(world, query=f"?format={form}", transaction_id="t")
    assert 201 == posted.status_code
    accepted = world.ask(
        "olga",
        "POST",
        "certificates",
        json={"profile": "tls-server", "csr": csr_pem(), "transaction_id": "u"},
        headers={"accept": f"text/html;q=0.1, {media}"},
    )
    assert media == accepted.headers["content-type"].split(";")[0]
    place = posted.headers["location"].split("?")[0]
    by_query = world.ask("olga", "GET", f"{place}?format={form}")
    by_accept = world.ask("olga", "GET", place, headers={"accept": media})
    by_suffix = world.ask("olga", "GET", f"{place}{suffix}")
    assert 1 == len({one.content for one in (posted, by_query, by_accept, by_suffix)})
    assert {media} == {
        one.headers["content-type"].split(";")[0] for one in (posted, by_query, by_accept, by_suffix)
    }
    found = _certificates(form, by_suffix.content)
    leaf = x509.load_der_x509_certificate(next(iter(world.memory.requests.values()))[1].certificate)
    assert ([leaf] if form in {"pem", "der"} else {leaf, world.memory.issuing}) == (
        found if form in {"pem", "der"} else set(found)
    )
    if form == "chain":
        assert leaf == found[0]


def test_openssl_reads_what_is_given(world, tmp_path):
    _submit(world)
    place = f"certificates/{world.memory.stored[-1].serial.hex()}"
    for suffix, command in {
        ".pem": ["x509", "-noout", "-subject", "-in"],
        ".cer": ["x509", "-inform", "DER", "-noout", "-subject", "-in"],
        ".p7b": ["pkcs7", "-inform", "DER", "-print_certs", "-noout", "-in"],
    }.items():
        file = tmp_path / f"x{suffix}"
        file.write_bytes(world.ask("olga", "GET", f"{place}{suffix}").content)
        done = subprocess.run(["openssl", *command, str(file)], capture_output=True, text=True, check=True)
        assert "www.example.org" in done.stdout.replace(" ", "")
    for query, command in {
        "?format=p7b": ["pkcs7", "-inform", "DER", "-print_certs", "-noout", "-in"],
        "": ["x509", "-noout", "-subject", "-in"],
        "?format=der": ["x509", "-inform", "DER", "-noout", "-subject", "-in"],
    }.items():
        file = tmp_path / "issuer"
        file.write_bytes(world.ask("rita", "GET", f"issuers/issuing/certificate{query}").content)
        done = subprocess.run(["openssl", *command, str(file)], capture_output=True, text=True, check=True)
        assert "CN=issuing" in done.stdout.replace(" ", "")


def test_an_issuers_chain_ends_in_the_trust_anchor(world):
    found = x509.load_pem_x509_certificates(world.ask("rita", "GET", "issuers/issuing/chain").content)
    assert [world.memory.issuing, world.memory.root] == found


def test_the_same_transaction_id_gives_the_same_certificate_and_no_second(world):
    first = _submit(world, transaction_id="t", csr=csr_pem_of_csr())
    again = _submit(world, transaction_id="t", csr=csr_pem_of_csr())
    assert first.json() == again.json()
    assert 1 == len(world.memory.requests)
    other = _submit(world, transaction_id="t", csr=csr_pem_of_csr(), names=["dns:other.example.org"])
    assert (409, "urn:chancery:error:transactionIdInUse") == (other.status_code, other.json()["type"])


def csr_pem_of_csr() -> str:
    return CSR.public_bytes(Encoding.PEM).decode()


def test_the_idempotency_key_header_is_the_transaction_id(world):
    for given in ("key-1", '"key-1"'):
        answer = world.ask(
            "olga",
            "POST",
            "certificates",
            json={"profile": "tls-server", "csr": csr_pem_of_csr()},
            headers={"idempotency-key": given},
        )
        assert "key-1" == answer.json()["transaction_id"]
    differing = world.ask(
        "olga",
        "POST",
        "certificates",
        json={"profile": "tls-server", "csr": csr_pem(), "transaction_id": "other"},
        headers={"idempotency-key": "key-1"},
    )
    assert 400 == differing.status_code
    assert 1 == len(world.memory.requests)


def test_a_slow_ca_is_202_and_a_place_to_ask_again(world):
    world.memory.asleep = True
    answer = _submit(world, "rita", query="?wait=0")
    assert (202, "waiting") == (answer.status_code, answer.json()["state"])
    place = answer.headers["location"]
    assert "waiting" == world.ask("rita", "GET", place).json()["state"]
    assert 404 == world.ask("paul", "GET", place).status_code
    world.memory.work()
    found = world.ask("rita", "GET", place).json()
    assert "done" == found["state"]
    assert CSR.public_key() == _load(found["certificate"]).public_key()


def test_what_the_ca_refuses_is_a_problem_and_stays_readable(world):
    world.memory.refusal = PKIError(ErrorType.BAD_CERT_TEMPLATE, "the lint says no")
    answer = _submit(world, transaction_id="t")
    assert (422, "the lint says no") == (answer.status_code, answer.json()["detail"])
    found = world.ask("olga", "GET", "requests/1").json()
    assert ("refused", "badCertTemplate", "the lint says no") == (found["state"], found["error"], found["detail"])


@pytest.mark.parametrize("wait", ["-1", "61", "nan", "x", "1e9"])
def test_waiting_is_bounded(world, wait):
    assert 400 == _submit(world, query=f"?wait={wait}").status_code


@pytest.mark.parametrize("request_id", ["0", "2", "-1", "x", "9" * 19, "9" * 25, "1e3"])
def test_no_such_request(world, request_id):
    _submit(world)
    assert 404 == world.ask("olga", "GET", f"requests/{request_id}").status_code


def _serials(answer) -> list[str]:
    return [one["serial"] for one in answer.json()["certificates"]]


def test_search_finds_by_everything(world):
    _submit(world, "rita", names=["dns:a.example.org"], csr=csr_pem("a.example.org", "a"))
    _submit(world, "paul", csr=csr_pem("b.example.org", "b"))
    a, b = (one.serial.hex().upper() for one in world.memory.stored[-2:])
    key = spki_sha256(world.memory.stored[-2].der).hex()
    for query, expected in {
        "subject=CN%3Da.ex": [a],
        "name=dns:A.example.org": [a],
        f"serial={b}": [b],
        "requestor=paul": [b],
        f"key={key}": [a],
        "profile=tls-server&state=good&issuer=issuing": [b, a],
        "profile=tls-server&state=revoked": [],
        "profile=smime": [],
    }.items():
        assert expected == _serials(world.ask("olga", "GET", f"certificates?{query}")), query


def test_a_requestor_finds_its_own(world):
    _submit(world, "rita")
    _submit(world, "paul")
    rita, paul = (one.serial.hex().upper() for one in world.memory.stored[-2:])
    assert [rita] == _serials(world.ask("rita", "GET", "certificates"))
    assert [rita] == _serials(world.ask("rita", "GET", "certificates?requestor=rita"))
    assert [] == _serials(world.ask("rita", "GET", "certificates?requestor=paul"))
    for suffix in ("", ".pem", ".cer", ".p7b", ".chain.pem"):
        assert 404 == world.ask("rita", "GET", f"certificates/{paul}{suffix}").status_code
    revocation = {"reason": "superseded"}
    assert 404 == world.ask("rita", "POST", f"certificates/{paul}/revocation", json=revocation).status_code
    assert {} == world.memory.revocations


def test_pages_lead_to_the_end(world):
    for _ in range(5):
        _submit(world)
    seen, before = [], ""
    while True:
        page = world.ask("olga", "GET", f"certificates?profile=tls-server&limit=2{before}").json()
        seen += [one["serial"] for one in page["certificates"]]
        if "next" not in page:
            break
        before = f"&before={page['next']}"
    assert [
        one.serial.hex().upper() for one in reversed(world.memory.stored) if one.profile == "tls-server"
    ] == seen


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "limit=x",
        "before=0",
        "serial=xyz",
        "key=00",
        "state=bad",
        "nonsense=1",
        "limit=1&limit=2",
    ],
)
def test_a_wrong_query_is_a_problem(world, query):
    answer = world.ask("olga", "GET", f"certificates?{query}")
    assert (400, "urn:chancery:error:badRequest") == (answer.status_code, answer.json()["type"])


def test_a_certificate_is_revoked_with_the_reason_given(world):
    _submit(world, "rita")
    serial = world.memory.stored[-1].serial.hex().upper()
    answer = world.ask(
        "rita",
        "POST",
        f"certificates/{serial}/revocation",
        json={"reason": "keyCompromise", "invalidity_date": "2026-11-01T00:00:00Z"},
    )
    assert (200, "keyCompromise", "done") == (answer.status_code, answer.json()["reason"], answer.json()["state"])
    found = world.ask("rita", "GET", f"certificates/{serial}").json()
    assert ("revoked", "keyCompromise", "2026-11-01T00:00:00Z") == (
        found["state"],
        found["reason"],
        found["invalidity_date"],
    )
    assert "revocation.requested" in world.memory.kinds()
    again = world.ask("rita", "POST", f"certificates/{serial}/revocation", json={"reason": "superseded"})
    assert (409, "urn:chancery:error:certRevoked") == (again.status_code, again.json()["type"])


def test_an_unsettled_revocation_is_202(world):
    _submit(world)
    serial = world.memory.stored[-1].serial.hex().upper()
    world.memory.asleep = True
    answer = world.ask("olga", "POST", f"certificates/{serial}/revocation?wait=0", json={"reason": "superseded"})
    assert (202, "waiting") == (answer.status_code, answer.json()["state"])
    assert "good" == world.ask("olga", "GET", answer.headers["location"]).json()["state"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"reason": "removeFromCRL"},
        {"reason": 1},
        {"reason": "superseded", "invalidity_date": "2026-11-01T00:00:00"},
        {"reason": "superseded", "x": 1},
        ["superseded"],
    ],
)
def test_a_wrong_revocation_is_a_problem(world, body):
    _submit(world)
    serial = world.memory.stored[-1].serial.hex()
    answer = world.ask("olga", "POST", f"certificates/{serial}/revocation", json=body)
    assert (400, "urn:chancery:error:badDataFormat") == (answer.status_code, answer.json()["type"])
    assert {} == world.memory.revocations


def test_an_ambiguous_serial_needs_its_issuer(world):
    der = CSR.public_bytes(Encoding.DER)
    world.memory.issue("olga", der, serial=7)
    world.memory.issue("olga", der, serial=7, issuer="root")
    assert 400 == world.ask("olga", "GET", "certificates/07").status_code
    found = world.ask("olga", "GET", "certificates/07.cer?issuer=root").content
    assert to_der(x509.load_der_x509_certificate(world.memory.stored[-1].der)) == found
    answer = world.ask("olga", "POST", "certificates/07/revocation?issuer=root", json={"reason": "superseded"})
    assert (200, "root") == (answer.status_code, answer.json()["issuer"])


def test_head_is_get_without_a_body(world):
    _submit(world)
    place = f"certificates/{world.memory.stored[-1].serial.hex()}.cer"
    answer = world.ask("olga", "HEAD", place)
    assert (200, "application/pkix-cert") == (answer.status_code, answer.headers["content-type"])
