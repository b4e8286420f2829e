"""
Running the certificate lints, each once for what it looks at.

Most lints look at nothing that is another in every certificate: under one issuer and profile their findings are
the same for all. So the lints are watched over two certificates with the same `frame` (`view.CertificateView`):
what a lint found without a look outside the frame holds for every other with that frame. A lint is a function
of what it looks at, so nothing has to be declared, and nothing can be declared wrongly; whatever the watch does
not know to be part of the frame counts as another in every certificate.
"""

from __future__ import annotations

import dataclasses
import operator
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar, cast

from cryptography import x509

from chancery.pkix.finding import Finding, Severity
from chancery.pkix.view import VARYING, CertificateView, EncodedExtension

T = TypeVar("T")
CertificateLint = Callable[[CertificateView], Iterable[Finding]]
Found = tuple[int, tuple[Finding, ...]]
"""What one lint found: its place among the lints, and its findings."""

MAX_PLANS, MAX_VALIDITIES = 256, 64

IN_FRAME = frozenset(
    {
        "version",
        "inner_algorithm",
        "outer_algorithm",
        "issuer_name",
        "unique_identifiers",
        "key_algorithm",
        "key_identifier",
        "issuer",
        "heads",
        "critical",
        "readable",
        "usages",
        "is_ca",
    }
)
"""What of a `CertificateView` is the same for all certificates with one frame."""
_VALIDITY = frozenset({"validity", "not_before", "not_after"})
_VARYING_OIDS = frozenset(VARYING.values())


def run(rules: Sequence[Callable[[T], Iterable[Finding]]], seen: T) -> list[Finding]:
    """Run every lint over one view, in order. A lint that throws is itself a fatal finding."""
    found: list[Finding] = []
    for rule in rules:
        found.extend(_findings(rule, seen))
    return found


def _findings(rule: Callable[[T], Iterable[Finding]], seen: T) -> tuple[Finding, ...]:
    try:
        return tuple(rule(seen))
    except Exception as error:  # noqa: BLE001 - whatever a lint throws is a finding
        name = getattr(rule, "__name__", "lint")
        detail = f"the lint {name} failed: {type(error).__name__}: {error}"
        return (Finding(Severity.FATAL, "pkix.lint_failed", detail, "R9"),)


class Watched:
    """A `CertificateView` that notes in `reads` what a lint looks at outside the frame."""

    def __init__(self, seen: CertificateView) -> None:
        self._seen = seen
        self.reads: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        if name not in IN_FRAME:
            self.reads.add(name)
        return getattr(self._seen, name)

    def value(self, type_: type[x509.ExtensionType]) -> x509.ExtensionType | None:
        """As of a `CertificateView`."""
        if type_ in VARYING:
            self.reads.add(type_.__name__)
        return self._seen.value(type_)

    def raw(self, oid: str) -> EncodedExtension | None:
        """As of a `CertificateView`."""
        if oid in _VARYING_OIDS:
            self.reads.add(oid)
        return self._seen.raw(oid)


@dataclasses.dataclass(slots=True)
class _Plan:
    """
    What is left to do for a certificate of one frame.

    `constant` are the findings that all have; `dated` the lints that look at the validity as well, with what
    they found for each (its DER), as a batch has mostly one; `others` the lints that run each time.
    """

    example: CertificateView
    constant: tuple[Found, ...]
    dated: tuple[tuple[int, CertificateLint], ...]
    others: tuple[tuple[int, CertificateLint], ...]
    by_validity: dict[bytes, tuple[Found, ...]]


class Linting:
    """The certificate lints `rules`, and what is remembered of them: at most `MAX_PLANS` frames."""

    def __init__(self, rules: Sequence[CertificateLint]) -> None:
        self.rules = tuple(rules)
        self._seen_once: dict[Hashable, None] = {}
        self._plans: dict[Hashable, _Plan] = {}
        self._lock = threading.Lock()

    def __call__(self, seen: CertificateView) -> list[Finding]:
        """Return what the lints find in one certificate: exactly what `run` of them all returns."""
        plan = self._plan(seen)
        if plan is None:
            return run(self.rules, seen)
        seen.share(plan.example)
        found = [*plan.constant, *self._dated(plan, seen)]
        try:
            found += [(place, some) for place, rule in plan.others if (some := tuple(rule(seen)))]
        except Exception:  # noqa: BLE001 - a lint that throws is found again below, and becomes a finding
            return run(self.rules, seen)
        return [one for _, some in sorted(found, key=_place) for one in some]

    def _plan(self, seen: CertificateView) -> _Plan | None:
        """Return the plan for this frame, made when it is seen for the second time: many never are."""
        frame = seen.frame
        if frame is None:
            return None
        plan = self._plans.get(frame)
        if plan is None:
            with self._lock:
                if frame in self._seen_once:
                    plan = _remember(self._plans, frame, self._make(seen), MAX_PLANS)
                _remember(self._seen_once, frame, None, MAX_PLANS)
        return plan

    def _make(self, seen: CertificateView) -> _Plan:
        constant: list[Found] = []
        dated: list[tuple[int, CertificateLint]] = []
        others: list[tuple[int, CertificateLint]] = []
        for place, rule in enumerate(self.rules):
            found, reads = _watch(rule, seen)
            if reads:
                (dated if reads <= _VALIDITY else others).append((place, rule))
            elif found:
                constant.append((place, found))
        return _Plan(seen, tuple(constant), tuple(dated), tuple(others), {})

    def _dated(self, plan: _Plan, seen: CertificateView) -> tuple[Found, ...]:
        known = plan.by_validity.get(seen.validity)
        if known is not None:
            return known
        found: list[Found] = []
        alone = True
        for place, rule in plan.dated:
            some, reads = _watch(rule, seen)
            # With other ends it may look at more; then what it finds is not the ends' alone.
            alone = alone and reads <= _VALIDITY
            if some:
                found.append((place, some))
        if alone:
            with self._lock:
                _remember(plan.by_validity, seen.validity, tuple(found), MAX_VALIDITIES)
        return tuple(found)


_place = operator.itemgetter(0)


def _watch(rule: CertificateLint, seen: CertificateView) -> tuple[tuple[Finding, ...], set[str]]:
    watched = Watched(seen)
    return _findings(rule, cast("CertificateView", watched)), watched.reads


K = TypeVar("K")
V = TypeVar("V")


def _remember(known: dict[K, V], key: K, value: V, most: int) -> V:
    """Put it in, and the oldest out where there are too many."""
    while len(known) >= most and key not in known:
        del known[next(iter(known))]
    known[key] = value
    return value
