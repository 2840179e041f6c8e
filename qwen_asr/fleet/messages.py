"""What a scheduler and an engine in another process say to each other: frozen dataclasses, as MessagePack on the wire.

One rule makes a call safe to repeat: after it, utterance `uid` is its first `offset` samples, then `samples`. So audio
that is appended, a cut, an answer that was lost, and a new beginning are all the same message. An engine that has fewer
than `offset` samples of the utterance answers `Have`, and is sent the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any, cast, get_args

import msgpack
import numpy as np
from numpy.typing import NDArray

from qwen_asr.engine.hypothesis import Hypothesis
from qwen_asr.engine.interface import EngineInfo
from qwen_asr.engine.words import Clip, Word
from qwen_asr.errors import BadInput

VERSION = 1
"""Of these messages. Both sides must have the same."""


@dataclass(frozen=True)
class Settings:
    """The settings of an utterance, as `engine.streaming.Utterance` has them. draft: tokens to verify first."""

    context: str
    language: str | None
    scored: bool
    background: bool
    draft: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class StepRequest:
    """After this call, utterance `uid` is its first `offset` samples, then `samples`; run a step over all of them.

    samples: float32 mono at 16 kHz, (n,). holder: the `engine` of the answer that confirmed the first `offset` samples,
    so that no other engine takes what it kept from an earlier time for them; "" with offset 0. number: rises with each
    request of the utterance, also when one is repeated; an engine answers `Superseded` for what an older one asked.
    urgent: whether the step goes before others, as in `Scheduler.submit`. settings: given with offset 0 only.
    """

    uid: str
    number: int
    holder: str
    offset: int
    samples: NDArray[np.float32]
    max_new_tokens: int
    urgent: bool
    settings: Settings | None


@dataclass(frozen=True)
class CloseRequest:
    """Forget utterance `uid`. An engine also forgets it by itself when it has not been asked for a while."""

    uid: str


@dataclass(frozen=True)
class AlignRequest:
    """Find the words of a clip; see `Scheduler.align`."""

    clip: Clip
    background: bool


@dataclass(frozen=True)
class CheckRequest:
    """Check that an utterance of `seconds` with this prompt fits; see `SpeechModel.check_room`."""

    seconds: float
    max_new_tokens: int
    context: str
    language: str | None


@dataclass(frozen=True)
class HelloRequest:
    """Say who you are."""

    version: int = VERSION


Request = StepRequest | CloseRequest | AlignRequest | CheckRequest | HelloRequest


@dataclass(frozen=True)
class AlignerInfo:
    """An engine's aligner. reasons: why some languages cannot be aligned. other: why no further one, with `{}`."""

    name: str
    is_quick: bool
    reasons: dict[str, str]
    known: tuple[str, ...]
    other: str


@dataclass(frozen=True)
class Hello:
    """An engine. engine: the id of this process's engine, new at each start."""

    engine: str
    info: EngineInfo
    aligner: AlignerInfo | None
    version: int = VERSION


@dataclass(frozen=True)
class Done:
    """The hypothesis of a step, and the `engine` that holds the samples now."""

    engine: str
    hypothesis: Hypothesis


@dataclass(frozen=True)
class Have:
    """The engine holds the first `have` samples of the utterance, which are fewer than the request's `offset`."""

    engine: str
    have: int


@dataclass(frozen=True)
class Superseded:
    """A newer request of the utterance has come meanwhile, and is answered instead."""


@dataclass(frozen=True)
class Words:
    """The words of a clip."""

    words: tuple[Word, ...]


@dataclass(frozen=True)
class Empty:
    """Done, and there is nothing to say."""


@dataclass(frozen=True)
class Refused:
    """It failed, and would fail again: `kind` is the name of a class in `errors`, `message` a sentence for people."""

    kind: str
    message: str


@dataclass(frozen=True)
class Draining:
    """The engine is about to stop and takes no new steps: ask another one."""


Reply = Hello | Done | Have | Superseded | Words | Empty | Refused | Draining

_KINDS: dict[str, Any] = {kind.__name__: kind for kind in (*get_args(Request), *get_args(Reply))}
_INSIDE: dict[str, Any] = {kind.__name__: kind for kind in (Settings, Clip, Word, Hypothesis, EngineInfo, AlignerInfo)}
_SAMPLES, _DATA = 1, 2  # MessagePack's extension types


def encode(message: Request | Reply) -> bytes:
    """A message as MessagePack: the name of its class and its fields. Samples are little-endian float32."""
    return cast("bytes", msgpack.packb([type(message).__name__, *_values(message)], default=_encode))


def decode(data: bytes) -> Request | Reply:
    """The message that `encode` has made. Raises `BadInput` for anything else."""
    try:
        name, *values = msgpack.unpackb(data, ext_hook=_decode, use_list=False, strict_map_key=False)
        return cast("Request | Reply", _KINDS[name](*values))
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise BadInput(
            f"This is no message of an engine or its scheduler of version {VERSION} ({type(error).__name__}): run the "
            "same version of the program on both sides."
        ) from error


def _values(message: Any) -> list[Any]:
    return [getattr(message, field.name) for field in fields(message)]


def _encode(value: Any) -> msgpack.ExtType:
    if isinstance(value, np.ndarray):
        return msgpack.ExtType(_SAMPLES, value.astype("<f4", copy=False).tobytes())
    if is_dataclass(value):
        packed = msgpack.packb([type(value).__name__, *_values(value)], default=_encode)
        return msgpack.ExtType(_DATA, packed)
    raise TypeError(f"{type(value).__name__} has no place in a message.")


def _decode(code: int, data: bytes) -> Any:
    if code == _SAMPLES:
        return np.frombuffer(data, "<f4").astype(np.float32)
    name, *values = msgpack.unpackb(data, ext_hook=_decode, use_list=False, strict_map_key=False)
    return _INSIDE[name](*values)
