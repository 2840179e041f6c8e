"""Train the head for the times of words on the frozen encoder of the demo checkpoint. Two CPU cores are enough.

    python -m training.train_word_times OUTPUT [--checkpoint demo] [--sentences 4000] [--steps 2500]

libespeak-ng speaks sentences of the grammar and says when each word is spoken (`espeak_events`). They are joined with
pauses and degraded as in the corpus of the recognizer, and encoded once. Then the head learns which letter is spoken in
each part of an embedding. OUTPUT gets `word_times.safetensors`, and `progress.txt` with the losses.
"""

import argparse
import itertools
import math
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from qwen_asr.engine.checkpoint import load_recognizer
from qwen_asr.engine.frame_aligner.aligner import embed
from qwen_asr.engine.frame_aligner.head import PARTS, SILENCE, FrameHead, letter_classes, part_edges
from qwen_asr.engine.recognizer import Recognizer
from training.corpus import LENGTH_SKEW, MAX_SECONDS, degrade, draw_voice, silence, stretch
from training.espeak_events import SpokenWord, speak_timed
from training.grammar import sentence
from training.voices import SAMPLE_RATE, Voice

SENTENCES = 4_000
CLIPS_PER_SENTENCE = 0.75
STEPS = 2_500
HIDDEN = 64
LONGEST_PAUSE = 1.8  # seconds; a live utterance can end with more silence than the corpus of the recognizer has
PEAK_RATE = 3e-3
BATCH, ROWS = 64, 64  # 64 rows are 5 s
IGNORED = -100


@dataclass(frozen=True)
class Sentence:
    """A sentence in one voice, with the times of its words. samples: int16 (n,), 16 kHz, up to its last sound."""

    voice: str
    samples: NDArray[np.int16]
    words: list[SpokenWord]


@dataclass(frozen=True)
class Encoded:
    """A clip for the head. rows: (rows, width) embeddings in float16; classes: (PARTS * rows,), what it shall say."""

    rows: Tensor
    classes: Tensor


def training_jobs(count: int = SENTENCES, seed: int = 0) -> list[tuple[str, Voice]]:
    """Sentences and training voices. Only voices of espeak-ng: flite does not tell the times of words."""
    rng = random.Random(seed)
    drawn = ((sentence(rng), draw_voice(rng)) for _ in itertools.count())
    return list(itertools.islice((job for job in drawn if job[1].engine == "espeak"), count))


def speak_sentences(count: int, seed: int) -> list[Sentence]:
    """The sentences of `training_jobs`."""
    spoken: list[Sentence] = []
    for text, voice in training_jobs(count, seed):
        samples, words = speak_timed(text, voice)
        end = max(word.end for word in words if word.end is not None)
        pcm = np.clip(np.rint(samples[:end] * 32767), -32768, 32767).astype(np.int16)
        spoken.append(Sentence(voice.name, pcm, words))
        if len(spoken) % 500 == 0:
            print(f"spoke {len(spoken)} of {count}", flush=True)
    return spoken


