"""What to verify next: the last hypothesis is the best draft of the new one, also behind a correction.

Verifying several tokens costs about as much as decoding one (speculative decoding, Leviathan et al. 2023; taking the
draft from earlier text: "prompt lookup decoding", Saxena 2023), and what is not the model's own choice is thrown away.
"""

from collections.abc import Sequence

RESUME_LENGTH = 8  # tokens proposed after a correction; a wrong proposal costs a longer pass
REACH = 6  # how far a correction may shift the rest


class Draft:
    """The tokens of the last hypothesis, proposed whole first, then from wherever the new one joins it again."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = list(tokens)

    def first(self) -> list[int]:
        """The whole draft."""
        return list(self._tokens)

    def following(self, tokens: list[int]) -> list[int]:
        """What followed, in the draft, the place nearest to the end of `tokens` where its last token stood."""
        position = len(tokens) - 1
        low, high = max(position - REACH, 0), min(position + REACH + 1, len(self._tokens))
        places = [place for place in range(low, high) if self._tokens[place] == tokens[-1]]
        if not places:
            return []
        place = min(places, key=lambda candidate: abs(candidate - position))
        return self._tokens[place + 1 : place + 1 + RESUME_LENGTH]
