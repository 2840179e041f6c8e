"""When a partial step is due: as often as the device can, and never so often that it has no rest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_asr.audio.endpointing import EndpointConfig
from qwen_asr.live.events import Final, Partial
from qwen_asr.live.pacing import LARGEST_SHARE, LONGEST_GATHERING, LONGEST_REST, SHORTEST_CHUNK, Pacing
from tests.support.engine_double import hypothesis_of, make_audio, new_session

SECOND = 16_000
LONG = EndpointConfig(longest_seconds=60)


def live(pacing: Pacing, durations: list[int], block: int) -> list[tuple[int, int]]:
    """(begin, end) of each step of a speaker who never pauses, on a device whose steps take so many samples."""
    steps, received, covered = [], 0, 0
    for duration in durations:
        while not pacing.is_due(received - covered, received):
            received += block
        pacing.began(received)
        begin = covered = received
        received += duration // block * block
        pacing.ended(received)
        steps.append((begin, received))
    return steps


@given(st.integers(1, 4 * SECOND), st.integers(1, SECOND // 10))
@settings(deadline=None, max_examples=50)
def test_a_session_takes_at_most_its_share_of_the_device(duration: int, block: int) -> None:
    steps = live(Pacing(None), [duration] * 20, block)
    begins = np.diff([begin for begin, _ in steps])
    lasted = np.array([end - begin for begin, end in steps[:-1]])
    rests = begins - lasted
    # Not before the rest is over, and not later than the first block after that, with enough audio for a chunk.
    wanted = np.maximum(np.minimum(lasted * (1 / LARGEST_SHARE - 1), LONGEST_REST), SHORTEST_CHUNK - lasted)
    assert (rests >= wanted - 1).all()
    assert (rests <= wanted + block + 1).all()
    if lasted.max() * (1 / LARGEST_SHARE - 1) < LONGEST_REST:
        assert lasted.sum() / begins.sum() <= LARGEST_SHARE + 1e-3


def test_a_fast_device_has_text_five_times_a_second() -> None:
    steps = live(Pacing(None), [0] * 10, SECOND // 50)
    assert {int(step) for step in np.diff([begin for begin, _ in steps])} == {SECOND // 5}


def test_after_a_backlog_the_rest_is_bounded() -> None:
    pacing = Pacing(None)
    pacing.began(SECOND)
    pacing.ended(31 * SECOND)  # a client that was away sent 30 s during a step
    assert not pacing.is_due(30 * SECOND, 31 * SECOND)
    assert pacing.is_due(32 * SECOND, 31 * SECOND + LONGEST_REST)


def test_silence_is_rest_too() -> None:
    pacing = Pacing(None)
    pacing.began(0)
    pacing.ended(SECOND)
    assert not pacing.is_due(SECOND, SECOND)
    assert pacing.is_due(SHORTEST_CHUNK, 2 * SECOND)  # the device was idle meanwhile, whatever the speaker did


@given(st.floats(0.05, 5), st.lists(st.integers(0, 3 * SECOND), max_size=10))
@settings(deadline=None)
def test_a_number_is_the_chunk_whatever_the_device_does(seconds: float, durations: list[int]) -> None:
    pacing, received = Pacing(seconds), 0
    for duration in durations:
        pacing.began(received)
        received += duration
        pacing.ended(received)
        assert pacing.is_due(round(seconds * SECOND), received)
        assert not pacing.is_due(round(seconds * SECOND) - 1, received)


@pytest.mark.parametrize("seconds", [0.1, 0.6, 2.0])
def test_chunks_of_a_session_grow_with_the_duration_of_its_steps(seconds: float) -> None:
    """A live speaker in blocks of 20 ms; every step takes `seconds`."""
    session = new_session(endpoints=LONG)
    ends, step, free_at = [], None, 0.0
    for number, block in enumerate(np.split(make_audio([(True, 20 * SECOND)]), 1000)):
        session.feed(block)
        now = number * 0.02
        if step is not None and now >= free_at:
            (partial,) = session.completed(step, hypothesis_of(step))
            assert isinstance(partial, Partial)
            ends.append(partial.end)
            step = None
        if step is None and (step := session.next_step()) is not None:
            free_at = now + seconds
    chunks = np.diff(ends) / SECOND
    assert np.allclose(chunks[1:], max(0.2, seconds / LARGEST_SHARE), atol=0.05)


@given(st.integers(0, 3 * SECOND), st.integers(0, 3 * SECOND))
def test_audio_gathers_for_half_of_what_the_last_step_took(waited: int, ran: int) -> None:
    pacing = Pacing(None)
    assert pacing.gathering == 0
    pacing.submitted(SECOND)
    pacing.began(SECOND + waited)
    pacing.ended(SECOND + waited + ran)
    assert pacing.gathering == min((waited + ran) // 2, LONGEST_GATHERING)


def test_audio_gathers_only_while_a_step_is_under_way() -> None:
    session = new_session()
    session.feed(make_audio([(True, SECOND // 2)]))
    step = session.next_step()
    assert step is not None
    assert session.gathering == 0  # no step has ended yet
    session.feed(make_audio([(True, SECOND // 2)]))
    session.completed(step, hypothesis_of(step))
    assert session.gathering == 0
    session.feed(make_audio([(True, SECOND)]))
    assert session.next_step() is not None
    assert session.gathering == pytest.approx(0.25)


def test_a_final_step_does_not_wait_for_the_rest() -> None:
    session = new_session()
    session.feed(make_audio([(True, SECOND // 2)]))
    step = session.next_step()
    assert step is not None
    assert not step.final
    session.feed(make_audio([(True, SECOND // 2)]))  # the step takes half a second
    session.completed(step, hypothesis_of(step))
    assert session.next_step() is None
    session.finish()
    final = session.next_step()
    assert final is not None
    assert final.final
    (event,) = session.completed(final, hypothesis_of(final))
    assert isinstance(event, Final)
