"""Speech for the benchmarks: sentences of the demo's grammar in voices not used in its training."""

import random

import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from training.corpus import training_sentences
from training.grammar import sentence
from training.voices import HELD_OUT, Voice, speak

Samples = NDArray[np.float32]


def unseen_sentences(count: int, seed: int) -> list[str]:
    """Sentences that do not occur in the training set in any voice."""
    trained = set(training_sentences())
    rng = random.Random(seed)
    sentences: list[str] = []
    while len(sentences) < count:
        text = sentence(rng)
        if text not in trained:
            sentences.append(text)
    return sentences


def make_clip(texts: list[str], voice: Voice, rng: np.random.Generator, min_pause: float = 0.2) -> Samples:
    """Sentences in one voice with pauses of up to 1.2 s and noise 20 to 40 dB below the voice, at a random level."""
    parts: list[Samples] = []
    for text in texts:
        pause = np.zeros(int(rng.uniform(min_pause, 1.2) * SAMPLE_RATE), dtype=np.float32)
        parts += [speak(text, voice), pause]
    return add_noise(np.concatenate(parts), rng)


def add_noise(clip: Samples, rng: np.random.Generator) -> Samples:
    """The clip with noise 20 to 40 dB below it, at a random level."""
    noise = rng.standard_normal(len(clip)) * np.sqrt(np.mean(clip**2)) * 10 ** (-rng.uniform(20, 40) / 20)
    leveled = (clip + noise) * 10 ** rng.uniform(-1.2, 0)
    return np.clip(leveled, -1, 1).astype(np.float32)


def conversation(seconds: float, seed: int) -> Samples:
    """Utterances of one to three sentences, separated by pauses that end an utterance, `seconds` long."""
    rng = np.random.default_rng(seed)
    texts = iter(unseen_sentences(200, seed))
    parts: list[Samples] = []
    while sum(map(len, parts)) < seconds * SAMPLE_RATE:
        utterance = make_clip(
            [next(texts) for _ in range(int(rng.integers(1, 4)))], HELD_OUT[seed % len(HELD_OUT)], rng
        )
        parts += [utterance, np.zeros(int(1.0 * SAMPLE_RATE), dtype=np.float32)]
    return np.concatenate(parts)[: int(seconds * SAMPLE_RATE)]
