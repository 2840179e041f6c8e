"""The log: sessions from beginning to end, in both formats, and nothing private."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from qwen_asr import logs
from qwen_asr.config.config import Config
from qwen_asr.service.service import Service
from tests.support.checkpoints import demo_recognizer, spoken
from tests.support.faults import poisoned, whenever_poisoned
from tests.support.sockets import Client, client, listening, silence


@contextlib.contextmanager
def captured_log(log_format: str) -> Iterator[io.StringIO]:
    """What the loggers of the package write in that format, from level info on."""
    handler = logging.StreamHandler(log := io.StringIO())
    handler.addFilter(logs.SessionFilter())
    handler.setFormatter(logs.FORMATTERS[log_format]())
    logger = logging.getLogger("qwen_asr")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield log
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


async def speak(url: str, samples: np.ndarray) -> tuple[Client, str]:
    """One session: its client and its id."""
    async with client(url) as speaker:
        session_id = await speaker.config(context="Frau Geheimnis")
        await speaker.audio(samples)
        assert await speaker.finalize() == 1000
    return speaker, session_id


@pytest.mark.slow
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_every_record_names_its_session(log_format: str) -> None:
    torch.set_num_threads(1)
    valid = np.concatenate([silence(0.5), spoken("Turn on the kitchen light.")])
    failing = np.concatenate([silence(0.5), poisoned(spoken("Wake me up at half past six."))])

    def fault() -> None:
        raise RuntimeError("device fault")

    async def speak_both(url: str) -> list[tuple[Client, str]]:
        return list(await asyncio.gather(speak(url, valid), speak(url, failing)))

    with (
        captured_log(log_format) as log,
        contextlib.closing(Service(Config(), demo_recognizer())) as service,
        listening(service) as server,
        whenever_poisoned(demo_recognizer(), fault),
    ):
        (good, good_id), (_, bad_id) = asyncio.run(speak_both(server.url))
    lines = log.getvalue().splitlines()
    assert good.of_type("final")[0]["text"] == "Turn on the kitchen light."
    for secret in (good_id, bad_id, "kitchen", "Geheimnis", "127.0.0.1"):
        assert secret not in log.getvalue()
    if log_format == "text":
        ended = [line for line in lines if "Session ended" in line]
        [own] = [line for line in ended if f"[{good_id[:8]}]" in line]
        assert "asr" in own
        assert "1 utterances (0 failed)" in own
        assert own.endswith("finished.")
        assert any(f"[{bad_id[:8]}]" in line and "step failed" in line for line in lines)
        return
    records = [json.loads(line) for line in lines]
    assert all({"time", "level", "logger", "message"} <= record.keys() for record in records)
    of = {record["session"]: record for record in records if record.get("event") == "session_end"}
    assert of.keys() == {good_id[:8], bad_id[:8]}
    own = of[good_id[:8]]
    assert own["audio_seconds"] == pytest.approx(len(valid) / 16_000, abs=0.1)
    assert (own["kind"], own["utterances"], own["failed"], own["why"]) == ("asr", 1, 0, "finished")
    assert own["mean_lag"] >= 0
    assert of[bad_id[:8]]["failed"] == 1
    failures = [record for record in records if record["level"] == "error"]
    assert {record["session"] for record in failures} == {bad_id[:8]}  # logged on the thread that all sessions share
    assert any("device fault" in record["error"] for record in failures)


def test_a_message_is_due_again_after_its_time_and_only_so_many_at_once() -> None:
    seldom = logs.SeldomLog(60.0, most=2)
    assert [seldom.due(text, 100.0) for text in ("a", "a", "b", "c")] == [True, False, True, False]
    assert not seldom.due("a", 159.9)
    assert seldom.due("a", 160.0)
