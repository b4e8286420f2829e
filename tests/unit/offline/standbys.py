"""A standby without a database: the issuing CA of `cakit` by a kit, its token in memory, its hand-back."""

from __future__ import annotations

import dataclasses
import datetime

import msgspec

from cakit import PROFILES, URLS, issuing_record, key, make_csr, root_certificate
from chancery.asn1.signature import KeySigner
from chancery.offline import standby as standbys
from chancery.offline.ceremony import bundle_label
from chancery.offline.kit import BACK_FORMAT, HandBack, decode_kit, encode_hand_back, encode_kit
from chancery.offline.taking_back import Terms, make_kit
from chancery.ports import CertificateStatus, Operator, Prepared, RevocationReason, Role, StatusState
from fakes import FakeClock, FakeEntropy
from unit.offline.ceremonies import MemoryToken, relinked

NAME = "issuing"
INSTALLATION = KeySigner(key("installation"))
HOURS = 48
HELD, GOOD, BLOCKED = bytes([1] * 19), bytes([2] * 19), bytes([3] * 32)
OPERATORS = (
    Operator(bytes(32), "olga", frozenset({Role.OFFICER, Role.REQUESTOR})),
    Operator(bytes(32), "rita", frozenset({Role.REQUESTOR}), frozenset({"tls-client"})),
)


class Site:
    """The standby's machine, and how the primary stood when it made the kit; `made` are the kit's changes."""

    def __init__(self, path, **prepared):
        self.directory = path / "standby"
        self.clock, self.token, self.entropy = FakeClock(), MemoryToken(), FakeEntropy(3)
        self.token.made = {NAME: key("issuing"), bundle_label(NAME): key("standby-bundles")}
        self.machine = standbys.Machine(self.token, self.clock, self.entropy)
        self.kit = self.prepare(**prepared)

    def prepare(self, **changes):
        now = self.clock.now()
        until = now + datetime.timedelta(days=100)
        held = CertificateStatus(2, HELD, StatusState.REVOKED, until, now, RevocationReason.CERTIFICATE_HOLD)
        prepared = Prepared(
            issuer=issuing_record(),
            chain=(issuing_record().certificate, root_certificate()),
            epoch=1,
            crl=None,
            crl_number=7,
            statuses=(held, CertificateStatus(2, GOOD, StatusState.GOOD, until)),
            operators=OPERATORS,
            inactive_profiles=frozenset(),
            blocked=(BLOCKED,),
            previous=None,
        )
        public = key("standby-bundles").public_key()
        end = now + datetime.timedelta(hours=HOURS)
        terms = Terms(113, now, end, public, (), PROFILES, (URLS.ocsp, URLS.crl, URLS.ca_issuers))
        return make_kit(INSTALLATION, dataclasses.replace(prepared, **changes), terms, now)

    def open(self, kit=None):
        return standbys.Standby.open(self.directory, self.machine, kit or self.kit)

    def records(self):
        """What stands in the journal of the first epoch, but for its end."""
        with self.open() as standby:
            return list(standby.store.journal.records)


def changed(kit, **changes):
    """The same kit with these fields, signed again."""
    return decode_kit(encode_kit(INSTALLATION, msgspec.structs.replace(kit.kit, **changes)))


def bundle(kit, records):
    """These lines, linked and signed by the standby's key: what a standby with another program could hand back."""
    lines = tuple(line.decode() for line in relinked(records))
    back = HandBack(
        created_at=kit.kit.not_before, epoch=kit.kit.epoch, format=BACK_FORMAT, kit=kit.sha256, lines=lines
    )
    return encode_hand_back(KeySigner(key("standby-bundles")), back)


def csr(name="www"):
    return make_csr("", (f"dns:{name}.example.org",))
