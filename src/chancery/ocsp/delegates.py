"""The delegate certificates of this responder's keys: looked up, checked, renewed without a restart."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Mapping

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chancery.asn1.signature import Signer
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.ocsp.responder import Delegate, IssuerTable, delegate
from chancery.ports import Clock, StatusReader

Report = Callable[[str, Mapping[str, object]], None]
"""Takes the name of what happened and its details, for the log."""


class Delegates:
    """
    For each issuer (by name) the key that answers for it, and the newest certificate of that key that may.

    `refresh` asks the database; between refreshes everything is in memory. `every` answers for each issuer of this
    installation that `signers` does not name, as soon as that issuer has made it a certificate.
    """

    def __init__(
        self,
        reader: StatusReader,
        signers: Mapping[str, Signer],
        clock: Clock,
        report: Report,
        *,
        by_name: bool,
        every: Signer | None = None,
    ) -> None:
        self._reader = reader
        self._signers = dict(signers)
        self._every = every
        self._waiting: dict[str, str] = {}
        self._clock = clock
        self._report = report
        self._by_name = by_name
        self._found: dict[int, Delegate] = {}
        self._problems: dict[str, str] = dict.fromkeys(self._signers, "no certificate was looked for yet")
        self._table: IssuerTable | None = None

    @property
    def table(self) -> IssuerTable:
        """Return the issuers; PKIError(SYSTEM_UNAVAIL) as long as they could not be read."""
        if self._table is None:
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the issuers are not known yet")
        return self._table

    @property
    def problems(self) -> Mapping[str, str]:
        """What keeps each issuer (by name) from being answered for; empty when all is well."""
        at = self._clock.now()
        late = {
            self.table.names[issuer_id]: "the certificate of its key is not valid now"
            for issuer_id, found in self._found.items()
            if not found.fits(at)
        }
        return late | self._problems

    def ends(self) -> Mapping[str, datetime.datetime]:
        """When the certificate that signs for each issuer (by name) ends."""
        return {self.table.names[issuer_id]: found.not_after for issuer_id, found in self._found.items()}

    @property
    def waiting(self) -> Mapping[str, str]:
        """Issuers (by name) that came later and have made this responder no certificate yet."""
        return self._waiting

    def current(self, issuer_ids: tuple[int, ...]) -> Delegate:
        """
        Return who signs for an issuer now.

        PKIError(NOT_AUTHORIZED) when no key here is meant for it; SYSTEM_UNAVAIL when its certificate is missing
        or not valid now.
        """
        at = self._clock.now()
        for issuer_id in issuer_ids:
            found = self._found.get(issuer_id)
            if found is not None and found.fits(at):
                return found
        names = {self.table.names[issuer_id] for issuer_id in issuer_ids}
        if names.isdisjoint({*self._signers, *self._waiting}):
            raise PKIError(ErrorType.NOT_AUTHORIZED, "an issuer that is not answered for here")
        raise PKIError(ErrorType.SYSTEM_UNAVAIL, "the responder has no valid certificate for this issuer")

    async def refresh(self) -> bool:
        """
        Read issuers and certificates again. Return whether another certificate (or issuer) is in use than before.

        Raises what the reader raises; then everything stays as it was.
        """
        records = await self._reader.issuers()
        table = IssuerTable(records)
        ids = {name: issuer_id for issuer_id, name in table.names.items()}
        found: dict[int, Delegate] = {}
        problems: dict[str, str] = {}
        waiting: dict[str, str] = {}
        for record in records:
            if self._every is None or record.key_label is None or record.name in self._signers:
                continue
            chosen = await self._choose(table, record.issuer_id, self._every)
            if isinstance(chosen, Delegate):
                found[record.issuer_id] = chosen
            else:
                waiting[record.name] = chosen
        for name, signer in self._signers.items():
            if (issuer_id := ids.get(name)) is None:
                problems[name] = "there is no issuer of this name"
                continue
            chosen = await self._choose(table, issuer_id, signer)
            if isinstance(chosen, Delegate):
                found[issuer_id] = chosen
            else:
                problems[name] = chosen
        changed = (
            self._table is None
            or self._table.names != table.names
            or {i: one.certificate for i, one in self._found.items()}
            != {i: one.certificate for i, one in found.items()}
        )
        self._say(table, found, problems)
        self._table, self._found, self._problems, self._waiting = table, found, problems, waiting
        return changed

    async def _choose(self, table: IssuerTable, issuer_id: int, signer: Signer) -> Delegate | str:
        """Return the first certificate that may sign now, or what is wrong with the newest."""
        spki = signer.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        problem = "no certificate was issued for its key"
        at = self._clock.now()
        for number, certificate in enumerate(
            await self._reader.certificates_of_key(hashlib.sha256(spki).digest())
        ):
            try:
                chosen = delegate(certificate, table.certificates[issuer_id], signer, by_name=self._by_name)
            except OperatorError as error:
                why = str(error)
            else:
                if chosen.fits(at):
                    return chosen
                why = f"its certificate is valid from {chosen.not_before} to {chosen.not_after} only"
            problem = why if number == 0 else problem
        return problem

    def _say(self, table: IssuerTable, found: Mapping[int, Delegate], problems: Mapping[str, str]) -> None:
        """Report what is new."""
        for issuer_id, chosen in found.items():
            known = self._found.get(issuer_id)
            if known is None or known.certificate != chosen.certificate:
                until = chosen.not_after.isoformat()
                self._report("ocsp.delegate", {"issuer": table.names[issuer_id], "not_after": until})
        for name, problem in problems.items():
            if self._problems.get(name) != problem:
                self._report("ocsp.delegate_missing", {"issuer": name, "problem": problem})
