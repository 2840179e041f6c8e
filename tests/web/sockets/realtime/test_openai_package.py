"""The openai package as a client of `/v1/realtime` over TLS: sync and async, in both shapes of the API."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.signal import resample_poly

from qwen_asr import Qwen3ASRModel
from qwen_asr.audio.g711 import LAWS
from qwen_asr.audio.pcm import PcmStream
from qwen_asr.config.config import Config
from qwen_asr.service.service import Service
from qwen_asr.tls.self_signed import ensure_self_signed
from tests.support.browser import serving
from tests.support.checkpoints import Samples, demo_recognizer, spoken
from tests.support.rest_client import SENTENCES, Clients
from tests.support.sockets import silence
from tests.support.sockets import until as eventually

pytestmark = [
    pytest.mark.slow,
    # Gradio's own, on its own threads: an option of pandas that is going away, loops that it leaves to the collector.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
LONGEST = 6.0
TRANSCRIPTION = "conversation.item.input_audio_transcription"
# The session's format → PcmStream's encoding and rate.
FORMATS: dict[str, tuple[dict[str, Any], str, int]] = {
    "pcm24": ({"type": "audio/pcm", "rate": 24_000}, "s16le", 24_000),
    "pcm16": ({"type": "audio/pcm", "rate": 16_000}, "s16le", 16_000),
    "pcm8": ({"type": "audio/pcm", "rate": 8_000}, "s16le", 8_000),
    "mulaw": ({"type": "audio/pcmu"}, "mulaw", 8_000),
    "alaw": ({"type": "audio/pcma"}, "alaw", 8_000),
}


class Server:
    """Clients of one server, with what each connection needs to trust it."""

    def __init__(self, clients: Clients, certificates: Path) -> None:
        self.clients = clients
        trust = ssl.create_default_context(cafile=str(certificates / "qwen_asr_cert.pem"))
        self.options: Any = {
            "extra_query": {"intent": "transcription"},
            "websocket_connection_options": {"ssl": trust, "close_timeout": 5, "open_timeout": 60},
        }

    @contextlib.contextmanager
    def sync(self) -> Iterator[Any]:
        """A connection of the openai package's client."""
        with self.clients.sync() as client, client.realtime.connect(**self.options) as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def asynchronous(self) -> AsyncIterator[Any]:
        """A connection of its asyncio client."""
        async with self.clients.asynchronous() as client, client.realtime.connect(**self.options) as connection:
            yield connection

    @contextlib.contextmanager
    def old(self) -> Iterator[Any]:
        """A connection of its older client, whose header requests the older shape of the API."""
        with (
            self.clients.sync() as client,
            client.beta.realtime.connect(model="any", **self.options) as connection,
        ):
            yield connection


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the demo checkpoint."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("certs")
    ensure_self_signed(folder)
    config = Config(host="127.0.0.1", chunk_size_sec=0.5, max_utterance_seconds=LONGEST)
    with serving(Service(config, demo_recognizer()), folder) as served:
        yield Server(Clients(served, folder), folder)
        assert len(served.recordings.ids()) == 0


