"""What the messages of both WebSocket protocols have in common: base models, and JSON in both directions."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from qwen_asr.web.validation import shown

MAX_REASON_BYTES = 123
"""The most UTF-8 in the reason of a close: RFC 6455, section 5.5, less two bytes for the code."""
_JSON: TypeAdapter[Any] = TypeAdapter(Any)


class ClientModel(BaseModel):
    """An object in a client's message. Types are not converted, and unknown keys are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class ServerModel(BaseModel):
    """An object in a server's message."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerMessage(ServerModel):
    """A message of the server. Its JSON keys are in the order of the fields."""

    type: str

    def as_dict(self) -> dict[str, Any]:
        """The message's keys and values, as they are sent."""
        return self.model_dump()

    def to_json(self) -> str:
        """The message as it is sent."""
        return json.dumps(self.as_dict(), ensure_ascii=False, allow_nan=False)

    def replaces(self, waiting: ServerMessage) -> bool:
        """Whether a client that has not read the `waiting` message yet needs only this one, which comes right after."""
        return False


def read_object(text: str, expected: str) -> dict[str, Any]:
    """The JSON object in a client's text message. Raises ValueError with a sentence that ends with `expected`.

    The parser of pydantic nests to a fixed depth of about 200, and the error for more is like any other. That of
    Python nests as deep as the stack of the moment allows, and leaves no room for what handles the value next. The
    strings can always be encoded as UTF-8: an escape that is half of a surrogate pair is an error too.
    """
    try:
        given = _JSON.validate_json(text)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["ctx"]["error"]
        raise ValueError(f"A message is not JSON ({reason}): {shown(text)}; expected {expected}.") from None
    if not isinstance(given, dict):
        raise ValueError(f"A message is {shown(given)}; expected {expected}.")
    return given


def close_reason(error: Exception) -> str:
    """The sentence of an error as the reason of a close, cut where it is too long.

    It also stands in a message, which a client that is still sending may never read. Its own `send` raises an error
    that has the reason.
    """
    data = str(error).encode(errors="replace")
    if len(data) <= MAX_REASON_BYTES:
        return data.decode()
    return data[: MAX_REASON_BYTES - len("…".encode())].decode(errors="ignore") + "…"
