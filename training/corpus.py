"""The training corpus: sentences synthesized once, then joined, leveled and degraded at random.

    python -m training.corpus CORPUS_DIR [--sentences 12000]

writes `sentences.npz`: the int16 samples of all sentences back to back, their lengths, texts and voices.
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

MAX_SECONDS = 30.0
FLITE_SHARE = 0.3
LENGTH_SKEW = 2.0  # the length of an utterance is max_seconds * u ** LENGTH_SKEW: half are below a quarter of it
SENTENCES = 12_000


def draw_voice(rng: random.Random) -> Voice:
    """A random training voice: 70 % espeak-ng with random speed and pitch, 30 % flite with random speed."""
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


def synthesize(folder: Path, count: int, seed: int = 1) -> None:
    """Synthesize `count` sentences into `folder/sentences.npz` in two threads, and print the progress."""
    require("espeak-ng", "flite")
    jobs = training_jobs(count, seed)
    clips: list[NDArray[np.int16]] = []
    with ThreadPoolExecutor(2) as pool:
        for index, samples in enumerate(pool.map(lambda job: speak(*job), jobs)):
            peak = max(float(np.abs(samples).max(initial=0)), 1e-6)
            clips.append((trim(samples) / peak * 30_000).astype(np.int16))
            if index % 500 == 0:
                print(f"synthesized {index} of {count}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / "sentences.npz",
        samples=np.concatenate(clips),
        lengths=np.array([len(clip) for clip in clips]),
        texts=np.array([text for text, _ in jobs]),
        voices=np.array([voice.engine + voice.name for _, voice in jobs]),
    )


def trim(samples: NDArray[np.float32], threshold: float = 0.01) -> NDArray[np.float32]:
    """Remove silence (below `threshold` of the peak) at both ends, except for 20 ms."""
    loud = np.flatnonzero(np.abs(samples) > threshold * np.abs(samples).max(initial=0))
    if not len(loud):
        return samples
    margin = SAMPLE_RATE // 50
    return samples[max(loud[0] - margin, 0) : loud[-1] + margin]


@dataclass(frozen=True)
class Example:
    """One training utterance. samples: float32 (n,), 16 kHz; an empty `text` means no speech."""

    samples: NDArray[np.float32]
    text: str
    context: str
    forced_language: bool


class Corpus:
    """Sentences grouped by voice, from which training utterances are composed."""

    def __init__(self, folder: Path) -> None:
        data = np.load(folder / "sentences.npz")
        ends = np.cumsum(data["lengths"])
        self.clips = np.split(data["samples"], ends[:-1])
        self.texts: list[str] = [str(text) for text in data["texts"]]
        voices: NDArray[np.str_] = data["voices"]
        self.clips_by_voice = {voice: np.flatnonzero(voices == voice) for voice in np.unique(voices)}
        self.voices = voices
        self.words = vocabulary()

    def example(self, rng: np.random.Generator, max_seconds: float) -> Example:
        """Compose one utterance of at most `max_seconds`, or of one sentence if that is longer."""
        if rng.random() < 0.04:
            return Example(degrade(background(rng, rng.uniform(0.3, min(max_seconds, 12))), rng), "", "", False)
        target = max_seconds * SAMPLE_RATE * rng.random() ** LENGTH_SKEW
        first = int(rng.integers(len(self.clips)))
        parts, length = [self._edge(rng)], 0
        texts: list[str] = []
        index = first
        while True:
            clip = stretch(self.clips[index].astype(np.float32) / np.float32(32768), rng.uniform(0.92, 1.09))
            if texts and length + len(clip) > max_seconds * SAMPLE_RATE:
                break
            parts += [clip * 10 ** rng.uniform(-0.25, 0.0), silence(rng, 0.1, 1.2)]
            texts.append(self.texts[index])
            length = sum(len(part) for part in parts)
            if length >= target:
                break
            index = int(rng.choice(self.clips_by_voice[self.voices[first]]))
        parts[-1] = self._edge(rng)
        text = " ".join(texts)
        return Example(degrade(np.concatenate(parts), rng), text, self._context(rng, text), bool(rng.random() < 0.2))

    def _edge(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """The silence before or after an utterance."""
        return silence(rng, 0.0, 0.9)

    def _context(self, rng: np.random.Generator, text: str) -> str:
        """With a probability of 15 %, a few hint words for the system prompt, from the grammar or the text itself."""
        if rng.random() > 0.15:
            return ""
        source = self.words if rng.random() < 0.5 else text.split()
        return " ".join(str(word) for word in rng.choice(source, size=int(rng.integers(1, 5))))


def silence(rng: np.random.Generator, min_seconds: float, max_seconds: float) -> NDArray[np.float32]:
    return np.zeros(int(rng.uniform(min_seconds, max_seconds) * SAMPLE_RATE), dtype=np.float32)


def stretch(samples: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Change the speed by `factor`, and with it pitch and formants, by linear interpolation."""
    positions = np.arange(0, len(samples) - 1, factor)
    return np.asarray(np.interp(positions, np.arange(len(samples)), samples), dtype=np.float32)


def background(rng: np.random.Generator, seconds: float) -> NDArray[np.float32]:
    """Noise between white and brown with an RMS of 0.05; in one of four cases digital silence."""
    count = int(seconds * SAMPLE_RATE)
    if rng.random() < 0.25:
        return np.zeros(count, dtype=np.float32)
    noise = lfilter([1.0], [1.0, -rng.uniform(0.0, 0.98)], rng.standard_normal(count))
    level = np.sqrt(np.mean(noise**2)) + 1e-9
    return np.asarray(noise / level * 0.05, dtype=np.float32)


def degrade(samples: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Tilt the spectrum, add noise at an SNR of 14 to 45 dB, and set the level to between -30 and 0 dB."""
    if rng.random() < 0.5:
        samples = lfilter([1.0, rng.uniform(-0.6, 0.6)], [1.0], samples).astype(np.float32)
    if rng.random() < 0.6:
        level = float(np.sqrt(np.mean(samples**2))) or 0.01
        noise = background(rng, len(samples) / SAMPLE_RATE + 0.01)[: len(samples)] / 0.05
        samples = samples + noise * level * 10 ** (-rng.uniform(14, 45) / 20)
    peak = float(np.abs(samples).max(initial=0)) or 1.0
    return np.asarray(samples / peak * 10 ** rng.uniform(-1.5, 0.0), dtype=np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description="Synthesize the demo checkpoint's training sentences.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sentences", type=int, default=SENTENCES)
    arguments = parser.parse_args()
    synthesize(arguments.folder, arguments.sentences)


if __name__ == "__main__":
    main()
