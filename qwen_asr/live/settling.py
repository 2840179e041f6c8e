"""`Settling`: decides which part of an utterance's text is settled, from its successive hypotheses."""

from __future__ import annotations

import unicodedata

from qwen_asr.live.transcript import split_units


def _without_closing_marks(text: str) -> str:
    """`text` without trailing punctuation."""
    while text and unicodedata.category(text[-1]).startswith("P"):
        text = text[:-1]
    return text


class Settling:
    """LocalAgreement over the last two hypotheses of one utterance (Liu et al. 2020, as in whisper_streaming).

    Their common prefix is settled. The model ends every hypothesis with a full stop that disappears when the speaker
    continues, so punctuation at the very end of a hypothesis stays tentative.
    """

    def __init__(self) -> None:
        self.settled = ""
        self._previous: list[str] = []

    def update(self, text: str) -> tuple[str, int]:
        """Processes the next hypothesis. Returns `(shown, stable)`: the text to show and its settled length.

        `shown[:stable]` always starts with the text that was settled before. If a hypothesis contradicts settled text,
        the settled text is kept, and nothing new settles. As many units as are settled are dropped from the beginning
        of the hypothesis, and the rest of it is shown as tentative.
        """
        units = split_units(text)
        agreed = self._agreed(units)
        self._previous = units
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

    def _agreed(self, units: list[str]) -> str:
        count = 0
        for new, old in zip(units, self._previous, strict=False):
            if new != old:
                break
            count += 1
        agreed = "".join(units[:count])
        return _without_closing_marks(agreed) if count == len(units) else agreed
