"""Speech for the benchmarks: the demo's grammar, spoken by voices that its checkpoint was not trained on."""

import random

import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from training.corpus import training_sentences
from training.grammar import sentence
from training.voices import HELD_OUT, Voice, speak

Samples = NDArray[np.float32]


def unheard_sentences(count: int, seed: int) -> list[str]:
    """Sentences that do not occur in the training speech, in no voice."""
    trained = set(training_sentences())
    rng = random.Random(seed)
    found: list[str] = []
    while len(found) < count:
        text = sentence(rng)
        if text not in trained:
            found.append(text)
    return found


def joined(texts: list[str], voice: Voice, rng: np.random.Generator, shortest_pause: float = 0.2) -> Samples:
    """Sentences in one voice with pauses up to 1.2 s, hiss at 20 to 40 dB below the voice, at a random level."""
    parts: list[Samples] = []
    for text in texts:
        pause = np.zeros(int(rng.uniform(shortest_pause, 1.2) * SAMPLE_RATE), dtype=np.float32)
        parts += [speak(text, voice), pause]
    clip = np.concatenate(parts)
    hiss = rng.standard_normal(len(clip)) * np.sqrt(np.mean(clip**2)) * 10 ** (-rng.uniform(20, 40) / 20)
    loud = (clip + hiss) * 10 ** rng.uniform(-1.2, 0)
    return np.clip(loud, -1, 1).astype(np.float32)


def conversation(seconds: float, seed: int) -> Samples:
    """Utterances of one to three sentences with pauses between them that end an utterance, `seconds` long."""
    rng = np.random.default_rng(seed)
    texts = iter(unheard_sentences(200, seed))
    parts: list[Samples] = []
    while sum(map(len, parts)) < seconds * SAMPLE_RATE:
        spoken = joined([next(texts) for _ in range(int(rng.integers(1, 4)))], HELD_OUT[seed % len(HELD_OUT)], rng)
        parts += [spoken, np.zeros(int(1.0 * SAMPLE_RATE), dtype=np.float32)]
    return np.concatenate(parts)[: int(seconds * SAMPLE_RATE)]
