"""What a client keeps of its audio: exactly what may have to be sent again, within the bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_asr.client.history import History

WIDTH = 2
ACTIONS = st.lists(st.tuples(st.sampled_from(["append", "settle", "read"]), st.integers(0, 60)), max_size=60)


def sample(position: int) -> bytes:
    """Each sample tells where it stands, and none is silence."""
    return (position + 1).to_bytes(WIDTH, "little")


@given(actions=ACTIONS, most=st.integers(1, 80))
def test_it_gives_back_what_it_was_given_and_silence_for_what_it_forgot(
    actions: list[tuple[str, int]], most: int
) -> None:
    history, end, settled, begin = History(WIDTH, most), 0, 0, 0
    for action, number in actions:
        if action == "append":
            history.append(b"".join(map(sample, range(end, end + number))))
            end += number
        elif action == "settle":
            settled = min(max(settled, number * 3), end)
            history.settle(number * 3)
        else:
            position = min(number * 2, end)
            expected = [
                sample(at) if at >= history.begin else bytes(WIDTH) for at in range(position, min(position + 40, end))
            ]
            assert history.read(position, 40) == b"".join(expected)
        begin = max(begin, settled, end - most)  # nothing else is forgotten
        assert (history.begin, history.end, history.settled) == (begin, end, settled)
        kept = sum(map(len, history._blocks))
        assert kept <= WIDTH * (most + 60)  # and a block at most that reaches over the beginning


@given(sizes=st.lists(st.integers(0, 50), max_size=30), final=st.integers(0, 400))
def test_within_the_bound_all_since_the_last_final_is_there(sizes: list[int], final: int) -> None:
    history, end = History(WIDTH, 10_000), 0
    for size in sizes:
        history.append(b"".join(map(sample, range(end, end + size))))
        end += size
    history.settle(final)
    begin = min(final, end)
    assert history.begin == begin
    assert history.read(begin, end) == b"".join(map(sample, range(begin, end)))


def test_there_is_nothing_outside_the_stream() -> None:
    history = History(WIDTH, 10)
    history.append(bytes(8))
    for position in (-1, 5):
        with pytest.raises(ValueError, match="the stream has 4"):
            history.read(position, 1)
