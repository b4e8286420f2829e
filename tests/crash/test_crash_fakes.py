"""
Every port call of issuance, revocation and CRL making failed and killed, before and after its effect.

For N = 1, 2, 3, … the Nth call goes wrong, until a run passes untouched; each time the worker starts again
and an independent checker accounts for every signature that the token made.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from cakit import CA, make_csr
from chancery.errors import PKIError
from chancery.ports import RequestState, StatusState
from checks import account_of, problems
from fakes import MODES, Faults, Killed

GOOD = make_csr(names=("dns:www.example.org",))
BAD = make_csr("CN=no names")


def _live(ca: CA, rounds: int = 60) -> None:
    """Lives of a worker, one after another as each is killed, until a round finds nothing to do."""
    worker = ca.worker(batch=2)
    for _ in range(rounds):
        try:
            if not worker.run_once():
                return
        except PKIError:
            continue
        except Killed:
            worker = ca.worker(batch=2)
    raise AssertionError("the worker never came to rest")


def _scenario(faults: Faults, **issuing) -> CA:
    """Three certificates, a refusal; then one of them and whatever is unconfirmed revoked, and a wrong serial."""
    ca = CA(faults, **issuing)
    for csr in (GOOD, BAD, GOOD, GOOD):
        ca.ask(csr)
    _live(ca)
    first = next(iter(ca.store.certificates.values()))
    unconfirmed = [one.serial for one in ca.store.statuses.values() if one.state is StatusState.UNCONFIRMED]
    ca.clock.advance(60)
    for serial in (first.serial, b"\x01" * 17, *unconfirmed):
        ca.ask_revocation(serial)
    _live(ca)
    return ca


def _check(ca: CA) -> None:
    issuers = {2: ca.issuer.certificate}
    assert [] == problems(account_of(ca.store), {2: ca.signer.signed}, issuers)
    done, refused = RequestState.DONE, RequestState.REFUSED
    assert {1: done, 2: refused, 3: done, 4: done} == ca.store.states
    assert [] == ca.store.revocations
    [first, *others] = [ca.store.statuses[key].state for key in ca.store.certificates]
    assert (StatusState.REVOKED, [StatusState.GOOD] * 2) == (first, others)
    assert {2: "this issuer never used that serial number"} == ca.store.revocation_refusals
    assert not any(one.state is StatusState.UNCONFIRMED for one in ca.store.statuses.values())


@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize("mode", MODES)
def test_whatever_call_goes_wrong_everything_is_accounted_for(mode, times):
    for at in range(1, 200):
        faults = Faults(at, mode, times)
        ca = _scenario(faults)
        _check(ca)
        if faults.calls < at:
            break
    else:
        raise AssertionError("the scenario never ran untouched")
    assert at > 20


@pytest.mark.parametrize("mode", MODES)
def test_the_same_with_signatures_spread_over_threads(mode):
    with ThreadPoolExecutor(3) as signers:
        for at in range(1, 200):
            faults = Faults(at, mode)
            ca = _scenario(faults, signers=signers)
            _check(ca)
            if faults.calls < at:
                return
    raise AssertionError("the scenario never ran untouched")


def test_a_signature_made_before_a_kill_is_named_by_an_intent_that_is_unconfirmed_and_revocable():
    # unconfirmed, mark_unconfirmed, take_revocations, crl_states, take, record_intents, then the token.
    ca = CA(Faults(7, "kill-after"))
    ca.ask(GOOD)
    with pytest.raises(Killed):
        ca.worker().run_once()
    [tbs] = ca.signer.signed
    assert [tbs] == [intent.tbs for _, intent in ca.store.intents.values()]
    assert {} == ca.store.certificates
    ca.work()
    states = sorted(one.state.value for one in ca.store.statuses.values())
    assert ["good", "unconfirmed"] == states
    assert 2 == len(ca.store.intents)
    [lost] = [one.serial for one in ca.store.statuses.values() if one.state is StatusState.UNCONFIRMED]
    ca.ask_revocation(lost)
    ca.work()
    assert StatusState.REVOKED is ca.store.statuses[2, lost].state
    assert [] == problems(account_of(ca.store), {2: ca.signer.signed}, {2: ca.issuer.certificate})
