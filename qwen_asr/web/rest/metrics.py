"""`/metrics`: what Prometheus is told, in a registry of its own for each service. docs/operate.md lists every name.

What happens often is counted where it happens, in plain numbers; the gauges and most counters are read off only when
somebody asks. Labels have a handful of values each: a kind of session, the name of an error's class.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

import qwen_asr
from qwen_asr import errors

if TYPE_CHECKING:
    from qwen_asr.service.service import Service

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
_CODES = {kind.__name__ for kind in vars(errors).values() if isinstance(kind, type)}


class Instruments:
    """What is counted where it happens. Safe from any thread, and quick."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.lag = Histogram(
            "qwen_asr_lag_seconds",
            "How far the text was behind the voice, at each text that a session was told.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.step = Histogram(
            "qwen_asr_step_seconds",
            "From the submission of a recognition step to its result.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.rows = Histogram(
            "qwen_asr_batch_rows", "Utterances in one pass over the model.", buckets=ROWS, registry=self.registry
        )
        self.errors = Counter(
            "qwen_asr_errors_total",
            "Errors that clients were told of, by the name of their class.",
            ["code"],
            registry=self.registry,
        )

    def count(self, error: BaseException | str) -> None:
        """One more error of that class; what is none of ours counts as QwenASRError, which clients are told it is."""
        code = error if isinstance(error, str) else type(error).__name__
        self.errors.labels(code if code in _CODES else "QwenASRError").inc()


class Readings(Collector):
    """What is read off a service when somebody asks."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> Iterator[Metric]:
        """Nothing: a registry asks when it is given this, and the service is not complete then."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The families of this moment."""
        service, watchdog = self._service, self._service.watchdog
        sessions = GaugeMetricFamily("qwen_asr_sessions", "Open sessions, by the door they came in.", labels=["kind"])
        for kind, count in service.sessions.open_by_kind().items():
            sessions.add_metric([kind], count)
        yield sessions
        yield gauge("qwen_asr_queue_length", "Clients that wait for a session.", service.waiting())
        yield gauge(
            "qwen_asr_longest_lag_seconds", "Lag of the session furthest behind.", service.sessions.longest_lag()
        )
        yield counter("qwen_asr_audio_seconds", "Audio taken from all sessions.", service.sessions.audio_seconds())
        utterances = CounterMetricFamily("qwen_asr_utterances", "Utterances that ended.", labels=["outcome"])
        ends = service.sessions.ends()
        for outcome in ("final", "failed"):
            utterances.add_metric([outcome], ends[outcome])
        yield utterances
        yield counter("qwen_asr_busy_seconds", "Time in which the recognizer had work.", watchdog.busy_seconds)
        factor = watchdog.real_time_factor(service.sessions.audio_seconds())
        if factor is not None:
            text = "Seconds of recognition for a second of audio, over the last minute in which audio came."
            yield gauge("qwen_asr_real_time_factor", text, factor)
        yield counter("qwen_asr_out_of_memory", "Passes for which there was no memory.", watchdog.times_without_memory)
        yield gauge("qwen_asr_healthy", "1 while /healthz says so, else 0.", float(service.unhealthy_reason() is None))
        yield gauge("qwen_asr_ready", "1 while /readyz says so, else 0.", float(service.readiness()[0] == "ready"))
        expiry = service.certificate_expiry()
        if expiry is not None:
            text = "When the server's certificate expires, as Unix time."
            yield gauge("qwen_asr_certificate_expiry_timestamp_seconds", text, expiry)
        yield self._build()

    def _build(self) -> Metric:
        values = {"version": qwen_asr.__version__, "python": platform.python_version()}
        if self._service.state == "ready":
            values["model"] = self._service.model_name
        return InfoMetricFamily("qwen_asr_build", "What runs here.", values)


def gauge(name: str, text: str, value: float) -> Metric:
    """A gauge without labels."""
    return GaugeMetricFamily(name, text, value)


def counter(name: str, text: str, value: float) -> Metric:
    """A counter without labels; `_total` is added to its name."""
    return CounterMetricFamily(name, text, value)


class Metrics:
    """The route."""

    def __init__(self, service: Service) -> None:
        self._registry = service.instruments.registry

    async def show(self, request: Request) -> Response:
        """GET /metrics, in the format that the client accepts: Prometheus' text, or OpenMetrics."""
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), headers={"Content-Type": kind})
