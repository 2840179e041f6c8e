"""`SpeechClient`: sends audio to a server and receives events, reconnecting as often as necessary."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.pcm import ENCODINGS
from qwen_asr.audio.validation import ArrayReader, as_array
from qwen_asr.client.connect_errors import connect_error, socket_url
from qwen_asr.client.events import Connected, Event, Gap, Lost, Partial
from qwen_asr.client.limits import ClientLimits
from qwen_asr.client.protocol import ClientProtocol, is_temporary
from qwen_asr.client.replay_buffer import ReplayBuffer
from qwen_asr.errors import BadConfig, CertificateError, ConnectionFailed, QwenASRError

_NORMAL_CLOSE, _RESUMED_CLOSE = 1000, 4001
_FRAME_SECONDS = 0.1  # audio in one message
_MAX_UNSENT_SECONDS = 2.0  # audio that may wait before `send` waits too
# A ping follows each second of audio, and the server answers it once it has read that far. At most this many may be
# unanswered; otherwise the buffers of the operating systems would hold minutes of audio that the server has not read.
_MAX_PINGS = 20
_CLOSE_SECONDS = 1.0


class SpeechClient:
    """One stream of speech to one server, as an asynchronous context manager; see `qwen_asr.client`.

    Iterating yields the events and ends after the last final text. It raises QwenASRError if the server ended the
    stream with an error, or if it cannot be reached again within `limits`. A `Partial` that was not read yet is
    replaced by the next one, so a slow reader does not delay anything.
    """

    def __init__(
        self,
        url: str,
        *,
        language: str | None = None,
        context: str = "",
        prompt: str = "",
        chunk_seconds: float | Literal["auto"] | None = None,
        rate: int = SAMPLE_RATE,
        encoding: str = "f32le",
        words: bool = False,
        model: str = "",
        api_key: str | None = None,
        trust: ssl.SSLContext | None = None,
        limits: ClientLimits | None = None,
    ) -> None:
        """`rate` (Hz) is that of the audio. `encoding` on the wire is `f32le`, or `s16le` with half the bytes.

        `words`: whether finals have the times of their words. A server that does not know them says so in a `Warned`.
        `model`: the name of one of the server's models, where it has several.
        `trust` determines which certificates are trusted (default: those the system trusts); see `trusted`. Raises
        BadConfig for an invalid `url` or `encoding`.
        """
        if encoding not in ENCODINGS:
            raise BadConfig(f"The encoding is {encoding!r}; expected one of {', '.join(ENCODINGS)}.")
        self.url = socket_url(url)
        self._dtype = np.dtype(ENCODINGS[encoding])
        self._reader = ArrayReader()
        self._rate = rate
        self._limits = limits or ClientLimits()
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._trust = (trust or ssl.create_default_context()) if self.url.startswith("wss:") else None
        self._buffer = ReplayBuffer(self._dtype.itemsize, round(self._limits.buffer_seconds * rate))
        optional = {
            "language": language,
            "context": context,
            "prompt": prompt,
            "chunk_size_sec": chunk_seconds,
            "words": words,
            "model": model,
        }
        settings = {key: value for key, value in optional.items() if value}
        self._protocol = ClientProtocol(settings | {"sample_rate": rate, "encoding": encoding}, rate, self._buffer)
        self._sent = 0  # position up to which samples were sent on the current connection
        self._finalizing = False
        self._changed = asyncio.Condition()  # of `_sent`, `_finalizing`, or the end of the buffer
        self._events: deque[Event] = deque()
        self._event_added = asyncio.Event()
        self._furthest_position = 0  # the last sample from which a server requested audio
        self._last_progress = 0.0
        self._task: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        """Starts to connect."""
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._on_task_done)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnects; a session that was not finalized is abandoned."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, QwenASRError):
            await self._task

    # --- for the caller

    @property
    def sent_seconds(self) -> float:
        """How much audio was sent."""
        return self._sent / self._rate

    async def send(self, samples: NDArray[Any]) -> None:
        """Sends samples: (n,) float in -1..1 or int16, or any other array that `ArrayReader` reads.

        Waits while the server or the network accepts no more, and while there is no connection. Raises AudioError for
        an invalid array and RuntimeError after `finalize`. An error that ends the stream is raised by the iteration;
        `send` then returns immediately.
        """
        if self._finalizing:
            raise RuntimeError("send() after finalize(); make a new client for a new stream")
        data = self._encode(samples)
        async with self._changed:
            self._buffer.append(data)
            self._changed.notify_all()
            max_unsent = min(_MAX_UNSENT_SECONDS, self._limits.buffer_seconds / 2) * self._rate
            await self._changed.wait_for(lambda: self._buffer.end - self._sent <= max_unsent or self._task.done())

    async def finalize(self) -> None:
        """Ends the audio. Returns immediately; the events end after the last final text."""
        async with self._changed:
            self._finalizing = True
            self._changed.notify_all()

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            while self._events:
                yield self._events.popleft()
            if self._task.done():
                self._task.result()  # raises the error that ended the stream
                return
            self._event_added.clear()
            await self._event_added.wait()

    # --- connections, one after the other

    async def _run(self) -> None:
        """Runs until the last final text was received. Raises QwenASRError."""
        attempt, offline_since = 0, time.monotonic()
        while True:
            started = time.monotonic()
            try:
                await self._run_connection()
                return
            except _ConnectionDropped as dropped:
                # After a connection that made progress or lasted for a while, the attempts are counted from 0 again.
                lasted = time.monotonic() - started > self._limits.max_delay_seconds
                if dropped.was_open and (self._last_progress > started or lasted):
                    attempt, offline_since = 0, time.monotonic()
                attempt += 1
                offline = time.monotonic() - offline_since
                if attempt > self._limits.max_attempts or offline > self._limits.max_offline_seconds:
                    raise ConnectionFailed(
                        f"The server could not be reached again in {attempt - 1} attempts and {offline:.0f} s: "
                        f"{dropped.reason}"
                    ) from None
                delay = self._delay(attempt)
                self._emit(Lost(dropped.reason, attempt, delay))
                await asyncio.sleep(delay)

    def _delay(self, attempt: int) -> float:
        """Seconds before an attempt: short before the first, then exponential, randomized to spread the load."""
        if attempt == 1:
            return random.uniform(0, self._limits.first_delay_seconds)  # noqa: S311 - spreads load, keeps no secret
        longest = self._limits.first_delay_seconds * 2.0 ** (attempt - 1)
        return min(longest, self._limits.max_delay_seconds) * random.uniform(0.5, 1)  # noqa: S311 - as above

    async def _run_connection(self) -> None:
        """Runs until the last final text was received. Raises _ConnectionDropped to reconnect, or QwenASRError."""
        connection = await self._connect()
        tasks = [asyncio.create_task(self._abort_if_silent(connection))]
        try:
            await self._open_session(connection)
            tasks.append(asyncio.create_task(self._send_audio(connection)))
            tasks[-1].add_done_callback(lambda task: connection.transport.abort() if _error_of(task) else None)
            async for message in connection:
                self._handle_message(message)
        except ConnectionClosed:
            pass  # `_check_close` looks at the reason
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            # A dead connection would never answer a close frame.
            close = connection.close() if self._task.cancelling() else _abort(connection)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(close, _CLOSE_SECONDS)
        for task in tasks:
            if (error := _error_of(task)) is not None:
                raise error
        self._check_close(connection)

    async def _connect(self) -> _Connection:
        options: dict[str, Any] = {
            "ssl": self._trust,
            "additional_headers": self._headers,
            "create_connection": _Connection,
            "compression": None,  # audio hardly compresses
            "open_timeout": self._limits.connect_timeout_seconds,
            "ping_interval": None,  # see `_MAX_PINGS` and `_abort_if_silent`
            "close_timeout": _CLOSE_SECONDS,
        }
        try:
            connection = await connect(self.url, **options)
        except Exception as error:
            known_error, temporary = connect_error(error, self.url, key_sent=bool(self._headers))
            if known_error is None:
                raise
            if temporary or (self._protocol.started and not isinstance(error, InvalidStatus)):
                raise _ConnectionDropped(str(known_error)) from None
            raise known_error from None
        assert isinstance(connection, _Connection)  # noqa: S101 - created by `create_connection`
        return connection

    async def _open_session(self, connection: _Connection) -> None:
        """Sends the config and waits for the session. Raises like `_run_connection`, and ConnectionClosed."""
        # A server that refuses every session may have closed already: what it said first is still there.
        with contextlib.suppress(ConnectionClosed):
            await connection.send(json.dumps(self._protocol.config_message()))
        position = None
        timeout: float | None = self._limits.connect_timeout_seconds
        while position is None:
            try:
                async with asyncio.timeout(timeout):
                    answer = await connection.recv()
                event, position = self._protocol.handle_config_answer(_parse_object(answer))
            except TimeoutError:
                raise _ConnectionDropped("The server did not answer the config.") from None
            except QwenASRError as error:
                if is_temporary(error):
                    raise _ConnectionDropped(str(error)) from None
                raise
            if isinstance(event, Connected) and position is not None and position < self._buffer.begin:
                self._emit(Gap(position / self._rate, self._buffer.begin / self._rate))
            self._emit(event)
            timeout = None  # waiting has no timeout; the server's pings show that it is alive
        if position > self._furthest_position:
            self._furthest_position, self._last_progress = position, time.monotonic()
        async with self._changed:
            self._sent = position
            self._changed.notify_all()

    def _check_close(self, connection: _Connection) -> None:
        """Returns if the connection ended as it should; otherwise raises like `_run_connection`."""
        code, error = connection.close_code, self._protocol.server_error
        if error is None and code == _NORMAL_CLOSE and self._protocol.finalized:
            return
        if code == _RESUMED_CLOSE:
            raise ConnectionFailed("Another connection has resumed this session: use one client for each session.")
        if error is not None and not self._protocol.may_reconnect:
            raise error
        reason = str(error) if error else connection.close_reason or f"The connection was lost (code {code})."
        raise _ConnectionDropped(connection.abort_reason or reason, was_open=True)

    async def _abort_if_silent(self, connection: _Connection) -> None:
        """Aborts a half-open connection, on which not even the server's pings arrive."""
        timeout = self._limits.receive_timeout_seconds
        remaining = timeout
        while remaining > 0:
            await asyncio.sleep(remaining)
            remaining = connection.last_received + timeout - time.monotonic()
        connection.abort_reason = f"Nothing came from the server for {timeout:g} s."
        connection.transport.abort()

    async def _send_audio(self, connection: _Connection) -> None:
        """Sends the buffer from `_sent` on, as fast as the server reads it; then the finalize message."""
        frame = max(1, round(_FRAME_SECONDS * self._rate))
        pongs: deque[Awaitable[float]] = deque()
        last_ping = self._sent
        with contextlib.suppress(ConnectionClosed):
            while True:
                async with self._changed:
                    await self._changed.wait_for(lambda: self._buffer.end > self._sent or self._finalizing)
                    data = self._buffer.read(self._sent, frame)
                if not data:
                    break
                await connection.send(data)
                async with self._changed:
                    self._sent += len(data) // self._dtype.itemsize
                    self._changed.notify_all()
                if self._sent - last_ping >= self._rate:
                    last_ping = self._sent
                    pongs.append(await connection.ping())
                    if len(pongs) > _MAX_PINGS:
                        await pongs.popleft()
            await connection.send(json.dumps(self._protocol.finalize_message()))

    def _handle_message(self, message: str | bytes) -> None:
        event = self._protocol.handle_message(_parse_object(message))
        self._last_progress = time.monotonic()
        if event is not None:
            self._emit(event)

    # --- helpers

    def _emit(self, event: Event) -> None:
        if isinstance(event, Partial) and self._events and isinstance(self._events[-1], Partial):
            self._events.pop()
        self._events.append(event)
        self._event_added.set()

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # marks it as retrieved: the iteration raises it, but the caller may not iterate
        self._event_added.set()
        self._notifying = asyncio.ensure_future(self._notify_changed())

    async def _notify_changed(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _encode(self, samples: NDArray[Any]) -> bytes:
        array = as_array(samples)
        if array.dtype == self._dtype and self._dtype.kind == "i" and array.ndim == 1:
            return array.tobytes()
        mono = self._reader.read(array)
        if self._dtype.kind == "i":
            mono = np.clip(np.rint(mono * 32768), -32768, 32767)
        return mono.astype(self._dtype).tobytes()


class _ConnectionDropped(Exception):
    """A connection was lost or refused, and it is worth reconnecting."""

    def __init__(self, reason: str, was_open: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.was_open = was_open


class _Connection(ClientConnection):
    """A connection that records when data last arrived, pings included, and why it was aborted."""

    def __init__(self, *values: Any, **options: Any) -> None:
        super().__init__(*values, **options)
        self.last_received = time.monotonic()
        self.abort_reason = ""

    def data_received(self, data: bytes) -> None:
        """Called by the event loop with new bytes."""
        self.last_received = time.monotonic()
        super().data_received(data)


def _parse_object(message: str | bytes) -> dict[str, Any]:
    """The JSON object in a message of the server. Raises ConnectionFailed."""
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(parsed := json.loads(message), dict):
            return parsed
    raise ConnectionFailed("The server sent a message that does not belong to this protocol: check the address.")


def _error_of(task: asyncio.Task[None]) -> BaseException | None:
    return None if task.cancelled() else task.exception()


async def _abort(connection: ClientConnection) -> None:
    connection.transport.abort()
    await connection.wait_closed()


def trusted(cafile: str | None = None) -> ssl.SSLContext:
    """A context that trusts the certificates in that PEM file (a CA's, or a server's own); default: the system's.

    Raises CertificateError for a file that cannot be read or contains no certificate.
    """
    try:
        return ssl.create_default_context(cafile=cafile)
    except FileNotFoundError:
        raise CertificateError(f"There is no file {cafile!r}; expected a certificate in PEM: check the path.") from None
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or error.strerror or error
        raise CertificateError(f"{cafile!r} cannot be used ({reason}); expected a certificate in PEM.") from None
