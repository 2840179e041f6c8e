"""Batched == alone; and what goes wrong in one session stays there."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from qwen_asr.engine.recognizer import Encode, Pass, Recognizer
from qwen_asr.engine.scheduler import Scheduler
from qwen_asr.engine.streaming import Utterance, run_steps
from qwen_asr.errors import StepFailed
from tests.checkpoints import demo_recognizer, generate, long_speech, random_parts, random_recognizer


@pytest.fixture(params=["random", "demo"])
def scheduler(request: pytest.FixtureRequest) -> Iterator[Scheduler]:
    recognizer = random_recognizer() if request.param == "random" else demo_recognizer()
    with Scheduler(recognizer) as running:
        yield running


def test_many_sessions_at_once_equal_generate(scheduler: Scheduler) -> None:
    rng = np.random.default_rng(11)
    clips = [long_speech(rng, rng.uniform(0.2, 12)) for _ in range(8)]
    utterances = [Utterance(scheduler.recognizer, max_new_tokens=40) for _ in clips]
    for start in range(0, max(map(len, clips)), 24_000):
        talking = [(u, clip) for u, clip in zip(utterances, clips, strict=True) if start < len(clip)]
        for utterance, clip in talking:
            utterance.append(clip[start : start + 24_000])
        for future in [scheduler.submit(utterance) for utterance, _ in talking]:
            future.result(60)
    name = scheduler.recognizer.name
    for utterance, clip in zip(utterances, clips, strict=True):
        assert utterance.hypothesis.tokens == generate(name, clip, max_new_tokens=40)


def test_steps_run_together_equal_steps_run_alone() -> None:
    recognizer = random_recognizer()
    rng = np.random.default_rng(12)
    clips = [long_speech(rng, seconds) for seconds in (0.3, 4.0, 9.5)]
    utterances = [Utterance(recognizer, max_new_tokens=30) for _ in clips]
    for utterance, clip in zip(utterances, clips, strict=True):
        utterance.append(clip)
    together = run_steps(recognizer, [utterance.step() for utterance in utterances])
    alone = [Utterance(recognizer, max_new_tokens=30).feed(clip) for clip in clips]
    assert [hypothesis.tokens for hypothesis in together] == [hypothesis.tokens for hypothesis in alone]


def test_a_step_without_audio_is_done_at_once(scheduler: Scheduler) -> None:
    assert scheduler.submit(Utterance(scheduler.recognizer)).result(10).text == ""


class Poisoned(Recognizer):
    """A recogniser whose device fails on any pass that holds a window of exactly 77 frames."""

    def run(self, passes: list[Pass]) -> list[Any]:
        for wanted in passes:
            if isinstance(wanted, Encode) and any(window.shape[1] == 77 for window in wanted.windows):
                raise RuntimeError("device fault")
        return super().run(passes)


def test_a_failing_step_takes_nobody_with_it() -> None:
    recognizer = Poisoned(*random_parts(), name="random")
    clip = long_speech(np.random.default_rng(13), 3.0)
    healthy, ill = (Utterance(recognizer, max_new_tokens=20) for _ in range(2))
    healthy.append(clip)
    ill.append(clip[: 77 * 160])
    with Scheduler(recognizer) as scheduler:
        futures = scheduler.submit(healthy), scheduler.submit(ill)
        assert futures[0].result(60).tokens == generate("random", clip, max_new_tokens=20)
        with pytest.raises(StepFailed, match="The next one goes on"):
            futures[1].result(60)
        ill.append(clip[77 * 160 :])
        assert scheduler.submit(ill).result(60).tokens == generate("random", clip, max_new_tokens=20)


def test_closing_fails_what_is_left_and_refuses_more() -> None:
    scheduler = Scheduler(random_recognizer())
    scheduler.close()
    with pytest.raises(StepFailed, match="stopped"):
        scheduler.submit(Utterance(scheduler.recognizer)).result(10)
