"""The training speech: single sentences synthesised once, then joined, levelled and spoilt at random.

    python -m training.corpus CORPUS_DIR [--sentences 12000]

writes `sentences.npz`: every sentence's int16 samples back to back, their lengths and texts.
"""

import argparse
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from training.grammar import sentence, vocabulary
from training.voices import (
    ESPEAK_ACCENTS,
    ESPEAK_VARIANTS,
    FLITE_VOICES,
    SAMPLE_RATE,
    Voice,
    require,
    speak,
)

LONGEST_SECONDS = 30.0
FLITE_SHARE = 0.3
LENGTH_SKEW = 2.0  # an utterance is longest * u ** LENGTH_SKEW long: half are under a quarter of the longest
SENTENCES = 12_000


def draw_voice(rng: random.Random) -> Voice:
    """A voice of the training set: seven in ten espeak-ng, with speed and pitch at random."""
    if rng.random() < FLITE_SHARE:
        return Voice("flite", rng.choice(FLITE_VOICES), rng.randint(135, 185))
    name = f"{rng.choice(ESPEAK_ACCENTS)}+{rng.choice(ESPEAK_VARIANTS)}"
    return Voice("espeak", name, rng.randint(130, 195), rng.randint(25, 75))


def training_jobs(count: int, seed: int = 1) -> list[tuple[str, Voice]]:
    """The sentences and voices of a training corpus."""
    rng = random.Random(seed)
    return [(sentence(rng), draw_voice(rng)) for _ in range(count)]


def training_sentences() -> list[str]:
    """The sentences that the bundled checkpoint was trained on."""
    return [text for text, _ in training_jobs(SENTENCES)]


def synthesise(folder: Path, count: int, seed: int = 1) -> None:
    """Speak `count` sentences into `folder/sentences.npz`, two at a time, with progress on the terminal."""
    require("espeak-ng", "flite")
    jobs = training_jobs(count, seed)
    clips: list[NDArray[np.int16]] = []
    with ThreadPoolExecutor(2) as pool:
        for index, samples in enumerate(pool.map(lambda job: speak(*job), jobs)):
            peak = max(float(np.abs(samples).max(initial=0)), 1e-6)
            clips.append((trim(samples) / peak * 30_000).astype(np.int16))
            if index % 500 == 0:
                print(f"spoken {index} of {count}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / "sentences.npz",
        samples=np.concatenate(clips),
        lengths=np.array([len(clip) for clip in clips]),
        texts=np.array([text for text, _ in jobs]),
        voices=np.array([voice.engine + voice.name for _, voice in jobs]),
    )


def trim(samples: NDArray[np.float32], threshold: float = 0.01) -> NDArray[np.float32]:
    """Cut the silence at both ends (below `threshold` of the peak), leaving 20 ms."""
    loud = np.flatnonzero(np.abs(samples) > threshold * np.abs(samples).max(initial=0))
    if not len(loud):
        return samples
    margin = SAMPLE_RATE // 50
    return samples[max(loud[0] - margin, 0) : loud[-1] + margin]


@dataclass(frozen=True)
class Example:
    """One training utterance. samples: float32 (n,), 16 kHz; text "" means that nobody speaks."""

    samples: NDArray[np.float32]
    text: str
    context: str
    forced_language: bool


class Corpus:
    """Sentences by voice, from which training utterances of one to many sentences are composed."""

    def __init__(self, folder: Path) -> None:
        data = np.load(folder / "sentences.npz")
        ends = np.cumsum(data["lengths"])
        self.clips = np.split(data["samples"], ends[:-1])
        self.texts: list[str] = [str(text) for text in data["texts"]]
        voices: NDArray[np.str_] = data["voices"]
        self.clips_by_voice = {voice: np.flatnonzero(voices == voice) for voice in np.unique(voices)}
        self.voices = voices
        self.words = vocabulary()

    def example(self, rng: np.random.Generator, longest: float) -> Example:
        """Compose one utterance of at most `longest` seconds (at least one sentence, whatever its length)."""
        if rng.random() < 0.04:
            return Example(spoil(background(rng, rng.uniform(0.3, min(longest, 12))), rng), "", "", False)
        target = longest * SAMPLE_RATE * rng.random() ** LENGTH_SKEW
        first = int(rng.integers(len(self.clips)))
        parts, length = [self.edge(rng)], 0
        texts: list[str] = []
        index = first
        while True:
            clip = stretch(self.clips[index].astype(np.float32) / np.float32(32768), rng.uniform(0.92, 1.09))
            if texts and length + len(clip) > longest * SAMPLE_RATE:
                break
            parts += [clip * 10 ** rng.uniform(-0.25, 0.0), silence(rng, 0.1, 1.2)]
            texts.append(self.texts[index])
            length = sum(len(part) for part in parts)
            if length >= target:
                break
            index = int(rng.choice(self.clips_by_voice[self.voices[first]]))
        parts[-1] = self.edge(rng)
        text = " ".join(texts)
        return Example(spoil(np.concatenate(parts), rng), text, self.context(rng, text), bool(rng.random() < 0.2))

    def edge(self, rng: np.random.Generator) -> NDArray[np.float32]:
        return silence(rng, 0.0, 0.9)

    def context(self, rng: np.random.Generator, text: str) -> str:
        """Seldom, a few hint words for the system prompt: of the grammar or of the sentence itself."""
        if rng.random() > 0.15:
            return ""
        source = self.words if rng.random() < 0.5 else text.split()
        return " ".join(str(word) for word in rng.choice(source, size=int(rng.integers(1, 5))))


def silence(rng: np.random.Generator, shortest: float, longest: float) -> NDArray[np.float32]:
    return np.zeros(int(rng.uniform(shortest, longest) * SAMPLE_RATE), dtype=np.float32)


def stretch(samples: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Play at `factor` times the speed (pitch and formants move too), by linear interpolation."""
    positions = np.arange(0, len(samples) - 1, factor)
    return np.asarray(np.interp(positions, np.arange(len(samples)), samples), dtype=np.float32)


def background(rng: np.random.Generator, seconds: float) -> NDArray[np.float32]:
    """Noise between white and brown at unit RMS; one time in four digital silence."""
    count = int(seconds * SAMPLE_RATE)
    if rng.random() < 0.25:
        return np.zeros(count, dtype=np.float32)
    noise = lfilter([1.0], [1.0, -rng.uniform(0.0, 0.98)], rng.standard_normal(count))
    level = np.sqrt(np.mean(noise**2)) + 1e-9
    return np.asarray(noise / level * 0.05, dtype=np.float32)


def spoil(samples: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Tilt the spectrum, add noise at 14 to 45 dB, and set a level of -30 to 0 dB."""
    if rng.random() < 0.5:
        samples = lfilter([1.0, rng.uniform(-0.6, 0.6)], [1.0], samples).astype(np.float32)
    if rng.random() < 0.6:
        level = float(np.sqrt(np.mean(samples**2))) or 0.01
        noise = background(rng, len(samples) / SAMPLE_RATE + 0.01)[: len(samples)] / 0.05
        samples = samples + noise * level * 10 ** (-rng.uniform(14, 45) / 20)
    peak = float(np.abs(samples).max(initial=0)) or 1.0
    return np.asarray(samples / peak * 10 ** rng.uniform(-1.5, 0.0), dtype=np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description="Synthesise the demo checkpoint's training sentences.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sentences", type=int, default=SENTENCES)
    arguments = parser.parse_args()
    synthesise(arguments.folder, arguments.sentences)


if __name__ == "__main__":
    main()
