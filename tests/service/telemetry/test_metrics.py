"""Prometheus' families as OpenTelemetry's metrics. The whole way is in `test_export.py`."""

from __future__ import annotations

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from qwen_asr.service.telemetry.metrics import metrics_data
from tests.support.otlp import Collector


def exported(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    """What a collector gets of the registry."""
    collector = Collector("")
    data = metrics_data(registry.collect(), Resource.get_empty(), 1, 2)
    collector.take("/v1/metrics", encode_metrics(data).SerializeToString())
    return collector.metrics[0]


def test_each_kind_keeps_its_values_and_labels() -> None:
    registry = CollectorRegistry()
    Counter("files_total", "x", ["code"], registry=registry).labels("a").inc(3)
    Gauge("open_ratio", "x", registry=registry).set(0.25)
    Info("build", "x", registry=registry).info({"version": "1"})
    lag = Histogram("lag_seconds", "x", ["kind"], buckets=(1, 2), registry=registry)
    for value in (0.5, 1.0, 1.5, 9.0):
        lag.labels("live").observe(value)
    assert exported(registry) == {
        ("files_total", "code=a"): 3,
        ("open_ratio",): 0.25,
        ("build_info", "version=1"): 1,
        ("lag_seconds_bucket", "kind=live", "le=1.0"): 2,
        ("lag_seconds_bucket", "kind=live", "le=2.0"): 3,
        ("lag_seconds_bucket", "kind=live", "le=inf"): 4,
        ("lag_seconds_count", "kind=live"): 4,
        ("lag_seconds_sum", "kind=live"): 12.0,
    }


def test_histograms_that_differ_in_labels_stay_apart() -> None:
    registry = CollectorRegistry()
    lag = Histogram("lag", "x", ["kind"], buckets=(1,), registry=registry)
    lag.labels("a").observe(0.5)
    lag.labels("b").observe(5)
    found = exported(registry)
    assert (found["lag_bucket", "kind=a", "le=1.0"], found["lag_bucket", "kind=b", "le=1.0"]) == (1, 0)
    assert (found["lag_sum", "kind=a"], found["lag_sum", "kind=b"]) == (0.5, 5)
