"""What the log says of sessions, and what it never says."""

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
def written(form: str) -> Iterator[io.StringIO]:
    """What our own loggers write in that format, from info on."""
    handler = logging.StreamHandler(said := io.StringIO())
    handler.addFilter(logs.Marked())
    handler.setFormatter(logs.FORMATS[form]())
    ours = logging.getLogger("qwen_asr")
    before = ours.level
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield said
    finally:
        ours.removeHandler(handler)
        ours.setLevel(before)


async def talk(url: str, samples: np.ndarray) -> tuple[Client, str]:
    """One session: its client and its id."""
    async with client(url) as speaker:
        session_id = await speaker.config(context="Frau Geheimnis")
        await speaker.audio(samples)
        assert await speaker.finalize() == 1000
    return speaker, session_id


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_session_is_told_from_its_begin_to_its_end(form: str) -> None:
    torch.set_num_threads(1)
    well = np.concatenate([silence(0.5), spoken("Turn on the kitchen light.")])
    ill = np.concatenate([silence(0.5), poisoned(spoken("Wake me up at half past six."))])

    def fault() -> None:
        raise RuntimeError("device fault")

    async def speak(url: str) -> list[tuple[Client, str]]:
        return list(await asyncio.gather(talk(url, well), talk(url, ill)))

    with (
        written(form) as said,
        contextlib.closing(Service(Config(), demo_recognizer())) as service,
        listening(service) as server,
        whenever_poisoned(demo_recognizer(), fault),
    ):
        (good, good_id), (_, bad_id) = asyncio.run(speak(server.url))
    lines = said.getvalue().splitlines()
    assert good.of_type("final")[0]["text"] == "Turn on the kitchen light."
    for secret in (good_id, bad_id, "kitchen", "Geheimnis", "127.0.0.1"):
        assert secret not in said.getvalue()
    if form == "text":
        ended = [line for line in lines if "Session ended" in line]
        [mine] = [line for line in ended if f"[{good_id[:8]}]" in line]
        assert "asr" in mine
        assert "1 utterances (0 failed)" in mine
        assert mine.endswith("finished.")
        assert any(f"[{bad_id[:8]}]" in line and "step failed" in line for line in lines)
        return
    records = [json.loads(line) for line in lines]
    assert all({"time", "level", "logger", "message"} <= record.keys() for record in records)
    of = {record["session"]: record for record in records if record.get("event") == "session_end"}
    assert of.keys() == {good_id[:8], bad_id[:8]}
    mine = of[good_id[:8]]
    assert mine["audio_seconds"] == pytest.approx(len(well) / 16_000, abs=0.1)
    assert (mine["kind"], mine["utterances"], mine["failed"], mine["why"]) == ("asr", 1, 0, "finished")
    assert mine["mean_lag"] >= 0
    assert of[bad_id[:8]]["failed"] == 1
    failures = [record for record in records if record["level"] == "error"]
    assert {record["session"] for record in failures} == {bad_id[:8]}  # on the recognizer's thread, which serves all
    assert any("device fault" in record["error"] for record in failures)
