"""Issuers in several tokens: one that is away holds up its own issuers alone, and nothing is lost or spun on."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cakit import CA, PROFILES, enrolment, issuing_issuer, issuing_record, key, make_csr
from chancery.asn1.signature import KeySigner
from chancery.ca.issuer import Issuer, TokenAwayError
from chancery.ca.worker import Worker, WorkerSettings
from chancery.errors import ErrorType, PKIError
from chancery.ports import RequestState, Scope
from checks import account_of, problems
from fakes import CountingSigner

OTHER_ID = 3


class Switch(CountingSigner):
    """A token's key; `away` says whether the token answers."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.away = False
        self.asked = 0

    def sign(self, data: bytes) -> bytes:
        self.asked += 1
        if self.away:
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the token is away")
        return super().sign(data)


class Two:
    """A worker with the issuer `issuing` in the token `ca`, and `other` in the token `second`."""

    def __init__(self, *, reachable: bool = False, **issuing) -> None:
        self.first, self.second = (Switch(KeySigner(key("issuing"))) for _ in range(2))
        record = dataclasses.replace(issuing_record(), issuer_id=OTHER_ID, name="other", token_label="second")
        other = Issuer(record, self.second, issuing_issuer().urls)
        self.ca = CA(signer=self.first)
        self.ca.issuing = dataclasses.replace(
            self.ca.issuing, issuers={"issuing": self.ca.issuer, "other": other}, **issuing
        )
        self.ca.store.issuers[OTHER_ID] = "other"
        self.reached: list[str] = []
        self.worker = Worker(
            self.ca.issuing,
            self.ca.store,
            WorkerSettings(batch=8),
            lambda event, values: self.ca.reports.append((event, values)),
            self._reach if reachable else None,
        )
        self.settle()

    def _reach(self, label: str) -> bool:
        self.reached.append(label)
        return not {"ca": self.first, "second": self.second}[label].away

    def ask(self, issuer: str | None = None, profile: str = "tls-server") -> int:
        return self.ca.ask(profile=profile, issuer=issuer)

    def settle(self, rounds: int = 50) -> None:
        for _ in range(rounds):
            try:
                if not self.worker.run_once():
                    return
            except PKIError:
                self.ca.clock.advance(5)
        raise AssertionError("the worker spins")

    def states(self, *requests: int) -> set[RequestState]:
        return {self.ca.store.states[one] for one in requests}

    def check(self) -> None:
        signed = {2: self.first.signed, OTHER_ID: self.second.signed}
        certificate = self.ca.issuer.certificate
        assert [] == problems(account_of(self.ca.store), signed, {2: certificate, OTHER_ID: certificate})


def test_a_token_that_is_away_holds_up_its_own_issuers_alone():
    two = Two()
    two.second.away = True
    away = [two.ask("other") for _ in range(3)]
    first = [two.ask() for _ in range(3)]
    two.settle()
    later = [two.ask("issuing") for _ in range(20)]
    two.settle()
    assert {RequestState.DONE} == two.states(*first, *later)
    assert {RequestState.WAITING} == two.states(*away)
    assert ["second"] == two.worker.tokens_away
    asked = two.second.asked
    assert not two.worker.run_once(), "what waits for a token is not spun on"
    assert asked == two.second.asked
    for _ in range(3):
        two.ca.clock.advance(10)
        two.settle()
    assert asked + 3 == two.second.asked, "one request, and one serial, for each attempt"
    two.second.away = False
    two.ca.clock.advance(10)
    two.settle()
    assert {RequestState.DONE} == two.states(*away)
    assert [] == two.worker.tokens_away
    events = [event for event, _ in two.ca.reports if event.startswith("token")]
    assert ["token away", "token back"] == events
    two.check()


def test_the_issuer_of_a_request_may_be_the_profile_s():
    client = dataclasses.replace(PROFILES["tls-client"], default_issuer="other")
    two = Two(profiles={**PROFILES, "tls-client": client})
    two.second.away = True
    csr = make_csr("CN=olga,O=Example")
    away = [two.ca.ask(csr, "tls-client") for _ in range(2)]
    two.settle()
    named = two.ca.ask(csr, "tls-client", issuer="issuing")
    more = two.ca.ask(csr, "tls-client")
    two.settle()
    assert {RequestState.DONE} == two.states(named)
    assert {RequestState.WAITING} == two.states(*away, more)


