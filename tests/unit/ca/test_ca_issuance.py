"""The order of issuance: what is recorded before what, and what a refusal says (R2, R8, R9)."""

from __future__ import annotations

import dataclasses
import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography import x509

from cakit import CA, PROFILES, URLS, issuing_issuer, key, make_csr, root_issuer
from chancery.asn1.signature import KeySigner
from chancery.ca.issuance import issue_batch, make_serial, recover
from chancery.ca.issuer import Issuer
from chancery.errors import ErrorType, PKIError
from chancery.pkix.key import spki_der
from chancery.pkix.profile import grant, parse_profile, requested
from chancery.ports import EventKind, IssuerRecord, RequestState, StatusState
from checks import account_of, problems
from fakes import START, CountingSigner, FakeEntropy, Faults, Killed, MemoryStore

GOOD = make_csr(names=("dns:www.example.org",))


def _issue(ca: CA, limit: int = 100):
    return issue_batch(ca.issuing, ca.store.take("worker-1", limit, ca.clock.now()))


def _problems(ca: CA) -> list[str]:
    return problems(account_of(ca.store), {2: ca.signer.signed}, {2: ca.issuer.certificate})


class Watching(MemoryStore):
    """Writes down what was signed when each commit returned."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[str] = []

    def record_intents(self, *arguments) -> set[bytes]:
        blocked = super().record_intents(*arguments)
        self.order.append("intents")
        return blocked

    def record_certificates(self, *arguments) -> None:
        super().record_certificates(*arguments)
        self.order.append("certificates")


def test_intents_are_durable_before_the_first_signature_and_certificates_after_the_last():
    ca = CA()
    store = Watching()

    class Signer(CountingSigner):
        def sign(self, data: bytes) -> bytes:
            store.order.append("sign")
            assert data in {intent.tbs for _, intent in store.intents.values()}
            return super().sign(data)

    signer = Signer(KeySigner(key("issuing")))
    ca = CA(signer=signer, store=store)
    for number in (1, 2):
        ca.store = store
        assert number == ca.ask()
    _issue(ca)
    assert ["intents", "sign", "sign", "certificates"] == store.order


def test_a_batch_of_good_and_bad_settles_every_request():
    ca = CA()
    for csr, profile in (
        (GOOD, "tls-server"),
        (make_csr("CN=x"), "tls-server"),
        (GOOD, "no-such"),
        (b"\x30\x00", "tls-server"),
        (GOOD, "sub-ca"),
        (GOOD, "tls-server"),
    ):
        ca.ask(csr, profile)
    ca.ask(GOOD, issuer="elsewhere")
    result = _issue(ca)
    assert (2, 5, 0) == (result.issued, result.refused, result.unconfirmed)
    done, refused = RequestState.DONE, RequestState.REFUSED
    assert [done, refused, refused, refused, refused, done, refused] == list(ca.store.states.values())
    assert [
        (2, ErrorType.BAD_CERT_TEMPLATE),
        (3, ErrorType.BAD_CERT_TEMPLATE),
        (4, ErrorType.BAD_DATA_FORMAT),
        (5, ErrorType.NOT_AUTHORIZED),
        (7, ErrorType.BAD_CERT_TEMPLATE),
    ] == [(number, refusal.error) for number, refusal in sorted(ca.store.refusals.items())]
    assert 2 == len(ca.signer.signed)
    assert [] == _problems(ca)


def test_r8_a_ceremony_profile_is_refused_online_and_granted_in_a_ceremony():
    csr = make_csr("CN=Sub", (), key("sub"))
    ca = CA()
    ca.ask(csr, "sub-ca")
    _issue(ca)
    assert "R8" in ca.store.refusals[1].detail
    assert [] == ca.signer.signed
    ceremony = CA(ceremony=True)
    ceremony.ask(csr, "sub-ca")
    _issue(ceremony)
    # Allowed now, and refused by the issuer's own path length.
    assert "path" not in ceremony.store.refusals[1].detail
    assert "allows 0 CA certificates" in ceremony.store.refusals[1].detail


@pytest.mark.parametrize("profile", ["ocsp-signing", "timestamping"])
def test_certificates_of_the_own_services_are_for_configured_keys_alone(profile):
    # A web process that was taken over may write any request, under any name.
    known = hashlib.sha256(spki_der(key("ocsp").public_key())).digest()
    ca = CA(service_keys=frozenset({known}))
    own, stranger = (ca.ask(make_csr("CN=Service", (), key(label)), profile) for label in ("ocsp", "stranger"))
    other = ca.ask(make_csr("CN=www.example.org", ("dns:www.example.org",), key("stranger")))
    ca.work()
    assert RequestState.DONE is ca.store.states[own]
    assert RequestState.DONE is ca.store.states[other]
    assert ErrorType.NOT_AUTHORIZED is ca.store.refusals[stranger].error
    assert "service_keys" in ca.store.refusals[stranger].detail
    nobody = CA(service_keys=frozenset())
    request = nobody.ask(make_csr("CN=Service", (), key("ocsp")), profile)
    nobody.work()
    assert ErrorType.NOT_AUTHORIZED is nobody.store.refusals[request].error


def test_the_proof_of_possession_is_checked_again():
    ca = CA()
    ca.ask(GOOD[:-1] + bytes((GOOD[-1] ^ 1,)))
    _issue(ca)
    assert ca.store.refusals[1].error in {ErrorType.BAD_POP, ErrorType.BAD_DATA_FORMAT}


def test_what_nobody_foresaw_of_one_request_does_not_hold_up_the_others():
    ca = CA()
    ca.ask(names=(None,))
    ca.ask()
    result = _issue(ca)
    assert (1, 1) == (result.issued, result.refused)
    assert (ErrorType.SYSTEM_FAILURE, "the request could not be processed") == (
        ca.store.refusals[1].error,
        ca.store.refusals[1].detail,
    )


def test_r2_a_serial_that_was_used_before_is_never_signed_again():
    class Repeating:
        def draw(self, size: int) -> bytes:
            return b"\x2a" * size

    ca = CA(entropy=Repeating())
    ca.ask()
    _issue(ca)
    ca.ask()
    result = _issue(ca)
    assert (0, 1, 0) == (result.issued, result.refused, result.unconfirmed)
    assert 1 == len(ca.signer.signed)
    assert 0 == recover(ca.issuing)
    assert (RequestState.REFUSED, ErrorType.SYSTEM_FAILURE) == (ca.store.states[2], ca.store.refusals[2].error)


class Choosy(MemoryStore):
    """Refuses whatever transaction records anything of request 2 but its refusal."""

    def __init__(self, error: ErrorType = ErrorType.SYSTEM_FAILURE) -> None:
        super().__init__()
        self.error = error
        self.at = ""

    def record_intents(self, worker, intents, refusals, events, keys=()) -> set[bytes]:
        if self.at == "intents" and any(one.request_id == 2 for one in intents):
            raise PKIError(self.error, "too long for an index")
        return super().record_intents(worker, intents, refusals, events, keys)

    def record_certificates(self, certificates, refusals, events) -> None:
        if self.at == "certificates" and any(one.request_id == 2 for one in certificates):
            raise PKIError(self.error, "too long for an index")
        super().record_certificates(certificates, refusals, events)


@pytest.mark.parametrize(("at", "unconfirmed"), [("intents", 0), ("certificates", 1)])
def test_what_the_store_refuses_is_refused_alone_and_never_signed_again(at, unconfirmed):
    ca = CA(store=Choosy())
    ca.store = ca.issuing.store
    ca.store.at, ca.store.issuers = at, {2: "issuing"}
    for _ in range(3):
        ca.ask()
    ca.ask(make_csr("CN=no name"))
    result = _issue(ca)
    assert (2, 2, unconfirmed) == (result.issued, result.refused, result.unconfirmed)
    done, refused = RequestState.DONE, RequestState.REFUSED
    assert [done, refused, done, refused] == list(ca.store.states.values())
    assert (ErrorType.SYSTEM_FAILURE, "the database refused to record it") == (
        ca.store.refusals[2].error,
        ca.store.refusals[2].detail,
    )
    assert 2 + unconfirmed == len(ca.signer.signed)
    assert [] == _problems(ca)
    assert [] == ca.store.take("worker-1", 10, ca.clock.now())


@pytest.mark.parametrize("at", ["intents", "certificates"])
def test_a_store_that_does_not_answer_refuses_nothing(at):
    ca = CA(store=Choosy(ErrorType.SYSTEM_UNAVAIL))
    ca.store = ca.issuing.store
    ca.store.at, ca.store.issuers = at, {2: "issuing"}
    for _ in range(2):
        ca.ask()
    with pytest.raises(PKIError):
        _issue(ca)
    assert {} == ca.store.refusals


def test_a_token_that_does_not_answer_in_the_middle_delays_only_its_own():
    # Calls: take, record_intents, then the token three times.
    ca = CA(Faults(4, "fail-before"))
    for _ in range(3):
        ca.ask()
    result = _issue(ca)
    assert (2, 0, 1) == (result.issued, result.refused, result.unconfirmed)
    assert [RequestState.DONE, RequestState.WAITING, RequestState.DONE] == list(ca.store.states.values())
    assert [StatusState.UNCONFIRMED] == [
        one.state for one in ca.store.statuses.values() if one.state is not StatusState.GOOD
    ]
    _issue(ca)
    assert {RequestState.DONE} == set(ca.store.states.values())
    assert 4 == len({intent.serial for _, intent in ca.store.intents.values()})
    assert [] == _problems(ca)


@pytest.mark.parametrize("error", [ValueError("odd"), PKIError(ErrorType.SYSTEM_FAILURE, "odd")])
def test_a_token_that_answers_wrongly_refuses_the_request_and_leaves_the_intent_unconfirmed(error):
    class Broken(CountingSigner):
        def sign(self, data: bytes) -> bytes:
            super().sign(data)
            raise error

    ca = CA(signer=Broken(KeySigner(key("issuing"))))
    ca.ask()
    result = _issue(ca)
    assert (0, 1, 1) == (result.issued, result.refused, result.unconfirmed)
    assert ErrorType.SYSTEM_FAILURE is ca.store.refusals[1].error
    assert "odd" not in ca.store.refusals[1].detail or isinstance(error, PKIError)
    assert [StatusState.UNCONFIRMED] == [one.state for one in ca.store.statuses.values()]
    assert [] == _problems(ca)


def test_signatures_may_be_spread_over_threads():
    with ThreadPoolExecutor(4) as signers:
        ca = CA(signers=signers)
        for _ in range(20):
            ca.ask()
        assert 20 == _issue(ca).issued
    assert [] == _problems(ca)


def test_the_events_name_what_an_auditor_asks_for():
    ca = CA()
    number = ca.ask()
    _issue(ca)
    intent_event, issued = ca.store.events
    assert (EventKind.INTENT_RECORDED, EventKind.CERTIFICATE_ISSUED) == (intent_event.kind, issued.kind)
    [record] = ca.store.certificates.values()
    assert f"2:{record.serial.hex()}" == intent_event.subject == issued.subject
    asked = {"request": number, "requestor": "alice", "protocol": "rest", "transaction": "t-1"}
    profile = PROFILES["tls-server"]
    tbs = ca.signer.signed[0]
    assert {
        **asked,
        "issuer": "issuing",
        "profile": "tls-server",
        "profile_version": 2,
        "profile_sha256": profile.sha256.hex(),
        "tbs_sha256": hashlib.sha256(tbs).hexdigest(),
    } == dict(intent_event.detail)
    assert {
        **asked,
        "issuer": "issuing",
        "subject": "CN=www.example.org",
        "names": ("dns:www.example.org",),
        "certificate_sha256": hashlib.sha256(record.der).hexdigest(),
    } == dict(issued.detail)
    assert record.spki_sha256 == hashlib.sha256(issuing_like_spki(record.der)).digest()
    for event in ca.store.events:
        assert event.body()


def issuing_like_spki(der: bytes) -> bytes:
    from chancery.asn1.x509 import subject_fields

    return subject_fields(der)[1]


def test_recovery_is_idempotent_and_marks_once():
    ca = CA(Faults(5, "kill-before"))
    for _ in range(2):
        ca.ask()
    with pytest.raises(Killed):
        _issue(ca)
    assert 2 == recover(ca.issuing)
    assert 0 == recover(ca.issuing)
    assert 2 == sum(event.kind is EventKind.INTENT_UNCONFIRMED for event in ca.store.events)
    assert {RequestState.WAITING} == set(ca.store.states.values())


def test_another_workers_requests_and_intents_are_left_alone():
    ca = CA(Faults(4, "kill-before"))
    ca.ask()
    with pytest.raises(Killed):
        _issue(ca)
    other = dataclasses.replace(ca.issuing, worker="worker-2", instance=2, entropy=FakeEntropy(9))
    assert 0 == recover(other)
    assert {RequestState.TAKEN} == set(ca.store.states.values())


def test_an_instance_that_makes_no_serial_is_refused_when_set_up():
    with pytest.raises(ValueError, match=r"1\.\.127"):
        CA(instance=0)


def test_a_request_may_name_its_issuer_and_a_profile_its_default():
    other = issuing_issuer("ec-p384")
    ca = CA()
    ca.issuing.issuers["second"] = other  # type: ignore[index]  # - a Mapping to the product, a dict here
    ca.ask(issuer="second")
    _issue(ca)
    ca.certificate(1).verify_directly_issued_by(other.certificate)


def test_a_deactivated_issuer_refuses_but_for_its_own_ocsp_delegates():
    """R20: as long as its certificates are answered for, it makes the certificates of who answers."""
    ca = CA(inactive=frozenset({"issuing"}))
    refused = ca.ask()
    delegate = ca.ask(make_csr("CN=OCSP,O=Example"), "ocsp-signing")
    ca.work()
    assert "deactivated" in ca.store.refusals[refused].detail
    assert "CN=OCSP,O=Example" == ca.certificate(delegate).subject.rfc4514_string()


def test_a_connected_policy_ca_certifies_a_named_ca_key_below_it_r8():
    source = PROFILES["sub-ca"].source
    above = parse_profile(source.replace("path_length = 0", "path_length = 1"))
    below = source.replace("ceremony = true", "policy_ca = true").replace('"sub-ca"', '"policy-sub-ca"')
    profiles = {**PROFILES, "policy-sub-ca": parse_profile(below)}
    root, wanted = root_issuer(), make_csr("CN=Policy,O=Example,C=XX", (), key("policy"))
    granted = grant(above, requested(wanted), root.limits, START)
    certificate = root.issue(root.prepare(granted, make_serial(1, FakeEntropy(9))))
    record = IssuerRecord(2, "policy", certificate, 1, "ca", "policy")
    policy = Issuer(record, KeySigner(key("policy")), URLS)
    csr = make_csr("CN=Partner,O=Partner", (), key("partner"))
    named = frozenset({hashlib.sha256(spki_der(key("partner").public_key())).digest()})
    ca = CA(profiles=profiles, ca_keys=named, issuers={"policy": policy}, default_issuer="policy")
    number = ca.ask(csr, "policy-sub-ca")
    ca.work()
    assert {} == ca.store.refusals
    made = ca.certificate(number)
    basic = made.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (True, 0) == (basic.ca, basic.path_length)
    made.verify_directly_issued_by(x509.load_der_x509_certificate(certificate))


def test_a_connected_ca_certifies_named_ca_keys_alone_and_a_root_none_r8():
    """The web process can write any request: it makes no CA by that."""
    source = PROFILES["sub-ca"].source.replace("ceremony = true", "policy_ca = true")
    online = parse_profile(source.replace('name = "sub-ca"', 'name = "policy-sub-ca"'))
    profiles = {**PROFILES, online.name: online}
    csr = make_csr("CN=Partner,O=Partner")
    named = frozenset({hashlib.sha256(spki_der(x509.load_der_x509_csr(csr).public_key())).digest()})
    for changes, said in (
        ({}, "ca_keys"),
        ({"ca_keys": named}, "CA certificates below it"),
        ({"ca_keys": named, "issuers": {"issuing": root_issuer()}}, "is a root"),
    ):
        ca = CA(profiles=profiles, **changes)
        number = ca.ask(csr, online.name)
        ca.work()
        assert said in ca.store.refusals[number].detail
