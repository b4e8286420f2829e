"""Keys reported compromised (R5): blocked for good, listed, and every certificate with one found and revoked."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator

from chancery.ports import (
    BlockedKey,
    CertificateQuery,
    EventKind,
    Operator,
    RevocationReason,
    StoredCertificate,
)
from chancery.ports.mass import Selection
from chancery.ra.enrolment import RegistrationAuthority
from chancery.ra.mass import MassWish, confirmation, look, revoke_many
from chancery.ra.requestor import Operation, authorise

MAX_SHOWN = 1000
_PAGE = 500


@dataclasses.dataclass(frozen=True, slots=True)
class BlockWish:
    """
    A key to block for good. `revoke`: the good certificates with it are to be revoked as keyCompromise.

    `dry_run`: nothing is done; the account says what there is.
    """

    spki_sha256: bytes
    reason: str
    revoke: bool = False
    dry_run: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class KeyAccount:
    """
    What there is about a key: whether it is blocked (and was so only now), and its certificates, newest first.

    `certificates` are at most MAX_SHOWN; `more` tells of others. `revoking` counts the revocations asked for.
    """

    spki_sha256: bytes
    blocked: BlockedKey | None
    new: bool
    certificates: list[StoredCertificate]
    more: bool
    revoking: int


async def block_key(ra: RegistrationAuthority, operator: Operator, wish: BlockWish) -> KeyAccount:
    """
    Block a key, ask for the revocations, and return the account; a key that is blocked already stays as it is.

    The revocations are stored as one job when this returns, and settled by the worker: many need a second person.
    Raises PKIError: NOT_AUTHORIZED; SYSTEM_UNAVAIL, and then asking again does what is left.
    """
    authorise(operator, Operation.BLOCK_KEY)
    if wish.revoke:
        authorise(operator, Operation.REVOKE_MANY)
    new, revoking = False, 0
    if not wish.dry_run:
        now = ra.clock.now()
        key = BlockedKey(wish.spki_sha256, wish.reason, now, operator.name)
        subject = f"key:{wish.spki_sha256.hex()}"
        event = ra.event(EventKind.KEY_BLOCKED, operator.name, subject, {"reason": wish.reason})
        # First: what is asked for from now on is refused, so the certificates that are found are all there are.
        new = await ra.directory.block_key(key, [event])
        if wish.revoke:
            revoking = await _revoke_all(ra, operator, wish.spki_sha256)
    blocked = await ra.directory.blocked_key(wish.spki_sha256)
    shown: list[StoredCertificate] = []
    async for one in _certificates(ra, CertificateQuery(spki_sha256=wish.spki_sha256)):
        shown.append(one)
        if len(shown) > MAX_SHOWN:
            break
    more = len(shown) > MAX_SHOWN
    return KeyAccount(wish.spki_sha256, blocked, new, shown[:MAX_SHOWN], more, revoking)


async def _certificates(ra: RegistrationAuthority, query: CertificateQuery) -> AsyncIterator[StoredCertificate]:
    """Every match, newest first, a page at a time."""
    before = None
    while True:
        page = await ra.directory.search(dataclasses.replace(query, before=before, limit=_PAGE))
        for one in page:
            yield one
        if len(page) < _PAGE:
            return
        before = page[-1].certificate_id


async def _revoke_all(ra: RegistrationAuthority, operator: Operator, spki_sha256: bytes) -> int:
    """Have every certificate with the key revoked, as any mass revocation; return how many they are."""
    wish = MassWish(Selection(spki_sha256=spki_sha256), RevocationReason.KEY_COMPROMISE)
    chosen = await look(ra, operator, wish)
    if chosen.size:
        await revoke_many(ra, operator, wish, confirmation(chosen))
    return chosen.size


async def blocked_keys(
    ra: RegistrationAuthority, operator: Operator, after: bytes = b"", limit: int = 50
) -> list[BlockedKey]:
    """Return blocked keys in the order of their SHA-256, above `after`. Raises PKIError(NOT_AUTHORIZED)."""
    authorise(operator, Operation.SEE_BLOCKED_KEYS)
    return await ra.directory.blocked_keys(after, limit)
