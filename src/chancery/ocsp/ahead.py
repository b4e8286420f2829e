"""
Answers ahead of time, for all certificates that are alive: through the same function as those to clients.

One page after the other, in the order of issuers and serials: whoever remembers the last subject goes on there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from chancery.asn1 import ocsp
from chancery.ocsp.answering import Answered, Answerer
from chancery.ocsp.delegates import Delegates
from chancery.ocsp.responder import Nonces, Policies, Subject
from chancery.ports import StatusReader

# What is signed between two looks at the clock; the memory that it takes is a few hundred kilobytes.
PAGE = 64
START: Subject = (0, b"")
Made = tuple[Subject, bytes, Answered]
"""Whom an answer is about, the plain request (DER, SHA-1 CertID) that it answers, and the answer."""


class Ahead:
    """Makes answers for the issuers that have a delegate here and answer everybody the same."""

    def __init__(self, reader: StatusReader, delegates: Delegates, answerer: Answerer, policies: Policies) -> None:
        self._reader = reader
        self._delegates = delegates
        self._answerer = answerer
        self._policies = policies

    def issuers(self) -> list[int]:
        """Return the issuer_ids: those where neither nonce nor signature is required, and a delegate signs."""
        names, able = self._delegates.table.names, self._delegates.ends()
        return sorted(
            issuer_id
            for issuer_id, name in names.items()
            if name in able
            and (settings := self._policies.of(name)).signers is None
            and settings.nonces is not Nonces.REQUIRE
        )

    async def pages(
        self, after: Subject = START, wanted: Callable[[bytes], bool] = lambda _: True
    ) -> AsyncIterator[tuple[Subject, list[Made]]]:
        """
        Give page after page what comes after a subject, each with its last subject.

        `wanted` is asked about every request first. Raises PKIError as the answerer does.
        """
        for issuer_id in self.issuers():
            if issuer_id < after[0]:
                continue
            last = after[1] if issuer_id == after[0] else b""
            while serials := await self._reader.live(issuer_id, last, PAGE):
                asked = [(one, self._request(issuer_id, one)) for one in serials]
                chosen = [(serial, request) for serial, request in asked if wanted(ocsp.encode_request(request))]
                made = await asyncio.gather(
                    *(self._answerer.answer(self._answerer.admit(request)) for _, request in chosen)
                )
                last = serials[-1]
                yield (
                    (issuer_id, last),
                    [
                        ((issuer_id, serial), ocsp.encode_request(request), answered)
                        for (serial, request), answered in zip(chosen, made, strict=True)
                    ],
                )

    def _request(self, issuer_id: int, serial: bytes) -> ocsp.OCSPRequest:
        return ocsp.OCSPRequest((self._delegates.table.cert_id(issuer_id, serial),), None)
