"""The metrics of an engine, for Prometheus. docs/operate.md lists every metric."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from qwen_asr.engine.interface import Engine
    from qwen_asr.service.instruments import Instruments


def gauge(name: str, text: str, value: float) -> Metric:
    """A gauge without labels."""
    return GaugeMetricFamily(name, text, float(value))


def counter(name: str, text: str, value: float) -> Metric:
    """A counter without labels; the exposition adds `_total` to its name."""
    return CounterMetricFamily(name, text, value)


class EngineMetrics(Collector):
    """Values that are read from the engine of a process that has nothing else; `engine` gives None while it loads."""

    def __init__(self, engine: Callable[[], Engine | None]) -> None:
        self._engine = engine

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that a registry does not collect the values when it is given this."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The metric families, for a Prometheus registry."""
        engine = self._engine()
        is_healthy = engine is None or engine.unhealthy_reason() is None
        is_ready = engine is not None and engine.unavailable_reason() is None
        yield gauge("qwen_asr_healthy", "1 while /healthz answers 200, else 0.", is_healthy)
        yield gauge("qwen_asr_ready", "1 once the engine can run steps, else 0.", is_ready)
        if engine is None:
            return
        yield counter("qwen_asr_busy_seconds", "Time during which the recognizer was working.", engine.busy_seconds)
        yield counter("qwen_asr_out_of_memory", "Passes that failed for lack of memory.", engine.times_without_memory)
        if (used := engine.kv_cache_used) is not None:
            yield gauge("qwen_asr_kv_cache_used_ratio", "Share of the KV cache that is in use, from 0 to 1.", used)


def engine_exposition(
    instruments: Instruments, engine: Callable[[], Engine | None]
) -> Callable[[str], tuple[bytes, str]]:
    """What `/metrics` of an engine's process answers: the text and its type, for a value of `Accept`."""

    def expose(accept: str) -> tuple[bytes, str]:
        registry = CollectorRegistry()
        registry.register(instruments)
        registry.register(EngineMetrics(engine))
        encode, kind = choose_encoder(accept)
        return encode(registry), kind

    return expose
