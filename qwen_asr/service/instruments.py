"""Counters and histograms that are updated where things happen: lag, step times, batch sizes, errors.

`web/rest/metrics.py` reports them, beside the values that it reads from the service when it is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from qwen_asr import errors

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
_CODES = {kind.__name__ for kind in vars(errors).values() if isinstance(kind, type)}


class Instruments(Collector):
    """The instruments of one service, in a registry of their own. Thread-safe and fast."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.lag = Histogram(
            "qwen_asr_lag_seconds",
            "How far the text is behind the speech, measured at each event of a session.",
            buckets=SECONDS,
            registry=self._registry,
        )
        self.step = Histogram(
            "qwen_asr_step_seconds",
            "Time from submitting a recognition step to its result.",
            buckets=SECONDS,
            registry=self._registry,
        )
        self.rows = Histogram(
            "qwen_asr_batch_rows", "Utterances in one pass over the model.", buckets=ROWS, registry=self._registry
        )
        self.errors = Counter(
            "qwen_asr_errors_total",
            "Errors reported to clients, by class name.",
            ["code"],
            registry=self._registry,
        )

        self._engines: list[tuple[Callable[[], int], Callable[[], int]]] = []

    def watch_engines(self, joined: Callable[[], int], lost: Callable[[], int]) -> None:
        """Reports also engines in other processes: how many can be asked, and how often one was lost."""
        self._engines.append((joined, lost))

    def count(self, error: BaseException | str) -> None:
        """Counts an error by the name of its class. An error that is not the package's counts as QwenASRError."""
        code = error if isinstance(error, str) else type(error).__name__
        self.errors.labels(code if code in _CODES else "QwenASRError").inc()

    def collect(self) -> Iterator[Metric]:
        """The metric families, for a Prometheus registry."""
        yield from self._registry.collect()
        if self._engines:
            joined, lost = (
                sum(values) for values in zip(*((now(), ever()) for now, ever in self._engines), strict=True)
            )
            yield GaugeMetricFamily("qwen_asr_engines", "Engines in other processes that can be asked.", joined)
            yield CounterMetricFamily("qwen_asr_engines_lost", "How often an engine was lost.", lost)
