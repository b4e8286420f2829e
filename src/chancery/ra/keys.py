"""Keys reported compromised (R5): blocked for good, listed, and every certificate with one found and revoked."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator

from chancery.errors import ErrorType, PKIError
from chancery.ports import (
    BlockedKey,
    CertificateQuery,
    EventKind,
    Operator,
    RevocationReason,
    StatusState,
    StoredCertificate,
)
from chancery.ra.enrolment import RegistrationAuthority, RevocationWish, revoke
from chancery.ra.requestor import Operation, Reach, authorise

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

    The revocations are stored when this returns, and settled by the worker. Raises PKIError: NOT_AUTHORIZED,
    also for revoking what others asked for; SYSTEM_UNAVAIL, and then asking again does what is left.
    """
    authorise(operator, Operation.BLOCK_KEY)
    if wish.revoke and authorise(operator, Operation.REVOKE) is not Reach.ANY:
        raise PKIError(ErrorType.NOT_AUTHORIZED, f"{operator.name} may not revoke what others asked for")
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
    asked = 0
    query = CertificateQuery(spki_sha256=spki_sha256, state=StatusState.GOOD)
    async for one in _certificates(ra, query):
        wish = RevocationWish(one.serial, RevocationReason.KEY_COMPROMISE, one.issuer)
        try:
            await revoke(ra, operator, wish, 0)
        except PKIError as error:
            if error.type is not ErrorType.CERT_REVOKED:
                raise
        else:
            asked += 1
    return asked


async def blocked_keys(
    ra: RegistrationAuthority, operator: Operator, after: bytes = b"", limit: int = 50
) -> list[BlockedKey]:
    """Return blocked keys in the order of their SHA-256, above `after`. Raises PKIError(NOT_AUTHORIZED)."""
    authorise(operator, Operation.SEE_BLOCKED_KEYS)
    return await ra.directory.blocked_keys(after, limit)
