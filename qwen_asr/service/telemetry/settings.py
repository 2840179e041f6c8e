"""Which signals the standard variables of OpenTelemetry ask for. Nothing of OpenTelemetry is imported here.

The variables are those of its specification ("SDK environment variables" and "OTLP exporter configuration"). What is
not read here, such as headers, timeouts and the sampler, is read by its SDK.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from qwen_asr.errors import StartupError
from qwen_asr.network import split_url

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
DEFAULT_INTERVAL_SECONDS = 60.0
"""Between two exports of the metrics, as in the specification."""


@dataclass(frozen=True)
class Settings:
    """What to export. `interval_seconds`: how often the metrics."""

    traces: bool
    metrics: bool
    interval_seconds: float = DEFAULT_INTERVAL_SECONDS


def read_settings(environ: Mapping[str, str]) -> Settings | None:
    """What the variables ask for; None for nothing. Raises StartupError for what this server cannot do.

    A signal is exported if there is an endpoint for it, or if its exporter is `otlp`; not if its exporter is `none`.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    traces, metrics = _is_wanted(environ, "TRACES"), _is_wanted(environ, "METRICS")
    return Settings(traces, metrics, _interval(environ)) if traces or metrics else None


def secrets(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The values of the headers for the collector, which usually are its keys. They must not appear in a log."""
    found = []
    for signal in ("", "TRACES_", "METRICS_"):
        for pair in environ.get(f"OTEL_EXPORTER_OTLP_{signal}HEADERS", "").split(","):
            value = pair.partition("=")[2].strip()
            found += [value, unquote(value)]
    return tuple(value for value in found if value)


def _is_wanted(environ: Mapping[str, str], signal: str) -> bool:
    name = f"OTEL_{signal}_EXPORTER"
    exporter = environ.get(name, "").strip().lower()
    if exporter not in ("", "otlp", "none"):
        raise StartupError(
            f"{name} is {exporter!r}, but this server exports to a collector only: set it to otlp or none."
        )
    own = f"OTEL_EXPORTER_OTLP_{signal}_"
    address_name = f"{own}ENDPOINT" if environ.get(f"{own}ENDPOINT") else ENDPOINT
    address = environ.get(address_name, "")
    if exporter == "none" or not (exporter or address):
        return False
    if address and split_url(address).scheme not in ("http", "https"):
        raise StartupError(
            f"{address_name} is {address!r}, but has to be the address of a collector's HTTP port, such as "
            "http://localhost:4318."
        )
    protocol_name = f"{own}PROTOCOL" if environ.get(f"{own}PROTOCOL") else "OTEL_EXPORTER_OTLP_PROTOCOL"
    if (protocol := environ.get(protocol_name, "")) not in ("", "http/protobuf"):
        raise StartupError(
            f"{protocol_name} is {protocol!r}, but this server speaks http/protobuf only: set it to that, and the "
            "endpoint to the collector's HTTP port, which usually is 4318."
        )
    return True


def _interval(environ: Mapping[str, str]) -> float:
    text = environ.get("OTEL_METRIC_EXPORT_INTERVAL", "")
    if not text:
        return DEFAULT_INTERVAL_SECONDS
    if not (text.isdecimal() and int(text) > 0):
        raise StartupError(f"OTEL_METRIC_EXPORT_INTERVAL is {text!r}, but has to be a number of milliseconds above 0.")
    return int(text) / 1000
