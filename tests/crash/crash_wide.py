"""
Rounds of what is beside plain issuance, over a database of a crash case, and what must become of each.

Suspensions and their ends, mass revocations with a second person's word, an issuer and a profile that are
deactivated and activated again, CRLs in shards with deltas: all asked for by the product's own functions.
"""

from __future__ import annotations

import dataclasses
import hashlib

from crash_life import ISSUERS, PROFILES
from crash_world import CLOCK, OFFICER, Case
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

import cakit
from chancery.ca.installing import act_event
from chancery.pkix.key import spki_der
from chancery.ports import (
    Act,
    Event,
    EventKind,
    IssuerAct,
    NewRequest,
    NewRevocation,
    Operator,
    RevocationReason,
    Role,
)
from chancery.ports.mass import Selection
from chancery.postgres.directory import PgDirectory
from chancery.postgres.issuers import PgIssuerStore
from chancery.postgres.mass import PgMassRevocations
from chancery.postgres.requests import PgRequestQueue
from chancery.postgres.session import Session
from chancery.ra.enrolment import RegistrationAuthority
from chancery.ra.mass import MassWish, approve, confirmation, look, revoke_many
from chancery.ra.profiles import switch_profile

WIDE = {"shards": 2, "deltas": True, "two_persons_above": 0}
OTTO = "otto"
_PERSON = ("CN=Alice,O=Example,C=XX", ("email:alice@example.org",))
_SERIAL = """
SELECT serial, certificate.der FROM chancery.certificate JOIN chancery.request USING (request_id)
WHERE transaction_id = %s"""
_STANDINGS = """
SELECT transaction_id, coalesce(s.state, r.state), s.reason
FROM chancery.request AS r LEFT JOIN chancery.certificate AS c USING (request_id)
LEFT JOIN chancery.certificate_status AS s USING (issuer_id, serial) WHERE transaction_id LIKE 'wide-%%'"""
GOOD, REFUSED = ("good", None), ("refused", None)


def operator(name: str, certificate: bytes) -> Operator:
    roles = frozenset({Role.ADMINISTRATOR, Role.OFFICER})
    return Operator(hashlib.sha256(certificate).digest(), name, roles)


