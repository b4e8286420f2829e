"""Whatever happens in whatever order, and whatever fails: every signature, serial and status is accounted for."""

from __future__ import annotations

import datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from cakit import CA, make_csr
from chancery.errors import PKIError
from chancery.ports import RequestState, RevocationReason, StatusState
from checks import account_of, problems
from fakes import MODES, Faults, Killed

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
        self.ca.store.wishes.add(2)

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
