"""The alignments of a session: which finals get the times of their words, and what is still to come."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from qwen_asr.engine.words import Clip, Word
from qwen_asr.live.events import Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qwen_asr.engine.words import Aligner

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Alignment:
    """A final whose words `aligner` finds in `clip`, its audio. `background`: as in `SessionOptions`."""

    final: Final
    clip: Clip
    aligner: Aligner
    background: bool


class Alignments:
    """The alignments of one session. Without an aligner there are none.

    holds: whether a final waits for its words. It does if they come at once, and if nobody waits for the text.
    """

    def __init__(self, aligner: Aligner | None, background: bool) -> None:
        self._aligner = aligner
        self.holds = aligner is not None and (aligner.is_quick or background)
        self._background = background
        self._due: deque[Alignment] = deque()
        self._open: set[Alignment] = set()  # those that are due, and those that were begun

    @property
    def pending(self) -> bool:
        """Whether words are still to come."""
        return bool(self._open)

    def wants(self, final: Final) -> bool:
        """Whether the words of `final` can be found, and are not known yet. Logs why not, once for each reason."""
        if self._aligner is None or final.words or not final.text.strip():
            return False
        if reason := self._aligner.why_not(final.language):
            _say_once(reason)
        return reason is None

    def add(self, final: Final, samples: NDArray[np.float32]) -> None:
        """Has the words of `final` found in its audio."""
        if self._aligner is None:
            raise RuntimeError("There is no aligner.")
        clip = Clip(samples.copy(), final.text, final.language)
        alignment = Alignment(final, clip, self._aligner, self._background)
        self._due.append(alignment)
        self._open.add(alignment)

    def next(self) -> Alignment | None:
        """The alignment to begin now, or None. Any number of them may be under way."""
        return self._due.popleft() if self._due else None

    def end(self, alignment: Alignment, words: Iterable[Word] = ()) -> tuple[Word, ...]:
        """Removes an alignment; returns its words with times within the session. Raises `ValueError` at the second."""
        if alignment not in self._open:
            raise ValueError(f"The words of utterance {alignment.final.utterance} are not awaited.")
        self._open.remove(alignment)
        start = alignment.final.start
        return tuple(Word(word.text, start + word.start, start + word.end) for word in words)

    def clear(self) -> None:
        """Drops all alignments."""
        self._due.clear()
        self._open.clear()


@lru_cache(maxsize=256)  # the model may name any language
def _say_once(reason: str) -> None:
    logger.warning("Some text has no times of words. %s", reason)
