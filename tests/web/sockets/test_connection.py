"""What both WebSocket protocols share: how long a client that sends no audio keeps its session. On a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from qwen_asr.config.limits import SocketLimits
from qwen_asr.errors import LimitExceeded, QwenASRError, TimedOut
from qwen_asr.service.admission import Admission
from qwen_asr.web.sockets.connection import Connection
from qwen_asr.web.transport.websocket_protocol import _EXTENSION, SignsOfLife

LIMITS = SocketLimits(idle_seconds=60, pause_seconds=300, pause_poll_seconds=5, session_seconds=4 * 3600)


class VirtualTime(asyncio.SelectorEventLoop):
    """A loop whose clock stands still while anything can run, and else jumps to the next timer."""

    _now = 0.0

    def time(self) -> float:
        """Seconds since the loop began."""
        return self._now

    def _run_once(self) -> None:
        inner: Any = super()
        timers = [timer._when for timer in vars(self)["_scheduled"] if not timer._cancelled]
        if not vars(self)["_ready"] and timers:
            self._now = max(self._now, min(timers))
        inner._run_once()


class Socket:
    """The server's side of a WebSocket whose client sends `script`: (seconds, what), where None is only a ping."""

    def __init__(self, script: Sequence[tuple[float, str | bytes | None]]) -> None:
        self._life = SignsOfLife()
        self.scope: dict[str, Any] = {"client": ("192.0.2.1", 1), "extensions": {_EXTENSION: {"life": self._life}}}
        self._script = script
        self._queue = asyncio.Queue[dict[str, Any]]()

    async def play(self) -> None:
        """Sends the script."""
        for seconds, what in self._script:
            await anyio.sleep(seconds - asyncio.get_running_loop().time())
            self._life.last_at = asyncio.get_running_loop().time()
            if what is not None:
                key = "text" if isinstance(what, str) else "bytes"
                self._queue.put_nowait({"type": "websocket.receive", key: what})
        await anyio.sleep_forever()

    async def receive(self) -> dict[str, Any]:
        """The next message."""
        return await self._queue.get()


class Listener(Connection):
    """A protocol that only counts bytes: a text that is "end" ends the session."""

    kind = "test"
    busy_until = 0.0

    async def _handle(self, message: str | bytes) -> bool:
        if isinstance(message, bytes):
            await self._feed_audio(message)
        return message != "end"

    async def _in_thread(self, function: Any, *values: Any) -> Any:
        return function(*values)

    async def _is_busy(self) -> bool:
        return anyio.current_time() < self.busy_until

    def _feed(self, audio: bytes) -> bool:
        return False

    def _piece_bytes(self) -> int:
        return 1_000

    def _is_ahead(self) -> bool:
        return False

    _begin = _finish = _conclude = _detach = _error_message = _queued_message = _loading_message = None  # type: ignore[assignment]  # not called


Listener.__abstractmethods__ = frozenset()  # what is None above is never called


def listen(
    script: Sequence[tuple[float, str | bytes | None]],
    someone_waits_from: float = float("inf"),
    busy_until: float = 0.0,
) -> tuple[QwenASRError | None, float]:
    """What ended the session, and when. The only slot of the server is taken."""

    async def run() -> tuple[QwenASRError | None, float]:
        socket, admission = Socket(script), Admission(1, 5)
        admission.enter()
        service: Any = type("Service", (), {"admission": admission})
        listener = Listener(socket, service, LIMITS, None)  # type: ignore[arg-type]  # doubles
        listener.busy_until = busy_until
        playing = asyncio.create_task(socket.play())
        loop = asyncio.get_running_loop()
        if someone_waits_from < float("inf"):
            loop.call_at(someone_waits_from, admission.enter)
        error = await listener._receive_all()
        playing.cancel()
        return error, loop.time()

    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        return runner.run(run())


@pytest.mark.parametrize("sign", [None, b"", '{"type":"KeepAlive"}'], ids=["ping or pong", "empty frame", "text"])
def test_a_client_that_gives_signs_of_life_may_pause(sign: str | bytes | None) -> None:
    signs = [(1.0 + 50.0 * number, sign) for number in range(72)]
    assert listen([(0.0, b"audio"), *signs, (3_600.0, b"audio"), (3_601.0, "end")]) == (None, 3_601.0)


@pytest.mark.parametrize("last", [None, b"audio", "hello"])
def test_a_client_without_a_sign_of_life_times_out(last: str | bytes | None) -> None:
    error, ended = listen([(0.0, b"audio"), (30.0, last)])
    assert isinstance(error, TimedOut)
    assert "not even a pong" in str(error)
    assert ended == 90.0


def test_a_client_that_waits_for_its_text_does_not_time_out() -> None:
    error, ended = listen([(10.0, b"audio")], busy_until=100.0)
    assert isinstance(error, TimedOut)
    assert ended == 130.0  # 10, then 70 while it is busy, then 130


def test_a_pause_ends_when_somebody_waits_for_the_slot() -> None:
    pings: Sequence[tuple[float, str | bytes | None]] = [(10.0 * number, None) for number in range(1, 400)]
    for waits_from, ends in ((0.0, 300.0), (100.0, 300.0), (1_000.0, 1_000.0)):
        error, ended = listen([(0.0, b"audio"), *pings], waits_from)
        assert isinstance(error, LimitExceeded)
        assert "others wait" in str(error)
        assert ends <= ended <= ends + LIMITS.pause_poll_seconds
    spoken = sorted([*pings, *((200.0 * number, b"audio") for number in range(1, 20))], key=lambda one: one[0])
    error, _ = listen([*spoken, (3_990.5, "end")], 0.0)  # only pauses below the limit
    assert error is None


def test_keepalives_are_no_audio() -> None:
    for seconds in (10.0, 2.0):  # also more often than the session looks whether somebody waits
        signs = [(seconds * number, '{"type":"ping"}' if number % 2 else b"") for number in range(1, 401)]
        error, ended = listen(signs, 0.0)
        assert isinstance(error, LimitExceeded)
        assert ended <= 300.0 + LIMITS.pause_poll_seconds + seconds


def test_a_session_that_pauses_ends_at_its_longest_duration() -> None:
    error, ended = listen([(30.0 * number, None) for number in range(1, 1_000)])
    assert isinstance(error, LimitExceeded)
    assert "has lasted" in str(error)
    assert ended == LIMITS.session_seconds
