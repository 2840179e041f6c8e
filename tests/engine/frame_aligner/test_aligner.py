"""Times of words with the bundled head, against those of the synthesizer; and what holds for any text and audio."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.word_times import Errors, held_out_clips, measure, share_within
from qwen_asr.engine.frame_aligner import FrameAligner, load_frame_aligner
from qwen_asr.engine.frame_aligner.aligner import DEMO_HEAD
from qwen_asr.engine.words import Clip, Word, WordAligner
from tests.support.checkpoints import Samples, demo_recognizer, long_speech, spoken

SENTENCE = "Turn on the kitchen light."


@cache
def aligner() -> FrameAligner:
    return load_frame_aligner(demo_recognizer())


@cache
def speech() -> Samples:
    return long_speech(np.random.default_rng(3), 31.0)


def check(words: tuple[Word, ...], clip: Clip) -> None:
    """What `Word` and `WordAligner` promise."""
    if not any(character.isalnum() for character in clip.text):
        assert words == ()
        return
    assert [word.text for word in words] == clip.text.split()
    times = [at for word in words for at in (word.start, word.end)]
    assert all(0 <= at <= len(clip.samples) for at in times)
    assert all(type(at) is int for at in times)
    assert all(word.start <= word.end for word in words)
    assert all(one.start <= other.start and one.end <= other.end for one, other in pairwise(words))


@pytest.mark.slow
@pytest.mark.parametrize(("clips", "sentences"), [(40, (1, 1)), (8, (2, 4)), (4, (6, 8))])
def test_words_of_held_out_speech_are_close_to_the_truth(clips: int, sentences: tuple[int, int]) -> None:
    """40 held-out sentences, then several in one clip, with pauses and noise."""
    errors = Errors()
    for samples, words in held_out_clips(clips, sentences, seed=7):
        measure(aligner(), samples, words, errors)
    assert min(len(errors.starts), len(errors.ends)) > 150
    for found in (errors.starts, errors.ends):
        assert share_within(found) >= 0.9
        assert max(found) <= 500


def test_the_words_of_a_sentence_follow_its_sound() -> None:
    """Silence around a sentence is in no word, and moves the words."""
    samples = spoken(SENTENCE)
    silence = np.zeros(12_345, dtype=np.float32)
    [plain, later] = aligner().align_words(
        [Clip(samples, SENTENCE, "English"), Clip(np.concatenate([silence, samples, silence]), SENTENCE, None)]
    )
    assert [word.text for word in later] == ["Turn", "on", "the", "kitchen", "light."]
    for one, other in zip(plain, later, strict=True):
        assert abs(one.start + len(silence) - other.start) < 1_280
        assert abs(one.end + len(silence) - other.end) < 1_280
    assert later[0].start > len(silence) - 1_280
    assert later[-1].end < len(silence) + len(samples)


def test_a_wrong_word_leaves_the_others_where_they_are() -> None:
    """The text of a recognizer is not always what was said."""
    for text in ("Turn on the birthday kitchen light.", "Turn on kitchen light.", "Turn on the chicken light."):
        plain, found = aligner().align_words([Clip(spoken(SENTENCE), one, "English") for one in (SENTENCE, text)])
        known = {word.text: word for word in plain}
        for word in found:
            if word.text in ("Turn", "light."):
                assert abs(word.start - known[word.text].start) < 3_200  # 0.2 s
                assert abs(word.end - known[word.text].end) < 3_200


@pytest.mark.slow
def test_clips_together_are_as_each_alone() -> None:
    rng = np.random.default_rng(1)
    clips = []
    for samples, words in held_out_clips(8, (1, 3), seed=8):
        clips.append(Clip(samples, " ".join(word.text for word in words), "English"))
        clips.append(Clip(rng.standard_normal(int(rng.integers(2, 20_000))).astype(np.float32) * 0.1, "No.", None))
    clips += [Clip(np.zeros(0, dtype=np.float32), "No.", None), Clip(speech(), "…", "English"), clips[0]]
    together = aligner().align_words(clips)
    for clip, found in zip(clips, together, strict=True):
        check(found, clip)
        assert aligner().align_words([clip]) == [found]
    assert aligner().align_words([]) == []


texts = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from(
            ["turn", "on", "Kitchen,", "…", "—", "7:30", "3.5%", "你好", "straße", "ﬁ", "x", "e\u0301", "²"]
        ),
        max_size=60,
    ).map(" ".join),
)


@settings(max_examples=60, deadline=None)
@given(text=texts, start=st.integers(0, 400_000), length=st.integers(0, 90_000), level=st.sampled_from([0.0, 0.3, 1.0]))
@example(text="", start=0, length=16_000, level=1.0)
@example(text="?!", start=0, length=16_000, level=1.0)
@example(text="Turn on", start=0, length=0, level=1.0)
@example(text="Turn on", start=0, length=1, level=0.0)
@example(text="… Turn — on !", start=0, length=50_000, level=1.0)
@example(text="x" * 500, start=0, length=50_000, level=1.0)
@example(text="ab " * 400, start=0, length=90_000, level=1.0)
def test_any_text_and_audio_give_words_in_order(text: str, start: int, length: int, level: float) -> None:
    clip = Clip(speech()[start : start + length] * np.float32(level), text, "English")
    [words] = aligner().align_words([clip])
    check(words, clip)


def test_a_word_without_letters_lasts_no_time() -> None:
    [words] = aligner().align_words([Clip(spoken(SENTENCE), "— Turn on … the kitchen light !", None)])
    assert [word.text for word in words] == ["—", "Turn", "on", "…", "the", "kitchen", "light", "!"]
    assert (words[0].start, words[0].end) == (words[1].start, words[1].start)
    assert (words[3].start, words[3].end) == (words[2].end, words[2].end)
    assert (words[7].start, words[7].end) == (words[6].end, words[6].end)
    assert words[6].end > words[6].start


def test_a_word_of_digits_takes_the_time_of_its_sound() -> None:
    text = "Set the kitchen light to seven percent."
    plain, digit = (
        aligner().align_words([Clip(spoken(text), one, "English")])[0] for one in (text, text.replace("seven", "7"))
    )
    for one, other in zip(plain, digit, strict=True):
        assert abs(one.start - other.start) < 4_800  # 0.3 s
        assert abs(one.end - other.end) < 4_800


def test_it_is_an_aligner_for_english() -> None:
    found: WordAligner = aligner()
    assert found.is_quick
    assert found.why_not(None) is None
    assert found.why_not("English") is None
    assert found.why_not("German") == "The word times of demo are for English, not for German."
    assert "demo" in found.name


def test_the_bundled_head_is_small() -> None:
    assert DEMO_HEAD.stat().st_size < 500_000
