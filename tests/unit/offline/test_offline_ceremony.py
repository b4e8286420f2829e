"""The offline CA: R8, a root signs only in a ceremony, each signature after its line, whatever dies when."""

from __future__ import annotations

import datetime
import json

import pytest
from cryptography import x509

from chancery.asn1 import der
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.offline import importing
from chancery.offline.bundle import decode_response, fingerprint, sha256, spki
from chancery.offline.ceremony import export
from chancery.offline.journal import FILE, Journal
from chancery.offline.store import LocalStore
from chancery.ports import RevocationReason, StatusState
from fakes import Killed
from unit.offline import ceremonies
from unit.offline.ceremonies import entry, request

MODES = ["fail-before", "fail-after", "kill-before", "kill-after"]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return ceremonies.Machine(tmp_path, monkeypatch)


def refusal(call, *args, **options):
    with pytest.raises(PKIError) as caught:
        call(*args, **options)
    return caught.value


def sign(ca, data, **options):
    return ca.sign(data, fingerprint(data), **options)


def test_init_makes_one_self_signed_root_and_its_first_crl(machine):
    with machine.init() as ca:
        exported = export(ca.store)
    certificate = x509.load_der_x509_certificate(exported.root)
    certificate.verify_directly_issued_by(certificate)
    assert "CN=Example Root CA,O=Example" == certificate.subject.rfc4514_string()
    assert 112 == certificate.serial_number.to_bytes(17, "big")[0]
    crl = x509.load_der_x509_crl(exported.crl)
    assert crl.is_signature_valid(certificate.public_key())
    assert 0 == len(list(crl))
    assert () == exported.responses
    machine.account()


def test_init_again_changes_nothing(machine):
    machine.init().store.journal.close()
    before = (machine.directory / FILE).read_bytes()
    signed = len(machine.token.signed)
    machine.init().store.journal.close()
    assert (before, signed) == ((machine.directory / FILE).read_bytes(), len(machine.token.signed))


