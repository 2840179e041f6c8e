"""The session's state machine with any order of audio, completed steps and failed steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_asr.audio.endpointing import EndpointConfig, UtteranceDetector
from qwen_asr.engine.hypothesis import Hypothesis
from qwen_asr.engine.streaming import Utterance
from qwen_asr.errors import AudioError, BadConfig
from qwen_asr.live.events import Event, Failed, Final, Partial
from qwen_asr.live.runner import run_session
from qwen_asr.live.session import Session, Step
from qwen_asr.live.session_options import SessionOptions
from tests.support.engine_double import (
    QUICK,
    EventChecker,
    Loudness,
    Samples,
    hypothesis_of,
    make_audio,
    new_session,
    text_of,
    transcribe_exactly,
)

SECOND = 16000
CONTEXT = "alpha bravo charlie delta echo"


class Driver:
    """Performs the moves that a test chooses, and checks the invariants after each."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.checker = EventChecker()
        self.step: Step | None = None
        self.waiting = False  # whether the device has not begun the step
        self.failures = 0

    def take(self, events: Sequence[Event]) -> None:
        self.checker.take(events)
        assert 0 <= self.session.lag <= self.session.received / SECOND

    def begin(self) -> None:
        step = self.session.next_step()
        if self.step is not None:
            assert step is None  # never two at a time
        elif step is not None:
            self.step = step
            self.waiting = True

    def start(self) -> None:
        """The device begins the step, after the audio that was fed since."""
        if self.step is not None and self.waiting:
            self.session.began(self.step)
            self.step.utterance.busy = True  # type: ignore[attr-defined]  # an attribute of the double
            self.waiting = False
        elif self.step is not None and self.step.urgent:
            self.step.utterance.busy = False  # type: ignore[attr-defined]  # as above
            self.session.began(self.step)  # the utterance has ended: the device begins the step again
            assert not self.step.urgent
            self.step.utterance.busy = True

    def end(self, failing: bool = False) -> None:
        if self.step is None:
            return
        step, self.step = self.step, None
        step.utterance.busy = False  # type: ignore[attr-defined]  # as above
        if failing:
            self.failures += 1
            self.take(self.session.failed(step, "It broke."))
        else:
            self.take(self.session.completed(step, hypothesis_of(step)))

    def move(self, name: str) -> None:
        if name == "begin":
            self.begin()
        elif name == "start":
            self.start()
        elif name != "wait":
            self.end(failing=name == "fail")


def echoing(samples: Samples, context: str, language: str | None) -> Hypothesis:
    """A faulty model: it sometimes echoes the context, and sometimes detects another language."""
    if context and len(samples) % 3 == 0:
        return Hypothesis((1,), "raw", language or "English", context, len(samples))
    spoken = language or ("Dutch" if len(samples) % 2 else "English")
    return Hypothesis((1,), "raw", spoken, text_of(samples), len(samples))


moves = st.sampled_from(["wait", "begin", "begin", "start", "complete", "complete", "fail"])
segments = st.lists(st.tuples(st.booleans(), st.integers(1, 30_000)), max_size=8)


