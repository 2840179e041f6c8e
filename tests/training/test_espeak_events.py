"""Speech whose words have known times."""

from __future__ import annotations

import numpy as np
import pytest

from qwen_asr.audio import SAMPLE_RATE
from training.espeak_events import SpokenWord, speak_timed
from training.voices import HELD_OUT, Voice

SILENT = 0.01  # the resampler's filter rings a little


@pytest.mark.parametrize("voice", HELD_OUT[:4], ids=lambda voice: voice.name)
def test_words_are_in_order_and_after_the_last_one_is_silence(voice: Voice) -> None:
    text = "The meeting is on Monday the tenth of May."
    samples, words = speak_timed(text, voice)
    assert " ".join(word.text for word in words) == text
    times = [at for word in words for at in (word.start, word.end) if at is not None]
    assert len(times) >= 12
    assert times == sorted(times)
    assert np.abs(samples[times[-1] + SAMPLE_RATE // 100 :]).max() < SILENT
    assert np.abs(samples[times[-1] - SAMPLE_RATE // 10 : times[-1]]).max() > SILENT


def test_a_word_ends_where_the_pause_after_it_begins() -> None:
    samples, words = speak_timed("Yes, please.", HELD_OUT[0])
    (yes, please) = words
    assert yes.end is not None
    assert please.start is not None
    assert please.start - yes.end > SAMPLE_RATE // 10
    assert np.abs(samples[yes.end + SAMPLE_RATE // 100 : please.start - SAMPLE_RATE // 100]).max() < SILENT


def test_words_that_are_spoken_as_one_share_the_time() -> None:
    _, words = speak_timed("Turn on the light.", HELD_OUT[0])
    on, the = words[1:3]
    assert (on.end, the.start) == (None, None)
    assert on.start is not None
    assert the.end is not None
    assert words[0].end == on.start < the.end == words[3].start


def test_text_without_words_has_no_times() -> None:
    assert speak_timed("", HELD_OUT[0])[1] == []
    assert speak_timed("…", HELD_OUT[0])[1] == [SpokenWord("…", None, None)]


def test_an_unknown_voice_is_an_error() -> None:
    with pytest.raises(ValueError, match="no voice 'nobody'"):
        speak_timed("Yes.", Voice("espeak", "nobody"))


def test_a_word_moves_with_its_audio() -> None:
    assert SpokenWord("a", 100, None).moved(0.5, 7) == SpokenWord("a", 57, None)
