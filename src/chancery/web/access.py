"""
Who is asking: a TLS client certificate becomes an operator, and logins, good and bad, are journalled (R27).

An operator is looked up by the SHA-256 of the certificate. The answer is kept for at most one second, so an
operator removed or a certificate revoked by another process is refused at the latest one second later; what
this process changes itself takes effect at once (`forget`).
"""

from __future__ import annotations

import asyncio
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
    """
    The other end of one TLS connection: its certificate (DER) and whether its login has been journalled.

    `message_limit`: the octets that its message under way may have, where an endpoint takes more than others.
    """

    certificate: bytes | None
    welcomed: bool = False
    message_limit: int | None = None


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
        self._known: dict[bytes, tuple[asyncio.Task[Operator | None], float]] = {}
        # A flood of strangers must not fill the journal: 10 events, then 10 a minute with a count.
        self._refusals = Trickle(clock, REFUSALS_AT_ONCE, SECONDS_PER_REFUSAL)
        self._forbidden = Trickle(clock, REFUSALS_AT_ONCE, SECONDS_PER_REFUSAL)

    def forget(self) -> None:
        """Ask the directory again from now on: something about an operator or a certificate has changed."""
        # What is being asked at this moment is not remembered either.
        self._known.clear()

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
        """Ask the directory; who comes within a second of the question shares it, answered or not."""
        now = self._clock.monotonic()
        known = self._known.get(fingerprint)
        if known is None or now >= known[1]:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            question = asyncio.create_task(self._ask(fingerprint))
            # Looked at, so that an error whose waiters have all gone is not reported as never retrieved.
            question.add_done_callback(lambda done: done.cancelled() or done.exception())
            known = self._known[fingerprint] = (question, now + REMEMBER_SECONDS)
        # One that gives up does not take the answer from the others.
        return await asyncio.shield(known[0])

    async def _ask(self, fingerprint: bytes) -> Operator | None:
        try:
            return await self._directory.operator(fingerprint)
        except BaseException:
            # No answer is nothing to remember.
            known = self._known.get(fingerprint)
            if known is not None and known[0] is asyncio.current_task():
                del self._known[fingerprint]
            raise

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
