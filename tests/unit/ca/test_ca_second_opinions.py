"""R9: linters of others that a profile wants asked before signing."""

from __future__ import annotations

import dataclasses

from cryptography import x509

from cakit import CA, PROFILES
from chancery.errors import ErrorType, PKIError
from chancery.pkix.rules import SecondOpinions
from chancery.ports import EventKind, RequestState


def asking(*names: str):
    profile = dataclasses.replace(PROFILES["tls-server"], second_opinions=SecondOpinions(before_signing=names))
    return {**PROFILES, "tls-server": profile}


def settled(ca: CA):
    request = ca.ask()
    ca.work()
    return ca.store.states[request], ca.store.refusals.get(request)


def test_what_has_nothing_against_it_lets_it_be_signed():
    seen = []
    ca = CA(profiles=asking("other"), second_opinions={"other": seen.append})
    assert (RequestState.DONE, None) == settled(ca)
    [shown] = map(x509.load_der_x509_certificate, seen)
    [record] = ca.store.certificates.values()
    signed = x509.load_der_x509_certificate(record.der)
    assert signed.tbs_certificate_bytes == shown.tbs_certificate_bytes
    # Nobody can take what the linter was shown for a certificate.
    assert signed.signature != shown.signature


def test_what_it_has_against_it_refuses_before_an_intent_and_in_words():
    ca = CA(profiles=asking("other"), second_opinions={"other": lambda _: "other: too short for us"})
    state, refusal = settled(ca)
    assert (RequestState.REFUSED, ErrorType.BAD_CERT_TEMPLATE) == (state, refusal.error)
    assert "other: too short for us" == refusal.detail
    assert EventKind.INTENT_RECORDED not in {event.kind for event in ca.store.events}


def test_no_answer_refuses_as_well_and_alone():
    answers = iter([PKIError(ErrorType.SYSTEM_UNAVAIL, "the linter other did not answer within 5 s"), None])

    def other(_):
        if (answer := next(answers)) is not None:
            raise answer

    ca = CA(profiles=asking("other"), second_opinions={"other": other})
    first, second = ca.ask(), ca.ask()
    ca.work()
    assert [RequestState.REFUSED, RequestState.DONE] == [ca.store.states[first], ca.store.states[second]]
    assert "did not answer" in ca.store.refusals[first].detail


def test_a_linter_that_is_not_here_refuses():
    state, refusal = settled(CA(profiles=asking("other")))
    assert (RequestState.REFUSED, ErrorType.SYSTEM_FAILURE) == (state, refusal.error)


def test_a_profile_that_wants_none_is_not_held_up():
    ca = CA(second_opinions={"other": lambda _: "never asked"})
    assert (RequestState.DONE, None) == settled(ca)
