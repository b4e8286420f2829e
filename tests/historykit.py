"""
Histories of a CA in memory: two issuers in two tokens, whatever may happen to them, and the journal beside them.

`History` has one method for each thing that may happen; `tests/properties` draws them at random, `tests/crash`
plays some in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import functools

from cakit import CA, PROFILES, URLS, issuing_record, key, make_csr, root_issuer
from chancery.asn1.signature import KeySigner
from chancery.audit.log import Sequencer
from chancery.audit.verify import verify
from chancery.ca.crl import CRLSettings, Timing
from chancery.ca.installing import act_event
from chancery.ca.issuance import make_serial
from chancery.ca.issuer import Issuer, shard_url
from chancery.errors import PKIError
from chancery.pkix.profile import grant, requested
from chancery.ports import (
    Act,
    CRLShard,
    IssuerAct,
    IssuerRecord,
    Operator,
    RevocationReason,
    RevocationRequest,
    Role,
    StatusState,
)
from chancery.ra.enrolment import RegistrationAuthority
from chancery.ra.profiles import switch_profile
from checks import account_of, problems
from crlchecks import late
from fakes import MODES, START, CountingSigner, FakeEntropy, Faults, Killed, MemoryStore
from unit.audit.journals import ED25519, ORIGIN, MemoryJournal

FOREVER = 10**9
DAY = datetime.timedelta(days=1)
OFFICER = Operator(bytes(32), "olga", frozenset({Role.ADMINISTRATOR, Role.OFFICER}))
DELTAS = Timing(datetime.timedelta(hours=36))
ID = {"issuing": 2, "second": 3}


@functools.cache
def csr(profile: str, label: str) -> bytes:
    """A request with the key of this label that the profile grants; of no profile ("") one that none grants."""
    signer = key(label)
    if profile in {"tls-client", "smime"}:
        return make_csr("CN=Alice,O=Example,C=XX", ("email:alice@example.org",), signer)
    if profile == "code-signing":
        return make_csr("CN=Example,O=Example,C=XX", (), signer)
    if profile == "ocsp-signing":
        return make_csr("CN=OCSP,O=Example", (), signer)
    return make_csr(
        "CN=nameless" if profile == "" else "", () if profile == "" else ("dns:a.example.org",), signer
    )


@functools.cache
def second_record() -> IssuerRecord:
    root = root_issuer()
    asked = requested(make_csr("CN=Second,O=Example,C=XX", (), key("second")))
    granted = grant(PROFILES["sub-ca"], asked, root.limits, START)
    certificate = root.issue(root.prepare(granted, make_serial(1, FakeEntropy(3))))
    return IssuerRecord(3, "second", certificate, 1, "other", "second")


class Switches:
    """The part of `ports.Directory` that switches profiles, over a `MemoryStore`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def switch_profile(self, switch, event) -> bool:
        off = self._store.inactive_profiles
        if switch.active is (switch.name not in off):
            return False
        (off.discard if switch.active else off.add)(switch.name)
        self._store.events.append(event)
        return True


