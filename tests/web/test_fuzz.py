"""Random frames and requests to the sockets and routes: no traceback, no 500, and nothing left behind.

`scripts/fuzz` sends many more frames; this is what a test suite has time for.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import urllib.parse
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from schemathesis.checks import CHECKS, load_all_checks
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from benchmarks.load import RunningServer, server
from qwen_asr.config.config import Config
from qwen_asr.service.service import Service
from qwen_asr.web.rest import routes as rest
from tests.support.checkpoints import spoken
from tests.support.processes import until

FRAMES = int(os.environ.get("FUZZ_FRAMES", "250"))
"""How many go to each socket and each route."""
FRAMES_A_CONNECTION = 8
DOCUMENTED_CLOSES = {1000, 1007, 1008, 1009, 1013}
GROWTH_MB = 40
"""How much the server's 560 MB may grow in half of the frames: allocators and caches of shapes fill slowly."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(max(300, FRAMES))]

FUZZING = settings(deadline=None, database=None, suppress_health_check=[*HealthCheck])
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=40)
values: st.SearchStrategy[Any] = st.deferred(
    lambda: scalars | st.lists(values, max_size=4) | st.dictionaries(st.text(), values, max_size=4)
)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of the server's log."""
    return tmp_path_factory.mktemp("log") / "server.log"


@pytest.fixture(scope="module")
def running(log: Path) -> Iterator[RunningServer]:
    """A server process with the demo checkpoint."""
    options = ("--asr-model-path", "demo", "--device", "cpu", "--chunk-size-sec", "0.5")
    with log.open("w") as written, server(*options, log=written) as started:
        yield started
        # Sessions whose connection was cut wait for a while to be resumed.
        assert until(lambda: not open_sessions(started)), "sessions were left open"


def open_sessions(running: RunningServer) -> list[str]:
    """The lines of /metrics about sessions that are still open."""
    lines = httpx.get(f"{running.base}/metrics", timeout=300).text.splitlines()
    return [line for line in lines if line.startswith("qwen_asr_sessions{") and not line.endswith(" 0.0")]


