"""`SpeechClient`: audio in, events out, over as many connections as it takes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.pcm import ENCODINGS
from qwen_asr.audio.samples import to_mono
from qwen_asr.client.dialogue import Dialogue, passes
from qwen_asr.client.events import Connected, Event, Gap, Lost, Partial
from qwen_asr.client.history import History
from qwen_asr.client.limits import ClientLimits
from qwen_asr.client.refusals import refusal_of, socket_url
from qwen_asr.errors import BadConfig, CertificateError, ConnectionFailed, QwenASRError

log = logging.getLogger(__name__)

_NORMAL_CLOSE, _RESUMED_CLOSE = 1000, 4001
_FRAME_SECONDS = 0.1  # of audio in one message, as the protocol's first client sends it
_UNSENT_SECONDS = 2.0  # so much may wait here before `send` waits too
# After each second of audio a ping is sent, whose pong comes once the server has read so far; so many may be missing.
# Without it the kernels' buffers would hold minutes of audio that no server has heard.
_PINGS_UNDER_WAY = 20


class SpeechClient:
    """One stream of speech to one server. Use it as an asynchronous context manager; see `qwen_asr.client`.

    Iterating over it gives the events; it ends when the last final is there, and raises QwenASRError where the server
    ended it otherwise or cannot be reached any more (the `limits` say for how long it is tried). A `Partial` that was
    not read yet is replaced by the next one, so that a slow reader holds up nothing.
    """

    def __init__(
        self,
        url: str,
        *,
        language: str | None = None,
        context: str = "",
        prompt: str = "",
        chunk_seconds: float | None = None,
        rate: int = SAMPLE_RATE,
        encoding: str = "f32le",
        api_key: str | None = None,
        trust: ssl.SSLContext | None = None,
        limits: ClientLimits | None = None,
    ) -> None:
        """`rate` (Hz) is that of the audio; `encoding`, how it is sent, is `f32le` or the smaller `s16le`.

        `trust` says whose certificates are believed, by default those that the system believes; see `trusted`. Raises
        BadConfig for a `url` that is none, or another encoding.
        """
        if encoding not in ENCODINGS:
            raise BadConfig(f"The encoding is {encoding!r}; expected one of {', '.join(ENCODINGS)}.")
        self.url = socket_url(url)
        self._type = np.dtype(ENCODINGS[encoding])
        self._rate = rate
        self._limits = limits or ClientLimits()
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._trust = (trust or ssl.create_default_context()) if self.url.startswith("wss:") else None
        self._history = History(self._type.itemsize, round(self._limits.kept_seconds * rate))
        named = {"language": language, "context": context, "prompt": prompt, "chunk_size_sec": chunk_seconds}
        settings = {key: value for key, value in named.items() if value}
        self._dialogue = Dialogue(settings | {"sample_rate": rate, "encoding": encoding}, rate, self._history)
        self._sent = 0
        self._no_more = False
        self._changed = asyncio.Condition()  # of the two above, or of the history's end
        self._events: deque[Event] = deque()
        self._news = asyncio.Event()
        self._reached = 0  # the furthest sample from which a server has wanted the audio
        self._progress_at = 0.0
        self._task: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        """Begins to connect."""
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._ended)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves: a session that was not finalized is given up."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, QwenASRError):
            await self._task

    # --- what the caller does

    @property
    def sent_seconds(self) -> float:
        """How much audio was handed to the connection."""
        return self._sent / self._rate

    async def send(self, samples: NDArray[Any]) -> None:
        """Sends mono samples (n,): float in -1..1, or int16.

        Waits while the server, or the way to it, takes no more; that includes the time without a connection. Raises
        AudioError for what is no audio, RuntimeError after `finalize`. What ends the stream meanwhile is told to who
        iterates; `send` then returns at once.
        """
        if self._no_more:
            raise RuntimeError("send() after finalize(); make a new client for a new stream")
        data = self._encoded(samples)
        async with self._changed:
            self._history.append(data)
            self._changed.notify_all()
            most = min(_UNSENT_SECONDS, self._limits.kept_seconds / 2) * self._rate
            await self._changed.wait_for(lambda: self._history.end - self._sent <= most or self._task.done())

    async def finalize(self) -> None:
        """No more audio comes. Returns at once; the events end behind the last final."""
        async with self._changed:
            self._no_more = True
            self._changed.notify_all()

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            while self._events:
                yield self._events.popleft()
            if self._task.done():
                self._task.result()  # raises what ended it
                return
            self._news.clear()
            await self._news.wait()

    # --- connections, one after the other

    async def _run(self) -> None:
        """Until everything was heard. Raises QwenASRError."""
        attempt, away_since = 0, time.monotonic()
        while True:
            began = time.monotonic()
            try:
                await self._over_one_connection()
                return
            except _Dropped as dropped:
                # A connection that brought anything forward, or lasted, was good: counting begins anew.
                lasted = time.monotonic() - began > self._limits.longest_delay_seconds
                if dropped.was_open and (self._progress_at > began or lasted):
                    attempt, away_since = 0, time.monotonic()
                attempt += 1
                away = time.monotonic() - away_since
                if attempt > self._limits.tries or away > self._limits.away_seconds:
                    raise ConnectionFailed(
                        f"The server could not be reached again in {attempt - 1} tries and {away:.0f} s: "
                        f"{dropped.reason}"
                    ) from None
                delay = self._delay(attempt)
                self._tell(Lost(dropped.reason, attempt, delay))
                await asyncio.sleep(delay)

    def _delay(self, attempt: int) -> float:
        """Seconds before a try: at once, then twice as long each time; jittered, so that not all come back together."""
        if attempt == 1:
            return random.uniform(0, self._limits.first_delay_seconds)  # noqa: S311 - spreads load, hides nothing
        longest = self._limits.first_delay_seconds * 2.0 ** (attempt - 1)
        return min(longest, self._limits.longest_delay_seconds) * random.uniform(0.5, 1)  # noqa: S311 - as above

    async def _over_one_connection(self) -> None:
        """Until everything was heard. Raises _Dropped where it is worth to come back, else QwenASRError."""
        connection = await self._connected()
        parts = [asyncio.create_task(self._notice_silence(connection))]
        try:
            await self._greet(connection)
            parts.append(asyncio.create_task(self._write(connection)))
            parts[-1].add_done_callback(lambda part: connection.transport.abort() if _error_of(part) else None)
            async for message in connection:
                self._hear(message)
        except ConnectionClosed:
            pass  # why, is looked at below
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            # Nobody waits for the answer to a close on a connection that may be dead.
            leave = connection.close() if self._task.cancelling() else _at_once(connection)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(leave, 1.0)
        for part in parts:
            if (error := _error_of(part)) is not None:
                raise error
        self._judge_end(connection)

    async def _connected(self) -> _Heard:
        options: dict[str, Any] = {
            "ssl": self._trust,
            "additional_headers": self._headers,
            "create_connection": _Heard,
            "compression": None,  # audio hardly shrinks
            "open_timeout": self._limits.connect_seconds,
            "ping_interval": None,  # see `_PINGS_UNDER_WAY` and `_notice_silence`
            "close_timeout": 1.0,
        }
        try:
            connection = await connect(self.url, **options)
        except Exception as error:
            refusal, later = refusal_of(error, self.url, key_sent=bool(self._headers))
            if refusal is None:
                raise
            if later or (self._dialogue.started and not isinstance(error, InvalidStatus)):
                raise _Dropped(str(refusal)) from None
            raise refusal from None
        assert isinstance(connection, _Heard)  # noqa: S101 - it is what `create_connection` made
        return connection

    async def _greet(self, connection: _Heard) -> None:
        """Config and answer, upon which there is a session. Raises as `_over_one_connection`, and ConnectionClosed."""
        await connection.send(json.dumps(self._dialogue.config()))
        position = None
        seconds: float | None = self._limits.connect_seconds
        while position is None:
            try:
                async with asyncio.timeout(seconds):
                    answer = await connection.recv()
                event, position = self._dialogue.greeted(_object(answer))
            except TimeoutError:
                raise _Dropped("The server did not answer the config.") from None
            except QwenASRError as error:
                if passes(error):
                    raise _Dropped(str(error)) from None
                raise
            if isinstance(event, Connected) and position is not None and position < self._history.begin:
                self._tell(Gap(position / self._rate, self._history.begin / self._rate))
            self._tell(event)
            seconds = None  # in the queue it may take long; that the server lives is seen from its pings
        if position > self._reached:
            self._reached, self._progress_at = position, time.monotonic()
        async with self._changed:
            self._sent = position
            self._changed.notify_all()

    def _judge_end(self, connection: _Heard) -> None:
        """The connection is over. Returns where all is well; else raises as `_over_one_connection`."""
        code, problem = connection.close_code, self._dialogue.problem
        if problem is None and code == _NORMAL_CLOSE and self._dialogue.finalized:
            return
        if code == _RESUMED_CLOSE:
            raise ConnectionFailed("Another connection has taken this session over.")
        if problem is not None and not self._dialogue.may_come_back:
            raise problem
        reason = str(problem) if problem else f"The connection was lost (code {code})."
        raise _Dropped(connection.verdict or reason, was_open=True)

    async def _notice_silence(self, connection: _Heard) -> None:
        """Ends a connection over which nothing comes any more, not even the server's pings: a half-open one."""
        left = self._limits.silent_seconds
        while left > 0:
            await asyncio.sleep(left)
            left = connection.heard_at + self._limits.silent_seconds - time.monotonic()
        connection.verdict = f"Nothing came from the server for {self._limits.silent_seconds:g} s."
        connection.transport.abort()

    async def _write(self, connection: _Heard) -> None:
        """Sends what is there, from `_sent` on, as far as the server reads it; then the finalize."""
        frame = max(1, round(_FRAME_SECONDS * self._rate))
        pongs: deque[Awaitable[float]] = deque()
        pinged = self._sent
        with contextlib.suppress(ConnectionClosed):
            while True:
                async with self._changed:
                    await self._changed.wait_for(lambda: self._history.end > self._sent or self._no_more)
                    data = self._history.read(self._sent, frame)
                if not data:
                    break
                await connection.send(data)
                async with self._changed:
                    self._sent += len(data) // self._type.itemsize
                    self._changed.notify_all()
                if self._sent - pinged >= self._rate:
                    pinged = self._sent
                    pongs.append(await connection.ping())
                    if len(pongs) > _PINGS_UNDER_WAY:
                        await pongs.popleft()
            await connection.send(json.dumps(self._dialogue.finalize()))

    def _hear(self, message: str | bytes) -> None:
        event = self._dialogue.heard(_object(message))
        self._progress_at = time.monotonic()
        if event is not None:
            self._tell(event)

    # --- small things

    def _tell(self, event: Event) -> None:
        if isinstance(event, Partial) and self._events and isinstance(self._events[-1], Partial):
            self._events.pop()
        self._events.append(event)
        self._news.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # is raised to who iterates; nobody need do so
        self._news.set()
        self._waking = asyncio.ensure_future(self._wake())

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _encoded(self, samples: NDArray[Any]) -> bytes:
        samples = np.asarray(samples)
        if samples.dtype == self._type and self._type.kind == "i":
            return samples.tobytes()
        mono = to_mono(samples)
        if self._type.kind == "i":
            mono = np.clip(np.rint(mono * 32768), -32768, 32767)
        return mono.astype(self._type).tobytes()