class Wide:
    """`expected` is what must have become of every request of every round: state and reason of its status."""

    def __init__(self, case: Case, officers: dict[str, bytes]) -> None:
        self.case = case
        self.officers = {name: operator(name, certificate) for name, certificate in officers.items()}
        self.number = 0
        self.active = (True, True)
        self.expected: dict[str, tuple[str, int | None]] = {}

    def ask(self, deactivated: str = "") -> None:
        """
        Ask for certificates, of which some are refused, and for changes of those of the two rounds before.

        `deactivated` while they wait: "issuer", the second one, or "profile", that of mail.
        """
        number = self.number = self.number + 1
        issuer, profile = deactivated != "issuer", deactivated != "profile"
        was, self.active = self.active, (issuer, profile)
        if issuer is not was[0]:
            self._switch_issuer(issuer)
        wishes = [
            ("person", "tls-client", None, _PERSON, GOOD),
            ("second", "tls-client", "second", _PERSON, GOOD if issuer else REFUSED),
            ("mail", "smime", None, _PERSON, GOOD if profile else REFUSED),
            ("server", "tls-server", None, ("CN=www.example.org", ("dns:www.example.org",)), GOOD),
            ("nameless", "tls-server", None, ("CN=nameless", ()), REFUSED),
        ]

        async def act(pool):
            registration = self._registration(pool)
            if profile is not was[1]:
                await switch_profile(registration, self.officers[OFFICER], "smime", active=profile, reason="so")
            for name, asked, of, form, becomes in wishes:
                await _submit(registration.queue, f"wide-{number}-{name}", asked, of, form)
                self.expected[f"wide-{number}-{name}"] = becomes
            await self._change(registration, number)
            at = CLOCK.now()
            for one in ISSUERS:
                event = Event(EventKind.CRL_REQUESTED, at, OFFICER, f"crl:{one}")
                await registration.queue.ask_crl(one, OFFICER, at, [event], delta=True)
            await registration.queue.close()

        self.case.asked(act)

    def _registration(self, pool) -> RegistrationAuthority:
        nothing = dict.fromkeys(field.name for field in dataclasses.fields(RegistrationAuthority))
        known = {
            "queue": PgRequestQueue(pool),
            "directory": PgDirectory(pool, CLOCK),
            "clock": CLOCK,
            "profiles": PROFILES,
            "mass": PgMassRevocations(pool),
        }
        return RegistrationAuthority(**{**nothing, **known})

    def _switch_issuer(self, active: bool) -> None:
        session = Session(self.case.database.role("worker"))
        act = IssuerAct("second", Act.ACTIVATE if active else Act.DEACTIVATE, CLOCK.now(), OFFICER, "so")
        PgIssuerStore(session).act([act], [act_event(act)])
        session.close()

    async def _change(self, registration: RegistrationAuthority, number: int) -> None:
        if number > 1:
            await self._revoke(registration, f"wide-{number - 1}-person", RevocationReason.CERTIFICATE_HOLD)
            if self.expected[f"wide-{number - 1}-server"] == GOOD:
                await self._revoke_many(registration, f"wide-{number - 1}-server")
        if number > 2:
            ends = (RevocationReason.REMOVE_FROM_CRL, RevocationReason.CESSATION_OF_OPERATION)
            await self._revoke(registration, f"wide-{number - 2}-person", ends[number % 2])

    async def _revoke(
        self, registration: RegistrationAuthority, transaction: str, reason: RevocationReason
    ) -> None:
        [(serial, _)] = self.case.sql(_SERIAL, transaction)
        at = CLOCK.now()
        event = Event(EventKind.REVOCATION_REQUESTED, at, OFFICER, serial.hex())
        wish = NewRevocation("issuing", serial, reason, None, OFFICER, at)
        await registration.queue.submit_revocation(wish, [event])
        released = reason is RevocationReason.REMOVE_FROM_CRL
        self.expected[transaction] = GOOD if released else ("revoked", int(reason))

    async def _revoke_many(self, registration: RegistrationAuthority, transaction: str) -> None:
        """By its key, with two officers' words."""
        [(_, der)] = self.case.sql(_SERIAL, transaction)
        key = hashlib.sha256(spki_der(x509.load_der_x509_certificate(der).public_key())).digest()
        wish = MassWish(Selection(spki_sha256=key), RevocationReason.KEY_COMPROMISE)
        olga, otto = self.officers[OFFICER], self.officers[OTTO]
        chosen = await look(registration, olga, wish)
        job = await revoke_many(registration, olga, wish, confirmation(chosen))
        await approve(registration, otto, job.job_id, job.digest)
        self.expected[transaction] = ("revoked", int(RevocationReason.KEY_COMPROMISE))

    def deactivate(self, profile: str) -> None:
        """While this round's requests wait."""
        self._switch_profile(profile, active=False)
        name = {"tls-server": "server"}[profile]
        self.expected[f"wide-{self.number}-{name}"] = REFUSED

    def activate(self, profile: str) -> None:
        self._switch_profile(profile, active=True)

    def _switch_profile(self, name: str, *, active: bool) -> None:
        async def act(pool):
            await switch_profile(
                self._registration(pool), self.officers[OFFICER], name, active=active, reason="so"
            )

        self.case.asked(act)

    def want_all(self) -> None:
        """Ask for every CRL of both issuers, deltas not among them."""

        async def act(pool):
            queue = PgRequestQueue(pool)
            for name in ISSUERS:
                event = Event(EventKind.CRL_REQUESTED, CLOCK.now(), OFFICER, f"crl:{name}")
                await queue.ask_crl(name, OFFICER, CLOCK.now(), [event])
            await queue.close()

        self.case.asked(act)

    def settle(self, where: str = "") -> int:
        """Work until nothing is left; then all is as expected, and accounted for. As `Round.settle`."""
        case = self.case
        case.work(**WIDE)
        self._account(where)
        if lost := case.unconfirmed():
            case.revoke(*lost, reason=RevocationReason.SUPERSEDED)
            case.work(**WIDE)
            self._account(where)
            assert [] == case.unconfirmed(), where
        return len(lost)

    def _account(self, where: str) -> None:
        problems = self.case.problems()
        assert [] == problems, (where, problems)
        found = {row[0]: (row[1], row[2]) for row in self.case.sql(_STANDINGS)}
        assert self.expected == found, where


async def _submit(queue: PgRequestQueue, transaction: str, profile: str, issuer: str | None, form) -> None:
    at = CLOCK.now()
    csr = cakit.make_csr(*form, signer=ec.generate_private_key(ec.SECP256R1()))
    request = NewRequest(transaction, "rest", OFFICER, profile, issuer, csr, (), at)
    await queue.submit(request, [Event(EventKind.REQUEST_RECEIVED, at, OFFICER, transaction)])
