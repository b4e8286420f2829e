"""Whatever happens in whatever order, and whatever fails: every signature, serial and status is accounted for."""

from __future__ import annotations

import dataclasses
import datetime
import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cakit import CA, PROFILES, URLS, key, make_csr, root_issuer
from chancery.asn1.signature import KeySigner
from chancery.audit.log import Sequencer
from chancery.audit.verify import verify
from chancery.ca.issuance import make_serial
from chancery.ca.issuer import Issuer
from chancery.errors import PKIError
from chancery.pkix.profile import grant, requested
from chancery.ports import (
    Event,
    EventKind,
    IssuerRecord,
    RequestState,
    RevocationReason,
    RevocationRequest,
    StatusState,
)
from checks import account_of, problems
from fakes import MODES, START, CountingSigner, FakeEntropy, Faults, Killed
from unit.audit.journals import ED25519, ORIGIN, MemoryJournal

GOOD = make_csr(names=("dns:www.example.org",))
BAD = make_csr("CN=nameless")

STEPS = st.one_of(
    st.tuples(st.just("ask"), st.booleans()),
    st.tuples(st.just("revoke"), st.integers(0, 5), st.sampled_from(list(RevocationReason))),
    st.tuples(st.just("wish")),
    st.tuples(st.just("wait"), st.sampled_from([0.4, 60, 86400, 86400 * 6, 86400 * 200])),
    st.tuples(st.just("fail"), st.integers(1, 8), st.sampled_from(MODES)),
    st.tuples(st.just("round")),
)


class History:
    def __init__(self) -> None:
        self.ca = CA(Faults())
        self.worker = self.ca.worker(batch=2)

    def ask(self, good: bool) -> None:
        self.ca.ask(GOOD if good else BAD)

    def revoke(self, which: int, reason: RevocationReason) -> None:
        serials = [serial for _, serial in self.ca.store.statuses] or [b"\x01" * 17]
        self.ca.ask_revocation(serials[which % len(serials)], reason)

    def wish(self) -> None:
        self.ca.store.ask_crl(2)

    def wait(self, seconds: float) -> None:
        self.ca.clock.advance(seconds)

    def fail(self, after: int, mode: str) -> None:
        self.ca.faults.at, self.ca.faults.mode = self.ca.faults.calls + after, mode

    def round(self) -> bool:
        try:
            return self.worker.run_once()
        except PKIError:
            return True
        except Killed:
            self.worker = self.ca.worker(batch=2)
            return True

    def come_to_rest(self) -> None:
        self.ca.faults.at = None
        for _ in range(200):
            if not self.round():
                return
        raise AssertionError("the worker never came to rest")


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_every_history_is_accounted_for(steps):
    history = History()
    for name, *arguments in steps:
        getattr(history, name)(*arguments)
    history.come_to_rest()
    ca = history.ca
    assert [] == problems(account_of(ca.store), {2: ca.signer.signed}, {2: ca.issuer.certificate})
    assert {RequestState.DONE, RequestState.REFUSED} >= set(ca.store.states.values())
    assert [] == ca.store.revocations
    latest = ca.store.crls[-1]
    assert latest.next_update - datetime.timedelta(hours=24) > ca.clock.now()
    newest = [one.revoked_at for one in ca.store.statuses.values() if one.state is StatusState.REVOKED]
    assert all(one <= latest.covers for one in newest)