def fuzz(
    running: RunningServer, log: Path, examples: int, send: Callable[..., None], *strategies: st.SearchStrategy
) -> None:
    """Call `send` with `examples` examples. Then check that the log has no error, and that memory grew little in the
    second half of them."""
    for _ in range(2):
        before = running.megabytes
        settings(FUZZING, max_examples=max(1, examples // 2))(given(*strategies)(send))()
    assert [line for line in log.read_text().splitlines() if " ERROR " in line or "Traceback" in line] == []
    assert running.megabytes - before < GROWTH_MB


def mutated(original: bytes) -> st.SearchStrategy[bytes]:
    """The bytes with a piece replaced, removed or repeated."""

    def change(begin: int, size: int, put: bytes) -> bytes:
        return original[:begin] + put + original[begin + size :]

    position = st.integers(0, len(original))
    return st.builds(change, position, st.integers(0, 60), st.binary(max_size=40))


def wav(samples: bytes) -> bytes:
    """A WAV file of 16-bit samples at 16 kHz."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(16_000)
        writer.writeframes(samples)
    return file.getvalue()


# --- /ws/asr

ASR_KEYS = ["type", "context", "prompt", "language", "chunk_size_sec", "unfixed_chunk_num", "unfixed_token_num"]
ASR_KEYS += ["sample_rate", "encoding", "words", "resume", "offset"]
asr_settings = st.dictionaries(st.sampled_from(ASR_KEYS), values, max_size=5).map(
    lambda given: {"type": "config"} | given
)
asr_messages = st.one_of(
    st.just({"type": "config"}),
    asr_settings,
    st.builds(lambda kind: {"type": kind}, values),
    st.just({"type": "finalize"}),
).map(json.dumps)
SPEECH = spoken("Turn on the kitchen light.")[8_000:24_000].astype("<f4").tobytes()


def texts(messages: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Messages, mutated messages, and any text."""
    broken = messages.flatmap(
        lambda message: mutated(message.encode()).map(lambda data: data.decode("utf-8", "replace"))
    )
    return messages | broken | st.text(max_size=200)


LOUD = np.frombuffer(SPEECH, "<f4")
SIGNATURES = (b"\x1a\x45\xdf\xa3", b"OggS\0", b"fLaC", b"ID3\3\0", b"\0\0\0 ftypM4A ", wav(SPEECH)[:44])
STREAMS = [  # what a client may send in place of the samples that it announces
    *(signature + bytes(range(256)) * 8 for signature in SIGNATURES),
    b"\xff\xfb\x50\xc4" * 500, base64.b64encode(SPEECH), b'{"type": "finalize"}', b"", b"\0",
    *(LOUD.astype(kind).tobytes() for kind in (">f4", "<f8", "<f2")),
    *((LOUD * 32_767).astype(kind).tobytes() for kind in ("<i2", ">i2", "<i4", "i1")),
]  # fmt: skip


def cut(data: bytes) -> st.SearchStrategy[bytes]:
    """The bytes without some of the first and of the last."""
    return st.builds(lambda begin, end: data[begin:end], st.integers(0, min(64, len(data))), st.integers(0, len(data)))


asr_frames = st.one_of(
    texts(asr_messages),
    st.binary(max_size=6_000),
    st.just(SPEECH),
    mutated(SPEECH),
    st.sampled_from(STREAMS),
    st.sampled_from(STREAMS).flatmap(cut),
)
asr_exchanges = st.tuples(
    st.lists(asr_frames, min_size=1, max_size=2 * FRAMES_A_CONNECTION),
    st.sampled_from([None, "f32le", "s16le"]),  # whether it begins with a valid config, and of which encoding
    st.sampled_from(["finalize", "leave", "cut"]),
)


async def exchange(url: str, frames: list[str | bytes], end: str | None) -> tuple[int | None, list[dict[str, Any]]]:
    """Sends the frames, then `end` as a text (or cuts the line, where it is None).

    Returns the server's close code, and the messages that came after `end`.
    """
    answers = []
    async with connect(url, ping_timeout=None, open_timeout=60, close_timeout=5, max_queue=None) as connection:
        with contextlib.suppress(ConnectionClosed):
            for frame in frames:
                await connection.send(frame)
            if end is None:
                connection.transport.abort()
            elif end:
                await connection.send(end)
                async with asyncio.timeout(300):
                    async for answer in connection:
                        answers.append(json.loads(answer))
        await connection.close()
    return connection.close_code, answers


def test_asr_socket(running: RunningServer, log: Path) -> None:
    def send(exchanged: tuple[list[str | bytes], str | None, str]) -> None:
        frames, encoding, ending = exchanged
        start: list[str | bytes] = [json.dumps({"type": "config", "encoding": encoding})] if encoding else []
        end = {"finalize": '{"type": "finalize"}', "leave": "", "cut": None}[ending]
        code, answers = asyncio.run(exchange(running.url, start + frames, end))
        assert code in ({1006} if end is None else set()) | DOCUMENTED_CLOSES
        for answer in answers:
            if answer["type"] in ("error", "warning"):
                assert answer["code"]
                assert answer["message"].endswith(".")
        if answers:  # the last word is a text, or why there is none
            assert answers[-1]["type"] in ("final", "error")

    fuzz(running, log, FRAMES // FRAMES_A_CONNECTION, send, asr_exchanges)


# --- /v1/listen

listen_messages = st.one_of(st.sampled_from(["KeepAlive", "Finalize", "CloseStream"]), values).map(
    lambda kind: json.dumps({"type": kind})
)
listen_exchanges = st.tuples(
    st.lists(
        st.one_of(texts(listen_messages), st.binary(max_size=6_000), st.just(SPEECH), st.sampled_from(STREAMS)),
        min_size=1,
        max_size=2 * FRAMES_A_CONNECTION,
    ),
    st.sampled_from(["linear16", "linear32", "mulaw"]),
    st.sampled_from(['{"type": "CloseStream"}', "", None]),
)


def test_listen_socket(running: RunningServer, log: Path) -> None:
    def send(exchanged: tuple[list[str | bytes], str, str | None]) -> None:
        frames, encoding, end = exchanged
        url = running.url.replace("/ws/asr", f"/v1/listen?encoding={encoding}&sample_rate=16000")
        code, answers = asyncio.run(exchange(url, frames, end))
        assert code in ({1006} if end is None else set()) | DOCUMENTED_CLOSES
        for answer in answers:
            if answer["type"] == "Error":
                assert answer["variant"]
                assert answer["description"].endswith(".")
        if answers:  # the last word is about the whole, or why there is none
            assert answers[-1]["type"] in ("Metadata", "Error")

    fuzz(running, log, FRAMES // FRAMES_A_CONNECTION, send, listen_exchanges)


# --- REST


def document() -> dict[str, Any]:
    """The OpenAPI document of a server with default options."""
    app = FastAPI()
    rest.add_routes(app, Service(Config()))
    return app.openapi()


SCHEMA = schemathesis.openapi.from_dict(document())
OPERATIONS = [(path, method) for path in SCHEMA for method in SCHEMA[path]]
load_all_checks()
REST_CHECKS = [CHECKS.get_one(name) for name in (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
)]  # fmt: skip


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_routes(running: RunningServer, log: Path, path: str, method: str) -> None:
    def send(case: Any) -> None:
        name = urllib.parse.unquote(str(case.path_parameters.get("name", "")))
        # Clients resolve dots themselves and request another path; a line break ends the path for the router: 404.
        assume(not {".", ".."} & set(name.split("/")) and "\n" not in name)
        case.call_and_validate(base_url=running.base, checks=REST_CHECKS, timeout=300)

    fuzz(running, log, FRAMES, send, SCHEMA[path][method].as_strategy())


def upload() -> bytes:
    """A form with half a second of speech as WAV, and two fields."""
    parts = [
        ('name="language"', b"en"),
        ('name="response_format"', b"json"),
        (
            'name="file"; filename="a.wav"',
            wav((spoken("Turn on the kitchen light.")[8_000:16_000] * 32_000).astype("<i2").tobytes()),
        ),
    ]
    body = b"".join(
        b"--edge\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (name.encode(), data) for name, data in parts
    )
    return body + b"--edge--\r\n"


FORM = upload()
KIND = "multipart/form-data; boundary=edge"
kinds = st.just(KIND) | st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60)


def test_uploads(running: RunningServer, log: Path) -> None:
    def send(body: bytes, kind: str) -> None:
        answer = client.post(rest.TRANSCRIPTIONS, content=body, headers={"content-type": kind})
        assert answer.status_code in (200, 400, 413)
        if answer.status_code != 200:
            assert answer.json()["error"]["message"]

    begun = mutated(FORM[:300]).map(lambda head: head + FORM[300:])
    with httpx.Client(base_url=running.base, timeout=300) as client:
        assert client.post(rest.TRANSCRIPTIONS, content=FORM, headers={"content-type": KIND}).status_code == 200
        fuzz(running, log, FRAMES, send, begun | mutated(FORM) | st.binary(max_size=300), kinds)
