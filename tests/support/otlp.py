"""A collector of OpenTelemetry over OTLP/HTTP: it decodes what arrives with the protocol's own messages."""

from __future__ import annotations

import contextlib
import gzip
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True)
class Span:
    """A span that arrived. Ids are in hexadecimal, times in seconds since 1970; `failed`: its status is an error."""

    name: str
    trace: str
    id: str
    parent: str
    begin: float
    end: float
    attributes: dict[str, Any]
    failed: bool


@dataclass
class Collector:
    """What has arrived. `status` is the status of its answers, `delay` how many seconds it waits before each."""

    url: str
    status: int = 200
    delay: float = 0.0
    refused: str = ""
    """A path that it does not know."""
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    metrics: list[dict[tuple[str, ...], float]] = field(default_factory=list)
    """Each export of metrics, flat as in Prometheus: name of the sample and its labels, sorted → value."""
    resources: list[dict[str, Any]] = field(default_factory=list)

    def named(self, name: str) -> list[Span]:
        """The spans of that name."""
        return [span for span in list(self.spans) if span.name == name]

    def children(self, parent: Span) -> list[Span]:
        """The spans inside another."""
        return [span for span in list(self.spans) if span.parent == parent.id]

    def take(self, path: str, body: bytes) -> bytes:
        """Keeps a request; returns the body of its answer."""
        self.bodies.append(body)
        if path == "/v1/traces":
            for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resources.append(_attributes(group.resource.attributes))
                for scope in group.scope_spans:
                    self.spans += [_span(span) for span in scope.spans]
            return bytes(ExportTraceServiceResponse().SerializeToString())
        assert path == "/v1/metrics", path
        samples: dict[tuple[str, ...], float] = {}
        for found in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            self.resources.append(_attributes(found.resource.attributes))
            for scope in found.scope_metrics:
                for metric in scope.metrics:
                    samples |= _samples(metric)
        self.metrics.append(samples)
        return bytes(ExportMetricsServiceResponse().SerializeToString())


@contextlib.contextmanager
def collector(port: int = 0) -> Iterator[Collector]:
    """A collector on a free port, or on this one."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            time.sleep(found.delay)
            found.headers.append({name.lower(): value for name, value in self.headers.items()})
            status = 404 if self.path == found.refused else found.status
            answer = found.take(self.path, body) if status == 200 else b""
            self.send_response(status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        server.daemon_threads = True
        found = Collector(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


def _span(span: Any) -> Span:
    return Span(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano / 1e9,
        span.end_time_unix_nano / 1e9,
        _attributes(span.attributes),
        span.status.code == span.status.STATUS_CODE_ERROR,
    )


def _samples(metric: Any) -> dict[tuple[str, ...], float]:
    """A metric as Prometheus would write it."""
    found: dict[tuple[str, ...], float] = {}
    kind = metric.WhichOneof("data")
    for point in getattr(metric, kind).data_points:
        labels = sorted(f"{name}={value}" for name, value in _attributes(point.attributes).items())
        if kind == "histogram":
            assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
            below = 0
            for bound, count in zip((*point.explicit_bounds, float("inf")), point.bucket_counts, strict=True):
                below += count
                found[(f"{metric.name}_bucket", *sorted([*labels, f"le={bound}"]))] = below
            found[(f"{metric.name}_count", *labels)] = point.count
            found[(f"{metric.name}_sum", *labels)] = point.sum
        else:
            value = point.as_double if point.WhichOneof("value") == "as_double" else point.as_int
            monotonic = kind == "sum" and metric.sum.is_monotonic
            found[(f"{metric.name}_total" if monotonic else metric.name, *labels)] = value
    return found
