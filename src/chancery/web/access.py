"""
Who is asking: a TLS client certificate becomes an operator, and logins, good and bad, are journalled (R27).

An operator is looked up by the SHA-256 of the certificate. The answer is kept for at most one second, so an
operator removed or a certificate revoked by another process is refused at the latest one second later; what
this process changes itself takes effect at once (`forget`).
"""

from __future__ import annotations

import dataclasses
import hashlib

import structlog

from chancery.errors import PKIError
from chancery.ports import Clock, Directory, Event, EventKind, Operator
from chancery.web.failures import NotAuthenticatedError

REMEMBER_SECONDS = 1.0
MAX_REMEMBERED = 1024
REFUSALS_AT_ONCE = 10
SECONDS_PER_REFUSAL = 6.0

_log = structlog.get_logger("chancery.web.access")


@dataclasses.dataclass(slots=True)
class Peer:
    """The other end of one TLS connection: its certificate (DER) and whether its login has been journalled."""

    certificate: bytes | None
    welcomed: bool = False


class Trickle:
    """A token bucket: lets `at_once` through, then one every `seconds`, and counts what it held back."""

    def __init__(self, clock: Clock, at_once: int, seconds: float) -> None:
        self._clock = clock
        self._at_once = at_once
        self._seconds = seconds
        self._tokens = float(at_once)
        self._filled_at = clock.monotonic()
        self._held_back = 0

    def take(self) -> int | None:
        """Return how many were held back before this one, or None to hold this one back."""
        now = self._clock.monotonic()
        self._tokens = min(self._at_once, self._tokens + (now - self._filled_at) / self._seconds)
        self._filled_at = now
        if self._tokens < 1:
            self._held_back += 1
            return None
        self._tokens -= 1
        held_back, self._held_back = self._held_back, 0
        return held_back


class Gate:
    """Lets operators in, one question per request."""

    def __init__(self, directory: Directory, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock
        self._known: dict[bytes, tuple[Operator | None, float]] = {}
        self._generation = 0
        # A flood of strangers must not fill the journal: 10 events, then 10 a minute with a count.
        self._refusals = Trickle(clock, REFUSALS_AT_ONCE, SECONDS_PER_REFUSAL)
        self._forbidden = Trickle(clock, REFUSALS_AT_ONCE, SECONDS_PER_REFUSAL)

    def forget(self) -> None:
        """Ask the directory again from now on: something about an operator or a certificate has changed."""
        self._known.clear()
        # What was asked before this moment is not remembered either.
        self._generation += 1

    async def admit(self, peer: Peer | None, address: str) -> Operator:
        """
        Return the operator at the other end; its first request on a connection journals the login.

        Raises NotAuthenticatedError when there is none (journalled, rate-limited), and PKIError(SYSTEM_UNAVAIL)
        when directory or journal are away: nobody enters unrecorded.
        """
        if peer is None or peer.certificate is None:
            await self.refused(address, "no client certificate", None)
            raise NotAuthenticatedError("a client certificate is needed")
        fingerprint = hashlib.sha256(peer.certificate).digest()
        operator = await self._operator(fingerprint)
        if operator is None:
            await self.refused(address, "the certificate is no operator's", fingerprint)
            raise NotAuthenticatedError("this client certificate is no operator's, or no longer")
        if not peer.welcomed:
            detail = {"address": address, "certificate_sha256": fingerprint.hex()}
            subject = f"operator:{operator.name}"
            await self._directory.record(
                [Event(EventKind.LOGIN, self._clock.now(), operator.name, subject, detail)]
            )
            peer.welcomed = True
        return operator

    async def _operator(self, fingerprint: bytes) -> Operator | None:
        known = self._known.get(fingerprint)
        now = self._clock.monotonic()
        if known is not None and now < known[1]:
            return known[0]
        generation = self._generation
        operator = await self._directory.operator(fingerprint)
        if generation != self._generation:
            return operator
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        self._known[fingerprint] = (operator, now + REMEMBER_SECONDS)
        return operator

    async def refused(self, address: str, why: str, fingerprint: bytes | None) -> None:
        """Journal a refused login, unless there were too many; the refusal stands whether or not this works."""
        held_back = self._refusals.take()
        if held_back is None:
            return
        detail = {
            "address": address,
            "why": why,
            "certificate_sha256": fingerprint.hex() if fingerprint else None,
            "held_back": held_back,
        }
        await self._record(Event(EventKind.LOGIN_REFUSED, self._clock.now(), "anonymous", "login", detail))

    async def forbidden(self, operator: Operator, what: str, error: PKIError) -> None:
        """Journal that an operator asked for what its roles do not allow; limited and settled as `refused` is."""
        held_back = self._forbidden.take()
        if held_back is None:
            return
        detail = {"error": error.type.value, "detail": error.detail, "held_back": held_back}
        subject = f"operation:{what}"
        await self._record(Event(EventKind.REQUEST_REFUSED, self._clock.now(), operator.name, subject, detail))

    async def _record(self, event: Event) -> None:
        try:
            await self._directory.record([event])
        except PKIError as error:
            _log.warning("a refusal could not be journalled", kind=event.kind.value, error=error.type.value)
