"""What the head for word times is taught: the words of a composed clip are where it says."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from qwen_asr.engine.frame_aligner import load_frame_aligner
from qwen_asr.engine.frame_aligner.head import LETTERS, SILENCE
from tests.support.checkpoints import demo_recognizer
from training.espeak_events import SpokenWord
from training.train_word_times import Clips, Trainer, encode_clips, speak_sentences, target_classes, train
from training.voices import ESPEAK_VARIANTS, HELD_OUT_VARIANTS

A, B, C = 0, 1, 2


def test_letters_share_the_time_of_their_word() -> None:
    edges = np.arange(0, 1_001, 100)
    words = [SpokenWord("ab", 200, 600), SpokenWord("c.", 800, 900)]
    first = [SILENCE, SILENCE, LETTERS + A, LETTERS + A, B, B, SILENCE, SILENCE, LETTERS + C, SILENCE]
    assert target_classes(words, edges).tolist() == first


def test_words_that_are_spoken_as_one_share_their_time() -> None:
    words = [SpokenWord("a", 0, None), SpokenWord("bb", None, 300)]
    assert target_classes(words, np.arange(0, 401, 100)).tolist() == [LETTERS + A, LETTERS + B, B, SILENCE]


@pytest.mark.slow
def test_clips_have_their_words_in_order_and_sound_in_them(tmp_path: Path) -> None:
    sentences = speak_sentences(12, seed=3)
    variants = {sentence.voice.split("+")[1] for sentence in sentences}
    assert variants <= set(ESPEAK_VARIANTS)
    assert not variants & set(HELD_OUT_VARIANTS)
    clips = Clips(sentences, seed=3)
    lengths = []
    for _ in range(10):
        samples, words = clips.draw()
        times = [at for word in words for at in (word.start, word.end) if at is not None]
        assert all(one <= other for one, other in pairwise(times))
        assert times[0] >= 0
        assert times[-1] <= len(samples) + 1
        loudness = [
            float(np.mean(samples[word.start : word.end] ** 2))
            for word in words
            if word.start is not None and word.end is not None
        ]
        assert np.median(loudness) > np.mean(samples**2) / 2
        lengths.append(len(words))
    assert max(lengths) > 12  # several sentences

    encoded = encode_clips(demo_recognizer(), clips, 3)
    trainer = Trainer(encoded, steps=12, seed=0)
    train(trainer, tmp_path)
    losses = [float(line.split()[-1]) for line in (tmp_path / "progress.txt").read_text().splitlines()]
    assert len(losses) == 1
    assert losses[0] < np.log(2 * LETTERS + 1)  # below that of a guess
    load_frame_aligner(demo_recognizer(), tmp_path / "word_times.safetensors")
