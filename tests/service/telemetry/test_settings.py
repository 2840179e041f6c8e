"""The standard variables: what they ask for, and what this server cannot do."""

from __future__ import annotations

import subprocess
import sys

import pytest

from qwen_asr.errors import StartupError
from qwen_asr.service.telemetry.settings import Settings, read_settings, secrets

URL = "http://127.0.0.1:4318"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"OTEL_SERVICE_NAME": "speech", "OTEL_EXPORTER_OTLP_HEADERS": "a=b"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": URL}, Settings(traces=True, metrics=True)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{URL}/v1/traces"}, Settings(traces=True, metrics=False)),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{URL}/v1/metrics"}, Settings(traces=False, metrics=True)),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": URL, "OTEL_METRICS_EXPORTER": "none"}, Settings(traces=True, metrics=False)),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, Settings(traces=True, metrics=False)),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": URL, "OTEL_SDK_DISABLED": "TRUE"}, None),
        ({"OTEL_METRICS_EXPORTER": "otlp", "OTEL_METRIC_EXPORT_INTERVAL": "500"}, Settings(False, True, 0.5)),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, Settings(True, False)),
    ],
)
def test_what_is_asked_for(environ: dict[str, str], expected: Settings | None) -> None:
    assert read_settings(environ) == expected


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("OTEL_TRACES_EXPORTER", "console", "set it to otlp or none"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "127.0.0.1:4318", "such as http://localhost:4318"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector", "such as http://localhost:4318"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[", "such as http://localhost:4318"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf only"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json", "http/protobuf only"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "a minute", "milliseconds above 0"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "0", "milliseconds above 0"),
    ],
)
def test_what_cannot_be_used_is_said(name: str, value: str, remedy: str) -> None:
    environ = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "otlp", name: value}
    with pytest.raises(StartupError) as raised:
        read_settings(environ)
    assert str(raised.value).startswith(f"{name} is {value!r}")
    assert remedy in str(raised.value)


def test_the_keys_of_the_collector_are_secrets() -> None:
    environ = {"OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%20key,x=2", "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "y = other"}
    assert set(secrets(environ)) == {"a%20key", "a key", "2", "other"}
    assert secrets({}) == ()


@pytest.mark.slow
def test_nothing_is_imported_without_need() -> None:
    code = (
        "import sys; from qwen_asr.service.telemetry.export import start_telemetry\n"
        "import qwen_asr.service.sessions, qwen_asr.web.app\n"
        "assert start_telemetry({}) is None\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
