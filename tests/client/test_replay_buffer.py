"""The replay buffer keeps exactly the audio that may have to be sent again, within its capacity."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_asr.client.replay_buffer import ReplayBuffer

SAMPLE_BYTES = 2
ACTIONS = st.lists(st.tuples(st.sampled_from(["append", "settle", "read"]), st.integers(0, 60)), max_size=60)


def sample(position: int) -> bytes:
    """A sample whose value depends on its position and is never 0, which is silence."""
    return (position + 1).to_bytes(SAMPLE_BYTES, "little")


@given(actions=ACTIONS, capacity=st.integers(1, 80))
def test_it_returns_what_was_appended_and_silence_for_what_was_discarded(
    actions: list[tuple[str, int]], capacity: int
) -> None:
    buffer, end, settled, begin = ReplayBuffer(SAMPLE_BYTES, capacity), 0, 0, 0
    for action, number in actions:
        if action == "append":
            buffer.append(b"".join(map(sample, range(end, end + number))))
            end += number
        elif action == "settle":
            settled = min(max(settled, number * 3), end)
            buffer.settle(number * 3)
        else:
            position = min(number * 2, end)
            expected = [
                sample(at) if at >= buffer.begin else bytes(SAMPLE_BYTES)
                for at in range(position, min(position + 40, end))
            ]
            assert buffer.read(position, 40) == b"".join(expected)
        begin = max(begin, settled, end - capacity)  # nothing else is discarded
        assert (buffer.begin, buffer.end, buffer.final_until) == (begin, end, settled)
        kept = sum(map(len, buffer._blocks))
        assert kept <= SAMPLE_BYTES * (capacity + 60)  # plus at most one block that extends before `begin`


@given(sizes=st.lists(st.integers(0, 50), max_size=30), final=st.integers(0, 400))
def test_within_the_capacity_everything_after_the_last_final_is_kept(sizes: list[int], final: int) -> None:
    buffer, end = ReplayBuffer(SAMPLE_BYTES, 10_000), 0
    for size in sizes:
        buffer.append(b"".join(map(sample, range(end, end + size))))
        end += size
    buffer.settle(final)
    begin = min(final, end)
    assert buffer.begin == begin
    assert buffer.read(begin, end) == b"".join(map(sample, range(begin, end)))


def test_positions_outside_the_stream_are_errors() -> None:
    buffer = ReplayBuffer(SAMPLE_BYTES, 10)
    buffer.append(bytes(8))
    for position in (-1, 5):
        with pytest.raises(ValueError, match="the stream has 4"):
            buffer.read(position, 1)
