"""REST: the hierarchy of issuers as one tree, with where each key lives."""

from __future__ import annotations

import datetime

from cryptography import x509
from starlette.responses import Response

from chancery.pkix.name import name_text
from chancery.ports import HierarchyNode
from chancery.ra.hierarchy import roots_first, standing
from chancery.web.bodies import read_query
from chancery.web.service import Call, json
from chancery.web.views import CRLView, NoQuery, View, crl_view, estimated


class HierarchyView(View, frozen=True, kw_only=True):
    """
    One issuer of the tree. `state`: issuing, default, deactivated, expired or elsewhere. `key` says where it is.

    `cross` counts its certificates beside the current one. `estimated`: which of the counts are estimates.
    `delegate` is null when none was found among those looked at, of many.
    """

    name: str
    depth: int
    parent: str | None = None
    subject: str
    state: str
    key: str
    algorithm: str
    not_before: datetime.datetime
    not_after: datetime.datetime
    cross: int
    certificates: int
    revoked: int
    estimated: list[str]
    delegate: bool | None
    crl: CRLView | None = None
    warnings: list[str]


class HierarchyList(View, frozen=True, kw_only=True):
    """Every issuer, each root before what is below it."""

    issuers: list[HierarchyView]


async def show_hierarchy(call: Call) -> Response:
    """Every issuer as a tree: key, algorithm, validity, state, counts, CRL, warnings."""
    read_query(call.request, NoQuery)
    delegates = [name for name, profile in call.ra.profiles.items() if profile.ocsp]
    nodes = await call.ra.directory.hierarchy(delegates)
    names = {node.record.issuer_id: node.record.name for node in nodes}
    at = call.ra.clock.now()
    return json(HierarchyList(issuers=[_view(node, depth, names, at) for depth, node in roots_first(nodes)]))


def _view(node: HierarchyNode, depth: int, names: dict[int, str], at: datetime.datetime) -> HierarchyView:
    record, judged = node.record, standing(node, at)
    certificate = x509.load_der_x509_certificate(record.certificate)
    return HierarchyView(
        name=record.name,
        depth=depth,
        parent=None if record.parent_id is None else names.get(record.parent_id),
        subject=name_text(certificate.subject),
        state=judged.state,
        key=judged.key,
        algorithm=judged.algorithm,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        cross=len(record.further),
        certificates=node.certificates,
        revoked=node.revoked,
        estimated=estimated({"certificates": node.certificates, "revoked": node.revoked}),
        delegate=node.delegate,
        crl=crl_view(node.crl, at),
        warnings=list(judged.warnings),
    )
