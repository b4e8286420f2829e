"""Who issues and who is the default, whatever the order of the acts; certificates and takeovers of issuers."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st
from pgdata import Office, event, issuer_certificate

from chancery.errors import ErrorType, PKIError
from chancery.ports import (
    Act,
    CertificateKind,
    IssuerAct,
    NewCertificate,
    NewIssuer,
    RevocationReason,
    RevokedEntry,
    StatusState,
    Takeover,
)
from pg import AT

NAMES = ("a", "b", "c")
ACTS = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(Act)), max_size=12)


def refused(call, *args) -> bool:
    try:
        call(*args)
    except PKIError as error:
        if error.type is not ErrorType.BAD_REQUEST:
            raise
        return True
    return False


def test_at_most_one_default_whatever_the_order_of_acts(database):
    office = Office(database)
    for name in NAMES:
        office.issuers.add_issuer(NewIssuer(name, issuer_certificate(name), None, "t", name), AT, [])
    state = {"active": set(NAMES), "default": None}

    @hypothesis.settings(max_examples=25, deadline=None)
    @hypothesis.given(ACTS)
    def walk(acts):
        for name, act in acts:
            fits = {
                Act.ACTIVATE: name not in state["active"],
                Act.DEACTIVATE: name in state["active"],
                Act.DEFAULT: name in state["active"],
            }[act]
            assert fits is not refused(office.issuers.act, [IssuerAct(name, act, AT, "x", "")], [event()])
            if fits and act is Act.ACTIVATE:
                state["active"].add(name)
            elif fits and act is Act.DEACTIVATE:
                state["active"].remove(name)
            elif fits:
                state["default"] = name
            records = {one.name: one for one in office.issuers.issuers()}
            assert state["active"] == {one for one in NAMES if records[one].active}
            assert [state["default"]] * (state["default"] is not None) == [
                name for name, one in records.items() if one.default
            ]

    walk()


def test_acts_come_all_or_not_at_all(database):
    office = Office(database)
    office.issuers.add_issuer(NewIssuer("a", issuer_certificate("a"), None, "t", "a"), AT, [])
    both = [IssuerAct("a", Act.DEACTIVATE, AT, "x", ""), IssuerAct("a", Act.DEFAULT, AT, "x", "")]
    before = len(office.events())
    assert refused(office.issuers.act, both, [event()])
    assert next(one for one in office.issuers.issuers() if one.name == "a").active
    assert before == len(office.events())


def test_a_further_certificate_is_for_the_same_name_and_key(database):
    office = Office(database)
    office.issuers.add_issuer(NewIssuer("a", issuer_certificate("a"), None, "t", "a"), AT, [])
    wrong = NewCertificate("a", CertificateKind.CROSS, issuer_certificate("b"), None)
    with pytest.raises(PKIError, match="another name or key"):
        office.issuers.add_certificate(wrong, AT, [])


def test_r15_a_takeover_goes_on_with_numbers_and_revocations(database):
    office = Office(database)
    entry = RevokedEntry(b"\x7f", AT, RevocationReason.KEY_COMPROMISE, None)
    takeover = Takeover(41, bytes(32), (entry,))
    new = NewIssuer("a", issuer_certificate("a"), None, "t", "a")
    issuer_id = office.issuers.add_issuer(new, AT, [event()], (), takeover)
    assert issuer_id == office.issuers.add_issuer(new, AT, [event()], (), takeover)
    listed = (
        "SELECT serial, revoked_at, reason, invalidity_date FROM chancery.certificate_status WHERE issuer_id = %s"
    )
    assert [(entry.serial, AT, 1, None)] == office.sql(listed, issuer_id)
    assert 42 == office.revocations.reserve_crl_number(issuer_id, [])
    assert 1 == office.count("imported_revocation")
    with pytest.raises(PKIError) as caught:
        office.issuers.add_issuer(
            NewIssuer("b", issuer_certificate("b"), "nobody", "t", "b"), AT, [event()], (), takeover
        )
    assert ErrorType.BAD_REQUEST is caught.value.type
    assert (
        StatusState.REVOKED.value
        == office.sql(
            "SELECT state FROM chancery.certificate_status WHERE issuer_id = %s AND serial = %s",
            issuer_id,
            b"\x7f",
        )[0][0]
    )