@settings(max_examples=50, deadline=None)
@given(segments=segments, known=st.integers(0, 8), wrong=st.integers(0, 20), size=st.integers(500, 20_000))
def test_a_session_that_recalls_finals_goes_on_as_if_it_had_decoded_them(
    segments: list[tuple[bool, int]], known: int, wrong: int, size: int
) -> None:
    """Also what the guards remember: the language, and whether the context was echoed."""
    audio = make_audio(segments)
    decoded: list[int] = []

    def transcribe(samples: Samples, context: str, language: str | None) -> Hypothesis:
        decoded.append(len(samples))
        return echoing(samples, context, language)

    def finals(recalled: list[Final]) -> list[Final]:
        session = new_session(transcribe, chunk_seconds=1000, context=CONTEXT)
        session.recall(recalled)
        checker = EventChecker()
        checker.take(list(run_session(session, np.array_split(audio, len(audio) // size + 1))))
        checker.check_complete(session)
        return [replace(final, lag=0.0) for final in checker.finals]

    whole = finals([])
    once = len(decoded)
    beginning = whole[:known]
    decoded.clear()
    assert finals(beginning) == whole
    assert len(decoded) < once or not beginning
    if wrong < len(beginning):  # the audio is another after all
        beginning[wrong] = replace(beginning[wrong], end=beginning[wrong].end + 1, text="another")
        assert finals(beginning) == whole


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    segments=segments,
    sizes=st.lists(st.integers(0, 9000), min_size=1, max_size=30),
    moves=st.lists(moves, min_size=1, max_size=60),
    chunk=st.sampled_from([None, 0.05, 0.3, 1.0]),
    finish_at=st.floats(0, 1),
    faulty=st.booleans(),
)
def test_every_utterance_is_reported_once_and_every_sample_is_counted(
    segments: list[tuple[bool, int]],
    sizes: list[int],
    moves: list[str],
    chunk: float | None,
    finish_at: float,
    faulty: bool,
) -> None:
    audio = make_audio(segments)
    audio = audio[: round(len(audio) * finish_at)]
    session = new_session(
        echoing if faulty else transcribe_exactly, chunk_seconds=chunk, context=CONTEXT if faulty else ""
    )
    driver = Driver(session)
    position = count = 0
    while position < len(audio):
        # The sizes grow with each round, so that sizes of 0 do not loop forever.
        size = sizes[count % len(sizes)] + count // len(sizes)
        driver.take(session.feed(audio[position : position + size]))
        position += size
        driver.move(moves[count % len(moves)])
        count += 1
    session.finish()
    limit = count + 10_000
    while not session.done:
        driver.begin()
        driver.move(moves[count % len(moves)])
        driver.end()
        count += 1
        assert count < limit
    driver.checker.check_complete(session)
    assert session.next_step() is None
    for final in driver.checker.finals:
        expected = text_of(audio[final.start : final.end])
        assert final.text == expected or (faulty and driver.failures and final.text == CONTEXT)
    if not driver.failures:
        assert len(driver.checker.finals) == len(driver.checker.closed)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(segments=segments, sizes=st.lists(st.integers(1, 20_000), min_size=1, max_size=10))
def test_finals_do_not_depend_on_the_block_sizes(segments: list[tuple[bool, int]], sizes: list[int]) -> None:
    audio = make_audio(segments)

    def finals(blocks: list[Samples]) -> list[tuple[int, int, str]]:
        events = run_session(new_session(chunk_seconds=0.3), blocks)
        return [(event.start, event.end, event.text) for event in events if isinstance(event, Final)]

    blocks, position, count = [], 0, 0
    while position < len(audio):
        blocks.append(audio[position : position + sizes[count % len(sizes)]])
        position += len(blocks[-1])
        count += 1
    assert finals(blocks) == finals([audio])


def test_a_slow_device_runs_longer_steps_instead_of_queueing_them() -> None:
    endpoints = EndpointConfig(longest_seconds=30)
    session = new_session(endpoints=endpoints, chunk_seconds=0.5)
    audio = make_audio([(True, 6 * SECOND)])
    covered = []
    step = None
    for tick, start in enumerate(range(0, len(audio), 1600)):
        session.feed(audio[start : start + 1600])
        if step is not None and tick % 20 == 19:  # a step takes two seconds
            hypothesis = hypothesis_of(step)
            covered.append(hypothesis.samples)
            session.completed(step, hypothesis)
            step = None
        step = step or session.next_step()
    assert covered[0] < SECOND  # the first step came with the first chunk
    assert covered[1] - covered[0] > 1.4 * SECOND  # the second covered all audio since then
    assert session.lag < 2.6


def test_a_partial_step_is_due_with_each_chunk_of_new_audio() -> None:
    session = new_session(endpoints=EndpointConfig(longest_seconds=30), chunk_seconds=1.0)
    ends = [
        event.end - event.start
        for event in run_session(session, np.split(make_audio([(True, 5 * SECOND)]), 50))
        if isinstance(event, Partial)
    ]
    assert ends == [1 * SECOND, 2 * SECOND, 3 * SECOND, 4 * SECOND, 5 * SECOND]


def test_lag_is_zero_in_silence_and_counts_speech_until_it_is_covered() -> None:
    session = new_session(endpoints=EndpointConfig(longest_seconds=30))
    session.feed(make_audio([(False, 5 * SECOND)]))
    assert session.lag == 0
    session.feed(make_audio([(True, 2 * SECOND)]))
    assert session.lag == pytest.approx(2.3, abs=0.05)  # with the pre-roll
    step = session.next_step()
    assert step is not None
    session.feed(make_audio([(True, SECOND)]))
    (partial,) = session.completed(step, hypothesis_of(step))
    assert partial.lag == pytest.approx(1.0, abs=0.1)
    session.feed(make_audio([(False, SECOND // 2)]))  # held back: it may or may not belong to the utterance
    assert session.lag == pytest.approx(1.3, abs=0.1)  # the third second and the hang-over


def test_samples_after_a_cut_belong_to_the_second_utterance_only() -> None:
    session = new_session(chunk_seconds=0.2)
    audio = make_audio([(True, 2 * SECOND)])
    checker = EventChecker()
    session.feed(audio[:23_000])
    step = session.next_step()
    session.feed(audio[23_000:])  # reaches the limit of 1.5 s while the step is running
    assert step is not None
    checker.take(session.completed(step, hypothesis_of(step)))
    assert checker.events == []  # it covered samples that now belong to the next utterance
    session.finish()
    while (step := session.next_step()) is not None:
        checker.take(session.completed(step, hypothesis_of(step)))
    checker.check_complete(session)
    first, second = checker.finals
    assert first.end < 23_000
    assert first.end == second.start
    assert [first.text, second.text] == [text_of(audio[: first.end]), text_of(audio[first.end :])]


def test_words_that_a_cut_can_move_do_not_settle() -> None:
    session = new_session(chunk_seconds=0.1)
    corrected = [
        event.corrected
        for event in run_session(session, np.split(make_audio([(True, 10 * SECOND)]), 100))
        if isinstance(event, Final)
    ]
    assert len(corrected) > 5
    assert not any(corrected)


def test_a_step_that_covered_the_whole_utterance_is_its_final_step() -> None:
    session = new_session(chunk_seconds=0.5)
    session.feed(make_audio([(True, SECOND), (False, 3000)]))
    step = session.next_step()
    assert step is not None
    assert not step.final
    session.feed(make_audio([(False, SECOND)]))  # the step covers the end, which was not known then
    (final,) = session.completed(step, hypothesis_of(step))
    assert isinstance(final, Final)
    assert session.next_step() is None


def test_a_step_covers_what_arrives_before_the_device_begins_it() -> None:
    session = new_session(endpoints=EndpointConfig(longest_seconds=30))
    session.feed(make_audio([(True, SECOND)]))
    step = session.next_step()
    assert step is not None
    before = step.utterance.max_new_tokens
    session.feed(make_audio([(True, SECOND)]))
    session.began(step)
    assert step.utterance.max_new_tokens > before
    session.feed(make_audio([(True, SECOND)]))  # too late for this step
    (partial,) = session.completed(step, hypothesis_of(step))
    assert partial.end == 2 * SECOND
    assert partial.lag == pytest.approx(1.0, abs=0.1)


def test_a_step_whose_utterance_ends_before_it_begins_is_its_final_step() -> None:
    session = new_session()
    audio = make_audio([(True, SECOND)])
    session.feed(audio)
    step = session.next_step()
    assert step is not None
    assert not step.final
    session.finish()
    session.began(step)
    (final,) = session.completed(step, hypothesis_of(step))
    assert isinstance(final, Final)
    assert final.text == text_of(audio[final.start : final.end])
    assert session.done


def test_a_step_is_urgent_until_it_gives_the_final_text() -> None:
    session = new_session()
    session.feed(make_audio([(True, SECOND)]))
    step = session.next_step()
    assert step is not None
    assert not step.urgent
    session.began(step)
    session.feed(make_audio([(True, SECOND // 10)]))
    assert not step.urgent
    session.finish()
    assert step.urgent  # it covers too little
    session.began(step)
    assert not step.urgent
    (final,) = session.completed(step, hypothesis_of(step))
    assert isinstance(final, Final)
    assert not step.urgent


def test_a_step_that_was_dropped_may_still_begin() -> None:
    session = new_session()
    session.feed(make_audio([(True, SECOND)]))
    step = session.next_step()
    assert step is not None
    session.drop()
    session.began(step)
    assert session.done


def test_a_failed_partial_step_loses_only_that_partial() -> None:
    session = new_session(chunk_seconds=0.5)
    audio = make_audio([(True, SECOND)])
    session.feed(audio)
    step = session.next_step()
    assert step is not None
    assert session.failed(step, "It broke.") == []
    assert session.next_step() is None  # not before the next chunk, to avoid a busy loop on a broken device
    session.finish()
    again = session.next_step()
    assert again is not None
    assert again.utterance is not step.utterance
    (final,) = session.completed(again, hypothesis_of(again))
    assert isinstance(final, Final)
    assert final.text == text_of(audio[final.start : final.end])
    assert final.warnings == ("step: It broke.",)


def test_a_warning_is_reported_once() -> None:
    session = new_session(endpoints=EndpointConfig(longest_seconds=30), chunk_seconds=0.5)
    warnings = []
    for number, block in enumerate(np.split(make_audio([(True, 24_000)]), 3)):
        session.feed(block)
        step = session.next_step()
        assert step is not None
        if number == 0:
            session.failed(step, "It broke.")
        else:
            (partial,) = session.completed(step, hypothesis_of(step))
            assert isinstance(partial, Partial)
            warnings.append(partial.warnings)
    assert warnings == [("step: It broke.",), ()]


def test_audio_of_a_rejected_hypothesis_is_not_covered() -> None:
    session = new_session(
        lambda samples, context, _: replace(transcribe_exactly(samples, "", None), text=context), context=CONTEXT
    )
    session.feed(make_audio([(True, 8000)]))
    session.finish()
    step = session.next_step()
    assert step is not None
    assert session.completed(step, hypothesis_of(step)) == []
    assert session.lag == pytest.approx(0.5, abs=0.05)
    again = session.next_step()
    assert again is not None
    (final,) = session.completed(again, hypothesis_of(again))
    assert final.lag == 0


def test_a_failed_final_step_fails_only_its_utterance() -> None:
    session = new_session(chunk_seconds=5)
    session.feed(make_audio([(True, SECOND), (False, SECOND), (True, SECOND), (False, SECOND)]))
    session.finish()
    first = session.next_step()
    assert first is not None
    (failed,) = session.failed(first, "It broke.")
    assert failed == Failed(0, failed.start, failed.end, "It broke.", session.lag)
    assert failed.end > failed.start
    second = session.next_step()
    assert second is not None
    assert second.number == 1
    (final,) = session.completed(second, hypothesis_of(second))
    assert isinstance(final, Final)
    assert session.done


@pytest.mark.parametrize(
    "convert",
    [
        lambda audio: np.stack([audio, audio]),
        lambda audio: np.stack([audio, audio], axis=1),
        lambda audio: (audio * 32_767).astype(np.int32),
    ],
)
def test_audio_in_any_layout_and_scale_is_the_same_speech(convert: Callable[[Samples], Any]) -> None:
    audio = make_audio([(True, SECOND), (False, SECOND)])
    plain, other = new_session(chunk_seconds=0.1), new_session(chunk_seconds=0.1)
    plain.feed(audio)
    other.feed(convert(audio))
    plain_step, step = plain.next_step(), other.next_step()
    assert plain_step is not None
    assert step is not None
    assert np.allclose(step.utterance.samples, plain_step.utterance.samples, atol=1e-4)


def test_misuse_raises() -> None:
    with pytest.raises(BadConfig, match="above 0"):
        new_session(chunk_seconds=0)
    session = new_session(chunk_seconds=0.1)
    for wrong in (np.zeros((2, 2, 2), np.float32), np.array([0.1, np.nan], np.float32)):
        with pytest.raises(AudioError, match=r"shape|NaN|finite"):
            session.feed(wrong)
    assert session.received == 0
    session.feed(make_audio([(True, SECOND)]))
    step = session.next_step()
    assert step is not None
    with pytest.raises(ValueError, match="not the one that is running"):
        session.completed(Step(step.utterance, 0, False), Hypothesis())
    session.finish()
    session.finish()
    with pytest.raises(RuntimeError, match="after finish"):
        session.feed(np.zeros(1, np.float32))


def test_a_session_reports_invalid_options_when_it_is_created() -> None:
    def refuse(*, context: str, language: str | None, max_new_tokens: int) -> Utterance:
        raise BadConfig("No.")

    with pytest.raises(BadConfig):
        Session(refuse, UtteranceDetector(QUICK, Loudness()), SessionOptions())


def test_the_token_limit_depends_on_the_length_of_the_audio() -> None:
    session = new_session(endpoints=EndpointConfig(longest_seconds=60), chunk_seconds=1.0, max_new_tokens=100)
    limits = []
    for _ in range(5):
        session.feed(make_audio([(True, SECOND)]))
        step = session.next_step()
        assert step is not None
        limits.append(step.utterance.max_new_tokens)
        session.completed(step, hypothesis_of(step))
    assert limits[:3] == sorted(limits[:3])
    assert limits[0] < 24 + 20 * 1.1
    assert limits[-1] == 100


def test_drop_discards_everything() -> None:
    session = new_session(chunk_seconds=0.1)
    session.feed(make_audio([(True, SECOND)]))
    assert session.next_step() is not None
    session.drop()
    assert session.done
    assert session.next_step() is None
    assert session.lag == 0


def test_int16_is_scaled_even_if_it_is_quiet() -> None:
    quiet = np.tile(np.array([2, -2], np.int16), SECOND)
    session = new_session()
    session.feed(quiet)  # type: ignore[arg-type]  # int16 on purpose
    session.finish()
    assert session.skipped == session.received == len(quiet)
