"""Speech of held-out voices whose words have known times, as the synthesizer tells them (`training.espeak_events`)."""

from collections.abc import Iterable

import numpy as np

from benchmarks.speech import Samples, add_noise, unseen_sentences
from qwen_asr.audio import SAMPLE_RATE
from training.espeak_events import SpokenWord, speak_timed
from training.voices import HELD_OUT, Voice


def timed_clip(
    sentences: Iterable[tuple[str, float]], voice: Voice, rng: np.random.Generator, longest: float = float("inf")
) -> tuple[Samples, list[SpokenWord]]:
    """Sentences in one voice, each with the seconds of silence after it, with noise at a random level; with its words.

    The first sentence that would end after `longest` seconds, and all after it, are left out.
    """
    parts: list[Samples] = []
    words: list[SpokenWord] = []
    length = 0
    for text, pause in sentences:
        spoken, timed = speak_timed(text, voice)
        if length + len(spoken) > longest * SAMPLE_RATE:
            break
        words += [word.moved(1, length) for word in timed]
        parts += [spoken, np.zeros(int(pause * SAMPLE_RATE), dtype=np.float32)]
        length += len(parts[-2]) + len(parts[-1])
    return add_noise(np.concatenate(parts), rng), words


def timed_conversation(seconds: float, seed: int) -> tuple[Samples, list[SpokenWord]]:
    """Sentences of a held-out voice, in utterances of one to three, as `speech.conversation`; with its words."""
    rng = np.random.default_rng(seed)
    # Longer than the silence that ends an utterance, in one of two cases.
    pauses = (rng.uniform(1.2, 2.2) if rng.random() < 0.5 else rng.uniform(0.2, 0.6) for _ in range(200))
    sentences = zip(unseen_sentences(200, seed), pauses, strict=True)
    return timed_clip(sentences, HELD_OUT[seed % len(HELD_OUT)], rng, seconds)