def survive(call):
    """Run, and say whether it came to its end."""
    try:
        call()
    except (PKIError, Killed):
        return False
    return True


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("where", ["journal", "token"])
def test_init_dies_at_every_line_and_every_use_of_the_token_and_goes_on(tmp_path, monkeypatch, where, mode):
    # R2, R8: never two roots, and every signature that the token made is named by a line before it.
    at, steps = 0, 0
    while True:
        at += 1
        machine = ceremonies.Machine(tmp_path / f"{at}", monkeypatch)
        (tmp_path / f"{at}").mkdir()
        faults = machine.faults if where == "journal" else machine.token.faults
        faults.at, faults.mode = at, mode
        finished = survive(lambda m=machine: m.init().store.journal.close())
        faults.at = None
        steps += 1
        machine.init().store.journal.close()
        machine.account()
        monkeypatch.undo()
        if finished:
            break
    assert steps > (10 if where == "journal" else 4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("where", ["journal", "token"])
def test_sign_dies_at_every_line_and_every_use_of_the_token_and_goes_on(tmp_path, monkeypatch, where, mode):
    at, steps, data = 0, 0, request()
    while True:
        at += 1
        (tmp_path / f"{at}").mkdir()
        machine = ceremonies.Machine(tmp_path / f"{at}", monkeypatch)
        machine.init().store.journal.close()
        faults = machine.faults if where == "journal" else machine.token.faults
        faults.calls, faults.at, faults.mode = 0, at, mode

        def attempt(machine=machine):
            with machine.open() as ca:
                return sign(ca, data)

        finished = survive(attempt)
        faults.at = None
        steps += 1
        response = attempt()
        assert response == attempt()
        state = machine.account()
        issued = [c for c in state.certificates.values() if c.profile == "sub-ca"]
        assert [c.der for c in issued] == [a.certificate for a in decode_response(response).payload.answers]
        monkeypatch.undo()
        if finished:
            break
    assert steps > (6 if where == "journal" else 2)


def test_killed_several_times_in_a_row_there_is_still_one_root(machine):
    def closed():
        machine.init().store.journal.close()

    for at in (3, 4, 5, 6, 7, 2, 1, 2):
        machine.faults.calls, machine.faults.at, machine.faults.mode = 0, at, "kill-after"
        survive(closed)
    machine.faults.at = None
    closed()
    machine.account()


def test_a_key_that_was_there_before_is_nobody_s(machine):
    machine.token.generate_key("root", "ec-p256")
    with pytest.raises(OperatorError, match="a token of its own"):
        machine.init()
    assert [] == machine.token.signed


def test_another_token_or_another_configuration_is_refused(machine):
    machine.init().store.journal.close()
    for changes in ({"subject": "CN=Other"}, {"instance": 3}, {"name": "other"}):
        for way in (machine.init, machine.open):
            with pytest.raises(OperatorError, match="belong together"):
                way(**changes)
    machine.token = ceremonies.MemoryToken()
    machine.token.generate_key("root", "ec-p256")
    data = request()
    with machine.open() as ca, pytest.raises(OperatorError, match="belong together"):
        sign(ca, data)


def test_a_root_that_is_not_finished_signs_nothing(machine):
    machine.faults.at, machine.faults.mode = 6, "kill-before"
    survive(machine.init)
    machine.faults.at = None
    with pytest.raises(OperatorError, match="offline init"):
        machine.open()
    with LocalStore(Journal(machine.directory)) as store, pytest.raises(OperatorError, match="offline init"):
        export(store)


def test_a_root_that_cannot_be_is_refused_before_anything_is_made(machine):
    assert ErrorType.BAD_DATA_FORMAT is refusal(machine.init, subject="nonsense").type
    assert ErrorType.BAD_CERT_TEMPLATE is refusal(machine.init, subject="O=Without a name").type
    assert ErrorType.BAD_CERT_TEMPLATE is refusal(machine.init, subject="CN=x,emailAddress=a@b.example").type
    with pytest.raises(OperatorError, match="rsa-2048"):
        machine.init(key_kind="rsa-2048")
    with pytest.raises(ValueError, match="instance"):
        machine.init(instance=128)
    assert [] == machine.token.generated
    # Nothing was kept of the attempts.
    machine.init().store.journal.close()
    machine.account()


def test_a_bundle_is_answered_with_a_certificate_chain_and_crl(machine):
    data = request()
    with machine.init() as ca:
        response = decode_response(sign(ca, data))
        exported = export(ca.store)
    [answer] = response.payload.answers
    root, issued = (x509.load_der_x509_certificate(one) for one in (exported.root, answer.certificate))
    issued.verify_directly_issued_by(root)
    assert ceremonies.ISSUING_KEY.public_key() == issued.public_key()
    assert (exported.root,) == response.payload.chain
    assert (exported.crl,) == response.payload.crls
    assert (
        2
        == x509.load_der_x509_crl(exported.crl).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    )
    assert (1, None, sha256(data)) == (response.header.number, response.header.previous, response.header.answers)
    assert ((1, sha256_key(), response.data),) == exported.responses
    lines = (machine.directory / FILE).read_bytes().splitlines()
    assert sha256(lines[response.payload.journal_length - 1]) == response.payload.journal_head
    machine.account()


def sha256_key():
    return sha256(spki(ceremonies.REQUESTER.public_key))


def test_the_same_bundle_has_the_same_answer_for_ever(machine):
    data = request()
    with machine.init() as ca:
        response = sign(ca, data)
        used = len(machine.token.signed)
        machine.clock.advance(86_400)
        assert response == sign(ca, data)
    with machine.open() as ca:
        # Nothing is signed, so nothing has to be confirmed.
        assert response == ca.sign(data, "")
    assert used == len(machine.token.signed)


def test_without_the_confirmed_fingerprint_nothing_happens(machine):
    data = request()
    with machine.init() as ca:
        used = len(machine.token.signed)
        for confirmed in ("", fingerprint(data)[:-1], fingerprint(data + b"x"), "yes"):
            assert ErrorType.NOT_AUTHORIZED is refusal(ca.sign, data, confirmed).type
        assert used == len(machine.token.signed)
        assert ca.sign(data, fingerprint(data).replace(" ", ""))


def test_a_second_bundle_continues_the_first(machine):
    first = request()
    with machine.init() as ca:
        answered = sign(ca, first)
        second = request(entry(transaction_id="issuing-2"), link=importing.following(first, answered), crl=False)
        response = decode_response(sign(ca, second))
        assert (2, sha256(answered), sha256(second)) == (
            response.header.number,
            response.header.previous,
            response.header.answers,
        )
        assert () == response.payload.crls
        assert [1, 2] == [number for number, _, _ in export(ca.store).responses]
        # The first one's answer is still its answer.
        assert answered == sign(ca, first)


def test_replay_fork_and_gap_are_refused(machine):
    first = request()
    with machine.init() as ca:
        answered = sign(ca, first)
        following = importing.following(first, answered)
        second = request(entry(transaction_id="2"), link=following)
        fork = request(entry(transaction_id="3"), at=machine.clock.now() + datetime.timedelta(1))
        assert "a fork" in refusal(sign, ca, fork).detail
        sign(ca, second)
        other_second = request(entry(transaction_id="4"), link=following)
        assert "a fork" in refusal(sign, ca, other_second).detail
        for link in (
            importing.Link(4, sha256(second), "ab" * 32),
            importing.Link(3, sha256(second), "ab" * 32),
            importing.Link(3, "ab" * 32, "cd" * 32),
        ):
            error = refusal(sign, ca, request(entry(transaction_id="5"), link=link))
            assert ErrorType.BAD_REQUEST is error.type
    state = machine.account()
    assert 3 == len(state.certificates)


def test_a_bundle_that_does_not_begin_its_chain_is_refused(machine):
    with machine.init() as ca:
        data = request(link=importing.Link(2, "ab" * 32, "cd" * 32))
        assert "before bundle 1" in refusal(sign, ca, data).detail


def test_the_first_installation_is_pinned_and_another_has_to_be_named(machine):
    data = request(signer=ceremonies.OTHER_REQUESTER)
    with machine.init() as ca:
        sign(ca, request())
        error = refusal(sign, ca, data)
        assert ErrorType.NOT_AUTHORIZED is error.type
        assert ErrorType.NOT_AUTHORIZED is refusal(sign, ca, data, requester="ab" * 32).type
        key = json.loads(data)["signed"]["header"]["signer"]
        assert decode_response(sign(ca, data, requester=key)).payload.answers[0].certificate
        # Known now: its next bundle needs no naming.
        assert (
            ErrorType.BAD_REQUEST
            is refusal(sign, ca, request(entry(transaction_id="x"), signer=ceremonies.OTHER_REQUESTER)).type
        )


def test_a_transaction_id_is_used_once(machine):
    first = request()
    with machine.init() as ca:
        answered = sign(ca, first)
        again = request(link=importing.following(first, answered))
        assert ErrorType.TRANSACTION_ID_IN_USE is refusal(sign, ca, again).type


@pytest.mark.parametrize("profile", ["tls-server", "root-ca", "nobody"])
def test_the_root_signs_what_only_a_ceremony_may_sign_and_no_other_root(machine, profile):
    # R8
    with machine.init() as ca:
        response = decode_response(sign(ca, request(entry(profile=profile), crl=False)))
    [answer] = response.payload.answers
    assert None is answer.certificate
    assert profile in answer.detail
    machine.account()


def test_one_bad_request_of_a_bundle_is_refused_in_words_and_the_others_are_answered(machine):
    # R9: also what the profile does not grant, and a proof of possession that does not hold.
    broken = bytearray(ceremonies.csr())
    broken[-1] ^= 1
    good = entry(transaction_id="good")
    named = entry(transaction_id="named", names=("dns:ca.example",))
    with machine.init() as ca:
        [fine, refused] = decode_response(sign(ca, request(good, named))).payload.answers
    assert (True, None) == (fine.certificate is not None, fine.error)
    assert (None, "badCertTemplate") == (refused.certificate, refused.error)
    machine.account()
    with pytest.raises(PKIError):
        request(entry(csr=bytes(broken)))


def test_what_is_not_a_bundle_is_refused_before_anything_is_asked(machine):
    data = request()
    with machine.init() as ca:
        for other in (b"", data[:-1], data + b" ", b"x" * (1 << 21), data.replace(b"sub-ca", b"sub-cb")):
            assert refusal(ca.sign, other, fingerprint(other)).type in {
                ErrorType.BAD_DATA_FORMAT,
                ErrorType.NOT_AUTHORIZED,
            }


def test_a_revoked_certificate_is_on_the_next_crl(machine):
    with machine.init() as ca:
        answer = decode_response(sign(ca, request())).payload.answers[0]
        issued = x509.load_der_x509_certificate(answer.certificate)
        serial = der.integer_octets(issued.serial_number)
        crl = ca.revoke(serial, RevocationReason.CA_COMPROMISE)
        [entry_] = x509.load_der_x509_crl(crl.der)
        assert issued.serial_number == entry_.serial_number
        assert StatusState.REVOKED is ca.store.status(1, serial).state
        # Again: another CRL that says the same.
        again = ca.revoke(serial, RevocationReason.SUPERSEDED)
        assert 1 == len(list(x509.load_der_x509_crl(again.der)))
        assert crl.number < again.number
        root = x509.load_der_x509_certificate(export(ca.store).root)
        for unknown in (b"\x70" + bytes(16), root.serial_number.to_bytes(17, "big"), b""):
            assert ErrorType.BAD_CERT_ID is refusal(ca.revoke, unknown, RevocationReason.SUPERSEDED).type
    machine.account()


def test_r5_a_key_that_was_compromised_is_not_certified_again(machine):
    data = request()
    with machine.init() as ca:
        first = sign(ca, data)
        answer = decode_response(first).payload.answers[0]
        serial = der.integer_octets(x509.load_der_x509_certificate(answer.certificate).serial_number)
        ca.revoke(serial, RevocationReason.CA_COMPROMISE)
    following = request(entry(transaction_id="2"), link=importing.following(data, first))
    with machine.open() as ca:
        again = decode_response(sign(ca, following)).payload.answers[0]
        assert (None, True) == (again.certificate, "reported compromised" in again.detail)
        events = [json.loads(body) for line in ca.store.journal.records for body in line.events]
        assert 1 == sum(one["kind"] == "key.blocked" for one in events)
    machine.account()


def test_a_clock_that_went_back_signs_nothing(machine):
    data = request()
    with machine.init() as ca:
        answer = decode_response(sign(ca, data)).payload.answers[0]
        serial = der.integer_octets(x509.load_der_x509_certificate(answer.certificate).serial_number)
        following = request(entry(transaction_id="2"), link=importing.following(data, ca.sign(data, "")))
        machine.clock.advance(-1)
        used = len(machine.token.signed)
        for act in (lambda: sign(ca, following), lambda: ca.revoke(serial, RevocationReason.SUPERSEDED)):
            with pytest.raises(OperatorError, match="set the clock"):
                act()
    with pytest.raises(OperatorError, match="set the clock"):
        machine.init()
    assert used == len(machine.token.signed)
    machine.account()


def test_a_token_that_signs_wrongly_makes_no_root(machine):
    # The first signature is the root's own, and it is checked like any other.
    machine.token.lies = True
    assert ErrorType.SYSTEM_FAILURE is refusal(machine.init).type
    machine.token.lies = False
    machine.init().store.journal.close()
    state = machine.account()
    assert 1 == sum(one.state is StatusState.UNCONFIRMED for one in state.statuses.values())


def test_a_token_that_signs_wrongly_is_said_in_the_answer_and_its_serial_is_marked(machine):
    data = request(crl=False)
    with machine.init() as ca:
        machine.token.lies = True
        # The bundle's own signature is wrong, too: nothing leaves.
        assert ErrorType.NOT_AUTHORIZED is refusal(sign, ca, data).type
        machine.token.lies = False
        [answer] = decode_response(sign(ca, data)).payload.answers
    assert (None, "systemFailure") == (answer.certificate, answer.error)
    state = machine.account()
    assert 1 == sum(one.state is StatusState.UNCONFIRMED for one in state.statuses.values())
