"""The standby CA without a database: what it refuses, and that what it does can be handed back."""

from __future__ import annotations

import itertools

import pytest
from cryptography import x509

from cakit import PROFILES, key, make_csr, root_certificate, root_issuer
from chancery.asn1.der import integer_octets
from chancery.ca.issuance import make_serial
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.offline import standby as standby_module
from chancery.offline.bundle import spki
from chancery.offline.ceremony import OfflineCA, bundle_label, root
from chancery.offline.conducting import hold
from chancery.offline.journal import FILE
from chancery.offline.standby import MARGIN, Machine, Standby
from chancery.offline.taking_back import verify_hand_back
from chancery.pkix.profile import grant, requested
from chancery.ports import CRL_LEAP, NewRevocation, RevocationReason
from fakes import START, FakeEntropy
from unit.offline import ceremonies, scripts
from unit.offline.standbys import GOOD, HELD, HOURS, NAME, Site, changed, csr

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


# Epochs


def test_a_kit_that_was_left_behind_is_not_worked_by_again(site):
    second = changed(site.kit, epoch=2)
    with site.open(second) as standby:
        standby.publish_crl()
    with pytest.raises(OperatorError, match="epoch 2 was worked by"):
        site.open()


def test_a_kit_follows_what_was_handed_back_here(site):
    with site.open() as standby:
        standby.issue("olga", csr(), "tls-server")
    with pytest.raises(OperatorError, match="epoch 1 was not handed back"):
        site.open(changed(site.kit, epoch=2))
    with site.open() as standby:
        taken = verify_hand_back(standby.hand_back(), site.kit, site.clock.now())
    for previous in (None, "0" * 64):
        with pytest.raises(OperatorError, match="does not follow"):
            site.open(changed(site.kit, epoch=2, previous=previous))
    following = changed(site.kit, epoch=5, previous=taken.head.hex())
    with site.open(following) as standby:
        standby.publish_crl()
        taken = verify_hand_back(standby.hand_back(), following, site.clock.now())
    with pytest.raises(OperatorError, match="epoch 5 was worked by"):
        site.open(changed(site.kit, epoch=2, previous=taken.head.hex()))
    with site.open(changed(site.kit, epoch=6, previous=taken.head.hex())) as standby:
        standby.publish_crl()


def test_a_kit_that_was_never_adopted_stands_in_nobodys_way(site):
    site.token.made[bundle_label(NAME)] = key("another")
    with pytest.raises(OperatorError, match="is not the one that the kit names"):
        site.open(changed(site.kit, epoch=2))
    site.token.made[bundle_label(NAME)] = key("standby-bundles")
    with site.open() as standby:
        taken = verify_hand_back(standby.hand_back(), site.kit, site.clock.now())
    with site.open(changed(site.kit, epoch=3, previous=taken.head.hex())) as standby:
        standby.publish_crl()


# The window


def test_nothing_begins_that_would_end_outside_the_window(site):
    with site.open() as standby:
        site.clock.advance(HOURS * 3600 - MARGIN.total_seconds())
        standby.issue("olga", csr(), "tls-server")
        site.clock.advance(1)
        for act in (
            lambda: standby.issue("olga", csr("late"), "tls-server"),
            lambda: standby.revoke("olga", GOOD, RevocationReason.SUPERSEDED),
            standby.publish_crl,
        ):
            with pytest.raises(PKIError, match="this kit is for") as refused:
                act()
            assert ErrorType.NOT_AUTHORIZED is refused.value.type
        site.clock.advance(86400)
        assert 1 == len(verify_hand_back(standby.hand_back(), site.kit, site.clock.now()).certificates)


# Revocations


def test_what_is_suspended_is_revoked_for_good_since_then(site):
    since = site.clock.now()
    with site.open() as standby:
        site.clock.advance(600)
        [entry] = x509.load_der_x509_crl(standby.revoke("olga", HELD, RevocationReason.KEY_COMPROMISE).der)
        assert (
            x509.ReasonFlags.key_compromise
            is entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
        )
        taken = verify_hand_back(standby.hand_back(), site.kit, site.clock.now())
    [one] = taken.revocations
    assert (RevocationReason.KEY_COMPROMISE, since) == (one.status.reason, one.status.revoked_at)
    assert site.clock.now() == one.at


