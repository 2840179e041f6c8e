"""The client's messages of `/ws/asr`: each setting at the ends of its range, and any JSON at all."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_asr.audio.pcm import ENCODINGS
from qwen_asr.errors import BadConfig, BadInput, QwenASRError, UnknownLanguage
from qwen_asr.web.sockets.asr.messages import AsrConfig, WarningMessage, check_resume, parse_config, parse_control

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["context", "prompt", "language", "chunk_size_sec", "sample_rate", "encoding", "unfixed_chunk_num", "resume"]
KEYS += ["offset", "words"]


def parsed(**settings: Any) -> AsrConfig:
    return parse_config(json.dumps({"type": "config", **settings}))


def test_the_config_of_the_original_client() -> None:
    config = parsed(context="", language=None, unfixed_chunk_num=4, unfixed_token_num=5, chunk_size_sec=1.0)
    assert (config.sample_rate, config.encoding, config.language) == (16_000, "f32le", "")
    assert config.chunk_size_sec == 1.0


def test_every_setting() -> None:
    config = parsed(
        context="names", prompt="say", language="de", chunk_size_sec=0.1, sample_rate=48000.0, encoding="s16le", new=1,
        words=True,
    )  # fmt: skip
    assert (config.encoding, config.words) == ("s16le", True)
    assert (config.context, config.prompt, config.language) == ("names", "say", "de")
    assert (config.sample_rate, config.chunk_size_sec) == (48_000, 0.1)
    assert isinstance(config.sample_rate, int)


def test_a_chunk_can_be_automatic() -> None:
    assert parsed(chunk_size_sec="auto").chunk_size_sec == "auto"
    assert parsed().chunk_size_sec is None  # the server's default


def test_null_and_an_empty_encoding_are_the_defaults() -> None:
    assert parsed(encoding="").encoding == parsed(encoding=None).encoding == "f32le"
    assert parsed(**dict.fromkeys(KEYS)).model_fields_set == {"type"}


def test_the_encodings_are_those_of_the_stream() -> None:
    assert set(get_args(AsrConfig.model_fields["encoding"].annotation)) == set(ENCODINGS)
    for encoding in ENCODINGS:
        assert parsed(encoding=encoding).encoding == encoding


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"context": 5}, "context was given 5; expected a string."),
        ({"prompt": ["a"]}, 'prompt was given ["a"]; expected a string.'),
        ({"context": "\ud800"}, "A message is not JSON (unexpected end of hex escape at line 1 column"),
        ({"language": "x" * 81}, "expected a name or a code such as German or de."),
        ({"chunk_size_sec": "1"}, 'chunk_size_sec was given "1"; expected a number from 0.1 to 30, or "auto".'),
        ({"chunk_size_sec": True}, 'chunk_size_sec was given true; expected a number from 0.1 to 30, or "auto".'),
        (
            {"chunk_size_sec": float("nan")},
            'chunk_size_sec was given NaN; expected a number from 0.1 to 30, or "auto".',
        ),
        ({"chunk_size_sec": 0.09}, 'chunk_size_sec was given 0.09; expected a number from 0.1 to 30, or "auto".'),
        ({"chunk_size_sec": 30.1}, 'chunk_size_sec was given 30.1; expected a number from 0.1 to 30, or "auto".'),
        ({"chunk_size_sec": "Auto"}, 'chunk_size_sec was given "Auto"; expected a number from 0.1 to 30, or "auto".'),
        ({"sample_rate": 3_999}, "sample_rate was given 3999; expected a whole number from 4000 to 384000"),
        ({"sample_rate": 384_001}, "sample_rate was given 384001; expected a whole number from 4000 to 384000"),
        ({"sample_rate": 16000.5}, "sample_rate was given 16000.5; expected a whole number"),
        ({"sample_rate": 10**400}, "expected a whole number from 4000 to 384000"),
        ({"sample_rate": float("inf")}, "sample_rate was given Infinity; expected a whole number"),
        ({"encoding": "mp3"}, 'encoding was given "mp3"; expected one of f32le, s16le.'),
        ({"words": "true"}, 'words was given "true"; expected true or false.'),
        ({"words": 1}, "words was given 1; expected true or false."),
        ({"words": ["word"]}, 'words was given ["word"]; expected true or false.'),
        ({"resume": "x", "offset": -1}, "offset was given -1; expected a whole number of samples from 0 to"),
        ({"offset": 1}, "offset was given without resume"),
        ({"type": "start"}, 'The first message has the type "start"; expected {"type": "config"}'),
    ],
)
def test_values_out_of_range(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadConfig) as caught:
        parsed(**settings)
    assert sentence in str(caught.value)


def test_codes_of_languages_are_understood() -> None:
    for language in ("tl", "eng", "deu", "cmn", "zh-HK", "zh-yue", "zh_TW", "Deutsch", "粤语"):
        assert parsed(language=language).language == language


def test_an_unknown_language() -> None:
    with pytest.raises(UnknownLanguage, match="Klingon"):
        parsed(language="Klingon")


@pytest.mark.parametrize("message", ["", "hello", "[]", "5", "null", '{"type"', "[" * 50_000, "9" * 5_000, "\x00"])
def test_text_that_is_no_object(message: str) -> None:
    with pytest.raises(BadConfig):
        parse_config(message)
    with pytest.raises(BadInput):
        parse_control(message)


@pytest.mark.parametrize("place", ['{"type": "config", "context": %s}', '{"type": "config", "other": %s}', "%s"])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"":', "}]")])
def test_how_deep_a_message_may_nest_does_not_depend_on_the_stack(place: str, opening: str, closing: str) -> None:
    """From far above the parser's limit to where Python's own parser ends, and beyond."""
    for depth in (*range(202, 220), *range(900, 1_000), 10_000, 100_000):
        message = place % (opening * depth + "0" + closing * depth)
        with pytest.raises(BadConfig, match=r"A message is not JSON \(recursion limit exceeded at line 1 column"):
            parse_config(message)
        with pytest.raises(BadInput, match="recursion limit exceeded"):
            parse_control(message)


@pytest.mark.parametrize("depth", [1, 10, 100, 195])
def test_a_message_that_is_not_nested_too_deeply_is_judged_by_its_values(depth: int) -> None:
    nested = "[" * depth + "]" * depth
    assert parse_config(f'{{"type": "config", "other": {nested}}}').context == ""
    with pytest.raises(BadConfig, match=r"context was given \[.*; expected a string"):
        parse_config(f'{{"type": "config", "context": {nested}}}')
    warning = parse_control(f'{{"type": {nested}}}')
    assert isinstance(warning, WarningMessage)
    assert warning.message.startswith("A text message has the type [")


def test_what_may_follow_the_config() -> None:
    assert parse_control('{"type": "finalize", "whatever": 1}') == "finalize"
    for kind in ("KeepAlive", "keepalive", "keep_alive", "KEEP_ALIVE", "ping"):
        assert parse_control(json.dumps({"type": kind})) == "keepalive"
    with pytest.raises(BadInput, match="second config"):
        parse_control('{"type": "config"}')
    for message, shown in (({"type": "stop"}, '"stop"'), ({"type": 5}, "5"), ({}, "null")):
        warning = parse_control(json.dumps(message))
        assert isinstance(warning, WarningMessage)
        assert f"has the type {shown} and was ignored" in warning.message


def test_settings_of_a_client_that_resumes() -> None:
    session = parsed(context="May", language="de", sample_rate=48_000)
    assert check_resume(parsed(resume="x"), session) is None
    assert check_resume(parsed(resume="x", context="May", language="de", sample_rate=48_000, offset=5), session) is None
    assert check_resume(parsed(resume="x", language="German"), session) is None
    assert check_resume(parsed(resume="x", language="deu"), session) is None
    warning = check_resume(parsed(resume="x", context="June", language="", chunk_size_sec=1), session)
    assert warning is not None
    assert warning.startswith("resume: context, language, chunk_size_sec differ from the session's")
    assert check_resume(parsed(resume="x", words=False), session) is None
    assert "resume: words differ" in str(check_resume(parsed(resume="x", words=True), session))
    for different in ({"sample_rate": 16_000}, {"encoding": "s16le"}):
        with pytest.raises(BadConfig, match="but the session to resume has"):
            check_resume(parsed(resume="x", **different), session)


@pytest.mark.slow
@given(JSON | st.dictionaries(st.sampled_from(KEYS), JSON).map(lambda settings: {"type": "config", **settings}))
def test_any_message_is_a_config_or_an_error_that_can_be_sent(message: Any) -> None:
    try:
        parse_config(json.dumps(message))
    except QwenASRError as error:
        sentence = str(error)
        assert sentence.encode()
        assert len(sentence) < 1_200
        assert "\n" not in sentence
