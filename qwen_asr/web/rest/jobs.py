"""`Job`: what a request wants transcribed, and the two ways to answer it: at once, or as server-sent events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol

from qwen_asr.web.error_response import ErrorBody, error_body

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import Send

    from qwen_asr.live.events import Final

HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class Events(Protocol):
    """Writes the events of a stream. Each may be empty."""

    def begin(self) -> bytes:
        """The events before the first final."""

    def add(self, final: Final) -> bytes:
        """The events for the next final."""

    def end(self) -> bytes:
        """The last events."""

    def failure(self, error: ErrorBody) -> bytes:
        """The last events, if an error ends the stream."""


@dataclass(frozen=True)
class Job:
    """Files to transcribe one after another, each in a session of its own.

    `context_field`: the field of the request that is wrong if the model cannot take the context. `scored`: whether
    finals need their tokens. `events`: those of a stream; without them `whole` makes the answer of all finals and the
    length of the audio in seconds.
    """

    files: Sequence[BinaryIO]
    language: str | None
    context: str
    context_field: str
    scored: bool
    events: Events | None
    whole: Callable[[Sequence[Final], float], Response]


class Collected:
    """An answer that is sent at once, in the end."""

    begun = False

    def __init__(self, job: Job) -> None:
        self._job = job
        self._finals: list[Final] = []

    async def begin(self) -> None:
        """Nothing is sent yet."""

    async def add(self, final: Final) -> None:
        """Keeps the next final."""
        self._finals.append(final)

    async def end(self, seconds: float) -> Response:
        """The response."""
        return self._job.whole(self._finals, seconds)

    async def fail(self, error: Exception) -> None:
        """Not called: nothing has begun."""


class Streamed:
    """An answer that is sent event by event. `begun`: whether it is too late for another status than 200."""

    def __init__(self, events: Events, send: Send) -> None:
        self._events = events
        self._send = send
        self.begun = False

    async def begin(self) -> None:
        """Sends the headers and the first events, if it has not yet. Call it when the work has begun without errors."""
        if not self.begun:
            self.begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            await self._send_events(self._events.begin())

    async def add(self, final: Final) -> None:
        """Sends the events of the next final."""
        await self._send_events(self._events.add(final))

    async def end(self, seconds: float) -> None:
        """Sends the last events."""
        await self._send_events(self._events.end(), more=False)

    async def fail(self, error: Exception) -> None:
        """Ends the stream with an error."""
        await self._send_events(self._events.failure(error_body(error)), more=False)

    async def _send_events(self, data: bytes, more: bool = True) -> None:
        if data or not more:
            await self._send({"type": "http.response.body", "body": data, "more_body": more})
