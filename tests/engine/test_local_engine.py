"""A recognizer in this process as an engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from qwen_asr.engine.local_engine import LocalModel
from qwen_asr.engine.streaming import Utterance
from tests.support.checkpoints import demo_recognizer, spoken


def begin(model: LocalModel, draft: Sequence[int] = ()) -> Utterance:
    return cast("Utterance", model.utterances(draft=draft)(context="", language=None, max_new_tokens=100))


def test_tokens_that_are_given_as_a_draft_are_verified_in_the_first_step() -> None:
    """So an utterance that moves from one engine to another does not have to be decoded again."""
    model, samples = LocalModel(demo_recognizer()), spoken("The meeting is on Monday the tenth of May.")
    first = begin(model)
    expected = first.feed(samples)
    moved, wrong = begin(model, expected.tokens), begin(model, expected.tokens[::-1])
    assert moved.feed(samples) == expected
    assert len(expected.tokens) > 10
    assert first.work.accepted == 0
    assert moved.work.accepted == len(expected.tokens)
    assert wrong.feed(samples).tokens == expected.tokens
    for utterance in (first, moved, wrong):
        utterance.close()
