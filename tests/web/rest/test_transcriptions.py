"""Requests without a form: the audio alone, or base64 in JSON, as programs send them."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from huggingface_hub import InferenceClient
from openai.types.audio import TranscriptionTextSegmentEvent

from qwen_asr.config.config import Config
from qwen_asr.config.limits import Limits, UploadLimits
from qwen_asr.errors import BadField, BadInput
from qwen_asr.service.service import Service
from qwen_asr.web.rest.upload import parse_json_form
from tests.support.checkpoints import demo_recognizer, spoken
from tests.support.rest_client import speech, wav
from tests.support.sockets import listening

SENTENCE = "Turn on the kitchen light."
ENCODED = base64.b64encode(b"sound").decode()


@pytest.mark.parametrize(
    "audio",
    [
        {"file": ENCODED},
        {"inputs": ENCODED},
        {"audio": f"data:audio/wav;base64,{ENCODED}"},
        {"input_audio": {"data": ENCODED, "format": "wav"}},
    ],
)
def test_audio_in_json(audio: dict[str, Any]) -> None:
    body = {**audio, "language": "de", "stream": False, "temperature": 0, "prompt": None, "parameters": {"a": ["b", 1]}}
    fields, sound = parse_json_form(json.dumps(body).encode())
    assert sound == b"sound"
    assert fields == {
        "language": ["de"], "stream": ["false"], "temperature": ["0"], "prompt": [""], "a": ["b", "1"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"rubbish", "not a JSON object"),
        (b"[1]", "not a JSON object"),
        (b'{"a": ' + 100_000 * b"[" + b"}", "not a JSON object"),
        (b"{}", "has 0 audio files"),
        (b'{"file": "QQ==", "inputs": "QQ=="}', "has 2 audio files"),
        (b'{"file": ["QQ=="]}', "file is no string"),
        (b'{"file": "https://example.com/a.wav"}', "fetches none"),
        (b'{"file": "not base64"}', "not valid base64"),
    ],
)
def test_wrong_json(body: bytes, message: str) -> None:
    with pytest.raises(BadInput, match=message) as failure:
        parse_json_form(body)
    assert isinstance(failure.value, BadField) == ("JSON object;" not in message and "not a" not in message)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    torch.set_num_threads(1)
    limits = Limits(upload=UploadLimits(file_bytes=1 << 20, json_bytes=1 << 20))
    service = Service(Config(host="127.0.0.1"), demo_recognizer(), limits=limits)
    with contextlib.closing(service), listening(service) as server:
        yield f"{server.http}/v1/audio/transcriptions"


@pytest.mark.slow
def test_huggingface_hub(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # offline, it refuses every address
    recording = wav(spoken(SENTENCE))
    (tmp_path / "speech.wav").write_bytes(recording)
    client = InferenceClient(model=url, token="")
    assert client.automatic_speech_recognition(recording).text == SENTENCE
    assert client.automatic_speech_recognition(tmp_path / "speech.wav").text == SENTENCE
    assert client.automatic_speech_recognition(recording, extra_body={"language": "en"}).text == SENTENCE


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["audio/wav", "video/mp4", "application/octet-stream", None])
def test_the_file_alone_has_its_fields_in_the_address(url: str, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    params, sound = {"response_format": "text"}, wav(spoken(SENTENCE))
    answer = httpx.post(url, params=params, content=sound, headers=headers, timeout=60)
    assert (answer.status_code, answer.text) == (200, SENTENCE + "\n")


@pytest.mark.slow
def test_a_file_alone_has_the_limits_and_errors_of_a_form(url: str) -> None:
    sound = {"Content-Type": "audio/wav"}
    requests: list[tuple[Any, dict[str, str], dict[str, str], int, str | None, str]] = [
        (bytes((1 << 20) + 1), {}, sound, 413, None, "over 1048576 bytes"),
        (iter([bytes((1 << 20) + 1)]), {}, sound, 413, None, "over 1048576 bytes"),
        (b"not audio", {}, sound, 400, "file", "cannot be read as audio"),
        (b"", {}, sound, 400, "file", "is empty"),
        (b"a", {"language": "Klingon"}, sound, 400, "language", "Unknown language"),
        (b"a", {f"a{number}": "b" for number in range(101)}, sound, 400, None, "over 100 fields"),
        (b"a", {}, {"Content-Type": "text/plain"}, 400, None, "multipart/form-data"),
        (b"a=b", {}, {"Content-Type": "application/x-www-form-urlencoded"}, 400, None, "multipart/form-data"),
        (b"{}", {}, {"Content-Type": "application/json"}, 400, "file", "0 audio files"),
        (bytes((1 << 20) + 1), {}, {"Content-Type": "application/json"}, 413, None, "at most 1048576 bytes"),
    ]
    for content, params, headers, status, param, message in requests:
        answer = httpx.post(url, params=params, content=content, headers=headers, timeout=60)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["type"]) == (status, param, "invalid_request_error"), error
        assert message in error["message"]


@pytest.mark.slow
def test_every_format_is_streamed(url: str) -> None:
    recording = speech()
    with openai.OpenAI(base_url=url.removesuffix("/audio/transcriptions"), api_key="none", max_retries=0) as client:
        create: Any = client.audio.transcriptions.create
        for name in ("srt", "vtt"):
            whole = create(model="any", file=recording, response_format=name)
            *deltas, done = create(model="any", file=recording, response_format=name, stream=True)
            assert "".join(delta.delta for delta in deltas) == done.text == whole
            assert whole.count(" --> ") == 3
        whole = create(model="any", file=recording, response_format="verbose_json")
        events = list(create(model="any", file=recording, response_format="verbose_json", stream=True))
        segments = [event for event in events if isinstance(event, TranscriptionTextSegmentEvent)]
        assert events[-1].text == whole.text
        assert [(one.text, one.start, one.end) for one in segments] == [
            (one.text, one.start, one.end) for one in whole.segments
        ]


@pytest.mark.slow
def test_the_probabilities_of_the_demo(url: str) -> None:
    recording = wav(spoken(SENTENCE))
    with openai.OpenAI(base_url=url.removesuffix("/audio/transcriptions"), api_key="none", max_retries=0) as client:
        create: Any = client.audio.transcriptions.create
        answer = create(model="any", file=recording, include=["logprobs"])
        assert "".join(one.token for one in answer.logprobs) == answer.text == SENTENCE
        assert all(one.logprob <= 0 for one in answer.logprobs)
        assert len({one.logprob for one in answer.logprobs}) > 1
        *deltas, done = create(model="any", file=recording, include=["logprobs"], stream=True)
        assert [one.token for delta in deltas for one in delta.logprobs] == [one.token for one in answer.logprobs]
        assert done.usage.input_tokens > done.usage.output_tokens == len(answer.logprobs) + 3  # with the language
        verbose = create(model="any", file=recording, response_format="verbose_json", timestamp_granularities=["word"])
        [segment] = verbose.segments
        mean = sum(one.logprob for one in answer.logprobs) / len(answer.logprobs)
        assert segment.avg_logprob == pytest.approx(mean, abs=1e-3)
        assert len(segment.tokens) == len(answer.logprobs)
        assert verbose.words is None
        assert verbose.warnings[0].startswith("words:")
