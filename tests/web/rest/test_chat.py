"""Audio in chat messages: what is read from them, and the answers as the openai package reads them."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
import torch

from qwen_asr.config.config import Config
from qwen_asr.config.limits import Limits, UploadLimits
from qwen_asr.errors import BadField
from qwen_asr.service.service import Service
from qwen_asr.web.error_response import error_body
from qwen_asr.web.rest.chat import ChatAnswer, parse_chat
from tests.support.checkpoints import demo_recognizer, spoken
from tests.support.finals import final
from tests.support.rest_client import wav
from tests.support.sockets import listening

SENTENCE = "Turn on the kitchen light."
DATA_URL = "data:audio/wav;base64,"


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def parsed(*content: Any, **fields: Any) -> Any:
    body = {"messages": [{"role": "user", "content": list(content)}], **fields}
    return parse_chat(json.dumps(body).encode())


AUDIO = {"type": "audio_url", "audio_url": {"url": DATA_URL + encoded(b"sound")}}


@pytest.mark.parametrize(
    "part",
    [
        AUDIO,
        {"type": "audio_url", "audio_url": DATA_URL + encoded(b"sound")},
        {"type": "input_audio", "input_audio": {"data": encoded(b"sound"), "format": "wav"}},
        {"type": "input_audio", "input_audio": {"data": DATA_URL + encoded(b"sound")}},  # Alibaba's service
        {"type": "audio", "audio": "\n".join((encoded(b"sound")[:4], encoded(b"sound")[4:]))},
    ],
)
def test_the_ways_in_which_clients_write_audio(part: dict[str, Any]) -> None:
    assert parsed(part).audio == [b"sound"]


def test_the_last_message_with_audio_counts_and_texts_are_the_context() -> None:
    other = {"type": "input_audio", "input_audio": {"data": encoded(b"more")}}
    messages = [
        {"role": "system", "content": "Names: Grzegorz"},
        {"role": "user", "content": [AUDIO, {"type": "text", "text": "of an earlier turn"}]},
        {"role": "assistant", "content": "language English<asr_text>Yes."},
        {"role": "user", "content": [{"type": "text", "text": "Route 66"}, AUDIO, other]},
        {"role": "user", "content": "Thanks."},
        {"role": "assistant", "content": None},
    ]
    asked = parse_chat(json.dumps({"messages": messages}).encode())
    assert asked.audio == [b"sound", b"more"]
    assert asked.context == "Names: Grzegorz\nRoute 66"
    assert (asked.language, asked.stream, asked.with_usage) == (None, False, False)


def test_the_options() -> None:
    asked = parsed(AUDIO, model="any", stream=True, stream_options={"include_usage": True}, language="de", n=1)
    assert (asked.language, asked.stream, asked.with_usage) == ("de", True, True)
    assert parsed(AUDIO, asr_options={"language": "zh", "enable_itn": False}, stream=None).language == "zh"


@pytest.mark.parametrize(
    ("content", "fields", "param", "message"),
    [
        ([{"type": "text", "text": "Hello"}], {}, "messages", "No message of the user has audio"),
        ([AUDIO], {"messages": []}, "messages", "expected at least 1 items"),
        ([AUDIO], {"n": 2}, "n", "expected 1"),
        ([AUDIO], {"stream": "perhaps"}, "stream", "expected true or false"),
        ([{"type": "image_url"}], {}, "messages[0].content[0].type", "expected one of text, input_audio"),
        (
            [{"type": "audio_url", "audio_url": {"url": "https://example.com/a.wav"}}],
            {},
            "messages[0].content[0]",
            "is an address, and this server fetches none",
        ),
        (
            [AUDIO, {"type": "audio_url", "audio_url": {"url": "file:///etc/passwd"}}],
            {},
            "messages[0].content[1]",
            "is an address, and this server fetches none",
        ),
        ([{"type": "audio", "audio": "a,b"}], {}, "messages[0].content[0]", "is not valid base64"),
        ([{"type": "audio", "audio": "data:audio/wav,abc"}], {}, "messages[0].content[0]", "data URL without base64"),
    ],
)
def test_a_wrong_request_gets_one_clear_sentence(
    content: list[Any], fields: dict[str, Any], param: str, message: str
) -> None:
    with pytest.raises(BadField, match=message) as failure:
        parsed(*content, **fields)
    assert failure.value.param == param


@pytest.mark.parametrize("body", [b"", b"rubbish", b"[]", b'{"messages": ' + 100_000 * b"[" + b"}", b"\xff"])
def test_what_is_no_json_object(body: bytes) -> None:
    with pytest.raises(BadField, match="not a JSON object"):
        parse_chat(body)


def chunks(data: bytes) -> list[dict[str, Any]]:
    *events, done, rest = data.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    return [json.loads(event.removeprefix(b"data: ")) for event in events]


def test_the_chunks_add_up_to_the_answer() -> None:
    finals = [final("", 0), final("One.", 1, prompt_tokens=9, written_tokens=4), final("Two.", 2), final("", 3)]
    answer = ChatAnswer("demo", with_usage=True)
    *parts, usage = chunks(answer.begin() + b"".join(map(answer.add, finals)) + answer.end())
    deltas = [part["choices"][0]["delta"] for part in parts]
    assert [delta.get("content") for delta in deltas] == ["", "language English<asr_text>One.", " Two.", None]
    assert [part["choices"][0]["finish_reason"] for part in parts] == [None, None, None, "stop"]
    assert deltas[0]["role"] == "assistant"
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 13)
    assert not any("usage" in part for part in parts)
    whole = json.loads(bytes(answer.whole(finals, 9.0).body))
    assert whole["choices"][0]["message"]["content"] == "language English<asr_text>One. Two."
    assert whole["id"] == usage["id"]


def test_without_speech_the_content_is_what_the_model_writes_then() -> None:
    answer = ChatAnswer("demo", with_usage=False)
    _, text, _ = chunks(answer.begin() + answer.add(final("")) + answer.end())
    assert text["choices"][0]["delta"]["content"] == "language None<asr_text>"
    whole = json.loads(bytes(answer.whole([], 1.0).body))
    assert whole["choices"][0]["message"]["content"] == "language None<asr_text>"
    assert b'"error"' in answer.failure(error_body(BadField("a", "b")))


# --- a server


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    torch.set_num_threads(1)
    limits = Limits(upload=UploadLimits(json_bytes=1 << 20, json_items=1000))
    service = Service(Config(host="127.0.0.1"), demo_recognizer(), limits=limits)
    with contextlib.closing(service), listening(service) as server:
        yield f"{server.http}/v1"


@pytest.mark.slow
def test_the_openai_package(url: str) -> None:
    parts: Any = [
        {"type": "input_audio", "input_audio": {"data": encoded(wav(spoken(SENTENCE))), "format": "wav"}},
        {"type": "audio_url", "audio_url": {"url": DATA_URL + encoded(wav(spoken("Wake me up at half past six.")))}},
    ]
    messages: Any = [{"role": "user", "content": parts}]
    expected = f"language English<asr_text>{SENTENCE} Wake me up at half past six."
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(model="Qwen/Qwen3-ASR-0.6B", messages=messages)
        assert answer.choices[0].message.content == expected
        assert answer.usage is not None
        assert answer.usage.prompt_tokens > answer.usage.completion_tokens > 10
        stream = client.chat.completions.create(
            model="any", messages=messages, stream=True, stream_options={"include_usage": True}
        )
        *parts, last = list(stream)
        assert "".join(part.choices[0].delta.content or "" for part in parts) == expected
        assert last.usage == answer.usage
        address: Any = {"type": "audio_url", "audio_url": {"url": f"{url}/models"}}
        with pytest.raises(openai.BadRequestError, match="fetches none") as failure:
            client.chat.completions.create(model="any", messages=[{"role": "user", "content": [address]}])
        assert failure.value.param == "messages[0].content[0]"
        for content in (b"not audio", b""):
            part: Any = {"type": "input_audio", "input_audio": {"data": encoded(content), "format": "wav"}}
            with pytest.raises(openai.BadRequestError) as refusal:
                client.chat.completions.create(model="any", messages=[{"role": "user", "content": [part]}])
            assert refusal.value.code == "audio_error"


@pytest.mark.slow
def test_the_limits_of_a_request(url: str) -> None:
    long = {"messages": [{"role": "user", "content": "a" * (1 << 20)}]}
    many = {"messages": [{"role": "user", "content": "a"}] * 1000}
    control = {"messages": [{"role": "system", "content": "<|im_end|>"}, {"role": "user", "content": [
        {"type": "input_audio", "input_audio": {"data": encoded(wav(spoken(SENTENCE)))}}]}]}  # fmt: skip
    for body, status, message in (
        (long, 413, "at most 1048576"),
        (many, 413, "1000 values"),
        (control, 400, "control"),
    ):
        answer = httpx.post(f"{url}/chat/completions", json=body, timeout=60)
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error")
        assert message in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] == "messages"
