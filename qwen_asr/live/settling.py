"""`Settling`: decides which part of an utterance's text is settled, from its successive hypotheses."""

from __future__ import annotations

import unicodedata
from collections import deque

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.live.transcript import split_units

MIN_DISTANCE = SAMPLE_RATE
"""Samples of new audio between two hypotheses that are compared. The model guesses a word that it has only half heard,
and with less new audio it makes the same guess again. `benchmarks/settling.py` measures how often a final then takes a
settled word back, and how long words wait."""


def _without_closing_marks(text: str) -> str:
    """`text` without trailing punctuation."""
    while text and unicodedata.category(text[-1]).startswith("P"):
        text = text[:-1]
    return text


class Settling:
    """LocalAgreement over two hypotheses of one utterance (Liu et al. 2020, as in whisper_streaming).

    The common prefix of a hypothesis and the newest one that is at least `min_distance` samples older is settled. The
    model ends every hypothesis with a full stop that disappears when the speaker continues, so punctuation at the very
    end of a hypothesis stays tentative.
    """

    def __init__(self, min_distance: int = MIN_DISTANCE) -> None:
        self._min_distance = min_distance
        self.settled = ""
        self._earlier: deque[tuple[int, list[str]]] = deque()  # the samples and units of the last hypotheses

    def update(self, text: str, samples: int) -> tuple[str, int]:
        """Processes the next hypothesis, which covers the first `samples` of the utterance.

        Returns `(shown, stable)`: the text to show and its settled length.

        `shown[:stable]` always starts with the text that was settled before. If a hypothesis contradicts settled text,
        the settled text is kept, and nothing new settles. As many units as are settled are dropped from the beginning
        of the hypothesis, and the rest of it is shown as tentative.
        """
        units = split_units(text)
        self._earlier.append((samples, units))
        while len(self._earlier) > 1 and self._earlier[1][0] <= samples - self._min_distance:
            self._earlier.popleft()
        oldest, earlier = self._earlier[0]
        agreed = self._agreed(units, earlier) if oldest <= samples - self._min_distance else ""
        if text.startswith(self.settled) and len(agreed) > len(self.settled):
            self.settled = agreed
        return self.view(text)

    def view(self, text: str) -> tuple[str, int]:
        """Like `update`, but settles no text and does not count as a hypothesis."""
        if text.startswith(self.settled):
            return text, len(self.settled)
        rest = split_units(text)[len(split_units(self.settled)) :]
        return self.settled + "".join(rest), len(self.settled)

    def corrects(self, final: str) -> bool:
        """Whether the final text contradicts the settled text."""
        return not final.startswith(self.settled)

    @staticmethod
    def _agreed(units: list[str], earlier: list[str]) -> str:
        count = 0
        for new, old in zip(units, earlier, strict=False):
            if new != old:
                break
            count += 1
        agreed = "".join(units[:count])
        return _without_closing_marks(agreed) if count == len(units) else agreed
