"""Messages arrive as they were sent, and what is no message is refused with a sentence."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_asr.engine.hypothesis import Hypothesis
from qwen_asr.engine.interface import EngineInfo
from qwen_asr.engine.words import Clip, Word
from qwen_asr.errors import BadInput
from qwen_asr.fleet.messages import (
    AlignerInfo,
    AlignRequest,
    CheckRequest,
    CloseRequest,
    Done,
    Draining,
    Empty,
    Have,
    Hello,
    HelloRequest,
    Refused,
    Reply,
    Request,
    Settings,
    StepRequest,
    Superseded,
    Words,
    decode,
    encode,
)

SAMPLES = np.random.default_rng(0).uniform(-1, 1, 1000).astype(np.float32)
MESSAGES: list[Request | Reply] = [
    StepRequest("u", 1, "", 0, SAMPLES, 256, True, Settings("Grünau", None, True, False, (1, 2))),
    StepRequest("u", 2, "e", 1000, np.zeros(0, np.float32), 256, False, None),
    CloseRequest("u"),
    AlignRequest(Clip(SAMPLES, "Hallo.", "German"), True),
    CheckRequest(30.0, 512, "", "German"),
    HelloRequest(),
    Hello("e", EngineInfo("m", True, "float32", "d", 9), AlignerInfo("a", True, {"Thai": "No."}, ("German",), "{}?")),
    Hello("e", EngineInfo("m", False, "float32", "d", 9), None),
    Done("e", Hypothesis((1, 2), "raw", "German", "Text", 9, True, (-0.5, -1e-9), (b"\xff", b""), 7)),
    Have("e", 5),
    Superseded(),
    Words((Word("Hallo.", 0, 9),)),
    Empty(),
    Refused("BadInput", "No."),
    Draining(),
]


def plain(value: Any) -> Any:
    """The value with arrays as bytes, so that it can be compared."""
    if isinstance(value, np.ndarray):
        return value.dtype, value.tobytes()
    if is_dataclass(value):
        return type(value), [plain(getattr(value, field.name)) for field in fields(value)]
    return value


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_arrives_as_it_was_sent(message: Request | Reply) -> None:
    assert plain(decode(encode(message))) == plain(message)


@given(st.one_of(st.binary(), st.lists(st.text() | st.integers(-(2**63), 2**63)).map(msgpack.packb)))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(BadInput, match="run the same version"):
        decode(data)


def test_samples_do_not_grow_on_the_wire() -> None:
    message = StepRequest("u", 1, "", 0, np.zeros(480_000, np.float32), 256, True, None)
    assert len(encode(message)) < 4 * 480_000 + 100