class History:
    """`shards` of each issuer's CRLs (0: none), and whether there are deltas."""

    def __init__(self, shards: int = 0, *, deltas: bool = False) -> None:
        self.tokens = {2: Faults(), 3: Faults()}
        self.signers = {
            number: CountingSigner(KeySigner(key(name)), self.tokens[number]) for name, number in ID.items()
        }
        self.ca = CA(Faults(), signer=self.signers[2])
        self.store = self.ca.store
        self.settings = CRLSettings(delta=DELTAS if deltas else None)
        self.issuers: dict[str, Issuer] = {}
        for record in (issuing_record(), second_record()):
            base = f"http://pki.example.org/crl/{record.name}.crl"
            cut = tuple(CRLShard(n, shard_url(base, n)) for n in range(1, shards + 1))
            urls = dataclasses.replace(URLS, crl=base, deltas=deltas, shards=cut)
            self.issuers[record.name] = Issuer(record, self.signers[record.issuer_id], urls)
            self.store.issuers[record.issuer_id] = record.name
            self.store.shards[record.issuer_id] = {one.number: one.url for one in cut}
        self.ca.issuing = dataclasses.replace(self.ca.issuing, issuers=self.issuers)
        # Switching a profile needs no more of it.
        nothing = dict.fromkeys(field.name for field in dataclasses.fields(RegistrationAuthority))
        known = {"directory": Switches(self.store), "clock": self.ca.clock, "profiles": PROFILES}
        self.registration = RegistrationAuthority(**{**nothing, **known})
        self._start()
        self.numbers = iter(range(1000, FOREVER))
        self.journal = MemoryJournal(Faults())
        self.sequencer = Sequencer(self.journal, ED25519, ORIGIN, self.ca.clock)
        self.heads = []

    def _start(self) -> None:
        self.worker = self.ca.worker(batch=2, crl=self.settings)

    # What may happen

    def ask(self, profile: str, issuer: str | None = None, label: str = "leaf") -> int:
        return self.ca.ask(csr(profile, label), profile or "tls-server", issuer=issuer)

    def change(self, which: int, reason: RevocationReason) -> None:
        """Ask for a change of the status of one of all serials, or of one that nobody knows."""
        found = list(self.store.statuses) or [(2, b"\x01" * 17)]
        self.change_one(found[which % len(found)], reason)

    def change_one(self, key: tuple[int, bytes], reason: RevocationReason) -> None:
        wish = RevocationRequest(next(self.numbers), *key, reason, None, "alice", self.ca.clock.now())
        self.store.revocations.append(wish)

    def suspend(self, which: int) -> None:
        """Ask for the suspension of one of those that are good and may be suspended."""
        holdable = {
            key
            for key, one in self.store.certificates.items()
            if one.profile in {"tls-client", "smime", "code-signing"}
        }
        good = [key for key in self._keys(StatusState.GOOD) if key in holdable]
        self._change_some(good, which, RevocationReason.CERTIFICATE_HOLD)

    def end_suspension(self, which: int, reason: RevocationReason) -> None:
        held = [key for key in self._keys(StatusState.REVOKED) if self.store.statuses[key].held]
        self._change_some(held, which, reason)

    def revoke_unconfirmed(self, which: int) -> None:
        self._change_some(self._keys(StatusState.UNCONFIRMED), which, RevocationReason.KEY_COMPROMISE)

    def _keys(self, state: StatusState) -> list[tuple[int, bytes]]:
        return [key for key, status in self.store.statuses.items() if status.state is state]

    def _change_some(self, keys, which: int, reason: RevocationReason) -> None:
        if keys:
            self.change_one(keys[which % len(keys)], reason)

    def want(self, issuer: str, shard: int | None, delta: bool) -> None:
        self.store.ask_crl(ID[issuer], shard, delta=delta)

    def wait(self, seconds: float) -> None:
        self.ca.clock.advance(seconds)

    def fail(self, after: int, mode: str) -> None:
        self.ca.faults.at, self.ca.faults.mode = self.ca.faults.calls + after, mode

    def fail_token(self, issuer: str, after: int, mode: str, times: int = 1) -> None:
        """A signature goes wrong, or (of `times` FOREVER) the token goes away."""
        token = self.tokens[ID[issuer]]
        token.at, token.mode, token.times = token.calls + after, mode, times

    def tokens_back(self) -> None:
        for token in self.tokens.values():
            token.at = None

    def switch_issuer(self, active: bool) -> None:
        """The issuer issues no more; its CRLs and the revocations of its certificates go on."""
        inactive = frozenset(() if active else ("second",))
        if inactive == self.ca.issuing.inactive:
            return
        act = IssuerAct("second", Act.ACTIVATE if active else Act.DEACTIVATE, self.ca.clock.now(), "olga", "so")
        self.store.events.append(act_event(act))
        self.ca.issuing = dataclasses.replace(self.ca.issuing, inactive=inactive)
        self._start()

    def switch_profile(self, name: str, active: bool) -> None:
        with contextlib.suppress(PKIError):  # it is so already
            asyncio.run(switch_profile(self.registration, OFFICER, name, active=active, reason="so"))

    def sequence(self, mode: str | None = None, after: int = 1) -> None:
        """What was recorded since gets its leaves, unless the sequencer fails or is killed in the middle of it."""
        self.journal.write(*self.store.events[len(self.journal.events) :])
        faults = self.journal.faults
        faults.at, faults.mode = (None, MODES[0]) if mode is None else (faults.calls + after, mode)
        try:
            while self.sequencer.run_once():
                pass
        except PKIError:
            pass
        except Killed:
            self.sequencer = Sequencer(self.journal, ED25519, ORIGIN, self.ca.clock)
        if (head := self.audited().head) is not None:
            self.heads.append(head)

    def round(self) -> bool:
        try:
            return self.worker.run_once()
        except PKIError:
            return True
        except Killed:
            self._start()
            return True

    # What must become of it

    def come_to_rest(self) -> None:
        self.ca.faults.at = None
        self.tokens_back()
        idle = 0
        for _ in range(400):
            idle = 0 if self.round() else idle + 1
            # A token is tried again after a pause; a delta is made in another second than its base.
            self.ca.clock.advance(6)
            if idle == 3:
                return
        raise AssertionError("the worker never came to rest")

    def publish_all(self) -> None:
        """Every CRL of every issuer, of the same statuses."""
        for issuer in ID:
            self.want(issuer, None, delta=False)
        self.come_to_rest()

    def audited(self):
        return verify(self.journal, ORIGIN, ED25519.public_key, self.ca.clock.now(), remembered=self.heads)

    @property
    def signed(self) -> dict[int, list[bytes]]:
        return {issuer_id: signer.signed for issuer_id, signer in self.signers.items()}

    @property
    def certificates(self):
        return {issuer.record.issuer_id: issuer.certificate for issuer in self.issuers.values()}

    def problems(self) -> list[str]:
        account = account_of(self.store)
        return problems(account, self.signed, self.certificates)

    def late(self) -> list[str]:
        return list(late(account_of(self.store)))
