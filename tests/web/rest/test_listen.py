"""`POST /v1/listen`: the words in an answer; on a real server the answer, what is refused, and keys."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from hypothesis import given
from starlette.datastructures import QueryParams

from qwen_asr.config.config import Config
from qwen_asr.engine.words import Word
from qwen_asr.live.events import Final
from qwen_asr.service.service import Service
from qwen_asr.web.rest.listen import FileQuery, whole_answer
from qwen_asr.web.sockets.deepgram.messages import ResultsMetadata
from qwen_asr.web.spoken_words import bare
from tests.support.aligners import aligned_by, aligned_finals, even_words, with_words
from tests.support.checkpoints import demo_recognizer, spoken
from tests.support.engine_double import AlignerDouble
from tests.support.finals import SCORED, final
from tests.support.rest_client import wav
from tests.support.sockets import TIMEOUT, listening, silence

SENTENCES = ("Turn on the kitchen light.", "The meeting is on Monday the tenth of May.")
KEY = "key-0123456789"
RIGHT = {"Authorization": f"Token {KEY}"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of the route, on a server that asks for a key."""
    torch.set_num_threads(1)
    loaded = Service(Config(api_key=(KEY,)), demo_recognizer())
    with contextlib.closing(loaded) as service, listening(service) as server:
        yield f"{server.http}/v1/listen"


@pytest.fixture(scope="module")
def file() -> bytes:
    """Two sentences as WAV."""
    return wav(np.concatenate([spoken(SENTENCES[0]), silence(1.2), spoken(SENTENCES[1])]))


def listened(finals: Sequence[Final], **query: str) -> Any:
    """The `results` of the answer for these finals."""
    asked, metadata = FileQuery.of(QueryParams(query)), ResultsMetadata.of("demo")
    answered = whole_answer(asked, metadata, datetime.now(UTC), "", finals, 5.0)
    return json.loads(bytes(answered.body))["results"]


def test_the_words_are_in_the_whole_text_and_in_each_utterance() -> None:
    scored = replace(SCORED[0], words=(Word("One", 0, 1_600), Word("é.", 1_600, 3_200)))
    results = listened([scored, final("", 1), with_words("Two.", 2)], utterances="true")
    one, other, two = results["channels"][0]["alternatives"][0]["words"]
    confidence = one.pop("confidence")
    assert 0.5 < confidence < 1
    assert one == {"word": "one", "start": 0.0, "end": 0.1, "punctuated_word": "One"}
    assert (other["word"], other["punctuated_word"]) == ("é", "é.")
    assert (two["start"], two["end"], two["confidence"]) == (4.0, 4.1, 0.0)
    first, second = results["utterances"]
    assert [len(utterance["words"]) for utterance in (first, second)] == [2, 1]
    assert second["words"] == [two]
    assert listened([final("One.")])["channels"][0]["alternatives"][0]["words"] == []


@given(aligned_finals())
def test_the_words_cover_the_text_and_never_go_back(finals: list[Final]) -> None:
    [alternative] = listened(finals)["channels"][0]["alternatives"]
    words = alternative["words"]
    if all(bare(one.text) for one in finals):  # an utterance of nothing but punctuation has no words
        written = "".join(word["punctuated_word"] for word in words)
        assert "".join(written.split()) == "".join(alternative["transcript"].split())
    for word in words:
        assert word["word"] == bare(word["punctuated_word"]).lower() != ""
        assert word["start"] <= word["end"]
    assert all(one["start"] <= other["start"] for one, other in pairwise(words))


@pytest.mark.slow
def test_the_whole_answer(url: str, file: bytes) -> None:
    query = {"detect_language": "true", "utterances": "true", "model": "nova-3", "smart_format": "true"}
    answered = httpx.post(url, params=query, content=file, headers=RIGHT, timeout=TIMEOUT)
    assert answered.status_code == 200
    metadata, results = answered.json()["metadata"], answered.json()["results"]
    assert metadata["sha256"] == hashlib.sha256(file).hexdigest()
    assert metadata["request_id"] == answered.headers["dg-request-id"]
    assert metadata["channels"] == 1
    assert metadata["model_info"][metadata["models"][0]]["name"] == "demo"
    [channel] = results["channels"]
    [alternative] = channel["alternatives"]
    assert alternative["transcript"] == " ".join(SENTENCES)
    assert 0.5 < alternative["confidence"] <= 1
    assert channel["detected_language"] == "en"
    assert [utterance["transcript"] for utterance in results["utterances"]] == list(SENTENCES)
    first, second = results["utterances"]
    assert 0 <= first["start"] < first["end"] < second["start"] < second["end"] <= metadata["duration"]
    assert min(first["confidence"], second["confidence"]) <= alternative["confidence"]
    assert alternative["confidence"] <= max(first["confidence"], second["confidence"])


@pytest.mark.slow
def test_the_words_of_a_file(url: str, file: bytes) -> None:
    for aligner in (AlignerDouble(is_quick=True), AlignerDouble(is_quick=False), None):
        with aligned_by(demo_recognizer(), aligner):
            answered = httpx.post(url, params={"utterances": "true"}, content=file, headers=RIGHT, timeout=TIMEOUT)
        results = answered.json()["results"]
        words = results["channels"][0]["alternatives"][0]["words"]
        assert words == [word for utterance in results["utterances"] for word in utterance["words"]]
        expected = [
            word for one in results["utterances"] for word in even_words(one["transcript"], one["start"], one["end"])
        ]
        timed = [{"word": word["punctuated_word"], "start": word["start"], "end": word["end"]} for word in words]
        assert timed == (expected if aligner else [])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["audio/wav", "application/octet-stream", "application/x-www-form-urlencoded", ""])
def test_any_content_type_but_json(url: str, file: bytes, kind: str) -> None:
    headers = RIGHT | ({"Content-Type": kind} if kind else {})
    results = httpx.post(url, content=file, headers=headers, timeout=TIMEOUT).json()["results"]
    assert results["channels"][0]["alternatives"][0]["transcript"] == " ".join(SENTENCES)
    assert results.keys() == {"channels"}
    assert results["channels"][0].keys() == {"alternatives"}


@pytest.mark.slow
def test_silence_has_no_text(url: str) -> None:
    answered = httpx.post(url, content=wav(silence(1.0)), headers=RIGHT, timeout=TIMEOUT).json()
    [alternative] = answered["results"]["channels"][0]["alternatives"]
    assert alternative == {"transcript": "", "confidence": 0.0, "words": []}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "body", "words"),
    [
        ({}, b'{"url": "http://localhost/a.wav"}', "fetches no url"),
        ({"redact": "pci"}, b"", "redact is not available"),
        ({"callback": "http://localhost"}, b"", "callback is not available"),
        ({"multichannel": "true"}, b"", "multichannel is not available"),
        ({"language": "tlh"}, b"", "Unknown language"),
        ({}, b"no audio at all", "audio"),
    ],
)
def test_what_is_refused(url: str, query: dict[str, str], body: bytes, words: str) -> None:
    kind = "application/json" if body.startswith(b"{") else "audio/wav"
    headers = RIGHT | {"Content-Type": kind}
    answered = httpx.post(url, params=query, content=body, headers=headers, timeout=TIMEOUT)
    assert answered.status_code == 400
    assert words in answered.json()["error"]["message"]


@pytest.mark.slow
def test_a_key_is_needed(url: str, file: bytes) -> None:
    for headers in ({}, {"Authorization": "Token wrong"}):
        assert httpx.post(url, content=file, headers=headers, timeout=TIMEOUT).status_code == 401
