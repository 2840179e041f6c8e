"""Frames of the socket between a scheduler and an engine: which call they belong to, and messages in parts.

A WebSocket message is one frame: the number of the call (8 bytes, big-endian), 1 if it is the last frame of its message
and else 0 (1 byte), and a part of the message. Requests and answers of many calls are under way at once. A long message
goes in parts, between which those of other calls and pings pass, so that none waits for megabytes of samples.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from qwen_asr.errors import BadInput, TooLarge

HEADER = struct.Struct(">QB")
PART_BYTES = 1 << 16
"""Of a message in one frame: a second of samples."""
MESSAGE_BYTES = 300 * 16_000 * 4 + (1 << 20)
"""The longest message: the samples of the longest utterance that `--max-utterance-seconds` allows, and its settings."""
LONG_MESSAGES = 4
"""Messages of more than one frame that are sent at once on a connection; their parts are kept until they are whole."""
NOTICE = 0
"""The number of what an engine says unasked."""


def frames(call: int, message: bytes) -> Iterator[bytes]:
    """The frames of a message."""
    view = memoryview(message)
    for begin in range(0, max(len(message), 1), PART_BYTES):
        yield HEADER.pack(call, begin + PART_BYTES >= len(message)) + view[begin : begin + PART_BYTES]


class Assembler:
    """Makes messages of the frames of one connection."""

    def __init__(self, message_bytes: int = MESSAGE_BYTES) -> None:
        self._message_bytes = message_bytes
        self._parts: dict[int, list[bytes]] = {}
        self._sizes: dict[int, int] = {}

    def add(self, frame: bytes | str) -> tuple[int, bytes] | None:
        """The call and its message if the frame is the last one of it, else None.

        Raises `BadInput` for what is no frame, `TooLarge` for a message or a number of messages above the limits.
        """
        if isinstance(frame, str) or len(frame) < HEADER.size:
            raise BadInput("This is no frame of an engine or its scheduler: run the same version on both sides.")
        call, is_last = HEADER.unpack_from(frame)
        part = frame[HEADER.size :]
        if is_last and call not in self._parts:
            return call, part
        parts = self._parts.setdefault(call, [])
        parts.append(part)
        size = self._sizes[call] = self._sizes.get(call, 0) + len(part)
        if size > self._message_bytes:
            raise TooLarge(f"A message has more than {self._message_bytes} bytes, the most that is accepted.")
        if len(self._parts) > LONG_MESSAGES:
            raise TooLarge(f"More than {LONG_MESSAGES} long messages come at once.")
        if not is_last:
            return None
        del self._parts[call], self._sizes[call]
        return call, b"".join(parts)
