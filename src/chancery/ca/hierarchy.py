"""Who issues now: the issuers of this process, those that are deactivated, and the default."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping

from cryptography import x509

from chancery.ca.issuer import Issuer
from chancery.errors import OperatorError, PKIError
from chancery.ports import IssuerRecord


@dataclasses.dataclass(frozen=True, slots=True)
class Hierarchy:
    """`inactive` names issuers of `issuers` that issue no more; `default` serves requests that name none."""

    issuers: Mapping[str, Issuer]
    inactive: frozenset[str]
    default: str


Make = Callable[[IssuerRecord, tuple[x509.Certificate, ...]], Issuer]
"""Makes an issuer of its record and the CA certificates above it, root last."""


def above(record: IssuerRecord, by_id: Mapping[int, IssuerRecord]) -> tuple[x509.Certificate, ...]:
    """Return the current CA certificates above an issuer, the nearest first, as far as they are known."""
    found: list[x509.Certificate] = []
    while record.parent_id is not None and record.parent_id in by_id and len(found) < len(by_id):
        record = by_id[record.parent_id]
        found.append(x509.load_der_x509_certificate(record.certificate))
    return tuple(found)


def look(
    records: Iterable[IssuerRecord], wanted: Callable[[IssuerRecord], bool], default: str, make: Make
) -> tuple[Hierarchy, dict[str, str]]:
    """
    Return the hierarchy as these records have it, and by name what keeps an issuer out of it.

    `wanted` says which issuers this process has the keys of; `default` is the configured one, until another is
    made the default. `make` raises PKIError or OperatorError for a key that cannot be used.
    """
    by_id = {record.issuer_id: record for record in records}
    issuers: dict[str, Issuer] = {}
    problems: dict[str, str] = {}
    for record in by_id.values():
        if not wanted(record):
            continue
        try:
            issuers[record.name] = make(record, above(record, by_id))
        except (PKIError, OperatorError) as error:
            problems[record.name] = str(error)
    inactive = frozenset(record.name for record in by_id.values() if not record.active)
    chosen = next((record.name for record in by_id.values() if record.default), default)
    return Hierarchy(issuers, inactive, chosen), problems
