"""The tokens of a final's text, with their probabilities, out of all that the model wrote for the utterance."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from qwen_asr.live.events import Token
from qwen_asr.live.guards import MARKER

if TYPE_CHECKING:
    from qwen_asr.engine.hypothesis import Hypothesis


def text_tokens(hypothesis: Hypothesis, text: str) -> tuple[Token, ...]:
    """The tokens that spell `text`: those after the language, up to where a guard has cut the text.

    White space around the text is removed from them, as it is from the text. Empty without probabilities, and if the
    text is not what consecutive whole tokens spell.
    """
    if not text or len(hypothesis.pieces) != len(hypothesis.tokens):
        return ()
    written = b"".join(hypothesis.pieces)
    head, marker, _ = written.partition(MARKER.encode())
    after = len(head) + len(marker) if marker else 0
    begin = written.find(text.encode(), after)
    end = begin + len(text.encode())
    if begin < 0 or not _is_blank(written[after:begin]):
        return ()
    tokens = []
    ends = accumulate(len(piece) for piece in hypothesis.pieces)
    for token, piece, score, last in zip(
        hypothesis.tokens, hypothesis.pieces, hypothesis.log_probabilities, ends, strict=True
    ):
        first = last - len(piece)
        kept = written[max(first, begin) : min(last, end)]
        if not kept:
            continue
        if not (_is_blank(written[first:begin]) and _is_blank(written[end:last])):
            return ()  # only a part of the token belongs to the text
        tokens.append(Token(token, kept, score))
    return tuple(tokens)


def _is_blank(data: bytes) -> bool:
    return not data.decode(errors="replace").strip()
