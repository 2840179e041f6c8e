"""What a client may say first: each setting at the ends of its range, and whatever else may come."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_asr.errors import BadConfig, BadInput, QwenASRError, UnknownLanguage
from qwen_asr.web.sockets.asr.messages import check_finalize, parse_config

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["context", "prompt", "language", "chunk_size_sec", "sample_rate", "encoding", "unfixed_chunk_num"]


def parsed(**settings: Any) -> Any:
    return parse_config(json.dumps({"type": "config", **settings}))


def test_what_the_original_client_sends() -> None:
    given = parsed(context="", language=None, unfixed_chunk_num=4, unfixed_token_num=5, chunk_size_sec=1.0)
    assert (given.rate, given.encoding, given.language) == (16_000, "f32le", None)
    assert given.chunk_seconds == 1.0


def test_everything_that_can_be_set() -> None:
    given = parsed(
        context="names", prompt="say", language="de", chunk_size_sec=0.1, sample_rate=48000.0, encoding="s16le", new=1
    )
    assert given.encoding == "s16le"
    assert (given.context, given.prompt, given.language) == ("names", "say", "de")
    assert (given.rate, given.chunk_seconds) == (48_000, 0.1)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"context": 5}, "context was given 5; expected a text"),
        ({"prompt": ["a"]}, "prompt was given"),
        ({"context": "\ud800"}, "surrogate"),
        ({"language": "x" * 81}, "expected a name or a code"),
        ({"chunk_size_sec": "1"}, "expected a number from 0.1 to 30"),
        ({"chunk_size_sec": True}, "expected a number"),
        ({"chunk_size_sec": float("nan")}, "expected a number"),
        ({"chunk_size_sec": 0.09}, "expected a number"),
        ({"chunk_size_sec": 30.1}, "expected a number"),
        ({"sample_rate": 3_999}, "expected a number from 4000 to 384000"),
        ({"sample_rate": 384_001}, "expected a number"),
        ({"sample_rate": 16000.5}, "whole number"),
        ({"encoding": "mp3"}, "expected one of f32le, s16le"),
        ({"type": "start"}, "type"),
    ],
)
def test_what_is_out_of_range(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadConfig, match=sentence):
        parsed(**settings)


def test_a_language_of_no_model() -> None:
    with pytest.raises(UnknownLanguage, match="Klingon"):
        parsed(language="Klingon")


@pytest.mark.parametrize("message", ["", "hello", "[]", "5", "null", '{"type"', "[" * 50_000, "9" * 5_000, "\x00"])
def test_what_is_no_object(message: str) -> None:
    with pytest.raises(BadConfig):
        parse_config(message)
    with pytest.raises(BadInput):
        check_finalize(message)


def test_behind_the_config_only_finalize() -> None:
    check_finalize('{"type": "finalize", "whatever": 1}')
    with pytest.raises(BadInput, match="second config"):
        check_finalize('{"type": "config"}')
    with pytest.raises(BadInput, match='type "stop"'):
        check_finalize('{"type": "stop"}')


@given(JSON | st.dictionaries(st.sampled_from(KEYS), JSON).map(lambda settings: {"type": "config", **settings}))
def test_whatever_comes_is_a_config_or_an_error_of_ours_that_can_be_sent(message: Any) -> None:
    try:
        parse_config(json.dumps(message))
    except QwenASRError as error:
        sentence = str(error)
        assert sentence.encode()
        assert len(sentence) < 1_200
        assert "\n" not in sentence
