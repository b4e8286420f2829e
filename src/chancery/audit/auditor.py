"""
The auditor of certificates: re-derives the right to exist of everything that is stored (R29, R30).

`audit verify` tells whether the journal is the one that was signed; this tells whether the tables are what the
journal, the requests and the profiles make of them. It reads, and changes nothing.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Mapping

from chancery.audit import certificates, crls, mass, standing, statuses, trail
from chancery.audit.certificates import Known
from chancery.audit.findings import Finding, Findings, Kind
from chancery.ports import SecondOpinion
from chancery.ports.auditing import AuditReader, Scope, Stray, StrayKind

_STRAYS = {
    StrayKind.EVENT: "a {detail} event is about it, and no intent is stored",
    StrayKind.RECEIVED: "it was received from {detail}, and no request is stored",
    StrayKind.STATUS: "it has a status, and no intent is stored",
    StrayKind.REQUEST: "it is done, and neither intent nor certificate is stored",
    StrayKind.REVOCATION: "it is done, and no event of a revocation tells of it",
    StrayKind.BLOCKED: "the key was blocked, and is not any more (R5)",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What was looked at and what was found: the first findings in order, how many `omitted`, all by kind."""

    issuers: int
    profiles: int
    certificates: int
    unfinished: int
    crls: int
    operators: int
    findings: tuple[Finding, ...]
    omitted: int
    counts: Mapping[Kind, int]


def audit(
    reader: AuditReader,
    at: datetime.datetime,
    scope: Scope | None = None,
    *,
    opinions: Mapping[str, SecondOpinion] | None = None,
    second_opinion: SecondOpinion | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Report:
    """
    Judge everything in `scope` as of the time `at`; `progress` hears how many certificates are done more.

    `opinions` are the linters that profiles name; `second_opinion` is asked about every certificate.

    Findings come in a fixed order: issuers, profiles, certificates by id, intents, strays, CRLs, operators,
    jobs of mass revocation, problem reports.
    Raises PKIError(SYSTEM_UNAVAIL) when the database is away.
    """
    scope, found = scope or Scope(), Findings()
    issuers, profiles, operators = reader.issuers(), reader.profiles(), reader.operators()
    acts = trail.read(reader.entries([*standing.KINDS, *crls.KINDS, *mass.KINDS]))
    grounds = standing.grounds(issuers)
    found.extend(standing.judge_issuers(issuers, grounds, acts), "issuers")
    known_profiles, wrong = standing.read_profiles(profiles)
    found.extend([*wrong, *standing.judge_profiles(profiles, acts)])
    found.extend(standing.judge_switches(reader.profile_switches(), acts), "switches")
    known = Known(grounds, known_profiles, opinions or {}, second_opinion)
    judged = unfinished = lists = 0
    for batch in reader.certificates(scope):
        for row in batch:
            found.extend(certificates.judge(row, known), certificates.subject(row))
        judged += len(batch)
        progress(len(batch))
    for batch in reader.unfinished(scope):
        for row in batch:
            found.extend(statuses.unfinished(row, at), certificates.subject(row))
        unfinished += len(batch)
    found.extend(map(_stray, reader.strays(scope)))
    for issuer in issuers:
        ground = grounds.get(issuer.record.issuer_id)
        if ground is not None and scope.issuer_id in {None, issuer.record.issuer_id}:
            lists += crls.judge(reader, crls.Issuing(issuer, ground, acts, at), scope.since, found)
    found.extend(standing.judge_operators(operators, acts), "operators")
    found.extend(mass.judge_jobs(reader.jobs(), acts), "revocation jobs")
    found.extend(mass.judge_reports(reader.reports(), acts), "problem reports")
    return Report(
        issuers=len(issuers),
        profiles=len(profiles),
        certificates=judged,
        unfinished=unfinished,
        crls=lists,
        operators=len(operators),
        findings=tuple(found.kept),
        omitted=found.omitted,
        counts=found.counts,
    )


def _stray(stray: Stray) -> Finding:
    return Finding(Kind.STRAY, stray.subject, _STRAYS[stray.kind].format(detail=stray.detail))
