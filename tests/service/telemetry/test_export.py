"""Traces and metrics of a real server, as they arrive at a collector, and a collector that does not work."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from qwen_asr.errors import StartupError
from qwen_asr.service.telemetry import export
from tests.support.checkpoints import spoken
from tests.support.network import free_ports
from tests.support.otlp import Collector, Span, collector
from tests.support.processes import ServerProcess, until
from tests.support.rest_client import SENTENCES, speech
from tests.support.sockets import client, silence

pytestmark = pytest.mark.slow

KEY, COLLECTOR_KEY = "key-of-the-server", "key-of-the-collector"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
CONTEXT = "Zanzibar"
COMPLAINT = "The OpenTelemetry collector does not take "


class Traced:
    """A server that exports to `endpoint`."""

    def __init__(self, folder: Path, repository: Path, endpoint: str, **environ: str) -> None:
        self.log = folder / "log"
        to_file = f"import os; os.dup2(os.open({str(self.log)!r}, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600), 2)"
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
            **environ,
        }
        options = ("--asr-model-path", "demo", "--port", "0", "--chunk-size-sec", "0.5", "--api-key", KEY)
        self.server = ServerProcess(folder, repository, *options, first=to_file, **variables)
        self.url = self.server.line_with("http://localhost")
        self.server.line_with("Ready.")

    def get(self, path: str, **options: Any) -> httpx.Response:
        """A request with the key."""
        headers = {"Authorization": f"Bearer {KEY}", **options.pop("headers", {})}
        return httpx.request(options.pop("method", "GET"), self.url + path, headers=headers, timeout=120, **options)

    def speak(self, **headers: str) -> list[dict[str, Any]]:
        """A session of two utterances; its finals."""

        async def talk() -> list[dict[str, Any]]:
            url = self.url.replace("http", "ws", 1) + "/ws/asr"
            given = {"Authorization": f"Bearer {KEY}", **headers}
            async with client(url, additional_headers=given) as speaker:
                await speaker.config(context=CONTEXT)
                await speaker.audio(np.concatenate([spoken(SENTENCES[0]), silence(1.5), spoken(SENTENCES[1])]))
                assert await speaker.finalize() == 1000
                return speaker.of_type("final")

        return [final for final in asyncio.run(talk()) if final["text"]]

    def end(self) -> str:
        """Stops it with a signal; its log."""
        code, _ = self.server.end(15)
        log = self.log.read_text(encoding="utf-8")
        assert code == 0, log
        assert "Traceback" not in log
        return log


@pytest.fixture
def traced(tmp_path: Path, repository: Path) -> Iterator[Callable[..., Traced]]:
    """Starts servers; kills them at the end."""
    with contextlib.ExitStack() as stack:

        def start(endpoint: str, **environ: str) -> Traced:
            started = Traced(tmp_path, repository, endpoint, **environ)
            stack.callback(started.server.kill)
            return started

        yield start


def session_of(found: Collector, kind: str) -> Span:
    """The one session of a kind, once it has arrived."""
    assert until(lambda: [span for span in found.named("session") if span.attributes["qwen_asr.kind"] == kind])
    [session] = [span for span in found.named("session") if span.attributes["qwen_asr.kind"] == kind]
    return session


def test_a_session_and_a_request_arrive_in_their_traces(traced: Callable[..., Traced]) -> None:
    with collector() as found:
        server = traced(
            found.url,
            OTEL_EXPORTER_OTLP_HEADERS=f"api-key={COLLECTOR_KEY}",
            OTEL_SERVICE_NAME="speech",
            OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        )
        finals = server.speak(**TRACEPARENT)
        session = session_of(found, "asr")
        assert (session.trace, session.parent) == (TRACE, PARENT)
        assert session.attributes["qwen_asr.utterances"] == len(finals) == 2
        assert session.attributes["qwen_asr.failed"] == 0
        assert session.attributes["qwen_asr.end_reason"] == "finished"
        assert len(session.attributes["qwen_asr.session"]) == 8
        seconds = sum(len(spoken(sentence)) for sentence in SENTENCES[:2]) / 16_000 + 1.5
        assert session.attributes["qwen_asr.audio_seconds"] == pytest.approx(seconds, abs=0.01)

        utterances = sorted(found.children(session), key=lambda span: span.begin)
        assert [span.name for span in utterances] == ["utterance"] * 2
        for utterance, final in zip(utterances, finals, strict=True):
            told = utterance.attributes
            assert told["qwen_asr.start_seconds"] == pytest.approx(final["start"], abs=0.01)
            assert told["qwen_asr.end_seconds"] == pytest.approx(final["end"], abs=0.01)
            assert told["qwen_asr.lag_seconds"] == pytest.approx(final["lag"], abs=0.01)
            assert (told["qwen_asr.language"], told["qwen_asr.outcome"]) == ("English", "final")
            steps = found.children(utterance)
            assert {span.name for span in steps} == {"recognition step"}
            for step in steps:
                wait, run = (step.attributes[f"qwen_asr.{name}_seconds"] for name in ("wait", "run"))
                assert wait >= 0
                assert run > 0
                assert wait + run == pytest.approx(step.end - step.begin, abs=1e-3)
                assert utterance.begin <= step.begin <= step.end <= utterance.end + 1e-3
        assert session.begin <= utterances[0].begin <= utterances[1].end <= session.end

        asked = {"method": "POST", "headers": TRACEPARENT, "data": {"model": "any"}}
        answer = server.get("/v1/audio/transcriptions", files={"file": ("a.wav", speech())}, **asked)
        assert answer.status_code == 200
        rest = session_of(found, "rest")
        [request] = [span for span in found.spans if span.id == rest.parent]
        assert request.name == "POST /v1/audio/transcriptions"
        assert (request.trace, request.parent) == (TRACE, PARENT)
        assert request.attributes == {
            "http.request.method": "POST",
            "http.route": "/v1/audio/transcriptions",
            "http.response.status_code": 200,
        }

        assert {"service.name": "speech"}.items() <= found.resources[0].items()
        assert found.headers[0]["api-key"] == COLLECTOR_KEY
        log = server.end()
        assert COLLECTOR_KEY not in log
        sent = b"\n".join(found.bodies)
        words = {word for sentence in SENTENCES for word in re.findall(r"\w{4,}", sentence)}
        for secret in (*words, CONTEXT, KEY, COLLECTOR_KEY, "127.0.0.1"):
            assert secret.encode() not in sent, secret


def test_the_metrics_are_those_of_the_metrics_page(traced: Callable[..., Traced]) -> None:
    def page(server: Traced) -> dict[tuple[str, ...], float]:
        families = parse(server.get("/metrics").text)
        return {
            (sample.name, *sorted(f"{name}={value}" for name, value in sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
            if not sample.name.endswith("_created")
        }

    def comparable(samples: dict[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
        # The factor is that of the last minute, which goes on.
        return {
            tuple(part.replace("le=+Inf", "le=inf") for part in name): value
            for name, value in samples.items()
            if name[0] != "qwen_asr_real_time_factor"
        }

    with collector() as found:
        server = traced(found.url, OTEL_TRACES_EXPORTER="none")
        server.speak()
        server.get("/v1/audio/transcriptions", method="POST", data={"model": "any"})  # an error, for its counter
        shown = comparable(page(server))
        assert until(lambda: found.metrics and comparable(found.metrics[-1]) == shown), (shown, found.metrics[-1:])
        assert shown["qwen_asr_utterances_total", "outcome=final"] == 2
        assert len(shown) > 40
        assert found.spans == []


def test_what_is_left_is_sent_at_the_end(traced: Callable[..., Traced]) -> None:
    with collector() as found:
        server = traced(found.url, OTEL_BSP_SCHEDULE_DELAY="600000", OTEL_METRIC_EXPORT_INTERVAL="600000")
        server.speak()
        assert found.bodies == []
        server.end()
        assert len(found.named("session")) == 1
        assert found.metrics[-1]["qwen_asr_utterances_total", "outcome=final"] == 2


def test_a_collector_that_is_gone_costs_no_session(traced: Callable[..., Traced]) -> None:
    [port] = free_ports(1)
    server = traced(f"http://127.0.0.1:{port}")
    assert len(server.speak()) == 2
    assert until(lambda: COMPLAINT in server.log.read_text(encoding="utf-8"))
    assert len(server.speak()) == 2
    with collector(port) as found:
        assert until(lambda: found.bodies)
        assert len(server.speak()) == 2
        assert until(lambda: found.named("session"))
    log = server.end()
    assert "Transient error" not in log  # what the exporters say of each attempt
    assert "urllib3" not in log


def test_an_outage_is_said_once_and_so_is_its_end(traced: Callable[..., Traced]) -> None:
    with collector() as found:
        found.status = 400  # an answer that the exporters do not try again
        server = traced(found.url)

        def said(sentence: str) -> int:
            return server.log.read_text(encoding="utf-8").count(sentence)

        assert until(lambda: len(found.headers) >= 6)  # of which each would have been said
        assert said(COMPLAINT) == said(f"{COMPLAINT}metrics (") == 1
        found.status = 200
        assert until(lambda: said("The OpenTelemetry collector takes metrics again.") == 1)
        found.status = 400
        assert until(lambda: said(COMPLAINT) == 2)
        server.end()


def test_a_collector_that_takes_only_traces_is_said_once(traced: Callable[..., Traced]) -> None:
    with collector() as found:
        found.refused = "/v1/metrics"
        server = traced(found.url)
        for _ in range(2):
            server.get("/v1/models")
            exports, spans = len(found.headers), len(found.spans)
            assert until(lambda: len(found.spans) > spans and len(found.headers) > exports + 3)  # noqa: B023 - at once
        log = server.end()
    assert log.count(COMPLAINT) == log.count(f"{COMPLAINT}metrics (") == 1
    assert "again." not in log


def test_a_collector_that_hangs_does_not_keep_the_process(traced: Callable[..., Traced]) -> None:
    with collector() as found:
        found.delay = 600.0
        server = traced(found.url, OTEL_EXPORTER_OTLP_TIMEOUT="300")
        assert len(server.speak()) == 2
        log = server.end()  # which waits for less than the collector does
    assert log.count("did not reach the OpenTelemetry collector in time") == 1


def test_without_the_package_the_server_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(StartupError, match=r"pip install -r requirements-otel\.txt"):
        export.start_telemetry({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"})
