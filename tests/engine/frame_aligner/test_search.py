"""The search finds the likeliest path: the same as trying them all."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from qwen_asr.engine.frame_aligner.head import CLASSES, SILENCE
from qwen_asr.engine.frame_aligner.search import ANY_SOUND_COST, LEAST, find_words


def random_scores(parts: int, rng: np.random.Generator) -> np.ndarray:
    logits = rng.standard_normal((parts, CLASSES)).astype(np.float32) * 0.4
    scores = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert scores.min() > LEAST  # what is raised to it would make ties
    return scores


def score(scores: np.ndarray, chain: list[int | None], bounds: tuple[int, ...]) -> float:
    """The score of a path: `bounds` are where the states begin and end."""
    total = 0.0
    for state, (start, end) in zip(chain, itertools.pairwise(bounds), strict=True):
        for part in scores[start:end]:
            total += np.log1p(-np.exp(part[SILENCE])) - ANY_SOUND_COST if state is None else part[state]
    return total


def best_of_all(scores: np.ndarray, words: list[list[int | None]]) -> list[list[int]]:
    """The times of the words on the likeliest path."""
    chain: list[int | None] = []
    places = []
    for word in words:
        chain += [SILENCE, *word]
        places.append((len(chain) - len(word), len(chain)))
    chain.append(SILENCE)
    inner = itertools.combinations_with_replacement(range(len(scores) + 1), len(chain) - 1)
    paths = [
        bounds
        for bounds in ((0, *one, len(scores)) for one in inner)
        if all(
            end > start or state == SILENCE
            for state, (start, end) in zip(chain, itertools.pairwise(bounds), strict=True)
        )
    ]
    best = max(paths, key=lambda bounds: score(scores, chain, bounds))
    return [[best[first], best[last]] for first, last in places]


@pytest.mark.parametrize("words", [[[3]], [[30, 4], [31]], [[30], [None, 2], [40]], [[None]], [[30, 30], [30]]])
def test_the_path_is_the_best_of_all(words: list[list[int | None]]) -> None:
    rng = np.random.default_rng(len(words))
    for parts in (3, 4, 7):
        if parts < sum(map(len, words)):
            continue
        for _ in range(5):
            scores = random_scores(parts, rng)
            assert find_words(scores, words).tolist() == best_of_all(scores, words)


def test_more_letters_than_parts_share_them() -> None:
    scores = random_scores(3, np.random.default_rng(0))
    assert find_words(scores, [[30, 1], [31, 2, 3, 4]]).tolist() == [[0, 1], [1, 3]]
    times = find_words(scores[:1], [[30]] * 5)
    assert times.min() == 0
    assert times.max() == 1
    assert find_words(scores[:0], [[30]]).tolist() == [[0, 0]]