def test_the_key_of_what_was_compromised_is_blocked(site):
    with site.open() as standby:
        serial = integer_octets(
            x509.load_der_x509_certificate(standby.issue("olga", csr(), "tls-server")).serial_number
        )
        standby.revoke("olga", serial, RevocationReason.KEY_COMPROMISE)
        taken = verify_hand_back(standby.hand_back(), site.kit, site.clock.now())
    assert [taken.certificates[0].spki_sha256] == [one.spki_sha256 for one in taken.blocked]


def test_a_revocation_that_is_refused_is_no_success(site):
    with site.open() as standby:
        first = standby.revoke("olga", GOOD, RevocationReason.SUPERSEDED)
        assert first.number < standby.revoke("olga", GOOD, RevocationReason.SUPERSEDED).number
        with pytest.raises(PKIError, match="already revoked") as refused:
            standby.revoke("olga", GOOD, RevocationReason.KEY_COMPROMISE)
        assert ErrorType.CERT_REVOKED is refused.value.type
        for reason in (RevocationReason.CERTIFICATE_HOLD, RevocationReason.REMOVE_FROM_CRL):
            with pytest.raises(PKIError, match="suspends nothing") as refused:
                standby.revoke("olga", GOOD, reason)
            assert ErrorType.BAD_REQUEST is refused.value.type
        assert 2 == len(verify_hand_back(standby.hand_back(), site.kit, site.clock.now()).revocations)


def test_wishes_about_one_serial_that_wait_are_settled_one_after_the_other(site):
    with site.open() as standby:
        for reason in (RevocationReason.SUPERSEDED, RevocationReason.KEY_COMPROMISE):
            wish = NewRevocation(NAME, GOOD, reason, None, "olga", site.clock.now())
            standby.store.submit_revocation(wish, 2, [])
        taken = verify_hand_back(standby.hand_back(), site.kit, site.clock.now())
    assert [True, False] == [one.status is not None for one in taken.revocations]


# The bounds of what is handed back


@pytest.mark.parametrize(("name", "bound"), [("MAX_LINES", 1020), ("MAX_KIT", 8 * 1024 * 1024 + 40_000)])
def test_a_journal_is_not_filled_above_what_can_be_handed_back(site, monkeypatch, name, bound):
    monkeypatch.setattr(standby_module, name, bound)
    with site.open() as standby:
        issued = list(itertools.takewhile(bool, (_issued(standby, f"host-{nth}") for nth in range(20))))
        assert 1 < len(issued) < 20
        with pytest.raises(PKIError, match="is full"):
            standby.publish_crl()
        data = standby.hand_back()
    taken = verify_hand_back(data, site.kit, site.clock.now())
    assert issued == [one.der for one in taken.certificates]
    assert (name == "MAX_LINES") or len(data) <= bound


def test_the_standby_hands_back_what_it_did(site):
    with site.open() as standby:
        standby.issue("olga", csr(), "tls-server")
        standby.publish_crl()
        taken = verify_hand_back(standby.hand_back(), site.kit, site.clock.now())
    assert 1 == len(taken.certificates)
    # Restores of the primary's database do not reach them.
    assert min(taken.numbers) > 7 + 1000 * CRL_LEAP


def _issued(standby, name):
    """A certificate, or None when the journal is full."""
    try:
        return standby.issue("olga", csr(name), "tls-server")
    except PKIError:
        return None


def _spki(private):
    return spki(private.public_key())


def _crossed(private):
    csr_ = make_csr("CN=Example Root CA,O=Example", (), private)
    issuer = root_issuer()
    granted = grant(PROFILES["sub-ca"], requested(csr_), issuer.limits, START)
    return issuer.issue(issuer.prepare(granted, make_serial(1, FakeEntropy(9))))