class Clips:
    """Composes clips of sentences in one voice, as `training.corpus.Corpus` does, with the times of their words."""

    def __init__(self, sentences: list[Sentence], seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.sentences = sentences
        self.by_voice: dict[str, list[Sentence]] = {}
        for one in sentences:
            self.by_voice.setdefault(one.voice, []).append(one)

    def draw(self) -> tuple[NDArray[np.float32], list[SpokenWord]]:
        """The samples of a clip of at most `MAX_SECONDS`, and its words."""
        rng = self.rng
        target = MAX_SECONDS * SAMPLE_RATE * rng.random() ** LENGTH_SKEW
        parts = [silence(rng, 0.0, LONGEST_PAUSE)]
        words: list[SpokenWord] = []
        length, chosen = len(parts[0]), self.sentences[int(rng.integers(len(self.sentences)))]
        while True:
            factor = rng.uniform(0.92, 1.09)
            clip = stretch(chosen.samples.astype(np.float32) / np.float32(32768), factor)
            if words and length + len(clip) > MAX_SECONDS * SAMPLE_RATE:
                break
            words += [word.moved(1 / factor, length) for word in chosen.words]
            parts += [clip * 10 ** rng.uniform(-0.25, 0.0), silence(rng, 0.05, LONGEST_PAUSE)]
            length += len(parts[-2]) + len(parts[-1])
            if length >= target:
                break
            voice = self.by_voice[chosen.voice]
            chosen = voice[int(rng.integers(len(voice)))]
        parts[-1] = silence(rng, 0.0, LONGEST_PAUSE)
        return degrade(np.concatenate(parts), rng), words


def encode_clips(recognizer: Recognizer, clips: Clips, count: int) -> list[Encoded]:
    """Clips, encoded as the aligner does it, with the class of each part."""
    encoded: list[Encoded] = []
    seconds = 0.0
    for number in range(1, count + 1):
        samples, words = clips.draw()
        [rows] = embed(recognizer, [samples])
        edges = part_edges(recognizer, len(rows), len(samples))
        encoded.append(Encoded(rows.half(), torch.from_numpy(target_classes(words, edges))))
        seconds += len(samples) / SAMPLE_RATE
        if number % 500 == 0 or number == count:
            print(f"encoded {number} of {count} clips, {seconds / 3600:.1f} hours", flush=True)
    return encoded


def target_classes(words: list[SpokenWord], edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """The class of each part by its middle. The letters share the time of their word evenly.

    Words that are spoken as one share its time in the same way.
    """
    middles = (edges[1:] + edges[:-1]) / 2
    classes = np.full(len(middles), SILENCE)
    start, letters = 0, []  # of the words since the last one with an end
    for word in words:
        start = word.start if word.start is not None else start
        letters += [letter for letter in letter_classes(word.text) if letter is not None]
        if word.end is not None:
            inside = (middles >= start) & (middles < word.end)
            places = (middles[inside] - start) / (word.end - start) * len(letters)
            classes[inside] = np.array(letters)[places.astype(int)]
            letters = []
    return classes


class Trainer:
    """The head, its optimizer, and batches of random pieces of the clips. The learning rate falls by a cosine."""

    def __init__(self, clips: list[Encoded], steps: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.clips = clips
        rows = torch.cat([clip.rows for clip in clips]).float()
        self.head = FrameHead(rows.shape[1], HIDDEN).train()
        self.head.mean.copy_(rows.mean(dim=0))
        self.head.deviation.copy_(rows.std(dim=0).clamp(min=1e-3))
        self.optimizer = torch.optim.AdamW(self.head.parameters(), lr=PEAK_RATE, weight_decay=0.01)
        self.rng = np.random.default_rng(seed)
        self.total, self.steps = steps, 0

    def step(self) -> float:
        """Train on one batch. Returns the loss."""
        rate = PEAK_RATE * (0.01 + 0.99 * (1 + math.cos(math.pi * self.steps / self.total)) / 2)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        pieces = [self._piece(self.clips[index]) for index in self.rng.integers(len(self.clips), size=BATCH)]
        logits = self.head(torch.stack([piece.rows for piece in pieces]))
        wanted = torch.stack([piece.classes for piece in pieces])
        loss = F.cross_entropy(logits.transpose(1, 2), wanted, ignore_index=IGNORED)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.steps += 1
        return float(loss.detach())

    def _piece(self, clip: Encoded) -> Encoded:
        """`ROWS` rows of a clip in float32, filled up as the convolution does it at the end of a clip."""
        first = int(self.rng.integers(max(len(clip.rows) - ROWS, 0) + 1))
        rows = clip.rows[first : first + ROWS].float()
        classes = clip.classes[first * PARTS : (first + ROWS) * PARTS]
        missing = ROWS - len(rows)
        filled = torch.cat([rows, self.head.mean.expand(missing, -1)])
        return Encoded(filled, F.pad(classes, (0, missing * PARTS), value=IGNORED))


def train(trainer: Trainer, folder: Path) -> None:
    """Run all steps, and write the head."""
    recent: list[float] = []
    while trainer.steps < trainer.total:
        recent.append(trainer.step())
        if trainer.steps % 100 == 0 or trainer.steps == trainer.total:
            line = f"step {trainer.steps} of {trainer.total}  loss {np.mean(recent):.3f}"
            print(line, flush=True)
            with (folder / "progress.txt").open("a") as log:
                log.write(line + "\n")
            recent.clear()
    trainer.head.save(folder / "word_times.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the folder that gets the head")
    parser.add_argument("--checkpoint", default="demo", help="the folder of a checkpoint of training.train")
    parser.add_argument("--sentences", type=int, default=SENTENCES, help=f"to speak (default: {SENTENCES})")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of the training loop (default: {STEPS})")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # the model is small: two threads wait for each other more than they gain
    options.output.mkdir(parents=True, exist_ok=True)
    recognizer = load_recognizer(options.checkpoint, "cpu", "float32")
    clips = Clips(speak_sentences(options.sentences, options.seed), options.seed)
    count = max(round(options.sentences * CLIPS_PER_SENTENCE), 1)
    train(Trainer(encode_clips(recognizer, clips, count), options.steps, options.seed), options.output)


if __name__ == "__main__":
    main()
