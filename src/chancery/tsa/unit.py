"""A timestamping unit: its own key, its certificate as it changes, and what the journal hears of both (R25)."""

from __future__ import annotations

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

    When it is empty, or whenever `finder` knows a newer one, the certificate is found by its key.
    """

    settings: AuthoritySettings
    signer: Signer
    certificates: Sequence[bytes] = ()
    finder: CertificateFinder | None = None


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

    @property
    def name(self) -> str:
        """The unit's name."""
        return self.settings.unit

    @property
    def algorithm(self) -> str:
        """What the unit signs with, by the name that certificates and configurations use."""
        return self._plan.signer.algorithm.name

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
        Find the certificate, and note in the records whose key this is.

        Raises OperatorError when there is no certificate that may sign timestamps now, or the key is another
        unit's, PKIError(SYSTEM_UNAVAIL) when that cannot be asked.
        """
        plan = self._plan
        spki = plan.signer.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self._authority = self._first_fit(
            [tuple(plan.certificates)] if plan.certificates else await self._chains()
        )
        digest = hashlib.sha256(spki).digest()
        detail: EventDetail = {"ordering": self.settings.ordering, "spki_sha256": digest.hex(), "unit": self.name}
        event = Event(EventKind.TSA_KEY, self._clock.now(), self._actor, f"tsa-unit:{self.name}", detail)
        await store.register(self.name, digest, ordering=self.settings.ordering, event=event)
        return self._authority

    async def refresh(self) -> None:
        """Follow the certificate of the key: take over a newer one, stop signing when none is good any more."""
        finder, authority = self._plan.finder, self._authority
        if finder is None or authority is None:
            return
        try:
            chains = await finder.chains(self._plan.signer.public_key)
        except PKIError as error:
            self._report("tsa.certificate_unknown", {"unit": self.name, "error": str(error)})
            return
        current = authority.credential.certificates[0] if authority.credential else None
        for chain in chains:
            if chain[0] == current:
                return
            try:
                authority.renew(chain, self._clock.now())
            except OperatorError as error:
                self._report("tsa.certificate_refused", {"unit": self.name, "error": str(error)})
                continue
            self._certificate_changed()
            return
        if current is not None:
            authority.withdraw()
            self._certificate_changed()

    async def _chains(self) -> list[tuple[bytes, ...]]:
        finder = self._plan.finder
        return [] if finder is None else await finder.chains(self._plan.signer.public_key)

    def _first_fit(self, chains: Sequence[tuple[bytes, ...]]) -> Authority:
        """Make the authority under the first chain that may sign; OperatorError says why the last may not."""
        refused = OperatorError(
            f"there is no certificate for the key of the timestamping unit {self.name}",
            "issue one from the timestamping profile",
        )
        for chain in chains:
            try:
                return Authority(
                    self.settings,
                    signer=self._plan.signer,
                    certificates=chain,
                    guard=self._guard,
                    at=self._clock.now(),
                )
            except OperatorError as error:
                refused = error
        raise refused

    def _certificate_changed(self) -> None:
        detail: EventDetail = {"sha256": self.certificate_sha256(), "unit": self.name}
        self._report("tsa.certificate", detail)
        self.events.append(Event(EventKind.TSA_CERTIFICATE, self._clock.now(), self._actor, "tsa", detail))

    def configuration(self) -> EventDetail:
        """What R26 wants to find in the journal for every run."""
        settings = self.settings
        return {
            "accuracy_us": round(settings.accuracy.total_seconds() * 1e6),
            "algorithm": self.algorithm,
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
