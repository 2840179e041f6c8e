"""An aligner double: the times of its words are a function of the text and of the length of the audio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from qwen_asr.engine.recognizer import Recognizer
from qwen_asr.engine.words import Clip, Word


@dataclass
class EvenAligner:
    """Words are what stands between blanks, and equally long. It knows all languages but `unknown`."""

    is_quick: bool = True
    unknown: str = "Finnish"
    name: str = "even"

    def why_not(self, language: str | None) -> str | None:
        return f"The aligner does not know {language}." if language == self.unknown else None

    def align_words(self, clips: Sequence[Clip]) -> list[tuple[Word, ...]]:
        return [even_words(clip.text, len(clip.samples)) for clip in clips]


def even_words(text: str, samples: int, start: int = 0) -> tuple[Word, ...]:
    """The words of the double, for audio that begins at `start`."""
    texts = text.split()
    bounds = [start + samples * index // max(1, len(texts)) for index in range(len(texts) + 1)]
    return tuple(map(Word, texts, bounds, bounds[1:]))


@contextmanager
def aligned_by(recognizer: Recognizer, aligner: EvenAligner | None) -> Iterator[None]:
    """Gives a recognizer, which other tests may share, another aligner for a while."""
    before, recognizer.aligner = recognizer.aligner, aligner
    try:
        yield
    finally:
        recognizer.aligner = before
