"""The metrics of /metrics for OpenTelemetry: the same collectors, read when they are exported.

OpenTelemetry's package has no bridge from Prometheus, and its own instruments cannot report a histogram that somebody
else has counted. So the families become the SDK's data points, as the specification "Prometheus and OpenMetrics
Compatibility" says. Nothing is counted twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

CUMULATIVE = AggregationTemporality.CUMULATIVE


class MetricExports:
    """Exports what `collectors` report every `seconds`, on a thread of its own, until `close`.

    `on_result` is called with whether each export succeeded.
    """

    def __init__(
        self,
        collectors: Iterable[Collector],
        exporter: MetricExporter,
        resource: Resource,
        seconds: float,
        on_result: Callable[[bool], None],
    ) -> None:
        self._collectors = tuple(collectors)
        self._exporter = exporter
        self._resource = resource
        self._seconds = seconds
        self._on_result = on_result
        self._began = time.time_ns()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="qwen-asr-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Exports once more, and returns when that has ended."""
        self._closed.set()
        self._thread.join()
        self._exporter.shutdown()

    def _run(self) -> None:
        last = False
        while not last:
            last = self._closed.wait(self._seconds)
            families = [family for collector in self._collectors for family in collector.collect()]
            data = metrics_data(families, self._resource, self._began, time.time_ns())
            self._on_result(self._exporter.export(data) is MetricExportResult.SUCCESS)


def metrics_data(families: Iterable[Family], resource: Resource, began: int, now: int) -> MetricsData:
    """The families as OpenTelemetry's metrics. Times are in nanoseconds since 1970."""
    metrics = [_metric(family, began, now) for family in families if family.samples]
    scope = ScopeMetrics(InstrumentationScope("qwen_asr"), metrics, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _metric(family: Family, began: int, now: int) -> Metric:
    unit = "s" if family.name.endswith("_seconds") else "1" if family.name.endswith("_ratio") else ""
    name = f"{family.name}_info" if family.type == "info" else family.name
    return Metric(name, family.documentation, unit, _data(family, began, now))


def _data(family: Family, began: int, now: int) -> Sum | Gauge | Histogram:
    if family.type == "histogram":
        return Histogram(_histogram_points(family, began, now), CUMULATIVE)
    if family.type == "counter":
        counts = [sample for sample in family.samples if sample.name.endswith("_total")]
        return Sum([_number(sample, began, now) for sample in counts], CUMULATIVE, is_monotonic=True)
    return Gauge([_number(sample, began, now) for sample in family.samples])


def _number(sample: Sample, began: int, now: int) -> NumberDataPoint:
    return NumberDataPoint(dict(sample.labels), began, now, sample.value)


def _histogram_points(family: Family, began: int, now: int) -> list[HistogramDataPoint]:
    """One point for each set of labels. Prometheus' buckets count what is below each bound, OpenTelemetry's between."""
    points: dict[tuple[Any, ...], dict[str, Any]] = {}
    for sample in family.samples:
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        found = points.setdefault(tuple(sorted(labels.items())), {"labels": labels, "below": [], "sum": 0.0})
        if sample.name.endswith("_bucket"):
            found["below"].append((float(sample.labels["le"]), int(sample.value)))
        elif sample.name.endswith("_sum"):
            found["sum"] = sample.value
    result = []
    for found in points.values():
        bounds, below = zip(*sorted(found["below"]), strict=True)
        between = [count - before for count, before in zip(below, (0, *below), strict=False)]
        # Neither the smallest nor the largest value is known. Both are optional, but the SDK's type asks for them.
        nothing: Any = None
        result.append(
            HistogramDataPoint(
                found["labels"], began, now, below[-1], found["sum"], between, bounds[:-1], nothing, nothing
            )
        )
    return result