HOLD, RELEASE = RevocationReason.CERTIFICATE_HOLD, RevocationReason.REMOVE_FROM_CRL
# Half of what is asked for is a suspension or its end: else hardly one history goes there and back.
REASONS = st.one_of(st.sampled_from([HOLD, RELEASE]), st.sampled_from(list(RevocationReason)))
PERSON = make_csr("CN=Alice,O=Example,C=XX", ("email:alice@example.org",))
FOREVER = 10**9
DAY = datetime.timedelta(days=1)
WIDER = st.one_of(
    st.tuples(
        st.just("ask_for"), st.sampled_from(["tls-client", "tls-server"]), st.sampled_from([None, "second"])
    ),
    st.tuples(st.just("change"), st.integers(0, 5), REASONS),
    st.tuples(st.just("change"), st.integers(0, 1), REASONS),
    st.tuples(st.just("wait"), st.sampled_from([0.4, 60, 86400 * 6])),
    st.tuples(st.just("fail"), st.integers(1, 8), st.sampled_from(MODES)),
    st.tuples(st.just("lose_token")),
    st.tuples(st.just("token_back")),
    st.tuples(st.just("deactivate"), st.booleans()),
    st.tuples(st.just("switch_off"), st.integers(0, 5)),
    st.tuples(st.just("sequence"), st.sampled_from([None, *MODES]), st.integers(1, 6)),
    st.tuples(st.just("round")),
    st.tuples(st.just("round")),
)


@functools.cache
def second_record() -> IssuerRecord:
    root = root_issuer()
    granted = grant(
        PROFILES["sub-ca"], requested(make_csr("CN=Second,O=Example,C=XX", (), key("second"))), root.limits, START
    )
    certificate = root.issue(root.prepare(granted, make_serial(1, FakeEntropy(3))))
    return IssuerRecord(3, "second", certificate, 1, "other", "second")


