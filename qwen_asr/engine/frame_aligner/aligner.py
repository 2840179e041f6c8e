"""Words with times from a recognizer's encoder, the head on it, and the search over the letters of the text."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qwen_asr.engine.encoder import Window
from qwen_asr.engine.features import LogMel
from qwen_asr.engine.frame_aligner.head import FrameHead, letter_classes, load_head, part_edges
from qwen_asr.engine.frame_aligner.search import find_words
from qwen_asr.engine.recognizer import Recognizer
from qwen_asr.engine.words import Clip, Word

DEMO_HEAD = Path(__file__).parents[2] / "demo" / "word_times.safetensors"
"""The head that was trained on the encoder of the bundled demo checkpoint."""

MOST_WINDOWS = 32
"""How many windows a pass encodes: those of eight utterances of 30 s. More would only take more memory."""


class FrameAligner:
    """Finds words with the recognizer's own encoder and a head that was trained on it. A `WordAligner`.

    A pass of the encoder and a search, no pass of the decoder: on two CPU cores some tens of milliseconds for 30 s.
    """

    is_quick = True

    def __init__(self, recognizer: Recognizer, head: FrameHead) -> None:
        self.name = f"the word times of {recognizer.name}"
        self._recognizer = recognizer
        self._head = head

    def why_not(self, language: str | None) -> str | None:
        """As in `WordAligner`: the head knows English, and text whose language nobody named."""
        if language in (None, "English"):
            return None
        return f"{self.name[:1].upper()}{self.name[1:]} are for English, not for {language}."

    @torch.inference_mode()
    def align_words(self, clips: Sequence[Clip]) -> list[tuple[Word, ...]]:
        """As in `WordAligner`. Words are parted by blanks. A word without a letter or digit has no duration."""
        heard = [len(clip.samples) > 0 and bool(letter_classes(clip.text)) for clip in clips]
        rows = iter(embed(self._recognizer, [clip.samples for clip, one in zip(clips, heard, strict=True) if one]))
        return [self._align(clip, next(rows) if one else None) for clip, one in zip(clips, heard, strict=True)]

    def _align(self, clip: Clip, rows: Tensor | None) -> tuple[Word, ...]:
        words = clip.text.split()
        letters = [letter_classes(word) for word in words]
        spoken = [one for one in letters if one]
        if not spoken:
            return ()
        if rows is None:  # there are no samples
            return tuple(Word(word, 0, 0) for word in words)
        scores = self._head(rows[None])[0].log_softmax(dim=-1).numpy()
        edges = part_edges(self._recognizer, len(rows), len(clip.samples))
        times = edges[find_words(scores, spoken)].tolist()
        return tuple(_with_times(words, [bool(one) for one in letters], times))


def _with_times(words: list[str], spoken: list[bool], times: list[list[int]]) -> Iterator[Word]:
    """The words with the times of those that are spoken. The others are where the word before them ends."""
    remaining = iter(times)
    end = times[0][0]
    for word, is_spoken in zip(words, spoken, strict=True):
        start, end = next(remaining) if is_spoken else (end, end)
        yield Word(word, start, end)


def embed(recognizer: Recognizer, clips: Sequence[NDArray[np.float32]]) -> list[Tensor]:
    """The encoder's embeddings of whole clips, each at least one sample: (rows, width) float32, on the CPU.

    They are those that the decoder gets at the end of an utterance.
    """
    if not clips:
        return []
    log_mels = [LogMel(recognizer.frontend) for _ in clips]
    computed = recognizer.frontend.compute(
        [log_mel.missing(samples) for log_mel, samples in zip(log_mels, clips, strict=True)]
    )
    windows: list[list[Window]] = []
    for log_mel, samples, frames in zip(log_mels, clips, computed, strict=True):
        spectrum, size = log_mel.spectrum(samples, frames), recognizer.encoder.window_frames
        total = len(spectrum.raw)
        windows.append([Window(spectrum.window(at, min(at + size, total))) for at in range(0, total, size)])
    flat = [window for clip in windows for window in clip]
    parts = (recognizer.encoder.encode(flat[at : at + MOST_WINDOWS]) for at in range(0, len(flat), MOST_WINDOWS))
    encoded = itertools.chain.from_iterable(parts)
    return [torch.cat([next(encoded).embeddings for _ in clip]).float().cpu() for clip in windows]


def load_frame_aligner(recognizer: Recognizer, file: Path = DEMO_HEAD) -> FrameAligner:
    """The aligner for a recognizer, with the head in `file`, which must have been trained on its encoder.

    The one that is bundled belongs to the demo checkpoint (`recognizer.is_demo`). Raises `BadCheckpoint`.
    """
    return FrameAligner(recognizer, load_head(file, recognizer.model.config.text_config.hidden_size))
