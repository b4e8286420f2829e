"""Random ceremonies, each step perhaps failing or dying anywhere: R2, R8 and R15 hold in what remains."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from chancery.asn1 import der
from chancery.errors import PKIError
from chancery.offline import importing
from chancery.offline.bundle import decode_response, fingerprint
from chancery.ports import RevocationReason, StatusState
from fakes import Killed
from unit.offline import ceremonies
from unit.offline.ceremonies import entry, request

faults = st.tuples(
    st.sampled_from(["journal", "token"]),
    st.integers(1, 9),
    st.sampled_from(["fail-before", "fail-after", "kill-before", "kill-after"]),
)
steps = st.lists(
    st.tuples(st.sampled_from(["sign", "revoke", "init"]), st.one_of(st.none(), faults)), min_size=1, max_size=6
)


class Story:
    """An installation and its offline CA: each repeats what did not come to its end."""

    def __init__(self, machine):
        self.machine = machine
        self.link = importing.FIRST
        self.data = None
        self.count = 0
        self.answered = []

    def init(self):
        self.machine.init().store.journal.close()

    def sign(self):
        if self.data is None:
            self.count += 1
            self.data = request(entry(transaction_id=f"t{self.count}"), link=self.link, crl=self.count % 2 == 0)
        with self.machine.open() as ca:
            response = ca.sign(self.data, fingerprint(self.data))
        self.answered.append((self.data, response))
        self.link, self.data = importing.following(self.data, response), None

    def revoke(self):
        if not self.answered:
            return
        [answer] = decode_response(self.answered[0][1]).payload.answers
        serial = der.integer_octets(x509.load_der_x509_certificate(answer.certificate).serial_number)
        with self.machine.open() as ca:
            ca.revoke(serial, RevocationReason.SUPERSEDED)

    def attempt(self, name, fault):
        where, at, mode = fault or ("journal", None, "")
        found = self.machine.faults if where == "journal" else self.machine.token.faults
        found.calls, found.at, found.mode = 0, at, mode
        try:
            getattr(self, name)()
        except (PKIError, Killed):
            found.at = None
            getattr(self, name)()
        found.at = None


@given(steps)
@settings(max_examples=25, deadline=None)
def test_whatever_happens_everything_is_accounted_for(history):
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        machine = ceremonies.Machine(Path(directory), patch)
        story = Story(machine)
        story.init()
        for name, fault in history:
            story.attempt(name, fault)
        state = machine.account()
        answers = [decode_response(response).payload.answers[0].certificate for _, response in story.answered]
        issued = [one.der for one in state.certificates.values() if one.profile == "sub-ca"]
        assert set(answers) <= set(issued)
        assert len(issued) == len(set(issued))
        with machine.open() as ca:
            for data, response in story.answered:
                assert response == ca.sign(data, "")
            revoked = {key[1] for key, one in state.statuses.items() if one.state is StatusState.REVOKED}
            listed = {
                der.integer_octets(one.serial_number) for one in x509.load_der_x509_crl(ca.store.latest_crl(1).der)
            }
            assert revoked == listed
