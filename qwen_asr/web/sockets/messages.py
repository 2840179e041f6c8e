"""What the messages of both WebSocket protocols have in common: base models, and JSON in both directions."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict


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


def read_object(text: str) -> dict[str, Any] | None:
    """The JSON object in a client's text message; None if there is none."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return given if isinstance(given, dict) else None
