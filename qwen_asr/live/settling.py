"""`Settling`: decides which part of an utterance's text is settled, from its successive hypotheses."""

from __future__ import annotations

import unicodedata
from collections import deque
from itertools import takewhile

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.live.transcript import split_units

MIN_DISTANCE = round(1.2 * SAMPLE_RATE)
"""Samples of audio over which hypotheses must agree. The model guesses a word that it has only half heard, and with
less new audio it makes the same guess again. `benchmarks/settling.py` measures how often a final then takes a settled
word back, at most 2 of 100 times, and how long words wait."""


def _without_closing_marks(text: str) -> str:
    """`text` without trailing punctuation."""
    while text and unicodedata.category(text[-1]).startswith("P"):
        text = text[:-1]
    return text


class Settling:
    """LocalAgreement over the last hypotheses of one utterance (Liu et al. 2020, as in whisper_streaming).

    What a hypothesis has in common with the newest one that is at least `min_distance` samples older, and with all
    between them, is settled. The model ends every hypothesis with a full stop that disappears when the speaker
    continues, so punctuation at the very end of a hypothesis stays tentative.
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
        while len(self._earlier) > 1 and self._earlier[1][0] <= samples - self._min_distance:
            self._earlier.popleft()
        if self._earlier and self._earlier[0][0] <= samples - self._min_distance and text.startswith(self.settled):
            agreed = self._agreed(units)
            if len(agreed) > len(self.settled):
                self.settled = agreed
        self._earlier.append((samples, units))
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

    def _agreed(self, units: list[str]) -> str:
        """The beginning that the hypothesis of those units has in common with all earlier ones that are kept."""
        agreed = units
        for _, earlier in self._earlier:
            common = takewhile(lambda pair: pair[0] == pair[1], zip(agreed, earlier, strict=False))
            agreed = [unit for unit, _ in common]
        text = "".join(agreed)
        return _without_closing_marks(text) if len(agreed) == len(units) else text
