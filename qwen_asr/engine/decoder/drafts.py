"""Speculative decoding: proposes tokens of the last hypothesis, which the model then verifies in one pass.

Verifying several tokens costs about as much as decoding one (speculative decoding, Leviathan et al. 2023; drafts from
earlier text: "prompt lookup decoding", Saxena 2023). Tokens that the model would not choose itself are discarded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

MAX_PROPOSAL = 8  # tokens proposed after a correction; a wrong proposal makes the pass longer
MAX_SHIFT = 6  # by how many tokens a correction may shift the rest
LANGUAGE_TOKENS = 3  # "language", its name, and the mark after which the text begins


@dataclass
class Beginning:
    """How the last answer of a session began: with its language. The draft of the next utterance's first hypothesis.

    Further text of earlier answers is not drafted: of the pairs of tokens that had occurred before, the same ones
    followed in less than a third of the cases on the demo, and a wrong proposal makes a pass longer.
    """

    tokens: list[int] = field(default_factory=list)


class Draft:
    """The tokens of the last hypothesis: proposed whole at first, then from where the new one matches it again."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = list(tokens)

    def initial(self) -> list[int]:
        """The whole draft."""
        return list(self._tokens)

    def continue_after(self, tokens: list[int]) -> list[int]:
        """The tokens that follow `tokens[-1]` in the draft, at its nearest occurrence; empty if there is none."""
        position = len(tokens) - 1
        low, high = max(position - MAX_SHIFT, 0), min(position + MAX_SHIFT + 1, len(self._tokens))
        matches = [index for index in range(low, high) if self._tokens[index] == tokens[-1]]
        if not matches:
            return []
        nearest = min(matches, key=lambda index: abs(index - position))
        return self._tokens[nearest + 1 : nearest + 1 + MAX_PROPOSAL]
