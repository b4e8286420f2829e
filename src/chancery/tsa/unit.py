"""A timestamping unit: its own key, its certificate as it changes, and what the journal hears of both (R25)."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chancery.asn1.signature import Signer
from chancery.errors import OperatorError, PKIError
from chancery.ports import Clock, Event, EventDetail, EventKind, TimestampStore
from chancery.tsa.authority import Authority, Credential
from chancery.tsa.policy import AuthoritySettings
from chancery.tsa.renewal import CertificateFinder
from chancery.tsa.timekeeping import ClockGuard

Report = Callable[[str, Mapping[str, object]], None]


@dataclasses.dataclass(frozen=True, slots=True)
class UnitPlan:
    """
    What a unit is made of. `certificates` is the chain (DER), the unit's own first.

    `signers` lists the unit's keys as they are in the token now, the newest first (it may block): a fresh key
    takes over as soon as it has a certificate (R25). When `certificates` is empty, or whenever `finder` knows a
    newer one, the certificate is found by its key. `authenticode`: answer what is older than RFC 3161, too.
    """

    settings: AuthoritySettings
    signers: Callable[[], Sequence[Signer]]
    certificates: Sequence[bytes] = ()
    finder: CertificateFinder | None = None
    authenticode: bool = False


class Unit:
    """
    One unit's life, in one event loop; `events` are what the journal has still to hear.

    `authority` is there from `start` on.
    """

    def __init__(
        self, plan: UnitPlan, guard: ClockGuard, clock: Clock, *, report: Report, actor: str = "tsa"
    ) -> None:
        plan.settings.check()
        self.settings = plan.settings
        self.events: list[Event] = []
        self._plan = plan
        self._guard = guard
        self._clock = clock
        self._report = report
        self._actor = actor
        self._authority: Authority | None = None
        self._store: TimestampStore | None = None

    @property
    def name(self) -> str:
        """The unit's name."""
        return self.settings.unit

    @property
    def credential(self) -> Credential | None:
        """What signs now; None before the start, and while no certificate is good."""
        return self._authority.credential if self._authority else None

    def is_valid(self) -> bool:
        """Tell whether there is a certificate that may sign now."""
        credential = self.credential
        return credential is not None and credential.may_sign_at(self._clock.now())

    def certificate_sha256(self) -> str | None:
        """Return SHA-256 (hex) of the certificate in use."""
        credential = self.credential
        return hashlib.sha256(credential.certificates[0]).hexdigest() if credential else None

    async def start(self, store: TimestampStore) -> Authority:
        """
        Find the newest key that has a certificate, and note in the records whose key it is.

        Raises OperatorError when there is no certificate that may sign timestamps now, or the key is another
        unit's, PKIError(SYSTEM_UNAVAIL) when that cannot be asked.
        """
        plan = self._plan
        refused = OperatorError(
            f"there is no certificate for the key of the timestamping unit {self.name}",
            "issue one from the timestamping profile",
        )
        for signer in plan.signers():
            for chain in [tuple(plan.certificates)] if plan.certificates else await self._chains(signer):
                try:
                    credential = Credential(self.settings, signer, chain, self._clock.now())
                except OperatorError as error:
                    refused = error
                    continue
                await self._register(store, signer)
                self._store = store
                self._authority = Authority(self.settings, credential, self._guard)
                return self._authority
        raise refused

    async def _register(self, store: TimestampStore, signer: Signer) -> None:
        spki = signer.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        digest = hashlib.sha256(spki).digest()
        detail: EventDetail = {
            "act": "registered",
            "ordering": self.settings.ordering,
            "spki_sha256": digest.hex(),
            "unit": self.name,
        }
        event = Event(EventKind.TSA_KEY, self._clock.now(), self._actor, f"tsa-unit:{self.name}", detail)
        await store.register(self.name, digest, ordering=self.settings.ordering, event=event)

    async def _chains(self, signer: Signer) -> list[tuple[bytes, ...]]:
        finder = self._plan.finder
        return [] if finder is None else await finder.chains(signer.public_key)

    async def refresh(self) -> None:
        """
        Follow the unit's keys and their certificates: take over a newer one of either.

        Stop signing when none is good any more. What cannot be asked changes nothing.
        """
        authority, store = self._authority, self._store
        if self._plan.finder is None or authority is None or store is None:
            return
        try:
            found = await self._newest(store, authority.credential)
        except (PKIError, OperatorError) as error:
            self._report("tsa.certificate_unknown", {"unit": self.name, "error": str(error)})
            return
        if found is not authority.credential:
            authority.adopt(found)
            self._certificate_changed()

    async def _newest(self, store: TimestampStore, current: Credential | None) -> Credential | None:
        """Return what to sign with: `current` when nothing is newer, None when nothing is good."""
        for signer in await asyncio.to_thread(self._plan.signers):
            for chain in await self._chains(signer):
                if current is not None and chain[0] == current.certificates[0]:
                    return current
                try:
                    credential = Credential(self.settings, signer, chain, self._clock.now())
                    await self._register(store, signer)
                except OperatorError as error:
                    self._report("tsa.certificate_refused", {"unit": self.name, "error": str(error)})
                else:
                    return credential
        return None

    def _certificate_changed(self) -> None:
        detail: EventDetail = {"sha256": self.certificate_sha256(), "unit": self.name}
        self._report("tsa.certificate", detail)
        self.events.append(Event(EventKind.TSA_CERTIFICATE, self._clock.now(), self._actor, "tsa", detail))

    def configuration(self) -> EventDetail:
        """What R26 wants to find in the journal for every run."""
        settings = self.settings
        return {
            "accuracy_us": round(settings.accuracy.total_seconds() * 1e6),
            "algorithm": self.credential.algorithm if self.credential else None,
            "certificate_sha256": self.certificate_sha256(),
            "instance": settings.instance,
            "ordering": settings.ordering,
            "policies": [policy.oid for policy in settings.policies],
            "qualified": [policy.oid for policy in settings.policies if policy.qualified],
            "unit": self.name,
        }

    def health(self) -> dict[str, object]:
        """Say how the certificate is, and which policies are served."""
        credential = self.credential
        return {
            "certificate": {
                "valid": self.is_valid(),
                "sha256": self.certificate_sha256(),
                "not_after": credential.not_after.isoformat() if credential else None,
            },
            "ordering": self.settings.ordering,
            "policies": [policy.oid for policy in self.settings.policies],
        }