class _Dropped(Exception):
    """A connection that is lost or was not to be had; it is worth to try again."""

    def __init__(self, reason: str, was_open: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.was_open = was_open


class _Heard(ClientConnection):
    """A connection that knows when the last byte came, pings among them, and why it was given up."""

    def __init__(self, *values: Any, **options: Any) -> None:
        super().__init__(*values, **options)
        self.heard_at = time.monotonic()
        self.verdict = ""

    def data_received(self, data: bytes) -> None:
        self.heard_at = time.monotonic()
        super().data_received(data)


def _object(message: str | bytes) -> dict[str, Any]:
    """The JSON object in a message of the server. Raises ConnectionFailed."""
    with contextlib.suppress(ValueError):
        if isinstance(answer := json.loads(message), dict):
            return answer
    raise ConnectionFailed("The server sent what is no message of this protocol: check the address.")


def _error_of(part: asyncio.Task[None]) -> BaseException | None:
    return None if part.cancelled() else part.exception()


async def _at_once(connection: ClientConnection) -> None:
    connection.transport.abort()
    await connection.wait_closed()


def trusted(cafile: str | None = None) -> ssl.SSLContext:
    """Believes the certificates of that PEM file (a CA's, or a server's own), by default the system's.

    Raises CertificateError for a file that cannot be read or holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=cafile)
    except FileNotFoundError:
        raise CertificateError(f"There is no file {cafile!r}; expected a certificate in PEM: check the path.") from None
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or error.strerror or error
        raise CertificateError(f"{cafile!r} cannot be used ({reason}); expected a certificate in PEM.") from None
