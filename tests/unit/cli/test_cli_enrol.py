"""The installation's own certificates: had once, renewed in time, and asked for anew after a refusal."""

from __future__ import annotations

import asyncio
import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from chancery.cli.enrol import Issuing, Wanted, timestamping
from chancery.cli.layout import Layout
from chancery.cli.suite import service_keys, tsa_label
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.ports import NewRevocation, RevocationReason
from chancery.tsa.authority import validity
from fakes import FakeClock
from unit.web.world import MemoryRegistration, key, make_csr

WANTED = Wanted("ocsp", "ocsp-signing", make_csr("OCSP Responder", "ocsp").public_bytes(Encoding.PEM))
DAY = datetime.timedelta(days=1)


class Office:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.memory = MemoryRegistration(self.clock)
        self.issuing = Issuing(self.memory, self.memory, self.clock)

    def have(self):
        purpose, new, der = asyncio.run(self.issuing.have(WANTED))
        assert "ocsp" == purpose
        return new, der


def test_a_certificate_is_issued_once_and_kept_while_there_is_life_in_it():
    office = Office()
    new, der = office.have()
    assert new
    assert (False, der) == office.have()
    request = office.memory.requests[1][0]
    assert ("installation", "ocsp-signing", "issuing") == (request.requestor, request.profile, request.issuer)
    assert ["request.received"] == office.memory.kinds()


def test_it_is_renewed_when_a_third_of_its_life_is_left_again_and_again():
    office = Office()
    certificates = []
    for _ in range(60):  # more than one page of a search
        new, der = office.have()
        assert new
        certificates.append(der)
        one = x509.load_der_x509_certificate(der)
        third = (one.not_valid_after_utc - one.not_valid_before_utc) / 3
        office.clock.time = one.not_valid_after_utc - third - DAY
        assert (False, der) == office.have()
        office.clock.time += 2 * DAY
    assert 60 == len(set(certificates))


def test_one_that_was_revoked_is_replaced():
    office = Office()
    _, der = office.have()
    [stored] = office.memory.stored
    revocation = NewRevocation(
        stored.issuer, stored.serial, RevocationReason.SUPERSEDED, None, "alice", office.clock.now()
    )
    office.memory.set_revoked(stored, revocation)
    new, other = office.have()
    assert new
    assert der != other


def test_a_refusal_says_why_and_is_not_the_answer_for_ever():
    office = Office()
    office.memory.refusal = PKIError(ErrorType.NOT_AUTHORIZED, "not for this key")
    with pytest.raises(OperatorError, match="no certificate for ocsp: not for this key"):
        office.have()
    office.memory.refusal = None
    office.clock.advance(3600)
    assert office.have()[0]


def test_a_worker_that_does_not_answer_is_named():
    office = Office()
    office.memory.asleep = True
    with pytest.raises(OperatorError, match="the worker has not answered"):
        office.have()
    # It was slow, not lost: the same request is found again.
    office.memory.asleep = False
    office.memory.work()
    assert office.have()[1] == office.memory.stored[0].der
    assert 1 == len(office.memory.requests)


def test_a_database_that_is_away_is_an_operators_matter():
    office = Office()
    office.memory.away = True
    with pytest.raises(PKIError, match="away"):
        office.have()


def test_r25_the_timestamping_key_is_followed_by_a_fresh_one(tmp_path):
    office, place = Office(), Layout(tmp_path)
    place.pki.mkdir()
    for label in ("tsa", "tsa-2"):
        path = place.service_request(label)
        path.write_bytes(make_csr("Timestamping Authority", label).public_bytes(Encoding.PEM))

    def stamping():
        _, new, der = asyncio.run(timestamping(place, office.issuing))
        return new, x509.load_der_x509_certificate(der)

    new, first = stamping()
    assert (True, "tsa") == (new, tsa_label(place))
    assert (False, first) == stamping()
    start, ended = validity(first)
    office.clock.time = ended - (ended - start) / 4
    new, second = stamping()
    assert (True, "tsa-2") == (new, tsa_label(place))
    assert key("tsa-2").public_key() == second.public_key() != first.public_key()
    # The worker may certify the first, the one in use and its spare, as far as they are there.
    assert 2 == len(service_keys(place))
    # What this CA issues begins on one day, so the second is as old as the first.
    with pytest.raises(OperatorError, match="no spare key"):
        stamping()
