"""The parser of raw output, and how languages are merged."""

import pytest

from qwen_asr import parse_asr_output
from qwen_asr.inference.utils import SAMPLE_RATE, SUPPORTED_LANGUAGES, merge_languages


@pytest.mark.parametrize(
    ("raw", "language", "parsed"),
    [
        ("language English<asr_text>Hello there.", None, ("English", "Hello there.")),
        ("language None<asr_text>", None, ("", "")),
        ("language None<asr_text>Hm.", None, ("", "Hm.")),
        (" Hello. ", None, ("", "Hello.")),
        ("Hallo.", "German", ("German", "Hallo.")),
        ("", None, ("", "")),
        (None, None, ("", "")),
        ("language English<asr_text>no" + "o" * 99, None, ("English", "no")),
    ],
)
def test_raw_output_is_parsed(raw: str | None, language: str | None, parsed: tuple[str, str]) -> None:
    assert parse_asr_output(raw, language) == parsed


def test_languages_are_merged_in_order() -> None:
    assert merge_languages(["English", "English", None, "", "Chinese", "English"]) == "English,Chinese,English"
    assert merge_languages([]) == ""


def test_the_constants() -> None:
    assert SAMPLE_RATE == 16_000
    assert len(SUPPORTED_LANGUAGES) == 30
