"""The worker: rounds, pauses that grow, and recovery after every failure."""

from __future__ import annotations

import pytest

from cakit import CA, key
from chancery.asn1.signature import KeySigner
from chancery.ca.hierarchy import Hierarchy
from chancery.ca.worker import CRL_SHARE, PAUSES, Worker, WorkerSettings
from chancery.errors import ErrorType, PKIError
from chancery.ports import RequestState, RevocationReason
from checks import account_of, problems
from fakes import CountingSigner, Faults, Killed


class Waits:
    """Moves the clock instead of waiting, and stops the worker after so many waits."""

    def __init__(self, ca: CA, limit: int) -> None:
        self.ca = ca
        self.limit = limit
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(round(seconds, 3))
        self.ca.clock.advance(seconds)

    def stopping(self) -> bool:
        return len(self.seconds) >= self.limit


def test_a_round_tells_whether_there_was_anything_to_do():
    ca = CA()
    worker = ca.worker()
    assert worker.run_once()  # the first CRL
    assert not worker.run_once()
    ca.ask()
    assert worker.run_once()
    assert not worker.run_once()
    assert ["crl", "batch"] == [event for event, _ in ca.reports]
    assert {"issued": 1, "refused": 0, "unconfirmed": 0} == ca.reports[1][1]


def test_a_batch_is_as_large_as_the_settings_say():
    ca = CA()
    for _ in range(5):
        ca.ask()
    worker = ca.worker(batch=2)
    while worker.run_once():
        pass
    assert [2, 2, 1] == [values["issued"] for event, values in ca.reports if event == "batch"]


def test_an_idle_worker_waits_for_work():
    ca = CA()
    waits = Waits(ca, 3)
    ca.worker().run(waits, waits.stopping)
    assert [1.0, 1.0, 1.0] == waits.seconds


def test_a_worker_looks_for_what_it_is_told_of_and_once_in_a_while_for_everything():
    ca = CA()
    looked: list[str] = []
    take, take_revocations = ca.store.take, ca.store.take_revocations
    ca.store.take = lambda *rest: looked.append("requests") or take(*rest)
    ca.store.take_revocations = lambda *rest: looked.append("revocations") or take_revocations(*rest)
    rounds: list[list[str]] = []
    requests, everything = ["requests"], ["revocations", "requests"]
    # Seconds and what is heard then: nothing is that the time is over, "other" may be anything.
    told = [(0.1, {"request"}, requests), (1.0, set(), everything), (0.1, {"other"}, everything)]
    told += [(0.1, {"request"}, requests), (1.0, {"request"}, everything)]

    def wait(_: float) -> set[str]:
        rounds.append([*looked])
        looked.clear()
        seconds, heard, _ = told[min(len(rounds), len(told)) - 1]
        ca.clock.advance(seconds)
        return heard

    ca.worker().run(wait, lambda: len(rounds) > len(told))
    # The first round makes a CRL, and another follows at once.
    assert [2 * everything, *(each for _, _, each in told)] == rounds


def test_failures_pause_longer_and_longer_and_end_with_success():
    ca = CA(Faults(1, times=8))
    ca.ask()
    waits = Waits(ca, 9)
    ca.worker().run(waits, waits.stopping)
    assert [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 5.0, 5.0, 1.0] == waits.seconds
    assert list(PAUSES) == waits.seconds[:6]
    assert RequestState.DONE is ca.store.states[1]
    paused = [values for event, values in ca.reports if event == "paused"]
    assert {"error": "systemUnavail", "detail": "the port failed", "seconds": 0.1} == paused[0]


def test_a_wake_up_does_not_cut_a_pause_short():
    ca = CA(Faults(1))
    seconds: list[float] = []

    def woken(rest: float) -> None:
        seconds.append(rest)
        ca.clock.advance(0.04)

    ca.worker().run(woken, lambda: len(seconds) >= 4)
    assert [0.1, 0.06, 0.02, 1.0] == [round(one, 3) for one in seconds]


def test_a_token_that_is_away_is_paused_for_and_loses_nothing():
    class Away(CountingSigner):
        away = 3

        def sign(self, data: bytes) -> bytes:
            if self.away:
                self.away -= 1
                raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the token does not answer")
            return super().sign(data)

    ca = CA(signer=Away(KeySigner(key("issuing"))))
    ca.ask()
    waits = Waits(ca, 6)
    ca.worker().run(waits, waits.stopping)
    assert RequestState.DONE is ca.store.states[1]
    assert [] == problems(account_of(ca.store), {2: ca.signer.signed}, {2: ca.issuer.certificate})
    assert "paused" in [event for event, _ in ca.reports]


