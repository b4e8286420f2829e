"""The local store: the ports' contracts over the journal, and lines that contradict each other stop everything."""

from __future__ import annotations

import dataclasses
import datetime
import json

import pytest

from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.offline import records
from chancery.offline.bundle import canonical, sha256
from chancery.offline.journal import FILE, START, Journal
from chancery.offline.store import LocalStore
from chancery.ports import (
    COMPLETE,
    CertificateRecord,
    CertificateStatus,
    CRLRecord,
    CRLSelection,
    Event,
    EventKind,
    Intent,
    NewRequest,
    NewRevocation,
    Refusal,
    RequestState,
    RevocationReason,
    Settlement,
    StatusState,
)
from fakes import START as NOON

LATER = NOON + datetime.timedelta(days=1)
END = NOON + datetime.timedelta(days=365)
EVENT = Event(EventKind.PROCESS_STARTED, NOON, "test", "store")


def new(number):
    return NewRequest(f"t{number}", "bundle", "somebody", "sub-ca", "root", b"\x30\x00", (), NOON)


def intent(number, serial):
    return Intent(number, 1, bytes((112, serial)), b"tbs", END, "sub-ca", 1, bytes(32), NOON)


def certificate(number, serial):
    return CertificateRecord(
        number, 1, bytes((112, serial)), b"der", "CN=x", (), bytes(32), NOON, END, "sub-ca", NOON
    )


def crl(number, at=NOON):
    return CRLRecord(1, number, at, at + datetime.timedelta(days=10), at, b"crl")


@pytest.fixture
def store(tmp_path):
    with LocalStore(Journal(tmp_path, create=True)) as made:
        made.open("root", "CN=Root", 112, [EVENT])
        made.submit([new(1), new(2), new(3)], None, [])
        yield made


def refusal(call, *args):
    with pytest.raises(PKIError) as caught:
        call(*args)
    return caught.value


def replayed(store):
    """What a restart finds, which is what was in effect before it."""
    before = vars(store.state).copy()
    directory = store.journal.path.parent
    store.journal.close()
    with LocalStore(Journal(directory)) as again:
        assert before == vars(again.state)


def test_requests_are_taken_once_in_their_order(store):
    assert ["t1", "t2"] == [request.transaction_id for request in store.take("w", 2, NOON)]
    assert ["t3"] == [request.transaction_id for request in store.take("other", 2, NOON)]
    assert [] == store.take("w", 2, NOON)
    replayed(store)


def test_the_life_of_a_certificate_survives_a_restart(store):
    store.take("w", 3, NOON)
    store.record_intents("w", [intent(1, 1), intent(2, 2)], [Refusal(3, ErrorType.BAD_POP, "no")], [EVENT])
    assert [intent(1, 1), intent(2, 2)] == store.unconfirmed("w")
    assert [] == store.unconfirmed("other")
    store.record_certificates([certificate(1, 1)], [], [EVENT])
    store.mark_unconfirmed("w", store.unconfirmed("w"), [EVENT])
    assert [] == store.unconfirmed("w")
    states = [store.outcome("somebody", f"t{number}").state for number in (1, 2, 3)]
    assert [RequestState.DONE, RequestState.WAITING, RequestState.REFUSED] == states
    assert (StatusState.GOOD, StatusState.UNCONFIRMED, None) == (
        store.status(1, b"\x70\x01").state,
        store.status(1, b"\x70\x02").state,
        store.status(1, b"\x70\x03"),
    )
    assert None is store.outcome("nobody", "t1")
    replayed(store)


def test_a_serial_is_used_once_for_ever(store):
    # R2
    store.take("w", 3, NOON)
    assert (
        ErrorType.SYSTEM_FAILURE is refusal(store.record_intents, "w", [intent(1, 1), intent(2, 1)], [], []).type
    )
    store.record_intents("w", [intent(1, 1)], [], [])
    before = store.journal.length
    assert "serial" in refusal(store.record_intents, "w", [intent(2, 1)], [], []).detail
    assert before == store.journal.length


def test_what_has_no_open_intent_is_no_certificate(store):
    store.take("w", 3, NOON)
    assert "intent" in refusal(store.record_certificates, [certificate(1, 1)], [], []).detail
    store.record_intents("w", [intent(1, 1), intent(2, 2)], [], [])
    assert "intent" in refusal(store.record_certificates, [certificate(2, 1)], [], []).detail
    store.record_certificates([certificate(1, 1)], [], [])
    assert "intent" in refusal(store.record_certificates, [certificate(1, 1)], [], []).detail
    assert "not taken" in refusal(store.record_certificates, [], [Refusal(1, ErrorType.BAD_POP, "")], []).detail
    assert "not open" in refusal(store.mark_unconfirmed, "w", [intent(1, 1)], []).detail


def test_nothing_to_record_is_no_line(store):
    before = store.journal.length
    store.record_certificates([], [], [])
    store.mark_unconfirmed("w", [], [])
    assert [] == store.take_revocations(5)
    assert before == store.journal.length


