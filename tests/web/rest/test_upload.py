"""Forms arrive in pieces of any size, complete or damaged."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Message

from qwen_asr.config.limits import UploadLimits
from qwen_asr.errors import BadInput, TooLarge
from qwen_asr.web.early_answer import Body
from qwen_asr.web.rest.upload import received_form
from tests.support.rest_client import form

HEADERS = Headers({"content-type": "multipart/form-data; boundary=x"})


def read(pieces: Sequence[bytes], whole: bool = True, write_bytes: int = 1000) -> tuple[bytes, dict[str, list[str]]]:
    """The file and the fields of a form that arrives in these pieces. If not `whole`, the client disconnects then."""
    messages: list[Message] = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append({"type": "http.request", "body": b""} if whole else {"type": "http.disconnect"})

    async def receive() -> Message:
        return messages.pop(0)

    limits = UploadLimits(file_bytes=1000, write_bytes=write_bytes)

    async def received() -> tuple[bytes, dict[str, list[str]]]:
        async with received_form(HEADERS, Body(receive), limits) as got:
            return got.file.read(), got.fields

    return asyncio.run(received())


def cut(content: bytes, cuts: Sequence[int]) -> list[bytes]:
    at = [0, *sorted(place % (len(content) + 1) for place in cuts), len(content)]
    return [content[begin:end] for begin, end in pairwise(at)]


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200), st.text("aé\r\n-x", max_size=20), st.lists(st.integers(0, 1000)), st.booleans())
def test_the_form_does_not_depend_on_the_pieces(sound: bytes, prompt: str, cuts: list[int], gathered: bool) -> None:
    # A part must not contain the boundary.
    sound, prompt = sound.replace(b"--x", b"==x"), prompt.replace("--x", "==x")
    file, fields = read(cut(form("x", sound, prompt=prompt), cuts), write_bytes=1000 if gathered else 1)
    assert file == sound
    assert fields == {"prompt": [prompt]}


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.lists(st.integers(0, 1000), max_size=4), st.integers(0, 1000), st.integers(0, 20))
def test_a_damaged_form_is_read_or_refused(rubbish: bytes, cuts: list[int], place: int, lost: int) -> None:
    content = form("x", b"sound", prompt="a")
    place %= len(content)
    # Any other error would be a defect.
    with contextlib.suppress(BadInput):
        file, _ = read(cut(content[:place] + rubbish + content[place + lost :], cuts))
        assert isinstance(file, bytes)


def test_the_size_limit_is_exact() -> None:
    assert read([form("x", bytes(1000))])[0] == bytes(1000)
    with pytest.raises(TooLarge, match="over 1000 bytes"):
        read([form("x", bytes(1001))])


def test_a_client_that_disconnects() -> None:
    with pytest.raises(ClientDisconnect):
        read([form("x", bytes(10))[:50]], whole=False)