def test_a_token_that_failed_is_tried_with_one_request_until_it_signs():
    ca = CA()
    worker = ca.worker(batch=4)
    assert worker.run_once()  # the first CRL needs no luck
    requests = [ca.ask() for _ in range(6)]
    sign, ca.signer.sign = ca.signer.sign, _away
    for _ in range(3):
        with pytest.raises(PKIError, match="unsigned"):
            worker.run_once()
    ca.signer.sign = sign
    while worker.run_once():
        pass
    batches = [values for event, values in ca.reports if event == "batch"]
    assert [4, 1, 1] == [values["unconfirmed"] for values in batches if values["unconfirmed"]]
    assert [1, 4, 1] == [values["issued"] for values in batches if values["issued"]]
    assert {RequestState.DONE} == {ca.store.states[request] for request in requests}


def _away(data):
    raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the token is away")


def test_revocations_are_settled_while_the_token_is_away():
    ca = CA()
    ca.ask()
    ca.work()
    [(_, serial)] = ca.store.certificates

    class Away(CountingSigner):
        def sign(self, data: bytes) -> bytes:
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the token does not answer")

    ca.issuer.signer = Away(KeySigner(key("issuing")))
    ca.ask_revocation(serial, RevocationReason.KEY_COMPROMISE)
    ca.ask()
    with pytest.raises(PKIError):
        ca.worker().run_once()
    assert [] == ca.store.revocations


def test_recovery_runs_first_and_after_every_failure():
    ca = CA(Faults(7, "kill-after"))
    ca.ask()
    worker = ca.worker()
    with pytest.raises(Killed):
        worker.run_once()
    assert RequestState.TAKEN is ca.store.states[1]
    while worker.run_once():
        pass
    assert RequestState.DONE is ca.store.states[1]
    assert ("recovered", {"unconfirmed": 1}) in ca.reports


def test_what_nobody_foresaw_ends_the_worker():
    ca = CA()

    def broken(*_: object) -> None:
        raise KeyError("odd")

    ca.store.take = broken
    with pytest.raises(KeyError):
        ca.worker().run(lambda _: None, lambda: False)


def test_crls_leave_time_for_certificates():
    ca = CA()

    class Slow(CountingSigner):
        def sign(self, data: bytes) -> bytes:
            ca.clock.advance(2)
            return super().sign(data)

    ca.issuer.signer = Slow(KeySigner(key("issuing")))
    worker = ca.worker()
    assert worker.run_once()
    ca.store.ask_crl(2)
    assert not worker.run_once()
    ca.clock.advance(2 * CRL_SHARE)
    assert worker.run_once()
    assert 2 == len(ca.store.crls)


@pytest.mark.parametrize("settings", [{"batch": 0}, {"idle": 0}])
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(ValueError, match="batch"):
        WorkerSettings(**settings)


def test_a_worker_stops_when_told():
    ca = CA()
    Worker(ca.issuing, ca.store, WorkerSettings(), lambda *_: None).run(lambda _: None, lambda: True)
    assert [] == ca.store.crls


def test_issuers_change_between_two_batches_and_their_crls_go_on():
    ca = CA()
    looks = [None, Hierarchy({"issuing": ca.issuer}, frozenset({"issuing"}), "issuing"), None]
    worker = Worker(
        ca.issuing,
        ca.store,
        WorkerSettings(),
        lambda event, values: ca.reports.append((event, values)),
        look=lambda: looks.pop(0),
    )
    first = ca.ask()
    worker.run_once()
    second = ca.ask()
    worker.run_once()
    assert ca.certificate(first)
    # Not looked at again within the second.
    assert ca.certificate(second)
    ca.clock.advance(2)
    third = ca.ask()
    worker.run_once()
    assert [] == [one for one in ca.store.certificates.values() if one.request_id == third]
    assert ("issuers", {"issuers": ["issuing"], "inactive": ["issuing"], "default": "issuing"}) in ca.reports
    number = ca.store.latest_crl(2).number
    ca.clock.advance(7 * 86400)
    worker.run_once()
    assert number < ca.store.latest_crl(2).number
