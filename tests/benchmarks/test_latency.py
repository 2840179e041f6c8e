"""The delays of words from scripted messages, and speech whose words have known ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.latency import measure_words
from benchmarks.timed_speech import Word, speak_timed, timed_conversation
from qwen_asr.audio import SAMPLE_RATE
from training.voices import HELD_OUT


def message(text: str, stable: int, utterance: int = 0, kind: str = "partial") -> dict[str, Any]:
    return {"type": kind, "text": text, "stable": stable, "utterance": utterance}


def test_a_word_is_shown_then_stays_then_settles() -> None:
    words = [Word("Wake", 0.2), Word("me", None), Word("up", 0.5), Word("now.", 0.9), Word("Please.", 2.0)]
    texts = [
        (0.4, message("Wake.", 0)),
        (0.7, message("Wake me up.", 0)),
        (1.0, message("Wake me at noon", 4)),
        (1.2, message("Wake me up now.", 7)),
        (1.9, message("Wake me up now.", 15, kind="final")),
        (2.6, message("Peas.", 5, 1, kind="final")),
    ]
    delays = measure_words(words, texts)
    assert delays.shown == pytest.approx([0.2, 0.2, 0.3])
    assert delays.stays == pytest.approx([0.2, 0.7, 0.3])
    assert delays.settled == pytest.approx([0.8, 1.4, 1.0])
    assert delays.wrong == 1


def test_words_of_several_utterances_are_found_at_their_places() -> None:
    words = [Word("one", 1.0), Word("two", 2.0), Word("one", 5.0)]
    texts = [
        (1.5, message("one", 0)),
        (2.5, message("one two", 7, kind="final")),
        (6.0, message("one", 3, 1, kind="final")),
    ]
    assert measure_words(words, texts).shown == pytest.approx([0.5, 0.5, 1.0])


@pytest.mark.parametrize("voice", HELD_OUT[:4], ids=lambda voice: voice.name)
def test_after_the_end_of_the_last_word_there_is_silence(voice: Any) -> None:
    text = "The meeting is on Monday the tenth of May."
    samples, words = speak_timed(text, voice)
    assert " ".join(word.text for word in words) == text
    ends = [word.end for word in words if word.end is not None]
    assert len(ends) >= 6
    assert ends == sorted(ends)
    last = round(ends[-1] * SAMPLE_RATE)
    assert np.abs(samples[last + SAMPLE_RATE // 100 :]).max() < 0.01  # the resampler's filter rings a little
    assert np.abs(samples[last - SAMPLE_RATE // 10 : last]).max() > 0.01


def test_a_conversation_has_the_words_of_its_sentences() -> None:
    samples, words = timed_conversation(20, 3)
    ends = [word.end for word in words if word.end is not None]
    assert len(words) > 20
    assert ends == sorted(ends)
    assert ends[-1] < len(samples) / SAMPLE_RATE <= 20 + 2.2
