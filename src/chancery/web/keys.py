"""REST: keys reported compromised (R5)."""

from __future__ import annotations

import hashlib

from starlette.responses import Response

from chancery.errors import ErrorType, PKIError
from chancery.pkix.key import public_key_of, spki_der
from chancery.ra import keys
from chancery.web.bodies import read_json, read_query
from chancery.web.service import API, Call, json
from chancery.web.views import (
    BlockedKeyList,
    BlockedKeySearch,
    BlockedKeyView,
    KeyAsked,
    NoQuery,
    account_view,
    blocked_key_view,
)


async def block_key(call: Call) -> Response:
    """Block a key for good; 201 when it was not blocked before. Answers with every certificate that has it."""
    read_query(call.request, NoQuery)
    asked = await read_json(call.request, KeyAsked)
    wish = keys.BlockWish(
        key_sha256(asked.spki_sha256, asked.certificate, asked.csr, asked.public_key),
        asked.reason,
        asked.revoke,
        asked.dry_run,
    )
    account = await keys.block_key(call.ra, call.operator, wish)
    if asked.revoke:
        # One of them may be an operator's.
        call.service.gate.forget()
    place = {"location": f"{API}/blocked-keys?key={account.spki_sha256.hex()}"} if account.new else {}
    return json(account_view(account), 201 if account.new else 200, place)


def key_sha256(spki_sha256: str | None, certificate: str | None, csr: str | None, public_key: str | None) -> bytes:
    """
    Return SHA-256 of the SubjectPublicKeyInfo that is given in exactly one of these ways (hexadecimal, PEM).

    Raises PKIError: BAD_REQUEST for none or several; what `public_key_of` raises for what has no key.
    """
    given = [one for one in (certificate, csr, public_key) if one is not None]
    if len(given) + (spki_sha256 is not None) != 1:
        raise PKIError(ErrorType.BAD_REQUEST, "give one of spki_sha256, certificate, csr and public_key")
    if spki_sha256 is not None:
        return bytes.fromhex(spki_sha256)
    return hashlib.sha256(spki_der(public_key_of(given[0].encode()))).digest()


async def list_blocked_keys(call: Call) -> Response:
    """One page of blocked keys in the order of their hashes, or the one that is asked for."""
    asked = read_query(call.request, BlockedKeySearch)
    if asked.key is not None:
        one = await call.ra.directory.blocked_key(bytes.fromhex(asked.key))
        return json(BlockedKeyList(keys=[] if one is None else [blocked_key_view(one)]))
    after = b"" if asked.after is None else bytes.fromhex(asked.after)
    found = await keys.blocked_keys(call.ra, call.operator, after, asked.limit)
    shown: list[BlockedKeyView] = [blocked_key_view(one) for one in found]
    return json(BlockedKeyList(keys=shown, next=shown[-1].spki_sha256 if len(shown) == asked.limit else None))
