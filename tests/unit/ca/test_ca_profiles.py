"""The worker and profiles: a deactivated one refuses, a wish comes through the table, what is dropped is told."""

from __future__ import annotations

import dataclasses
import datetime

from cryptography import x509

from cakit import CA, PROFILES, URLS, enrolment, issuing_issuer, key, make_csr, root_issuer
from chancery.ca.issuance import make_serial
from chancery.errors import ErrorType
from chancery.pkix.profile import grant, parse_profile, requested
from chancery.ports import EventKind, RequestState
from fakes import START, FakeEntropy

SECOND = datetime.timedelta(seconds=1)
CSR = make_csr(names=("dns:www.example.org",))


def _ask(ca: CA, csr: bytes = CSR, **changes) -> int:
    ca.store.add(dataclasses.replace(enrolment(1, csr), **changes))
    ca.work()
    return 1


def test_a_deactivated_profile_issues_nothing_and_says_so():
    ca = CA()
    number = _ask(ca, profile_active=False)
    refusal = ca.store.refusals[number]
    assert (ErrorType.NOT_AUTHORIZED, "the profile tls-server is deactivated") == (refusal.error, refusal.detail)
    assert {} == ca.store.intents
    assert EventKind.REQUEST_REFUSED in {event.kind for event in ca.store.events}


def test_what_somebody_asked_for_who_was_removed_meanwhile_is_refused():
    ca = CA()
    refusal = ca.store.refusals[_ask(ca, requestor_removed=True)]
    assert (ErrorType.NOT_AUTHORIZED, True) == (refusal.error, "no operator any more" in refusal.detail)
    assert {} == ca.store.intents


def test_a_wish_is_granted_and_one_that_cannot_be_read_refused():
    ca = CA()
    certificate = ca.certificate(_ask(ca, wish='{"duration":"12h"}'))
    length = certificate.not_valid_after_utc - certificate.not_valid_before_utc + SECOND
    assert datetime.timedelta(hours=12) == length
    other = CA()
    assert "wish" in other.store.refusals[_ask(other, wish='{"duration": "12h"}')].detail


def test_what_is_dropped_is_told_to_the_requestor_and_in_the_journal():
    ca = CA()
    csr = make_csr("CN=www.example.org", ("dns:www.example.org",), key(), x509.BasicConstraints(True, None))
    number = _ask(ca, csr)
    assert RequestState.DONE is ca.store.states[number]
    [record] = ca.store.certificates.values()
    assert "not granted: the extension basicConstraints" == record.dropped
    [intent] = [event for event in ca.store.events if event.kind is EventKind.INTENT_RECORDED]
    assert ["the extension basicConstraints"] == list(intent.detail["dropped"])


def test_what_is_no_ca_gets_the_name_of_none():
    ca = CA()
    ca.issuing = dataclasses.replace(ca.issuing, issuers={"issuing": ca.issuer, "root": root_issuer()})
    number = _ask(ca, make_csr("CN=ROOT,O=Example,C=XX"), profile="tls-client")
    assert "the name of a CA" in ca.store.refusals[number].detail


def test_a_delta_crl_is_pointed_at_where_the_profile_wants_it_and_the_issuer_has_one():
    text = PROFILES["tls-server"].source + 'pointers = ["ocsp", "crl", "ca-issuers", "freshest"]\n'
    profile = parse_profile(text)
    for deltas in (True, False):
        issuer = issuing_issuer(urls=dataclasses.replace(URLS, deltas=deltas))
        granted = grant(profile, requested(CSR), issuer.limits, START)
        linted = issuer.prepare(granted, make_serial(1, FakeEntropy(3)))
        found = x509.load_der_x509_certificate(issuer.issue(linted)).extensions
        points = [one.value for one in found if one.oid.dotted_string == "2.5.29.46"]
        assert ([x509.FreshestCRL] if deltas else []) == [type(one) for one in points]
