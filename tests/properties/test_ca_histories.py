"""Whatever happens in whatever order, whatever fails: signatures, serials, statuses and CRLs are accounted for."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from chancery.ports import RequestState, RevocationReason
from fakes import MODES
from historykit import FOREVER, ID, History

RELEASE = RevocationReason.REMOVE_FROM_CRL
REASONS = st.sampled_from(list(RevocationReason))
ISSUERS = st.sampled_from([None, *ID])
PROFILES = st.sampled_from(["tls-client", "tls-client", "smime", "code-signing", "tls-server", "ocsp-signing", ""])
# Compromised keys are few, so that one is asked for again.
LABELS = st.sampled_from(["leaf", "leaf 2", "leaf 3"])
SECONDS = st.sampled_from([0.4, 1, 60, 3600, 86400, 86400 * 6, 86400 * 40, 86400 * 200])
ROUND = st.tuples(st.just("round"))
ASK = st.tuples(st.just("ask"), PROFILES, ISSUERS, LABELS)
CHANGE = st.tuples(st.just("change"), st.integers(0, 12), REASONS)
REST = st.tuples(st.just("come_to_rest"))
# At random hardly one history goes there and back.
SUSPEND = st.tuples(st.just("suspend"), st.integers(0, 3))
END = st.tuples(st.just("end_suspension"), st.integers(0, 3), st.one_of(st.just(RELEASE), REASONS))
FAIL_TOKEN = st.tuples(
    st.just("fail_token"), st.sampled_from(list(ID)), st.integers(1, 2), st.sampled_from(MODES), st.integers(1, 3)
)
STEPS = st.one_of(
    *(ASK, ASK, CHANGE, CHANGE, SUSPEND, SUSPEND, END, END, ROUND, ROUND, ROUND, REST, REST, FAIL_TOKEN),
    st.tuples(st.just("revoke_unconfirmed"), st.integers(0, 3)),
    st.tuples(st.just("want"), st.sampled_from(list(ID)), st.sampled_from([None, 0, 1, 2]), st.booleans()),
    st.tuples(st.just("wait"), SECONDS),
    st.tuples(st.just("fail"), st.integers(1, 12), st.sampled_from(MODES)),
)
WIDER = st.one_of(
    STEPS,
    st.tuples(st.just("fail_token"), st.sampled_from(list(ID)), st.just(1), st.just(MODES[0]), st.just(FOREVER)),
    st.tuples(st.just("tokens_back")),
    st.tuples(st.just("switch_issuer"), st.booleans()),
    st.tuples(st.just("switch_profile"), st.sampled_from(["tls-client", "smime"]), st.booleans()),
    st.tuples(st.just("sequence"), st.sampled_from([None, *MODES]), st.integers(1, 6)),
)
CRLS = st.tuples(st.sampled_from([0, 2]), st.booleans())


def play(crls, steps) -> History:
    shards, deltas = crls
    history = History(shards, deltas=deltas)
    # Something of each kind is there from the start, so that few steps are about nothing.
    for profile, issuer in (("tls-client", None), ("smime", "second"), ("tls-server", None)):
        history.ask(profile, issuer)
    history.come_to_rest()
    for name, *arguments in steps:
        getattr(history, name)(*arguments)
    history.come_to_rest()
    return history


def settled(history: History) -> None:
    """Nothing waits, everything is accounted for, and what was revoked is on a CRL that holds (R14, R15)."""
    store, now = history.store, history.ca.clock.now()
    assert [] == history.problems()
    assert [] == history.late()
    assert {RequestState.DONE, RequestState.REFUSED} >= set(store.states.values())
    assert [] == store.revocations
    for state in store.crl_states():
        assert state.full.next_update - history.settings.complete.margin > now
        assert (state.delta is None) or state.delta.number < state.full.number or state.delta.next_update > now


@settings(max_examples=100, deadline=None)
@given(CRLS, st.lists(STEPS, min_size=20, max_size=45))
def test_every_history_is_accounted_for(crls, steps):
    history = play(crls, steps)
    settled(history)
    history.publish_all()
    settled(history)


@settings(max_examples=80, deadline=None)
@given(CRLS, st.lists(WIDER, min_size=25, max_size=50))
def test_every_history_of_two_issuers_is_accounted_for_and_its_journal_verifies(crls, steps):
    history = play(crls, steps)
    settled(history)
    assert {2, 3} == {one.issuer_id for one in history.store.crls}
    history.sequence()
    audit = history.audited()
    assert ((), 0) == (audit.findings, audit.waiting)
    assert len(history.store.events) == audit.head.size
