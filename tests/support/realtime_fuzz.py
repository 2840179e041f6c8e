"""Random clients of `/v1/realtime`: what they send, and what must hold in every case.

The test suite sends a few thousand messages, `scripts/fuzz-realtime` any number.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import json
from collections import Counter
from typing import Any

import numpy as np
from websockets.exceptions import ConnectionClosed

from qwen_asr.web.sockets.realtime.turns import TurnStream
from tests.support.checkpoints import spoken
from tests.support.sockets import Client, Listening, client, until

CLOSES = {1000, 1002, 1007, 1009}
"""Close codes of a session after wrong messages; docs/openai.md explains them."""
MAX_LEFT = 8
"""Turns that may stay in memory: the recognizer's thread keeps its last batch until the next one."""
EVENTS: list[dict[str, Any]] = [
    {"type": "session.update", "session": {"type": "transcription", "audio": {"input": {"turn_detection": None}}}},
    {
        "type": "session.update",
        "event_id": "mine",
        "session": {
            "audio": {
                "input": {
                    "format": {"type": "audio/pcm", "rate": 16_000},
                    "transcription": {"model": "whisper-1", "language": "en", "prompt": "A name"},
                    "turn_detection": {"type": "server_vad", "threshold": 0.5, "silence_duration_ms": 200},
                }
            }
        },
    },
    {
        "type": "transcription_session.update",
        "session": {
            "input_audio_format": "g711_alaw",
            "input_audio_transcription": {"language": "de"},
            "turn_detection": None,
        },
    },
    {"type": "session.update", "session": {"audio": {"input": {"format": {"type": "audio/pcmu"}}}}},
    {
        "type": "session.update",
        "session": {
            "type": "realtime",
            "include": ["item.input_audio_transcription.logprobs"],
            "input_audio_format": "pcm16",
            "sample_rate": 16_000,
            "audio": {
                "input": {
                    "transcription": {"languages": ["en"], "keywords": ["A name", {"text": "Another"}]},
                    "turn_detection": {"type": "semantic_vad", "eagerness": "high"},
                }
            },
        },
    },
    {
        "type": "session.update",
        "session": {
            "modalities": ["text"],
            "input_audio_format": "pcm",
            "sample_rate": 16_000,
            "input_audio_transcription": {"language": "en", "corpus": {"text": "A name"}},
            "turn_detection": {"type": "server_vad", "threshold": 0.0, "silence_duration_ms": 400},
        },
    },
    {"type": "input_audio_buffer.commit", "event_id": "mine"},
    {"type": "input_audio_buffer.clear"},
    {"type": "conversation.item.delete", "item_id": "item_1"},
]
FINISH: dict[str, Any] = {"type": "session.finish", "event_id": "mine"}
"""Seldom: what comes after it is not read."""
NUMBERS = [0, -1, 1e300, float("nan"), 10**400]
VALUES: list[Any] = [None, True, *NUMBERS, "", "x", "\ud800", "é" * 100, [], {}, [[]], {"a": 1}]


def random_message(rng: np.random.Generator) -> str | bytes:
    """An event, possibly with values or bytes changed, or random bytes."""
    if rng.integers(2):
        speech = (spoken("Turn on the kitchen light.") * 32_767).astype("<i2").tobytes()
        begin = int(rng.integers(0, len(speech)))
        piece = speech[begin : begin + int(rng.integers(0, 30_000))]
        event: dict[str, Any] = {"type": "input_audio_buffer.append", "audio": base64.b64encode(piece).decode()}
    else:
        chosen = EVENTS[int(rng.integers(len(EVENTS)))] if rng.integers(40) else FINISH
        event = json.loads(json.dumps(chosen))
    kind = rng.integers(10)
    if kind < 5:
        return json.dumps(event)
    if kind < 7:
        _change(event, rng)
        return json.dumps(event)
    if kind == 7:
        return rng.bytes(int(rng.integers(0, 3_000)))
    text = bytearray(json.dumps(event).encode())
    for position in rng.integers(0, len(text), int(rng.integers(1, 6))):
        text[position] = rng.integers(0, 256)
    if kind == 8:
        del text[int(rng.integers(0, len(text))) :]
    return bytes(text).decode(errors="replace")


def _change(given: dict[str, Any], rng: np.random.Generator) -> None:
    """Put another value, or another key, somewhere into an object."""
    key = list(given)[int(rng.integers(len(given)))]
    if isinstance(given[key], dict) and given[key] and rng.integers(3):
        _change(given[key], rng)
    else:
        given[key if rng.integers(4) else "other"] = VALUES[int(rng.integers(len(VALUES)))]


async def fuzz(server: Listening, messages: int, seed: int) -> Counter[str]:
    """Send `messages` messages over many connections; returns how often each type, error code and close came.

    Raises AssertionError if a session neither answers nor was closed as documented, or if anything stays in memory.
    """
    rng = np.random.default_rng(seed)
    counts: Counter[str] = Counter()
    sent = 0
    while sent < messages:
        count = min(int(rng.integers(1, 80)), messages - sent)
        sent += count
        await _talk(server, rng, count, counts)
    assert await until(lambda: not server.route.connections)
    assert await until(lambda: not server.connections)
    # A busy recognizer reaches the steps of closed sessions only after the others.
    if not await until(lambda: _turns_left() <= MAX_LEFT):
        raise AssertionError(f"{_turns_left()} turns are still in memory, though no client is connected")
    return counts


def _turns_left() -> int:
    gc.collect()
    return sum(issubclass(type(one), TurnStream) for one in gc.get_objects())


async def _talk(server: Listening, rng: np.random.Generator, count: int, counts: Counter[str]) -> None:
    """One connection: some messages, then one of several kinds of end."""
    url = server.url if rng.integers(4) else server.url.replace("/v1/", "/api-ws/v1/")
    async with client(url, ping_interval=None) as speaker:
        end = rng.integers(8)
        broken = False
        with contextlib.suppress(ConnectionClosed):
            for _ in range(count):
                message = random_message(rng)
                # The client's library sends bytes as a binary message unless `text` is set.
                as_text = isinstance(message, bytes) and not rng.integers(40)
                broken = broken or as_text
                await speaker.connection.send(message, text=as_text or None)
        if end == 0:
            speaker.connection.transport.abort()
        elif end == 1:
            speaker.connection.transport.write(rng.bytes(int(rng.integers(2, 200))))  # frames of any kind
            await asyncio.sleep(0)
            speaker.connection.transport.abort()
        else:
            await _still_answers(speaker, broken)
    for answer in speaker.messages:
        counts[answer["type"]] += 1
        if answer["type"] == "error":
            counts[answer["error"]["code"]] += 1
            assert answer["error"]["type"] == "invalid_request_error", answer
    counts[f"closed {speaker.connection.close_code}"] += 1


async def _still_answers(speaker: Client, broken: bool) -> None:
    """Check that an update is answered, unless the connection was closed as documented.

    `broken`: the client broke the WebSocket protocol. What it sent after that may be faster than the close.
    """
    asked = {"type": "session.update", "event_id": "last", "session": {"audio": 1}}
    with contextlib.suppress(ConnectionClosed):
        await speaker.send(asked)

    def answered() -> bool:
        return any(one["error"]["event_id"] == "last" for one in speaker.of_type("error"))

    assert await until(lambda: answered() or speaker.connection.close_code is not None)
    assert speaker.connection.close_code in {None, *CLOSES, 1006 if broken else None}
