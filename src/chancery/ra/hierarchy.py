"""The hierarchy as people look at it: where each issuer's key lives, how it is, and what to worry about."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence

from cryptography import x509

from chancery.pkix.key import key_kind
from chancery.ports import HierarchyNode, Place

SOON = datetime.timedelta(days=60)


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """How an issuer stands: `state` in one word, where its key is in one line, and warnings in words."""

    state: str
    key: str
    algorithm: str
    warnings: tuple[str, ...]


def standing(node: HierarchyNode, at: datetime.datetime) -> Standing:
    """Judge one issuer at this moment."""
    certificate = x509.load_der_x509_certificate(node.record.certificate)
    return Standing(
        _state(node, certificate, at), _key(node), _algorithm(certificate), tuple(_warnings(node, certificate, at))
    )


def roots_first(nodes: Sequence[HierarchyNode]) -> list[tuple[int, HierarchyNode]]:
    """Return the issuers as a tree, each with its depth: a root, then what is below it, then the next root."""
    by_parent: dict[int | None, list[HierarchyNode]] = {}
    known = {node.record.issuer_id for node in nodes}
    for node in nodes:
        parent = node.record.parent_id
        by_parent.setdefault(parent if parent in known else None, []).append(node)
    found: list[tuple[int, HierarchyNode]] = []
    waiting = [(0, node) for node in reversed(by_parent.get(None, []))]
    while waiting:
        depth, node = waiting.pop()
        found.append((depth, node))
        waiting += [(depth + 1, one) for one in reversed(by_parent.get(node.record.issuer_id, []))]
    return found


def _state(node: HierarchyNode, certificate: x509.Certificate, at: datetime.datetime) -> str:
    if certificate.not_valid_after_utc < at:
        return "expired"
    if node.record.key_label is None:
        return "elsewhere"
    if not node.record.active:
        return "deactivated"
    return "default" if node.record.default else "issuing"


def _key(node: HierarchyNode) -> str:
    record, place = node.record, node.key
    if record.key_label is None:
        # An issuer of before this was told is an offline root, if it is not another's.
        return place.place.value if place is not None else "elsewhere"
    where = f"{record.token_label}/{record.key_label}"
    if place is None or place.place is not Place.TOKEN:
        return where
    kind = "software" if place.software else "hardware"
    told = [one for one in (kind, place.device, place.module, "imported" if place.imported else None) if one]
    return f"{where} ({', '.join(told)})"


def _algorithm(certificate: x509.Certificate) -> str:
    return key_kind(certificate.public_key())


def _warnings(node: HierarchyNode, certificate: x509.Certificate, at: datetime.datetime) -> list[str]:
    record, ends, found = node.record, certificate.not_valid_after_utc, list[str]()
    if ends < at:
        found.append("its certificate has expired")
    elif ends - at < SOON:
        found.append(f"its certificate ends in {(ends - at).days} days")
    if node.last_expiry is not None and node.last_expiry > ends:
        found.append(f"it ends before a certificate that it issued, which ends {node.last_expiry:%Y-%m-%d}")
    if node.crl is not None and node.crl.next_update < at:
        found.append(f"its CRL is out of date since {node.crl.next_update:%Y-%m-%d %H:%M} UTC")
    if record.key_label is None:
        return found
    if node.crl is None:
        found.append("it has published no CRL")
    if node.delegate is False:
        found.append("it has no valid OCSP delegate")
    if node.key is not None and node.key.imported:
        found.append("its key was outside a token before it was imported (R7)")
    return found
