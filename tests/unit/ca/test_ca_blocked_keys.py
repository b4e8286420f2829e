"""R5: what was reported compromised is never certified again, by whatever way it was reported."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest

from cakit import CA, key, make_csr
from chancery.ca.revocation import settle_revocations
from chancery.errors import ErrorType
from chancery.pkix.key import spki_der
from chancery.pkix.weak import KnownKeys, modulus_digest
from chancery.ports import BlockedKey, EventKind, RequestState, RevocationReason, StatusState
from checks import account_of, problems
from fakes import START, Faults, Killed, MemoryStore

NAMES = ("dns:www.example.org",)
LOST = make_csr(names=NAMES, signer=key("lost"))
LOST_SPKI = hashlib.sha256(spki_der(key("lost").public_key())).digest()
COMPROMISES = {RevocationReason.KEY_COMPROMISE, RevocationReason.CA_COMPROMISE, RevocationReason.AA_COMPROMISE}


def _revoked(reason: RevocationReason) -> CA:
    ca = CA()
    ca.ask(LOST)
    ca.work()
    [(_, serial)] = ca.store.certificates
    ca.ask_revocation(serial, reason)
    settle_revocations(ca.store, ca.clock, "worker-1")
    return ca


@pytest.mark.parametrize("reason", list(RevocationReason))
def test_r5_a_revocation_as_compromised_blocks_the_key_and_no_other_reason_does(reason):
    ca = _revoked(reason)
    blocking = [event for event in ca.store.events if event.kind is EventKind.KEY_BLOCKED]
    [(issuer, serial)] = ca.store.certificates
    if reason not in COMPROMISES:
        assert ([], {}) == (blocking, ca.store.blocked_keys)
        return
    words = f"{reason.name.lower()} of certificate {issuer}:{serial.hex()}"
    assert {LOST_SPKI: BlockedKey(LOST_SPKI, words, START, "alice")} == ca.store.blocked_keys
    [event] = blocking
    assert (f"key:{LOST_SPKI.hex()}", "worker-1") == (event.subject, event.actor)
    assert {"certificate": f"{issuer}:{serial.hex()}", "reason": words, "requestor": "alice"} == event.detail


def test_r5_the_same_request_and_any_other_with_that_key_are_refused_and_the_rest_of_the_batch_is_not():
    ca = _revoked(RevocationReason.KEY_COMPROMISE)
    same, good = ca.ask(LOST), ca.ask()
    other = ca.ask(make_csr("CN=other", NAMES, key("lost")), "tls-client", ("dns:other.example.org",))
    signed = len(ca.signer.signed)
    ca.work()
    states = ca.store.states
    assert [RequestState.REFUSED, RequestState.DONE] == [states[same], states[good]]
    assert RequestState.REFUSED is states[other]
    refusal = ca.store.refusals[same]
    assert (ErrorType.BAD_CERT_TEMPLATE, True) == (refusal.error, "reported compromised" in refusal.detail)
    # One certificate and one CRL: nothing was signed for the blocked key.
    assert signed + 2 == len(ca.signer.signed)
    issuers = {2: ca.issuer.certificate}
    assert [] == problems(account_of(ca.store), {2: ca.signer.signed}, issuers)


def test_r5_the_store_is_asked_once_for_a_whole_batch_with_its_intents():
    asked = []

    class Asked(MemoryStore):
        def record_intents(self, worker, intents, refusals, events, keys=()):
            asked.append(len(keys))
            return super().record_intents(worker, intents, refusals, events, keys)

    ca = CA(store=Asked())
    ca.store = ca.issuing.store
    for _ in range(5):
        ca.ask()
    ca.work()
    assert [5] == asked


def test_r5_a_key_reported_in_another_way_is_refused_too():
    ca = CA()
    ca.store.blocked_keys[LOST_SPKI] = BlockedKey(LOST_SPKI, "found on a web server", START, "olga")
    request = ca.ask(LOST)
    ca.work()
    assert RequestState.REFUSED is ca.store.states[request]
    assert [] == ca.signer.signed[1:]


def test_r5_the_key_of_an_intent_without_a_certificate_is_blocked_as_well():
    # Calls: unconfirmed, mark_unconfirmed, take_revocations, take, record_intents, then the token.
    ca = CA(Faults(6, "kill-after"))
    ca.ask(LOST)
    with pytest.raises(Killed):
        ca.worker().run_once()
    [(_, serial)] = ca.store.intents
    ca.worker()._round()
    ca.ask_revocation(serial, RevocationReason.KEY_COMPROMISE)
    settle_revocations(ca.store, ca.clock, "worker-1")
    assert StatusState.REVOKED is ca.store.statuses[2, serial].state
    assert {LOST_SPKI} == set(ca.store.blocked_keys)


def test_a_key_that_is_blocked_already_is_not_journalled_again():
    ca = CA()
    for _ in range(2):
        ca.ask(LOST)
    ca.work()
    for _, serial in ca.store.certificates:
        ca.ask_revocation(serial, RevocationReason.KEY_COMPROMISE)
    settle_revocations(ca.store, ca.clock, "worker-1")
    assert 2 == sum(status.state is StatusState.REVOKED for status in ca.store.statuses.values())
    assert 1 == sum(event.kind is EventKind.KEY_BLOCKED for event in ca.store.events)


def test_what_cannot_be_read_is_revoked_and_blocks_nothing():
    ca = CA()
    ca.ask(LOST)
    ca.work()
    [(_, serial)] = ca.store.certificates
    intent = ca.store.intents[2, serial]
    ca.store.intents[2, serial] = (intent[0], dataclasses.replace(intent[1], tbs=b"\x30\x00"))
    ca.ask_revocation(serial, RevocationReason.KEY_COMPROMISE)
    settle_revocations(ca.store, ca.clock, "worker-1")
    assert StatusState.REVOKED is ca.store.statuses[2, serial].state
    assert {} == ca.store.blocked_keys


def test_r5_a_key_on_a_list_of_weak_ones_is_refused_by_the_worker():
    weak = key("weak", "rsa-2048")
    listed = KnownKeys([modulus_digest(weak.public_key().public_numbers().n)])
    ca = CA(weak_keys=listed)
    refused, done = ca.ask(make_csr(names=NAMES, signer=weak)), ca.ask()
    ca.work()
    assert [RequestState.REFUSED, RequestState.DONE] == [ca.store.states[refused], ca.store.states[done]]
    assert "list of known weak keys" in ca.store.refusals[refused].detail
