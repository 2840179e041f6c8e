"""The delays of words from scripted messages, and of a conversation."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.latency import measure_words
from benchmarks.timed_speech import timed_conversation
from qwen_asr.audio import SAMPLE_RATE
from training.espeak_events import SpokenWord


def word(text: str, end: float | None) -> SpokenWord:
    """A word that ends at this second."""
    return SpokenWord(text, None, None if end is None else round(end * SAMPLE_RATE))


def message(text: str, stable: int, utterance: int = 0, kind: str = "partial") -> dict[str, Any]:
    return {"type": kind, "text": text, "stable": stable, "utterance": utterance}


def test_a_word_is_shown_then_stays_then_settles() -> None:
    words = [word("Wake", 0.2), word("me", None), word("up", 0.5), word("now.", 0.9), word("Please.", 2.0)]
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
    words = [word("one", 1.0), word("two", 2.0), word("one", 5.0)]
    texts = [
        (1.5, message("one", 0)),
        (2.5, message("one two", 7, kind="final")),
        (6.0, message("one", 3, 1, kind="final")),
    ]
    assert measure_words(words, texts).shown == pytest.approx([0.5, 0.5, 1.0])


def test_a_conversation_has_the_words_of_its_sentences() -> None:
    samples, words = timed_conversation(20, 3)
    ends = [word.end for word in words if word.end is not None]
    assert len(words) > 20
    assert ends == sorted(ends)
    assert ends[-1] < len(samples) <= (20 + 2.2) * SAMPLE_RATE
