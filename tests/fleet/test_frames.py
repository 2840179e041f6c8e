"""Messages in frames arrive whole, mixed with those of other calls, and limits hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_asr.errors import BadInput, TooLarge
from qwen_asr.fleet.frames import HEADER, LONG_MESSAGES, PART_BYTES, Assembler, frames

SIZES = st.sampled_from([0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES, 3 * PART_BYTES + 7])


@given(st.lists(SIZES, min_size=1, max_size=LONG_MESSAGES), st.randoms())
def test_messages_that_come_mixed_arrive_whole(sizes: list[int], random: object) -> None:
    messages = {call: bytes([call]) * size for call, size in enumerate(sizes, 1)}
    coming = {call: list(frames(call, message)) for call, message in messages.items()}
    assembler = Assembler()
    arrived = {}
    while coming:
        call = random.choice(sorted(coming))  # type: ignore[attr-defined]  # hypothesis' own Random
        frame = coming[call].pop(0)
        assert len(frame) <= HEADER.size + PART_BYTES
        if not coming[call]:
            del coming[call]
        if (whole := assembler.add(frame)) is not None:
            assert whole[0] == call
            arrived[call] = whole[1]
    assert arrived == messages


def test_a_message_above_the_limit_is_refused_before_it_is_whole() -> None:
    assembler = Assembler(2 * PART_BYTES)
    first, second, third, *_ = frames(1, bytes(4 * PART_BYTES))
    assert assembler.add(first) is assembler.add(second) is None
    with pytest.raises(TooLarge, match=r"more than 131072 bytes"):
        assembler.add(third)


def test_only_so_many_long_messages_come_at_once() -> None:
    assembler = Assembler()
    for call in range(LONG_MESSAGES):
        assert assembler.add(next(frames(call, bytes(2 * PART_BYTES)))) is None
    assert assembler.add(next(frames(99, b"short"))) == (99, b"short")
    with pytest.raises(TooLarge, match="long messages"):
        assembler.add(next(frames(100, bytes(2 * PART_BYTES))))


@pytest.mark.parametrize("frame", ["text", b"", b"12345678"])
def test_what_is_no_frame_is_refused(frame: bytes | str) -> None:
    with pytest.raises(BadInput, match="no frame"):
        Assembler().add(frame)
