"""
Prometheus metrics on a port of their own: `/metrics`, and `/healthz` and `/readyz` beside it.

A service keeps plain numbers; they are put into words when somebody asks, so its hot path knows nothing of this.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from chancery.web.hot import Answer, Handler, Limits, Reply, Request, text

Labels = tuple[str, ...]
LIMITS = Limits(max_body=0, max_connections=64, max_inflight=8)
_NO_STORE = ("Cache-Control", "no-store")


@dataclasses.dataclass(frozen=True, slots=True)
class Metric:
    """
    One family of samples: values by their labels, in the order of `labels`.

    `name` is without a counter's `_total`; the unit stands in it, in Prometheus' base units.
    """

    name: str
    help: str
    values: Mapping[Labels, float]
    labels: tuple[str, ...] = ()
    kind: Literal["counter", "gauge"] = "gauge"


@dataclasses.dataclass(frozen=True, slots=True)
class Histogram:
    """How many values lie up to each of `bounds` and above the one before, at last above all; and their sum."""

    name: str
    help: str
    bounds: Sequence[float]
    counts: Sequence[int]
    total: float

    def family(self) -> HistogramMetricFamily:
        """Return it in Prometheus' way: each bucket holds those before it."""
        marks = [*map(str, self.bounds), "+Inf"]
        buckets = [
            (mark, float(many)) for mark, many in zip(marks, itertools.accumulate(self.counts), strict=True)
        ]
        return HistogramMetricFamily(self.name, self.help, buckets=buckets, sum_value=self.total)


def single(name: str, help_: str, value: float, kind: Literal["counter", "gauge"] = "gauge") -> Metric:
    """Return a family of one sample without labels."""
    return Metric(name, help_, {(): value}, kind=kind)


Read = Callable[[], Iterable[Metric | Histogram]]


class _Asked(Collector):
    """What the service says when it is asked."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        for one in self._read():
            if isinstance(one, Histogram):
                yield one.family()
                continue
            make = CounterMetricFamily if one.kind == "counter" else GaugeMetricFamily
            family = make(one.name, one.help, labels=one.labels)
            for labels, value in one.values.items():
                family.add_metric(labels, value)
            yield family

    def describe(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        # Names are known when the service is asked, and it is not asked while it is being put together.
        return ()


def rendered(found: Iterable[Metric | Histogram]) -> bytes:
    """Return metrics in Prometheus' text format."""
    registry, kept = CollectorRegistry(), list(found)
    registry.register(_Asked(lambda: kept))
    return generate_latest(registry)


def handler(read: Read, ready: Callable[[], bool]) -> Handler:
    """Return the handler of a metrics port: `read` gives the metrics, `ready` whether requests can be answered."""
    registry = CollectorRegistry()
    registry.register(_Asked(read))
    ProcessCollector(registry=registry)

    def answer(request: Request) -> Reply:
        if request.method not in {b"GET", b"HEAD"}:
            return text(405, "read only", ("Allow", "GET, HEAD"))
        if request.target == b"/metrics":
            return Answer(200, CONTENT_TYPE_LATEST, generate_latest(registry), (_NO_STORE,))
        if request.target == b"/healthz":
            return text(200, "alive", _NO_STORE)
        if request.target == b"/readyz":
            return text(200, "ready", _NO_STORE) if ready() else text(503, "not ready", _NO_STORE)
        return text(404, "metrics are at /metrics", _NO_STORE)

    return answer