def test_crl_numbers_only_go_up(store):
    # R15
    assert [1, 2] == [store.reserve_crl_number(1, []), store.reserve_crl_number(1, [])]
    assert "R15" in refusal(store.publish_crl, crl(3), []).detail
    store.publish_crl(crl(2), [])
    for number in (1, 2):
        assert "R15" in refusal(store.publish_crl, crl(number), []).detail
    assert 2 == store.latest_crl(1).number
    assert None is store.latest_crl(2)
    replayed(store)


def issued(store):
    store.take("w", 3, NOON)
    store.record_intents("w", [intent(1, 1)], [], [])
    store.record_certificates([certificate(1, 1)], [], [])


def revocation(serial=b"\x70\x01"):
    return NewRevocation("root", serial, RevocationReason.SUPERSEDED, None, "officer", NOON)


def settle(store, status, request, refusal=None):
    store.settle([Settlement(request, status, refusal, ())])


def listed(store, since) -> int:
    with store.open_crl(CRLSelection(1, COMPLETE, since)) as draft:
        return draft.entries


def revoked(serial=b"\x70\x01", **changes):
    status = CertificateStatus(1, serial, StatusState.REVOKED, END, NOON, RevocationReason.SUPERSEDED)
    return dataclasses.replace(status, **changes)


def test_a_status_goes_forwards_only_and_reaches_the_crl(store):
    issued(store)
    store.submit_revocation(revocation(), 1, [])
    [waiting] = store.take_revocations(5)
    assert [True] == [one.may_revoke for one in store.standings([waiting])]
    for wrong in (
        revoked(reason=RevocationReason.KEY_COMPROMISE),
        revoked(state=StatusState.GOOD),
        revoked(serial=b"\x70\x02"),
    ):
        assert "forwards" in refusal(settle, store, wrong, waiting, None).detail
    assert "does not wait" in refusal(settle, store, revoked(), waiting, "and refused").detail
    settle(store, revoked(), waiting)
    assert "does not wait" in refusal(settle, store, revoked(), waiting, None).detail
    assert 1 == listed(store, NOON)
    # R16: gone from the CRL once a CRL after the certificate's end has carried it.
    assert 0 == listed(store, END + datetime.timedelta(seconds=1))
    store.submit_revocation(revocation(), 1, [])
    [again] = store.take_revocations(5)
    assert "forwards" in refusal(settle, store, revoked(), again, None).detail
    settle(store, None, again, "revoked already")
    replayed(store)


def test_keys_are_planned_then_made_once(store):
    assert "not planned" in refusal(store.record_key, "root", b"spki", []).detail
    store.plan_key("root", "ec-p256", [])
    assert "planned before" in refusal(store.plan_key, "root", "ec-p256", []).detail
    store.record_key("root", b"spki", [])
    assert "made before" in refusal(store.record_key, "root", b"spki", []).detail
    replayed(store)


def test_the_first_line_is_the_opening_and_only_the_first(tmp_path, store):
    assert "once" in refusal(store.open, "root", "CN=Root", 112, []).detail
    with LocalStore(Journal(tmp_path / "empty", create=True)) as empty:
        assert "begins" in refusal(empty.plan_key, "root", "ec-p256", []).detail


def test_events_stand_in_the_line_of_their_effect(store):
    # R27
    first = store.journal.path.read_bytes().splitlines()[0]
    assert [EVENT.body()] == json.loads(first)["record"]["events"]


def rewritten(lines):
    """Hash the lines anew, as somebody would who wants to hide a change."""
    previous, out = START, []
    for number, line in enumerate(lines, 1):
        data = canonical({"number": number, "previous": previous, "record": json.loads(line)["record"]})
        previous = sha256(data)
        out.append(data + b"\n")
    return b"".join(out)


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[1:],
        lambda lines: [lines[0], lines[0], *lines[1:]],
        lambda lines: [lines[0], lines[1], lines[1], *lines[2:]],
        lambda lines: [*lines[:2], *lines[3:]],
        lambda lines: [*lines[:3], lines[4], lines[3]],
        lambda lines: [*lines[:4], lines[3], lines[4]],
    ],
)
def test_lines_that_contradict_each_other_stop_everything(store, change):
    issued(store)
    store.journal.close()
    path = store.journal.path
    path.write_bytes(rewritten(change(path.read_bytes().splitlines())))
    journal = Journal(path.parent)
    with pytest.raises(OperatorError, match="offline journal"):
        LocalStore(journal)
    journal.close()


def test_a_record_of_an_unknown_kind_stops_everything(store):
    store.journal.close()
    path = store.journal.path
    lines = path.read_bytes().splitlines()
    path.write_bytes(rewritten([*lines, b'{"record":{"kind":"later","events":[]}}']))
    with pytest.raises(OperatorError, match="line 3"):
        Journal(path.parent)
    assert FILE == path.name
    assert records.FORMAT.encode() in lines[0]
