"""The issuers that a worker serves: read from the database, with their keys in its token, again and again."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping

from cryptography import x509

from chancery.ca.hierarchy import Hierarchy, look
from chancery.ca.issuer import Issuer, IssuerURLs, issuer_key, shard_url
from chancery.cli.clock import SystemClock
from chancery.cli.tokens import WorkerTokens
from chancery.config import WorkerConfig, token_sections
from chancery.errors import OperatorError
from chancery.pkcs11 import Token
from chancery.pkcs11.softtoken import SoftToken
from chancery.ports import IssuerRecord, IssuerStore, KeyPlace, Place

IMPORTED = "its key was outside a token before it was imported (R7)"


def key_place(token: Token | SoftToken, *, imported: bool = False) -> KeyPlace:
    """Return what is told of a token that holds an issuer's key."""
    if isinstance(token, SoftToken):
        return KeyPlace(Place.TOKEN, None, "encrypted files", software=True, imported=imported)
    told = token.description
    device = f"{told.manufacturer} {told.model}".strip()[:200] or None
    software = "softhsm" in (device or "").lower()
    return KeyPlace(Place.TOKEN, token.module.path[-500:], device, software=software, imported=imported)


class Issuers:
    """
    The issuers of one worker. `look` gives them as they stand now, None when they are as they were.

    Those of `issuers` in the configuration must be there at the first look, or OperatorError says what is wrong.
    Of those that were added later, one that cannot be used is left out, and told to `say` by name.
    """

    def __init__(
        self,
        config: WorkerConfig,
        store: IssuerStore,
        tokens: WorkerTokens,
        say: Callable[[str, str | None], None],
    ) -> None:
        self._config = config
        self._store = store
        self._tokens = tokens
        self._labels = [section.label for section in token_sections(config)]
        self._say = say
        self._seen: list[IssuerRecord] = []
        self._made: dict[tuple[IssuerRecord, tuple[x509.Certificate, ...]], Issuer] = {}
        self._problems: Mapping[str, str] = {}

    def first(self) -> Hierarchy:
        """Look for the first time, at the start."""
        records = {record.name: record for record in self._store.issuers()}
        for name in self._config.issuers:
            self._check(name, records.get(name), sorted(records))
        found = self.look()
        assert found is not None
        if wrong := [name for name in self._config.issuers if name in self._problems]:
            raise OperatorError(f"{wrong[0]}: {self._problems[wrong[0]]}", "correct `issuers`, or the token")
        return found

    def _check(self, name: str, record: IssuerRecord | None, known: list[str]) -> None:
        if record is None:
            raise OperatorError(
                f"the database has no issuer {name}; it has {', '.join(known) or 'none'}",
                "import its certificate with `chancery bundle import`, or correct `issuers`",
            )
        if record.key_label is None or record.token_label not in self._labels:
            here = ", ".join(self._labels)
            raise OperatorError(
                f"the key of issuer {name} is in token {record.token_label}, this worker has {here}",
                "correct `token`, `tokens` or `issuers`",
            )

    def look(self) -> Hierarchy | None:
        """Read the issuers; raises PKIError(SYSTEM_UNAVAIL) when the database is away."""
        records = self._store.issuers()
        if records == self._seen and not self._problems:
            return None
        places = self._places(records)

        def make(record: IssuerRecord, above: tuple[x509.Certificate, ...]) -> Issuer:
            place = places.get(record.issuer_id)
            production = self._config.deployment == "production" and not self._config.allow_imported_keys
            if place is not None and place.imported and production:
                raise OperatorError(IMPORTED, "set `allow_imported_keys = true` if that is meant")
            return self._make(record, above)

        hierarchy, problems = look(records, self._wanted, self._config.default_issuer, make)
        for name in {*self._problems, *problems}:
            self._say(f"issuer {name}", problems.get(name))
        changed = records != self._seen or problems != self._problems
        self._seen, self._problems = records, problems
        return hierarchy if changed else None

    def _places(self, records: list[IssuerRecord]) -> Mapping[int, KeyPlace]:
        """Return where keys are, after telling it of those here of which it was not known."""
        places = dict(self._store.keys())
        for record in records:
            if record.issuer_id not in places and self._wanted(record) and record.token_label is not None:
                # A token that is away now tells it at the next start.
                with contextlib.suppress(OperatorError):
                    places[record.issuer_id] = key_place(self._tokens.opened(record.token_label))
                    self._store.tell_key(record.issuer_id, places[record.issuer_id])
        return places

    def _wanted(self, record: IssuerRecord) -> bool:
        if record.key_label is None or record.token_label not in self._labels:
            return False
        return self._config.added_issuers or record.name in self._config.issuers

    def _make(self, record: IssuerRecord, above: tuple[x509.Certificate, ...]) -> Issuer:
        """Make an issuer, or find the one that was made of the same: its key is looked for once."""
        if (record, above) not in self._made:
            assert record.token_label is not None
            assert record.key_label is not None
            how = self._config.signatures.get(record.name)
            signer = self._tokens.signer(record.token_label, record.key_label, issuer_key(record), how)
            urls = self._urls(record)
            self._made[record, above] = Issuer(record, signer, urls, above)
        return self._made[record, above]

    def _urls(self, record: IssuerRecord) -> IssuerURLs:
        """What certificates of this issuer point to; its shards are opened when there are too few (R15)."""
        section = self._config.crls.get(record.name, self._config.crl)
        urls = IssuerURLs(*self._config.urls.of(record.name), deltas=section.delta is not None)
        base = urls.crl
        if not section.shards:
            return urls
        if base is None:
            raise OperatorError(f"the CRLs of {record.name} have shards and no place", "set `urls.crl`")
        shards = self._store.open_shards(
            record, lambda number: shard_url(base, number), section.shards, SystemClock().now()
        )
        return dataclasses.replace(urls, shards=tuple(shards))