def test_crls_of_the_others_are_published():
    two = Two()
    two.second.away = True
    before = {one: two.ca.store.latest_crl(one).number for one in (2, OTHER_ID)}
    for one in (2, OTHER_ID):
        two.ca.store.ask_crl(one)
    two.settle()
    assert before[2] + 1 == two.ca.store.latest_crl(2).number
    assert before[OTHER_ID] == two.ca.store.latest_crl(OTHER_ID).number
    assert ["second"] == two.worker.tokens_away
    two.second.away = False
    for _ in range(3):
        two.ca.clock.advance(100)
        two.settle()
    assert before[OTHER_ID] < two.ca.store.latest_crl(OTHER_ID).number


def test_with_no_token_left_the_worker_pauses_as_with_one():
    two = Two()
    two.first.away = two.second.away = True
    requests = [two.ask("other"), two.ask("issuing")]
    with pytest.raises(PKIError, match="left 2 certificates unsigned"):
        two.worker.run_once()
    assert ["ca", "second"] == two.worker.tokens_away
    two.first.away = two.second.away = False
    two.settle()
    assert {RequestState.DONE} == two.states(*requests)
    two.check()


def test_a_token_is_only_tried_again_once_it_is_reached():
    two = Two(reachable=True)
    two.second.away = True
    request = two.ask("other")
    two.settle()
    asked = two.second.asked
    for _ in range(4):
        two.ca.clock.advance(10)
        two.settle()
    assert asked == two.second.asked
    assert ["second"] * 4 == two.reached
    two.second.away = False
    two.ca.clock.advance(10)
    two.settle()
    assert {RequestState.DONE} == two.states(request)


def test_a_token_that_is_reached_is_back_although_nothing_waits_for_it():
    two = Two(reachable=True)
    two.second.away = True
    request = two.ask("other")
    two.settle()
    two.ca.store.states[request] = RequestState.REFUSED
    two.second.away = False
    two.ca.clock.advance(10)
    two.settle()
    assert [] == two.worker.tokens_away


def test_an_issuer_says_that_it_was_its_token():
    issuer = issuing_issuer("ec-p256", Switch(KeySigner(key("issuing"))))
    issuer.signer.away = True
    with pytest.raises(TokenAwayError) as failed:
        issuer.sign(b"tbs")
    assert (ErrorType.SYSTEM_UNAVAIL, "the token is away") == (failed.value.type, failed.value.detail)


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["ask issuing", "ask other", "ask", "ca", "second", "round"]), st.booleans()),
        max_size=25,
    )
)
def test_whatever_comes_and_goes_every_request_is_answered_in_the_end(steps):
    two = Two()
    requests = []
    csr = make_csr(names=("dns:www.example.org",))
    for what, flag in steps:
        if what.startswith("ask"):
            requests.append(two.ca.ask(csr, issuer=what.partition(" ")[2] or None))
        elif what == "round":
            try:
                two.worker.run_once()
            except PKIError:
                two.ca.clock.advance(1)
        else:
            {"ca": two.first, "second": two.second}[what].away = flag
        two.ca.clock.advance(0.3)
    two.first.away = two.second.away = False
    two.ca.clock.advance(10)
    two.settle(200)
    assert {RequestState.DONE} >= two.states(*requests)
    two.check()


def test_a_scope_and_its_complement_are_all_there_is():
    requests = [enrolment(1, b"", profile, issuer=issuer) for issuer in (None, "a", "b") for profile in ("p", "q")]
    scope = Scope(("a",), ("p",), inside=True)
    held = [(one.issuer, one.profile) for one in requests if scope.holds(one)]
    assert [(None, "p"), ("a", "p"), ("a", "q")] == held
    rest = dataclasses.replace(scope, inside=False)
    assert all(scope.holds(one) is not rest.holds(one) for one in requests)
