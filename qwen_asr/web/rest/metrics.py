"""`GET /metrics` for Prometheus. docs/operate.md lists every metric.

The service's instruments count what happens often; everything else is read from the service at each request. Each
label has a handful of values: a kind of session, an outcome, a model, the class name of an error.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

import qwen_asr
from qwen_asr.service.engine_process.metrics import counter, gauge

if TYPE_CHECKING:
    from qwen_asr.service.service import Service
    from qwen_asr.tls.reloading import ReloadingCertificate


class Metrics:
    """The route."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def show(self, request: Request) -> Response:
        """GET /metrics, in the format that the client accepts: Prometheus' text, or OpenMetrics."""
        registry = CollectorRegistry()
        registry.register(self._service.instruments)
        registry.register(ServiceMetrics(self._service, getattr(request.app.state, "certificate", None)))
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"Content-Type": kind})


class ServiceMetrics(Collector):
    """Values that are read from a service, and from the server's certificate if there is one, at each request."""

    def __init__(self, service: Service, certificate: ReloadingCertificate | None = None) -> None:
        self._service = service
        self._certificate = certificate

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that a registry does not collect the values when it is given this."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The metric families, for a Prometheus registry."""
        service = self._service
        sessions = GaugeMetricFamily("qwen_asr_sessions", "Open sessions, by kind.", labels=["kind"])
        for kind, count in service.sessions.open_by_kind().items():
            sessions.add_metric([kind], count)
        yield sessions
        yield gauge("qwen_asr_queue_length", "Clients in the queue for a session.", service.admission.waiting)
        yield gauge(
            "qwen_asr_longest_lag_seconds", "The largest lag of any open session.", service.sessions.longest_lag()
        )
        yield counter("qwen_asr_audio_seconds", "Audio received by all sessions.", service.sessions.audio_seconds())
        utterances = CounterMetricFamily(
            "qwen_asr_utterances", "Utterances that ended, by outcome.", labels=["outcome"]
        )
        outcomes = service.sessions.outcomes()
        for outcome in ("final", "failed"):
            utterances.add_metric([outcome], outcomes[outcome])
        yield utterances
        yield counter("qwen_asr_busy_seconds", "Time during which the recognizer was working.", service.busy_seconds)
        if (factor := service.real_time_factor) is not None:
            text = "Seconds of recognition per second of audio, over the last minute."
            yield gauge("qwen_asr_real_time_factor", text, factor)
        yield counter("qwen_asr_out_of_memory", "Passes that failed for lack of memory.", service.times_without_memory)
        if (used := service.kv_cache_used) is not None:
            yield gauge("qwen_asr_kv_cache_used_ratio", "Share of the KV cache that is in use, from 0 to 1.", used)
        loaded = GaugeMetricFamily("qwen_asr_model_loaded", "1 while the model is loaded, else 0.", labels=["model"])
        for model in service.models.all:
            loaded.add_metric([model.name], float(model.state == "ready"))
        yield loaded
        yield gauge("qwen_asr_healthy", "1 while /healthz answers 200, else 0.", service.unhealthy_reason() is None)
        yield gauge("qwen_asr_ready", "1 while /readyz answers 200, else 0.", service.readiness()[0] == "ready")
        if self._certificate is not None:
            text = "When the server's certificate expires, as Unix time."
            expiry = self._certificate.expiry().timestamp()
            yield gauge("qwen_asr_certificate_expiry_timestamp_seconds", text, expiry)
        yield self._build()

    def _build(self) -> Metric:
        values = {"version": qwen_asr.__version__, "python": platform.python_version()}
        if self._service.state == "ready":
            values["model"] = self._service.model_name()
        return InfoMetricFamily("qwen_asr_build", "Versions and the loaded checkpoint.", values)
