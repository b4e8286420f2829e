"""The standby CA without a database: what it refuses, and that what it does can be handed back."""

from __future__ import annotations

import pytest

from cakit import PROFILES, make_csr, root_certificate, root_issuer
from chancery.ca.issuance import make_serial
from chancery.errors import OperatorError
from chancery.offline.bundle import spki
from chancery.offline.ceremony import OfflineCA, bundle_label, root
from chancery.offline.conducting import hold
from chancery.offline.journal import FILE
from chancery.offline.standby import Machine, Standby
from chancery.offline.taking_back import verify_hand_back
from chancery.pkix.profile import grant, requested
from chancery.ports import CRL_LEAP
from fakes import START, FakeEntropy
from unit.offline import ceremonies, scripts
from unit.offline.standbys import Site, changed, csr

PEOPLE = ("anna", "bela", "cleo")


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


# R8


def test_a_root_with_operators_signs_nothing_by_a_kit(tmp_path, monkeypatch, site):
    machine = ceremonies.Machine(tmp_path, monkeypatch)
    plan = scripts.plan("first", scripts.enrolment(*PEOPLE) + scripts.ROOT)
    with OfflineCA.begin(machine.directory, machine.ceremony()) as ca:
        ca.holding.confirm(plan.data, scripts.confirmations(plan, machine.clock.now(), *PEOPLE))
        hold(ca, plan)
        certificate = root(ca.store).certificate
    before, count = (machine.directory / FILE).read_bytes(), len(machine.token.signed)
    holder = Machine(machine.token, machine.clock, machine.entropy)
    names = {"issuer": "root", "standby_key": _spki(machine.token.made[bundle_label("root")])}
    for chain, directory in (
        ((certificate,), machine.directory),
        ((certificate,), tmp_path / "elsewhere"),
        # A certificate of another for the root's key, beside the root's own and without it.
        ((_crossed(machine.token.made["root"]), certificate), tmp_path / "elsewhere"),
        ((_crossed(machine.token.made["root"]),), machine.directory),
    ):
        with pytest.raises(OperatorError, match="R8"):
            Standby.open(directory, holder, changed(site.kit, chain=chain, **names))
    assert (before, count) == ((machine.directory / FILE).read_bytes(), len(machine.token.signed))
    assert not (tmp_path / "elsewhere").exists()
    assert not list(machine.directory.glob("epoch-*"))


def test_a_kit_for_a_root_of_the_installation_is_refused(site):
    kit = changed(site.kit, chain=(root_certificate(),))
    with pytest.raises(OperatorError, match="a root"):
        site.open(kit)


def test_the_standby_hands_back_what_it_did(site):
    with site.open() as standby:
        standby.issue("olga", csr(), "tls-server")
        standby.publish_crl()
        taken = verify_hand_back(standby.hand_back(), site.kit, site.clock.now())
    assert 1 == len(taken.certificates)
    # Restores of the primary's database do not reach them.
    assert min(taken.numbers) > 7 + 1000 * CRL_LEAP


def _spki(private):
    return spki(private.public_key())


def _crossed(private):
    csr_ = make_csr("CN=Example Root CA,O=Example", (), private)
    issuer = root_issuer()
    granted = grant(PROFILES["sub-ca"], requested(csr_), issuer.limits, START)
    return issuer.issue(issuer.prepare(granted, make_serial(1, FakeEntropy(9))))
