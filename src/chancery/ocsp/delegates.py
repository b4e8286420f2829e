"""The delegate certificates of this responder's keys: looked up, checked, renewed without a restart."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chancery.asn1 import der
from chancery.asn1.signature import Scheme, SignatureAlgorithm, Signer
from chancery.errors import ErrorType, OperatorError, PKIError
from chancery.ocsp.responder import Delegate, IssuerTable, Policies, delegate
from chancery.ports import Clock, IssuerRecord, StatusReader

Report = Callable[[str, Mapping[str, object]], None]
"""Takes the name of what happened and its details, for the log."""


class Delegates:
    """
    For each issuer (by name) the keys that answer for it, and the newest certificate of each key that may.

    The first key is the one that signs unless a client prefers the algorithm of another (RFC 6960 4.4.7).

    `refresh` asks the database; between refreshes everything is in memory. `every` answers for each issuer of this
    installation that `signers` does not name, as soon as that issuer has made it a certificate.
    """

    def __init__(
        self,
        reader: StatusReader,
        signers: Mapping[str, Sequence[Signer]],
        clock: Clock,
        report: Report,
        *,
        policies: Policies,
        every: Signer | None = None,
    ) -> None:
        self._reader = reader
        self._signers = dict(signers)
        self._every = every
        self._waiting: dict[str, str] = {}
        self._clock = clock
        self._report = report
        self._policies = policies
        self._made: Mapping[int, Sequence[bytes]] = {}
        self._found: dict[int, tuple[Delegate, ...]] = {}
        self._ending: dict[str, str] = {}
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
            if not any(one.fits(at) for one in found)
        }
        return late | self._problems

    def ends(self) -> Mapping[str, datetime.datetime]:
        """When the certificate that signs for each issuer (by name) ends."""
        return {
            self.table.names[issuer_id]: min(one.not_after for one in found)
            for issuer_id, found in self._found.items()
        }

    def ending(self) -> dict[str, str]:
        """
        When certificates end (ISO 8601) of which less than a quarter is left and no successor is there, by issuer.

        They should have been renewed when a third was left: somebody has to look why they were not.
        """
        if self._table is None:
            return {}
        at, names = self._clock.now(), self._table.names
        return {
            names[issuer_id]: min(late).isoformat()
            for issuer_id, found in self._found.items()
            if (late := [one.not_after for one in found if _late(one, at)])
        }

    @property
    def waiting(self) -> Mapping[str, str]:
        """Issuers (by name) that came later and have made this responder no certificate yet."""
        return self._waiting

    def variant(self, issuer_ids: tuple[int, ...], preferred: Sequence[bytes]) -> bytes:
        """Return the AlgorithmIdentifier (DER) of a key that is chosen for a client's sake; empty without one."""
        if not preferred:
            return b""
        at = self._clock.now()
        first, chosen = self._pick(issuer_ids, (), at), self._pick(issuer_ids, preferred, at)
        return b"" if chosen is None or chosen is first else chosen.signer.algorithm.identifier

    def _pick(
        self, issuer_ids: tuple[int, ...], preferred: Sequence[bytes], at: datetime.datetime
    ) -> Delegate | None:
        """RFC 6960 4.4.7.2.1: the first algorithm that the client prefers and a key here has, or the first key."""
        for issuer_id in issuer_ids:
            fit = [one for one in self._found.get(issuer_id, ()) if one.fits(at)]
            wanted = (one for identifier in preferred for one in fit if _is(one.signer.algorithm, identifier))
            if fit:
                return next(wanted, fit[0])
        return None

    def current(self, issuer_ids: tuple[int, ...], preferred: Sequence[bytes] = ()) -> Delegate:
        """
        Return who signs for an issuer now, by one of the `preferred` AlgorithmIdentifiers (DER) if that can be.

        PKIError(NOT_AUTHORIZED) when no key here is meant for it; SYSTEM_UNAVAIL when its certificate is missing
        or not valid now.
        """
        if (found := self._pick(issuer_ids, preferred, self._clock.now())) is not None:
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
        ours = await self._reader.issuers()
        records = [*ours, *await self._foreign({one.name for one in ours})]
        table = IssuerTable(records)
        ids = {name: issuer_id for issuer_id, name in table.names.items()}
        found: dict[int, tuple[Delegate, ...]] = {}
        problems: dict[str, str] = {}
        waiting: dict[str, str] = {}
        for record in records:
            if self._every is None or record.key_label is None or record.name in self._signers:
                continue
            chosen = await self._choose(table, record.issuer_id, self._every)
            if isinstance(chosen, Delegate):
                found[record.issuer_id] = (chosen,)
            else:
                waiting[record.name] = chosen
        for name, signers in self._signers.items():
            if (issuer_id := ids.get(name)) is None:
                problems[name] = "there is no issuer of this name"
                continue
            each = [(one, await self._choose(table, issuer_id, one)) for one in signers]
            if fit := tuple(one for _, one in each if isinstance(one, Delegate)):
                found[issuer_id] = fit
                missing = {f"{name} ({one.algorithm.name})": why for one, why in each if isinstance(why, str)}
                waiting.update(missing)
            else:
                problems[name] = str(each[0][1])
        changed = (
            self._table is None
            or self._table.names != table.names
            or {i: [one.certificate for one in each] for i, each in self._found.items()}
            != {i: [one.certificate for one in each] for i, each in found.items()}
        )
        self._say(table, found, problems)
        self._table, self._found, self._problems, self._waiting = table, found, problems, waiting
        ending = self.ending()
        for name in ending.keys() - self._ending.keys():
            self._report("ocsp.delegate_ends_soon", {"issuer": name, "not_after": ending[name]})
        self._ending = ending
        return changed

    async def _foreign(self, taken: Collection[str]) -> list[IssuerRecord]:
        """Return the foreign CAs that a key here is named for, and keep the certificates they made for it."""
        found = [
            one
            for one in await self._reader.foreign()
            if one.record.name in self._signers and one.record.name not in taken
        ]
        self._made = {one.record.issuer_id: one.delegates for one in found}
        return [one.record for one in found]

    async def _certificates(self, issuer_id: int, signer: Signer) -> Sequence[bytes]:
        """Return the certificates (DER) of a key that may be this issuer's work, newest first."""
        if issuer_id in self._made:
            return self._made[issuer_id]
        spki = signer.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return await self._reader.certificates_of_key(hashlib.sha256(spki).digest())

    async def _choose(self, table: IssuerTable, issuer_id: int, signer: Signer) -> Delegate | str:
        """Return the first certificate that may sign now, or what is wrong with the newest."""
        problem = "no certificate was issued for its key"
        by_name = self._policies.of(table.names[issuer_id]).by_name
        at = self._clock.now()
        for number, certificate in enumerate(await self._certificates(issuer_id, signer)):
            try:
                chosen = delegate(certificate, table.certificates[issuer_id], signer, by_name=by_name)
            except OperatorError as error:
                why = str(error)
            else:
                if chosen.fits(at):
                    return chosen
                why = f"its certificate is valid from {chosen.not_before} to {chosen.not_after} only"
            problem = why if number == 0 else problem
        return problem

    def _say(
        self, table: IssuerTable, found: Mapping[int, Sequence[Delegate]], problems: Mapping[str, str]
    ) -> None:
        """Report what is new."""
        for issuer_id, chosen in ((issuer_id, one) for issuer_id, each in found.items() for one in each):
            if chosen.certificate not in {one.certificate for one in self._found.get(issuer_id, ())}:
                until = chosen.not_after.isoformat()
                self._report("ocsp.delegate", {"issuer": table.names[issuer_id], "not_after": until})
        for name, problem in problems.items():
            if self._problems.get(name) != problem:
                self._report("ocsp.delegate_missing", {"issuer": name, "problem": problem})


def _late(found: Delegate, at: datetime.datetime) -> bool:
    return found.not_after - at < (found.not_after - found.not_before) / 4


def _is(algorithm: SignatureAlgorithm, identifier: bytes) -> bool:
    """Tell whether an AlgorithmIdentifier (DER) names this algorithm; NULL parameters or none are the same."""
    if identifier == algorithm.identifier:
        return True
    ours, theirs = der.elements(algorithm.identifier)[0], der.elements(identifier)[:1]
    return algorithm.scheme is not Scheme.RSA_PSS and [ours] == theirs
