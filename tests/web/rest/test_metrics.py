"""`/metrics` and the probes of a real server, and that docs/operate.md lists what there is."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from qwen_asr.config.config import Config
from qwen_asr.service.service import Service
from qwen_asr.tls.reloading import ReloadingCertificate
from tests.support.certificates import Issuer
from tests.support.checkpoints import demo_recognizer, spoken
from tests.support.sockets import Listening, client, listening, silence

SENTENCE = "Turn on the kitchen light."


@pytest.fixture
def served() -> Iterator[Listening]:
    torch.set_num_threads(1)
    service = Service(Config(chunk_size_sec=0.5), demo_recognizer())
    with contextlib.closing(service), listening(service) as server:
        yield server


async def families(served: Listening) -> dict[str, Metric]:
    """What /metrics says, as Prometheus' own parser reads it."""
    async with httpx.AsyncClient(timeout=60) as asking:
        answer = await asking.get(f"{served.http}/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=")
        new = await asking.get(f"{served.http}/metrics", headers={"Accept": "application/openmetrics-text"})
    told = plain(answer.text)
    names = {family.name for family in parse_openmetrics(new.text)}
    assert names | {"qwen_asr_real_time_factor"} == {"qwen_asr_real_time_factor"} | {
        re.sub("_total$", "", family.name) if family.type == "counter" else re.sub("_info$", "", family.name)
        for family in told
    }
    return {family.name: family for family in told}


def plain(text: str) -> list[Metric]:
    """The families in Prometheus' own format, where the times at which they began stand apart from them."""
    return [family for family in parse(text) if not family.name.endswith("_created")]


def value(found: dict[str, Metric], name: str, **labels: str) -> float:
    """The value of the one sample of that name and labels."""
    samples = [sample for family in found.values() for sample in family.samples if sample.name == name]
    [one] = [sample.value for sample in samples if labels.items() <= sample.labels.items()]
    return one


@pytest.mark.slow
def test_what_is_counted_is_what_happened(served: Listening) -> None:
    samples = np.concatenate([silence(0.5), spoken(SENTENCE), silence(1.5), spoken(SENTENCE)])

    async def speak() -> tuple[dict[str, Metric], dict[str, Metric]]:
        async with client(served.url) as speaker:
            await speaker.config()
            await speaker.audio(samples)
            await speaker.wait_for("final")
            during = await families(served)
            assert await speaker.finalize() == 1000
        async with client(served.url) as wrong:
            await wrong.connection.send('{"type": "config", "language": "Klingon"}')
            await wrong.closed()
        return during, await families(served)

    during, after = asyncio.run(speak())
    assert value(during, "qwen_asr_sessions", kind="asr") == 1
    assert value(after, "qwen_asr_sessions", kind="asr") == 0
    assert value(after, "qwen_asr_sessions", kind="page") == 0
    assert value(after, "qwen_asr_queue_length") == 0
    assert value(after, "qwen_asr_audio_seconds_total") == pytest.approx(len(samples) / 16_000, abs=0.1)
    assert 0 < value(during, "qwen_asr_audio_seconds_total") <= value(after, "qwen_asr_audio_seconds_total") + 0.1
    assert value(after, "qwen_asr_utterances_total", outcome="final") == 2
    assert value(after, "qwen_asr_utterances_total", outcome="failed") == 0
    assert value(after, "qwen_asr_lag_seconds_count") >= 2  # two finals, and what partials there were
    assert value(after, "qwen_asr_step_seconds_count") >= 2
    assert value(after, "qwen_asr_batch_rows_count") > value(after, "qwen_asr_step_seconds_count")
    assert value(after, "qwen_asr_longest_lag_seconds") == 0
    assert value(after, "qwen_asr_busy_seconds_total") >= value(after, "qwen_asr_step_seconds_sum") * 0.5 > 0
    assert value(during, "qwen_asr_real_time_factor") > 0
    assert value(after, "qwen_asr_errors_total", code="UnknownLanguage") == 1
    assert value(after, "qwen_asr_healthy") == value(after, "qwen_asr_ready") == 1
    assert value(after, "qwen_asr_build_info", model="demo") == 1


@pytest.mark.slow
def test_the_queue_is_counted(served: Listening) -> None:
    admission = served.service.admission
    tickets = [admission.enter() for _ in range(admission.max_sessions + 3)]
    assert value(asyncio.run(families(served)), "qwen_asr_queue_length") == 3
    for ticket in tickets:
        ticket.leave()
    assert value(asyncio.run(families(served)), "qwen_asr_queue_length") == 0


@pytest.mark.slow
def test_the_expiry_of_the_certificate_is_reported_if_there_is_one(served: Listening, tmp_path: Path) -> None:
    assert "certificate" not in " ".join(asyncio.run(families(served)))
    served.app.state.certificate = certificate = ReloadingCertificate(*Issuer().issue().write(tmp_path))
    reported = value(asyncio.run(families(served)), "qwen_asr_certificate_expiry_timestamp_seconds")
    assert reported == certificate.leaf.not_valid_after_utc.timestamp()


def test_every_metric_is_in_the_table_and_the_other_way_round(
    served: Listening, repository: Path, tmp_path: Path
) -> None:
    served.app.state.certificate = ReloadingCertificate(*Issuer().issue().write(tmp_path))
    served.service.instruments.watch_engines(lambda: 2, lambda: 1)

    async def all_families() -> dict[str, Metric]:
        async with client(served.url) as wrong:
            await wrong.connection.send("{}")
            await wrong.closed()
        return await families(served)

    table = (repository / "docs" / "operate.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(qwen_asr_\w+)` \| (\w+) \|", table, re.MULTILINE))
    told: dict[str, str] = {}
    for family in asyncio.run(all_families()).values():
        told[family.name] = "info" if family.name.endswith("_info") else family.type
    told["qwen_asr_real_time_factor"] = "gauge"  # told only where audio came
    assert {re.sub("_total$", "", name): kind for name, kind in listed.items()} == {
        re.sub("_total$", "", name): kind for name, kind in told.items()
    }
