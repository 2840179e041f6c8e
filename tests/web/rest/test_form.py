"""Which fields of a form are accepted, and what the request is then."""

from __future__ import annotations

import pytest

from qwen_asr.errors import BadField
from qwen_asr.web.rest.form import TranscriptionRequest, form_schema, parse_request


def test_an_empty_form_has_the_defaults() -> None:
    assert parse_request({}) == TranscriptionRequest()
    empty = {"language": [" "], "temperature": [""], "prompt": [], "include[]": [""]}
    assert parse_request(empty) == TranscriptionRequest()


def test_the_last_value_counts_and_is_stripped() -> None:
    request = parse_request({"language": ["de", " en "], "response_format": ["srt", "vtt"]})
    assert (request.language, request.response_format) == ("en", "vtt")


@pytest.mark.parametrize(
    ("text", "stream"), [("true", True), ("1", True), ("True", True), ("false", False), ("0", False)]
)
def test_switches(text: str, stream: bool) -> None:
    assert parse_request({"stream": [text]}).stream is stream


@pytest.mark.parametrize("name", ["timestamp_granularities", "timestamp_granularities[]"])
def test_lists_are_written_with_brackets_or_without(name: str) -> None:
    assert parse_request({name: ["segment", "segment"]}).timestamp_granularities == ["segment", "segment"]


def test_unused_fields_of_openai_are_ignored() -> None:
    fields = {"model": ["whisper-1"], "chunking_strategy": ["auto"], "user": ["a"], "temperature": ["0.5"]}
    request = parse_request(fields)
    assert (request.model, request.temperature) == ("whisper-1", 0.5)


def test_hints_are_a_language_and_a_context() -> None:
    assert parse_request({"languages[]": ["de"]}).spoken_language == "de"
    assert parse_request({"languages[]": ["de", "en"]}).spoken_language is None  # either of them, so it is detected
    assert parse_request({"languages": ["de"], "language": ["en"]}).spoken_language == "en"
    assert parse_request({}).spoken_language is None
    assert parse_request({"keywords": ["Grzegorz", "Route 66"]}).context == "Grzegorz, Route 66"
    assert parse_request({"keywords[]": ["Route 66"], "prompt": ["A drive."]}).context == "A drive.\nRoute 66"
    assert parse_request({}).context == ""


@pytest.mark.parametrize(
    ("response_format", "stream", "scored"),
    [("json", "false", True), ("text", "true", True), ("srt", "false", False), ("verbose_json", "false", True)],
)
def test_probabilities_are_computed_only_where_the_answer_has_them(
    response_format: str, stream: str, scored: bool
) -> None:
    fields = {"response_format": [response_format], "stream": [stream]}
    assert parse_request({**fields, "include[]": ["logprobs"]}).scored == scored
    assert parse_request(fields).scored == (response_format == "verbose_json")


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        (
            {"response_format": ["xml"]},
            "response_format",
            'response_format was given "xml"; expected one of json, text, srt, verbose_json, vtt.',
        ),
        (
            {"response_format": ["diarized_json"]},
            "response_format",
            "response_format 'diarized_json' is not available: this server does not tell speakers apart; expected one "
            "of json, text, srt, verbose_json, vtt.",
        ),
        ({"stream": ["perhaps"]}, "stream", 'stream was given "perhaps"; expected true or false.'),
        ({"temperature": ["1.1"]}, "temperature", 'temperature was given "1.1"; expected a number from 0 to 1.'),
        ({"temperature": ["-0.1"]}, "temperature", 'temperature was given "-0.1"; expected a number from 0 to 1.'),
        ({"temperature": ["nan"]}, "temperature", 'temperature was given "nan"; expected a number from 0 to 1.'),
        ({"temperature": ["warm"]}, "temperature", 'temperature was given "warm"; expected a number from 0 to 1.'),
        (
            {"timestamp_granularities": ["hour"]},
            "timestamp_granularities",
            'timestamp_granularities[0] was given "hour"; expected one of segment, word.',
        ),
        ({"include[]": ["words"]}, "include", "include[0] was given \"words\"; expected 'logprobs'."),
    ],
)
def test_wrong_fields(fields: dict[str, list[str]], param: str, message: str) -> None:
    with pytest.raises(BadField) as failure:
        parse_request(fields)
    assert (failure.value.param, str(failure.value)) == (param, message)


@pytest.mark.parametrize("depth", [1, 100, 200, 950, 1_000, 100_000])
@pytest.mark.parametrize("name", ["stream", "response_format", "temperature", "timestamp_granularities", "include"])
def test_json_in_a_field_is_text_of_any_depth(name: str, depth: int) -> None:
    with pytest.raises(BadField, match=name):
        parse_request({name: ["[" * depth + "]" * depth]})


def test_only_a_whole_answer_in_verbose_json_has_words() -> None:
    asked = {"timestamp_granularities[]": ["word"]}
    assert parse_request({**asked, "response_format": ["verbose_json"]}).words
    assert not parse_request({"response_format": ["verbose_json"]}).words
    assert not parse_request({**asked, "response_format": ["verbose_json"], "stream": ["true"]}).words
    assert not parse_request(asked).words


def test_the_schema_has_the_file_and_every_field() -> None:
    schema = form_schema("An audio file.")
    assert schema["required"] == ["file"]
    assert list(schema["properties"]) == [
        "file", "model", "language", "languages[]", "prompt", "keywords[]", "track", "channel", "stream",
        "response_format", "temperature", "timestamp_granularities[]", "include[]",
    ]  # fmt: skip
