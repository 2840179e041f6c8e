"""The guards: what they correct, what they leave unchanged, and the warnings of the session."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_asr.audio.endpointing import EndpointConfig, UtteranceDetector
from qwen_asr.engine.hypothesis import Hypothesis
from qwen_asr.live import guards
from qwen_asr.live.events import Event, Final, Partial
from qwen_asr.live.runner import run_session
from qwen_asr.live.session import Session
from qwen_asr.live.session_options import SessionOptions
from tests.support.engine_double import (
    Samples,
    Transcribe,
    UtteranceDouble,
    make_audio,
    new_session,
    transcribe_exactly,
)

SECOND = 16000


@pytest.mark.parametrize(
    "text",
    [
        "no no no no",
        "No, no, no, no, no, no!",
        "4 4 4 4 4",
        "one two three four five",
        "1 2 1 2 1 2 1 2 1 2 1 2",
        "ha ha ha ha ha ha ha ha",
        "I have a dream. I have a dream. I have a dream.",
        "哈哈哈哈哈哈",
        "好的好的好的好的好的好的",
        "",
        "...",
    ],
)
def test_a_few_repetitions_are_unchanged_in_any_time(text: str) -> None:
    assert guards.cut_repetition(text, 0.1) == text
    assert guards.cut_repetition(text, 0.1, truncated=True) == text


@pytest.mark.parametrize(
    ("text", "seconds"),  # with the 0.3 s that the detector leaves on either side
    [
        ("谢谢" * 7, 3.0),
        ("谢谢，谢谢，谢谢，谢谢，谢谢，谢谢，谢谢。", 3.0),
        ("谢谢大家" * 6, 5.0),
        ("哈" * 15, 3.0),
        ("对" * 12 + "。", 2.6),
        ("そうそうそうそうそうそうそう", 2.6),
        ("はい、" * 12, 4.0),
        ("네 " * 13, 3.0),
        ("네네네네네네네네네네네네네", 2.6),
        ("감사합니다. " * 6, 5.0),
        ("ขอบคุณ" * 7, 4.0),
        ("no " * 14, 3.0),
        ("No, no, no, no, no, no, no, no, no, no, no, no. " * 2, 5.0),
        ("ha " * 16, 3.4),
        ("да, " * 12, 2.8),
        ("شكرا " * 12, 7.0),
        ("धन्यवाद " * 12, 9.0),
        ("bye bye " * 7, 3.6),
        ("Thank you. " * 8, 4.5),
        ("Thank you very much. " * 6, 5.0),
        ("Around the world, " * 12, 24.0),
        ("Goal! " * 15, 6.0),
        ("Na, na, na, na-na-na-na, na-na-na-na, hey Jude. " * 6, 30.0),
        ("0 " * 16, 6.0),
        ("Left, right, " * 10, 10.0),
        ("So we went on, and he said: " + "no, " * 13 + "no.", 6.0),
    ],
)
def test_what_people_repeat_is_unchanged(text: str, seconds: float) -> None:
    text = text.strip()
    assert guards.cut_repetition(text, seconds) == text


LOOPS = [
    ("thank you " * 6, "thank you"),
    (
        "Well then. Thank you very much. " + "thank you very much, " * 7 + "thank you",
        "Well then. Thank you very much.",
    ),
    ("so " + "the " * 15, "so the"),
    ("0 " * 14, "0"),
    ("是的，我知道。" * 6, "是的，我知道"),
    ("a b c d e f " * 6 + "a b c", "a b c d e f"),
    ("谢谢" * 14, "谢"),
    ("안녕하세요 " * 13, "안녕하세요"),
    ("ขอบ" * 14, "ขอบ"),
    ("internationalization " * 14, "internationalization"),
]


@pytest.mark.parametrize(("text", "kept"), LOOPS)
def test_a_loop_that_nobody_can_say_in_that_time_is_reduced_to_one_occurrence(text: str, kept: str) -> None:
    assert guards.cut_repetition(text.strip(), 1.4) == kept


@pytest.mark.parametrize(("text", "kept"), LOOPS)
def test_a_loop_that_runs_to_the_token_limit_is_reduced_to_one_occurrence(text: str, kept: str) -> None:
    assert guards.cut_repetition(text.strip(), 30.0, truncated=True) == kept
    assert guards.cut_repetition(text.strip(), 30.0) == text.strip()


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c.", "北", "1"]), max_size=60))
def test_cutting_a_loop_returns_a_prefix_of_the_text(words: list[str]) -> None:
    text = " ".join(words)
    assert text.startswith(guards.cut_repetition(text, 0.1))


def test_silence_is_detected_by_the_loudest_moment() -> None:
    quiet = np.full(5 * SECOND, 3e-4, np.float32)
    assert guards.is_silent(quiet)
    assert guards.is_silent(np.zeros(0, np.float32))
    assert guards.is_silent(np.zeros(7, np.float32))
    quiet[30_000:30_800] = 0.01
    assert not guards.is_silent(quiet)


def test_the_token_limit_grows_with_the_audio_up_to_the_configured_maximum() -> None:
    assert guards.token_limit(0, 512) == 24
    assert guards.token_limit(10 * SECOND, 512) == 224
    assert guards.token_limit(60 * SECOND, 512) == 512
    assert guards.token_limit(60 * SECOND, 10) == 10


@pytest.mark.parametrize(
    ("text", "context", "echo"),
    [
        ("Gradio, Silero, Qwen and espeak", "Gradio, Silero, Qwen and espeak.", True),
        ("the words gradio silero qwen espeak", "Gradio, Silero, Qwen, espeak, flite", False),
        ("gradio silero qwen espeak", "Names: Gradio, Silero, Qwen, espeak, flite", True),
        ("Qwen", "Gradio, Silero, Qwen, espeak, flite", False),
        ("Qwen", "Qwen", True),
        ("Qwen", "", False),
        ("", "Qwen", False),
        ("会议在星期一", "今天的会议在星期一上午", True),
    ],
)
def test_an_echo_of_the_context_is_detected(text: str, context: str, echo: bool) -> None:
    assert guards.echoes_context(text, context) == echo


def events_of(transcribe: Transcribe, audio: Samples, **options: Any) -> list[Event]:
    session = new_session(transcribe, EndpointConfig(), **options)
    return list(run_session(session, np.array_split(audio, max(1, len(audio) // 1600))))


def finals_of(transcribe: Transcribe, audio: Samples, **options: Any) -> list[Final]:
    return [event for event in events_of(transcribe, audio, **options) if isinstance(event, Final)]


def transcribes_as(text: str, language: str | None = "English", **changes: Any) -> Transcribe:
    def transcribe(samples: Samples, context: str, forced: str | None) -> Hypothesis:
        return replace(transcribe_exactly(samples, context, forced), text=text, language=forced or language, **changes)

    return transcribe


ONE = make_audio([(True, 2 * SECOND), (False, SECOND)])


def test_a_loop_is_cut_and_reported() -> None:
    events = events_of(transcribes_as("Good. " + "It is fine. " * 8), ONE)
    assert {type(event) for event in events} == {Partial, Final}
    for event in events:
        assert isinstance(event, Partial | Final)
        assert event.text == "Good. It is fine."
        assert [warning.split(":")[0] for warning in event.warnings] == ["repetition"]


@pytest.mark.parametrize("seconds", [2, 4])
def test_seven_times_thank_you_in_chinese_is_a_loop_only_in_too_short_a_time(seconds: int) -> None:
    audio = make_audio([(True, seconds * SECOND // 2), (False, SECOND)])
    (final,) = finals_of(transcribes_as("谢谢" * 7, "Chinese"), audio)
    assert (final.text, bool(final.warnings)) == (("谢", True) if seconds == 2 else ("谢谢" * 7, False))


def test_a_loop_at_the_configured_maximum_is_cut_at_any_speed() -> None:
    (final,) = finals_of(transcribes_as("It is fine. " * 8, truncated=True), make_audio([(True, 20 * SECOND)]))
    assert final.text == "It is fine."
    assert [warning.split(":")[0] for warning in final.warnings] == ["repetition", "tokens"]


def test_the_token_limit_is_reported() -> None:
    (final,) = finals_of(transcribes_as("word", truncated=True), ONE)
    assert final.warnings[0].startswith("tokens: the text stops at ")
    assert "seconds of speech" in final.warnings[0]
    (final,) = finals_of(transcribes_as("word", truncated=True), ONE, max_new_tokens=10)
    assert final.warnings == ("tokens: the text stops at 10 tokens, the configured maximum.",)


def test_text_for_silence_is_dropped() -> None:
    class AlwaysSpeech:
        def feed(self, samples: Samples) -> Samples:
            return np.ones(len(samples) // 512, np.float32)  # classifies all audio as speech

    hiss = make_audio([(False, 3 * SECOND)]) / 10
    transcribe = transcribes_as("Thank you for watching.")
    detector = UtteranceDetector(EndpointConfig(), AlwaysSpeech())
    double: Any = functools.partial(UtteranceDouble, transcribe)
    session = Session(double, detector, SessionOptions())
    events = list(run_session(session, np.array_split(hiss, 30)))
    assert events
    for event in events:
        assert isinstance(event, Partial | Final)
        assert event.text == ""
        assert event.warnings[0].startswith("silence:")


NAMES = "Gradio, Silero, Qwen and espeak"


def test_an_echoed_context_is_decoded_again_without_the_context() -> None:
    def transcribe(samples: Samples, context: str, language: str | None) -> Hypothesis:
        return replace(transcribe_exactly(samples, context, language), text=context or "Open the door.")

    events = events_of(transcribe, ONE, context=NAMES)
    *partials, final = events
    assert isinstance(final, Final)
    assert final.text == "Open the door."
    assert [warning.split(":")[0] for warning in final.warnings] == ["context"]
    assert not final.corrected
    assert partials
    for partial in partials:
        assert isinstance(partial, Partial)
        assert partial.stable == 0
        assert partial.warnings[0].startswith("context:")


def test_context_words_that_were_really_spoken_are_kept() -> None:
    def transcribe(samples: Samples, context: str, language: str | None) -> Hypothesis:
        return replace(
            transcribe_exactly(samples, context, language), text=context or "Gradio, Solero, Quen and E-Speak"
        )

    (final,) = finals_of(transcribe, ONE, context=NAMES)
    assert final.text == NAMES
    assert final.warnings == ()


def test_if_the_retry_fails_the_first_hypothesis_is_kept() -> None:
    def transcribe(samples: Samples, context: str, language: str | None) -> Hypothesis:
        if not context:
            raise RuntimeError("out of memory")
        return replace(transcribe_exactly(samples, context, language), text=context)

    (final,) = finals_of(transcribe, ONE, context=NAMES)
    assert final.text == NAMES
    assert "decoding it again failed" in final.warnings[0]


TWO = make_audio([(True, 3 * SECOND), (False, SECOND), (True, SECOND // 2), (False, SECOND), (True, 3 * SECOND)])


def by_length(samples: Samples, context: str, language: str | None) -> Hypothesis:
    """A model that detects Dutch in every short utterance."""
    spoken = language or ("English" if len(samples) > 2 * SECOND else "Dutch")
    return replace(transcribe_exactly(samples, context, language), text=f"{spoken} words", language=spoken)


def test_a_short_utterance_does_not_change_the_language() -> None:
    finals = finals_of(by_length, TWO)
    assert [final.language for final in finals] == ["English"] * 3
    assert [final.text for final in finals] == ["English words"] * 3
    assert [bool(final.warnings) for final in finals] == [False, True, False]
    assert finals[1].warnings[0].startswith("language: Dutch")


def test_any_language_is_accepted_before_one_is_established() -> None:
    finals = finals_of(by_length, TWO[4 * SECOND :])
    assert [final.language for final in finals] == ["Dutch", "English"]


def test_a_short_utterance_does_not_establish_a_language() -> None:
    def transcribe(samples: Samples, context: str, language: str | None) -> Hypothesis:
        return replace(
            transcribe_exactly(samples, context, language), language="Dutch" if len(samples) > SECOND else "English"
        )

    audio = make_audio([(True, 4000), (False, SECOND), (True, 12_000), (False, SECOND)] * 4)
    finals = finals_of(transcribe, audio)
    assert [final.language for final in finals] == ["English", "Dutch"] * 4
    assert all(final.warnings == () for final in finals)


def test_an_utterance_without_text_in_the_established_language_is_kept() -> None:
    def transcribe(samples: Samples, context: str, language: str | None) -> Hypothesis:
        hypothesis = by_length(samples, context, language)
        return hypothesis if language is None else replace(hypothesis, text="")

    assert [final.text for final in finals_of(transcribe, TWO)] == ["English words", "Dutch words", "English words"]


def test_a_longer_utterance_can_change_the_language() -> None:
    def transcribe(samples: Samples, context: str, language: str | None) -> Hypothesis:
        return replace(
            transcribe_exactly(samples, context, language), language="Dutch" if len(samples) > 4 * SECOND else "English"
        )

    audio = make_audio([(True, 3 * SECOND), (False, SECOND), (True, 5 * SECOND), (False, SECOND)])
    finals = finals_of(transcribe, audio)
    assert [final.language for final in finals] == ["English", "Dutch"]
    assert all(final.warnings == () for final in finals)


def test_text_after_a_stray_marker_is_dropped() -> None:
    hypothesis = Hypothesis(text="Open the window.<asr_text>The interview", samples=SECOND)
    text, warnings = guards.clean_text(hypothesis, silent=False, configured=512)
    assert text == "Open the window."
    assert [warning.split(":")[0] for warning in warnings] == ["marker"]
