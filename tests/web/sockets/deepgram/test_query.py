"""The parameters of `/v1/listen`: what they mean, and that any other is an error with a sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from qwen_asr.audio.endpointing import EndpointConfig
from qwen_asr.errors import BadField
from qwen_asr.web.sockets.deepgram.query import MIN_ENDPOINTING_MS, ListenQuery, LiveQuery

SERVER = EndpointConfig()
NAMES = [*LiveQuery.model_fields, "model", "tag"]
VALUES = st.one_of(
    st.sampled_from(
        ["true", "false", "", "0", "1", "300", "-1", "1e9", "linear16", "mulaw", "en-US", "multi", "word:2"]
    ),
    st.text(max_size=20),
)


def live(query: str) -> LiveQuery:
    return LiveQuery.of(QueryParams(f"encoding=mulaw&{query}"))


@given(st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=8))
def test_any_query_is_understood_or_refused_with_a_sentence(pairs: list[tuple[str, str]]) -> None:
    for kind in (ListenQuery, LiveQuery):
        refused = None
        try:
            assert isinstance(kind.of(QueryParams(pairs)).context, str)
        except BadField as error:
            refused = error
        assert refused is None or (refused.param in NAMES and str(refused).endswith("."))


@pytest.mark.parametrize(
    ("query", "seconds", "announced"),
    [
        ("", SERVER.silence_seconds, True),
        ("endpointing=true", SERVER.silence_seconds, True),
        ("endpointing=false", SERVER.silence_seconds, False),
        ("endpointing=0", SERVER.silence_seconds, False),
        ("endpointing=25", MIN_ENDPOINTING_MS / 1000, True),  # LiveKit's default
        ("endpointing=500", 0.5, True),
    ],
)
def test_endpointing(query: str, seconds: float, announced: bool) -> None:
    assert live(query).endpoints(SERVER).silence_seconds == seconds
    assert live(query).announces_endpoints == announced


@pytest.mark.parametrize(
    ("query", "option"),
    [
        ("", ""),
        ("language=en-US", "en-US"),
        ("language=multi", "auto"),
        ("detect_language=true", "auto"),
        ("detect_language=de&detect_language=en", "auto"),
        ("detect_language=false&language=de", "de"),
    ],
)
def test_language(query: str, option: str) -> None:
    assert live(query).language_option == option


def test_terms() -> None:
    assert live("keyterm=New York&keyterm=&keywords=Ada:1.5&keywords=Bob").context == "New York, Ada, Bob"


def test_rates() -> None:
    assert live("").rate == 8_000
    assert live("sample_rate=16000").rate == 16_000
    with pytest.raises(BadField, match="no sample_rate"):
        LiveQuery.of(QueryParams("encoding=linear16"))