class WiderHistory(History):
    """Two issuers in two tokens of which one goes away, suspensions, deactivations, and the journal beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.token = Faults()
        self.signer = CountingSigner(KeySigner(key("second")), self.token)
        second = Issuer(second_record(), self.signer, URLS)
        self.issuers = {"issuing": self.ca.issuer, "second": second}
        self.ca.issuing = dataclasses.replace(self.ca.issuing, issuers=self.issuers)
        self.ca.store.issuers[3] = "second"
        self.worker = self.ca.worker(batch=2)
        self.numbers = iter(range(1000, 10**6))
        self.journal = MemoryJournal(Faults())
        self.sequencer = Sequencer(self.journal, ED25519, ORIGIN, self.ca.clock)
        self.heads = []

    def ask_for(self, profile: str, issuer: str | None) -> None:
        self.ca.ask(PERSON if profile == "tls-client" else GOOD, profile, issuer=issuer)

    def change(self, which: int, reason: RevocationReason) -> None:
        found = list(self.ca.store.statuses) or [(2, b"\x01" * 17)]
        issuer_id, serial = found[which % len(found)]
        at = self.ca.clock.now()
        self.ca.store.revocations.append(
            RevocationRequest(next(self.numbers), issuer_id, serial, reason, None, "alice", at)
        )

    def lose_token(self) -> None:
        self.token.at, self.token.times = self.token.calls + 1, FOREVER

    def token_back(self) -> None:
        self.token.at = None

    def deactivate(self, gone: bool) -> None:
        """The issuer issues no more; its CRLs and the revocations of its certificates go on."""
        inactive = frozenset({"second"} if gone else ())
        kind = EventKind.CA_DEACTIVATED if gone else EventKind.CA_ACTIVATED
        self.ca.store.events.append(Event(kind, self.ca.clock.now(), "alice", "issuer:second", {"issuer_id": 3}))
        self.ca.issuing = dataclasses.replace(self.ca.issuing, inactive=inactive)
        self.worker = self.ca.worker(batch=2)

    def switch_off(self, which: int) -> None:
        """The profile of a request that waits is deactivated."""
        requests = self.ca.store.requests
        if requests:
            number = list(requests)[which % len(requests)]
            requests[number] = dataclasses.replace(requests[number], profile_active=False)

    def sequence(self, mode: str | None, after: int) -> None:
        """What was recorded since gets its leaves, unless the sequencer fails or is killed in the middle of it."""
        self.journal.write(*self.ca.store.events[len(self.journal.events) :])
        faults = self.journal.faults
        faults.at, faults.mode = (None, MODES[0]) if mode is None else (faults.calls + after, mode)
        try:
            while self.sequencer.run_once():
                pass
        except PKIError:
            pass
        except Killed:
            self.sequencer = Sequencer(self.journal, ED25519, ORIGIN, self.ca.clock)
        if (head := self.audited().head) is not None:
            self.heads.append(head)

    def audited(self):
        return verify(self.journal, ORIGIN, ED25519.public_key, self.ca.clock.now(), remembered=self.heads)

    def come_to_rest(self) -> None:
        self.ca.faults.at = self.token.at = None
        idle = 0
        for _ in range(400):
            idle = 0 if self.round() else idle + 1
            # A token is tried again after a pause.
            self.ca.clock.advance(6)
            if idle == 3:
                return
        raise AssertionError("the worker never came to rest")


@settings(max_examples=80, deadline=None)
@given(st.lists(WIDER, min_size=10, max_size=40))
def test_every_history_of_two_issuers_is_accounted_for_and_its_journal_verifies(steps):
    history = WiderHistory()
    for issuer in (None, "second"):
        history.ask_for("tls-client", issuer)
    history.come_to_rest()
    for name, *arguments in steps:
        getattr(history, name)(*arguments)
    history.come_to_rest()
    ca, store = history.ca, history.ca.store
    signed = {2: ca.signer.signed, 3: history.signer.signed}
    issuers = {one.record.issuer_id: one.certificate for one in history.issuers.values()}
    assert [] == problems(account_of(store), signed, issuers)
    assert {RequestState.DONE, RequestState.REFUSED} >= set(store.states.values())
    assert [] == store.revocations
    assert {2, 3} == {one.issuer_id for one in store.crls}
    history.sequence(None, 1)
    audit = history.audited()
    assert ((), 0) == (audit.findings, audit.waiting)
    assert len(store.events) == audit.head.size


BREACHES = {
    "a status that came back": lambda store, after: store.history.append(
        dataclasses.replace(after, state=StatusState.GOOD, reason=None)
    ),
    "a release without its event": lambda store, after: store.events.remove(
        next(one for one in store.events if one.kind.value == "certificate.reinstated")
    ),
    "a hold without its event": lambda store, after: store.events.remove(
        next(one for one in store.events if one.kind.value == "certificate.suspended")
    ),
    "an entry that no CRL has": lambda store, after: store.crls.pop(),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_the_account_shows_a_breach_in_a_history_of_suspensions(breach):
    history = WiderHistory()
    history.ask_for("tls-client", None)
    history.come_to_rest()
    for reason in (HOLD, RELEASE, RevocationReason.SUPERSEDED):
        history.change(0, reason)
        history.come_to_rest()
    store = history.ca.store
    signed = {2: history.ca.signer.signed, 3: history.signer.signed}
    issuers = {one.record.issuer_id: one.certificate for one in history.issuers.values()}
    assert [] == problems(account_of(store), signed, issuers)
    [after] = store.statuses.values()
    BREACHES[breach](store, after)
    assert problems(account_of(store), signed, issuers)


DEEDS = {
    "after its deactivation": lambda store: store.events.insert(
        0, Event(EventKind.CA_DEACTIVATED, START, "alice", "issuer:issuing", {"issuer_id": 2})
    ),
    "profile:tls-client after its deactivation": lambda store: store.events.insert(
        0, Event(EventKind.PROFILE_DEACTIVATED, START, "alice", "profile:tls-client", {})
    ),
    "revoked for good since": lambda store: store.history.append(
        dataclasses.replace(store.history.pop(), revoked_at=START + 9 * DAY)
    ),
}


@pytest.mark.parametrize("said", DEEDS)
def test_the_account_names_what_was_done_to_a_suspended_or_deactivated_one(said):
    history = WiderHistory()
    history.ask_for("tls-client", None)
    history.come_to_rest()
    for reason in (HOLD, RevocationReason.SUPERSEDED):
        history.change(0, reason)
        history.come_to_rest()
    account = account_of(history.ca.store)
    signed = {2: history.ca.signer.signed, 3: history.signer.signed}
    issuers = {one.record.issuer_id: one.certificate for one in history.issuers.values()}
    assert [] == problems(account, signed, issuers)
    DEEDS[said](history.ca.store)
    [problem] = problems(account_of(history.ca.store), signed, issuers)
    assert said in problem
