"""`start_telemetry`: the exporters of traces and metrics, as the environment asks for them.

The SDK exports on threads of its own, from a queue that drops what does not fit. So a collector that is slow or gone
costs no session anything.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import qwen_asr
from qwen_asr.errors import StartupError
from qwen_asr.service.telemetry.settings import Settings, read_settings

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.trace import Tracer
    from prometheus_client.registry import Collector

    from qwen_asr.service.sessions import SessionTrace
    from qwen_asr.service.telemetry.metrics import MetricExports

log = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0
"""How long the last spans and metrics may take at shutdown. A collector that is gone must not keep the process."""
SERVICE_NAME = "qwen-asr-live"


def start_telemetry(environ: Mapping[str, str]) -> Telemetry | None:
    """The telemetry that the standard variables ask for; None for none, and then nothing is imported.

    Raises StartupError for settings that cannot be used, and if the packages are not installed.
    """
    settings = read_settings(environ)
    if settings is None:
        return None
    try:
        import opentelemetry.exporter.otlp.proto.http
        import opentelemetry.sdk.trace  # noqa: F401 - only whether they are there
    except ImportError as error:
        raise StartupError(
            "The OTEL_ variables ask for OpenTelemetry, but its packages are not installed: run pip install -r "
            'requirements-otel.txt, or pip install ".[otel]", or set OTEL_SDK_DISABLED=true.'
        ) from error
    return Telemetry(settings)


class Telemetry:
    """The exporters under way. `tracer` makes spans; None where only metrics are exported."""

    def __init__(self, settings: Settings) -> None:
        from opentelemetry.sdk.resources import Resource

        self._settings = settings
        self._outage = _Outage()
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before these.
        ours = Resource({"service.name": SERVICE_NAME, "service.version": qwen_asr.__version__})
        self._resource = ours.merge(_resource_of_environment())
        self.tracer: Tracer | None = None
        self._close_traces: Callable[[], None] = lambda: None
        self._metrics: MetricExports | None = None
        if settings.traces:
            self._start_traces()

    def session(self, kind: str, name: str) -> SessionTrace | None:
        """The spans of a new session, for `SessionRegistry.trace`."""
        from qwen_asr.service.telemetry.traces import SessionSpans

        return None if self.tracer is None else SessionSpans(self.tracer, kind, name)

    def export_metrics(self, collectors: Iterable[Collector]) -> None:
        """Exports what these report from now on, if metrics are asked for."""
        if not self._settings.metrics:
            return
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        from qwen_asr.service.telemetry.metrics import MetricExports

        seconds = self._settings.interval_seconds
        report = partial(self._outage.report, "metrics")
        self._metrics = MetricExports(collectors, OTLPMetricExporter(), self._resource, seconds, report)

    def close(self) -> None:
        """Exports what is left, within `FLUSH_SECONDS`."""

        def flush() -> None:
            self._close_traces()
            if self._metrics is not None:
                self._metrics.close()

        flushing = threading.Thread(target=flush, name="qwen-asr-telemetry", daemon=True)
        flushing.start()
        flushing.join(FLUSH_SECONDS)
        if flushing.is_alive():
            log.warning("The last spans and metrics did not reach the OpenTelemetry collector in time.")
        self._outage.close()

    def _start_traces(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

        outage = self._outage

        class Exporter(OTLPSpanExporter):
            """Reports its results."""

            def export(self, spans):  # type: ignore[no-untyped-def]  # as in the base class
                result = super().export(spans)
                outage.report("traces", result is SpanExportResult.SUCCESS)
                return result

        provider = TracerProvider(resource=self._resource, shutdown_on_exit=False)  # `close` does it, within a time
        provider.add_span_processor(BatchSpanProcessor(Exporter()))
        self.tracer = provider.get_tracer("qwen_asr", qwen_asr.__version__)
        self._close_traces = provider.shutdown


def _resource_of_environment() -> Resource:
    """What the environment says of this process. The SDK adds a name for a service without one: that is left out."""
    from opentelemetry.sdk.resources import Resource

    found = Resource.create()
    named = not str(found.attributes["service.name"]).startswith("unknown_service")
    return (
        found if named else Resource({key: value for key, value in found.attributes.items() if key != "service.name"})
    )


class _Outage(logging.Handler):
    """Says once that the collector does not take a signal, and once that it does again.

    The exporters log every attempt. This takes their records, and keeps the last as the reason.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._reason = "no reason was given"
        self._failing: set[str] = set()
        self._state = threading.Lock()  # traces and metrics report from two threads
        self._logger = logging.getLogger("opentelemetry")
        self._propagates = self._logger.propagate
        self._logger.propagate = False
        self._logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the record's message."""
        self._reason = record.getMessage().partition("\n")[0]
        log.debug("%s", self._reason)

    def report(self, signal: str, succeeded: bool) -> None:
        """Notes the result of an export of "traces" or "metrics": a collector may take only one of them."""
        with self._state:
            changed = succeeded is (signal in self._failing)
            (self._failing.discard if succeeded else self._failing.add)(signal)
        if changed and succeeded:
            log.info("The OpenTelemetry collector takes %s again.", signal)
        elif changed:
            log.warning(
                "The OpenTelemetry collector does not take %s (%s). The server works without it; this is said once.",
                signal,
                self._reason,
            )

    def close(self) -> None:
        """Gives the records back to the log."""
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagates
        super().close()