def coded(samples: Samples, name: str) -> bytes:
    """16 kHz samples as bytes in that format."""
    _, encoding, rate = FORMATS[name]
    resampled = samples if rate == 16_000 else resample_poly(samples, rate // 1000, 16)
    values = (np.clip(resampled, -1, 1) * 32_767).astype("<i2")
    if encoding == "s16le":
        return values.tobytes()
    codes = np.argsort(LAWS[encoding], kind="stable")
    positions = np.clip(np.searchsorted(LAWS[encoding][codes], values), 0, 255)
    return codes[positions].astype(np.uint8).tobytes()


def decoded(data: bytes, name: str) -> Samples:
    """The samples that the server decodes from it."""
    stream = PcmStream(*FORMATS[name][1:])
    return np.concatenate([stream.feed(data), stream.finish()])


def offline(samples: Samples, prompt: str = "", language: str | None = None) -> str:
    """The transcription of the same samples by the Python API."""
    model = Qwen3ASRModel(demo_recognizer(), max_utterance_seconds=LONGEST)
    return str(model.transcribe((samples, 16_000), context=prompt, language=language)[0].text)


def update(**inputs: Any) -> dict[str, Any]:
    """A session with these settings of its input."""
    return {"type": "transcription", "audio": {"input": inputs}}


def pieces(data: bytes, size: int) -> Iterator[str]:
    """Pieces of `size` bytes, in base64."""
    return (base64.b64encode(data[begin : begin + size]).decode() for begin in range(0, len(data), size))


def read(connection: Any, until: Callable[[list[Any]], bool]) -> list[Any]:
    """The events up to the one that makes the condition true."""
    events: list[Any] = []
    for event in connection:
        events.append(event)
        if until(events):
            return events
    raise AssertionError(f"the server closed after {[event.type for event in events]}")


def of_type(events: list[Any], kind: str) -> list[Any]:
    return [event for event in events if event.type.endswith(kind)]


def many(kind: str, count: int = 1) -> Callable[[list[Any]], bool]:
    """A condition: `count` events of that type."""
    return lambda events: len(of_type(events, kind)) == count


def check_items(events: list[Any], added: str = "added") -> list[Any]:
    """Check the order of each item's events, and that its deltas are its text; returns the `completed` events."""
    assert len({event.event_id for event in events}) == len(events)
    committed, previous = of_type(events, ".committed"), None
    for one in committed:
        assert one.previous_item_id == previous
        previous = one.item_id
        own = [event for event in events if getattr(event, "item_id", None) == one.item_id]
        kinds = [event.type.rpartition(".")[2] for event in own]
        texts = [event for event in own if event.type.startswith(TRANSCRIPTION)]
        [item] = [event for event in of_type(events, f"item.{added}") if event.item.id == one.item_id]
        assert (item.item.role, item.item.content[0].type) == ("user", "input_audio")
        assert events.index(one) < events.index(item) < events.index(texts[-1])
        assert kinds.count("completed") == 1
        assert kinds[-1] == "completed"
        deltas = "".join(event.delta for event in texts[:-1])
        assert texts[-1].transcript == deltas  # none of these finals corrects settled text
        if "speech_started" in kinds:
            assert kinds.index("speech_started") == 0
            assert kinds.index("speech_stopped") == kinds.index("committed") - 1
    return of_type(events, f"{TRANSCRIPTION}.completed")


@pytest.mark.parametrize("name", FORMATS)
def test_server_vad_in_each_format(server: Server, name: str) -> None:
    samples = np.concatenate([silence(0.7), spoken(SENTENCES[0]), silence(1.2), spoken(SENTENCES[2]), silence(1.0)])
    data = coded(samples, name)
    described: dict[str, Any] = FORMATS[name][0]
    with server.sync() as connection:
        given = {"model": "whisper-1", "language": "en", "prompt": "Names."}
        turns = {"type": "server_vad", "threshold": 0.6, "silence_duration_ms": 600, "prefix_padding_ms": 200}
        connection.session.update(session=update(format=described, transcription=given, turn_detection=turns))
        for piece in pieces(data, 3_001):  # pieces end within samples
            connection.input_audio_buffer.append(audio=piece)
        events = read(connection, many("transcription.completed", 2))
    assert [event.type for event in events[:2]] == ["session.created", "session.updated"]
    before, after = (event.session.audio.input for event in events[:2])
    assert before.turn_detection.silence_duration_ms == 800
    assert after.turn_detection.to_dict() == turns
    assert {**given, "model": "demo"}.items() <= after.transcription.to_dict().items()
    assert {"rate": 24_000, **after.format.to_dict()} == {"rate": 24_000, **described}
    heard = decoded(data, name)
    completed = check_items(events)
    ranges = zip(of_type(events, "speech_started"), of_type(events, "speech_stopped"), strict=True)
    for (started, stopped), one in zip(ranges, completed, strict=True):
        utterance = heard[started.audio_start_ms * 16 : stopped.audio_end_ms * 16]
        assert one.transcript == offline(utterance, "Names.", "English")
        assert one.usage.to_dict() == {"type": "duration", "seconds": len(utterance) / 16_000}
    assert completed[0].transcript == SENTENCES[0]


def test_the_client_commits_its_turns_while_it_reads(server: Server) -> None:
    short = np.concatenate([silence(0.2), spoken(SENTENCES[1]), spoken(SENTENCES[0])])
    long = np.concatenate([part for _ in range(3) for part in (spoken(SENTENCES[1]), spoken(SENTENCES[0]))])
    assert len(long) > 2 * LONGEST * 16_000  # so it is cut more than once
    sessions = server.clients.service.sessions

    async def speak() -> list[Any]:
        events: list[Any] = []
        async with server.asynchronous() as connection:

            def is_transcribed(seconds: float) -> bool:
                return sessions.audio_seconds() >= seconds and sessions.longest_lag() < 0.6

            def has_more_deltas(count: int, events: list[Any]) -> bool:
                return len(of_type(events, ".delta")) > count

            async def until(condition: Callable[[list[Any]], bool]) -> None:
                while not condition(events):
                    events.append(await connection.recv())

            await connection.session.update(session=update(turn_detection=None))
            for number, samples in enumerate((short, long), 1):
                data = coded(samples, "pcm24")
                before = sessions.audio_seconds()
                for count, piece in enumerate(pieces(data[: len(data) * 5 // 6], 4_800), 1):  # 100 ms
                    await connection.input_audio_buffer.append(audio=piece)
                    # A busy machine makes one step of many, and one alone settles nothing.
                    due = before + 0.1 * count - 0.2
                    assert await eventually(partial(is_transcribed, due))
                deltas = len(of_type(events, ".delta"))
                await until(partial(has_more_deltas, deltas))
                assert len(of_type(events, ".committed")) == number - 1  # text settles before the end of the turn
                for piece in pieces(data[len(data) * 5 // 6 :], 4_800):
                    await connection.input_audio_buffer.append(audio=piece)
                await connection.input_audio_buffer.commit()
                await until(many("transcription.completed", number))
        return events

    events = asyncio.run(speak())
    assert events[1].session.audio.input.turn_detection is None
    assert not of_type(events, "speech_started")
    first, second = of_type(events, "transcription.completed")
    for one, samples in ((first, short), (second, long)):
        heard = decoded(coded(samples, "pcm24"), "pcm24")
        assert one.transcript == offline(heard)
        assert one.usage.seconds == len(heard) / 16_000
    assert first.transcript.startswith(SENTENCES[1])


def test_a_turn_in_one_message(server: Server) -> None:
    samples = np.concatenate([spoken(SENTENCES[1]), silence(0.3)])
    with server.sync() as connection:
        connection.session.update(session=update(turn_detection=None))
        connection.input_audio_buffer.append(audio=next(pieces(coded(samples, "pcm24"), 1 << 20)))
        connection.input_audio_buffer.append(audio="")  # an empty append is allowed
        connection.input_audio_buffer.commit()
        events = read(connection, many("transcription.completed"))
    assert check_items(events)[0].transcript == SENTENCES[1]
    assert len(of_type(events, "item.done")) == 1
    assert not of_type(events, "error")


def test_the_older_shape_of_the_api(server: Server) -> None:
    samples = np.concatenate([silence(0.5), spoken(SENTENCES[0]), silence(0.9)])
    with server.old() as connection:
        session = {
            "input_audio_format": "g711_ulaw",
            "input_audio_transcription": {"model": "gpt-4o-transcribe", "language": "de-DE", "prompt": "P."},
            "turn_detection": {"type": "server_vad", "silence_duration_ms": 500},
        }
        connection.send({"type": "transcription_session.update", "session": session})
        for piece in pieces(coded(samples, "mulaw"), 800):
            connection.input_audio_buffer.append(audio=piece)
        events = read(connection, many("transcription.completed"))
    assert [event.type for event in events[:2]] == ["transcription_session.created", "transcription_session.updated"]
    session = events[1].session
    assert session.input_audio_format == "g711_ulaw"
    assert session.input_audio_transcription.language == "de-DE"
    assert session.turn_detection.silence_duration_ms == 500
    [completed] = check_items(events, "created")
    [started], [stopped] = of_type(events, "speech_started"), of_type(events, "speech_stopped")
    utterance = decoded(coded(samples, "mulaw"), "mulaw")[started.audio_start_ms * 16 : stopped.audio_end_ms * 16]
    assert completed.transcript == offline(utterance, "P.", "German")


def test_a_client_that_asks_for_a_conversation_gets_its_transcription(server: Server) -> None:
    samples = spoken(SENTENCES[0])
    with server.clients.sync() as client:
        options = {**server.options, "extra_query": {}}
        with client.realtime.connect(model="gpt-realtime", **options) as connection:
            connection.session.update(
                session={
                    "type": "realtime",
                    "instructions": "Answer in one sentence.",
                    "output_modalities": ["text"],
                    "audio": {"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "high"}}},
                }
            )
            connection.response.create()
            connection.input_audio_buffer.append(audio=base64.b64encode(coded(samples, "pcm24")).decode())
            connection.input_audio_buffer.commit()
            events = read(connection, many("transcription.completed"))
    assert [event.type for event in events[:3]] == ["session.created", "session.updated", "error"]
    assert events[1].session.audio.input.turn_detection.silence_duration_ms == 400
    assert "only transcribes" in events[2].error.message
    [completed] = of_type(events, "transcription.completed")
    assert completed.transcript == SENTENCES[0]
    assert [language.code for language in completed.languages] == ["en"]
