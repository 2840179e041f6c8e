"""The likeliest times of a known text: a search over its letters, with silence between words where there is any.

Source: G. D. Forney, "The Viterbi algorithm", Proceedings of the IEEE 61 (1973).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qwen_asr.engine.frame_aligner.head import CLASSES, SILENCE

Scores = NDArray[np.float32]
"""Log-probabilities of the classes in each part of the audio, (parts, CLASSES)."""
ANY_SOUND = CLASSES
"""The class of a character that is no letter."""
LEAST = -6.0
"""A log-probability counts as at least this. So a word that is only in the text or only in the audio moves the words
beside it and no others."""
ANY_SOUND_COST = 2.0
"""How much less its log-probability is than that of any sound: more than that of the right letter usually is, and less
than that of a wrong one, so that the letters beside it keep their parts."""


def find_words(scores: Scores, words: Sequence[Sequence[int | None]]) -> NDArray[np.int64]:
    """The first part of each word and the one after its last, (words, 2).

    words: for each, what `letter_classes` gives: at least one class. Each letter lasts one part or more. If there are
    more letters than parts, the words share the parts by the number of their letters.
    """
    lengths = np.array([len(word) for word in words])
    if lengths.sum() > len(scores):
        ends = np.cumsum(lengths) * len(scores) // lengths.sum()
        return np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1)
    classes: list[int] = []
    for word in words:
        classes += [SILENCE, *(ANY_SOUND if letter is None else letter for letter in word)]
    chain = np.array([*classes, SILENCE])
    # The number of the word of each state; that of a silence is half less than that of the word after it.
    owners = np.cumsum(chain == SILENCE) - 1 - 0.5 * (chain == SILENCE)
    spoken = owners[_best_path(_bounded(scores)[:, chain], chain == SILENCE)]
    numbers = np.arange(len(words))
    return np.stack([np.searchsorted(spoken, numbers, side) for side in ("left", "right")], axis=1)


def _bounded(scores: Scores) -> NDArray[np.float64]:
    """The scores, not less than `LEAST`, and a column for `ANY_SOUND`."""
    exact = scores.astype(np.float64)
    silent = np.minimum(np.exp(exact[:, SILENCE]), 1 - 1e-9)
    any_sound = np.log1p(-silent)[:, None] - ANY_SOUND_COST
    bounded: NDArray[np.float64] = np.maximum(np.concatenate([exact, any_sound], axis=1), LEAST)
    return bounded


def _best_path(scores: NDArray[np.float64], optional: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The state of each part on the likeliest path through all states in order, but for those that are `optional`.

    scores: of each state in each part, (parts, states); there are enough parts for such a path. The first and the last
    state are optional, and no two that are stand side by side.
    """
    parts, states = scores.shape
    skipping = np.where(np.concatenate([[False, False], optional[1:-1]]), 0.0, -np.inf)
    padded = np.full(states + 2, -np.inf)  # two places in front, so that each state has one and two before it
    total, before, two_before = padded[2:], padded[1:-1], padded[:-2]
    total[:2] = scores[0, :2]
    moves = np.zeros((parts, states), dtype=np.int8)
    for part in range(1, parts):
        move = moves[part]
        np.greater(before, total, out=move, casting="unsafe")
        best = np.maximum(before, total)
        skipped = two_before + skipping
        move[skipped > best] = 2
        np.maximum(best, skipped, out=best)
        np.add(best, scores[part], out=total)
    path = np.empty(parts, dtype=np.int64)
    state = states - 1 if total[-1] > total[-2] else states - 2
    for part in range(parts - 1, -1, -1):
        path[part] = state
        state -= int(moves[part, state])
    return path
