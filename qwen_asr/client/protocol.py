"""The client's side of the `/ws/asr` protocol: builds and parses messages, across reconnections. No I/O.

docs/protocol.md describes the messages.
"""

from __future__ import annotations

from typing import Any

from qwen_asr import errors
from qwen_asr.client.events import Aligned, Connected, Event, Failed, Final, Loading, Partial, Queued, Warned, Word
from qwen_asr.client.replay_buffer import ReplayBuffer
from qwen_asr.errors import ConnectionFailed, QwenASRError

_TEMPORARY = (errors.NotReady, errors.LimitExceeded, errors.TimedOut)


class ClientProtocol:
    """The protocol state of one stream. `settings` are the keys of the config message."""

    def __init__(self, settings: dict[str, Any], rate: int, buffer: ReplayBuffer) -> None:
        """`rate` (Hz) is that of the samples in `buffer`."""
        self._settings = settings
        self._rate = rate
        self._buffer = buffer
        self._session_id = ""
        self._waited = False  # in the queue, or for a model
        self._utterances = 0  # that have ended
        self._first_utterance = 0  # our number of the current session's utterance 0
        self._aligned: set[int] = set()  # utterances whose words are known: a server that resumes repeats them
        self.finalized = False
        """Whether the finalize message was sent on the current connection."""
        self.server_error: QwenASRError | None = None
        """The error that the server sent before it closed the current connection."""

    def config_message(self) -> dict[str, Any]:
        """The first message of a connection."""
        self.finalized, self.server_error = False, None
        resume = {"resume": self._session_id, "offset": self._buffer.final_until} if self._session_id else {}
        return {"type": "config", **self._settings, **resume}

    def finalize_message(self) -> dict[str, Any]:
        """The last message of the stream."""
        self.finalized = True
        return {"type": "finalize"}

    def handle_config_answer(self, message: dict[str, Any]) -> tuple[Event, int | None]:
        """The event for an answer to the config, and the position from which to send; None while it waits.

        Raises the error that the server sent, and ConnectionFailed for an invalid answer.
        """
        kind = message.get("type")
        if kind == "queued":
            self._waited = True
            return Queued(int(message.get("position", 0))), None
        if kind == "loading":
            self._waited = True
            return Loading(str(message.get("message", ""))), None
        if kind == "error":
            raise error_from(message)
        if kind not in ("session_created", "session_resumed"):
            raise ConnectionFailed(f"The server answered the config with {kind!r}; expected session_created.")
        position = message.get("received_samples", self._buffer.final_until)
        if not isinstance(position, int) or not 0 <= position <= self._buffer.end:
            raise ConnectionFailed(f"The server requests audio from sample {position!r} on, which does not exist.")
        resumed = kind == "session_resumed"
        self._session_id = str(message.get("session_id", ""))
        if not resumed:
            self._first_utterance = self._utterances
        start = position / self._rate
        return Connected(self._session_id, resumed, start, str(message.get("warning", ""))), position

    def handle_message(self, message: dict[str, Any]) -> Event | None:
        """The event for any later message; None if there is none."""
        kind = message.get("type")
        if kind == "error" and "utterance" not in message:
            self.server_error = error_from(message)
            return None
        if kind == "warning":
            return Warned(str(message.get("code", "")), str(message.get("message", "")))
        if kind not in ("partial", "final", "words", "error"):
            return None  # from a later version of the protocol
        number = self._first_utterance + int(message.get("utterance", 0))
        words = _words_of(message)
        if kind == "words":
            return self._handle_words(number, words)
        start, end = float(message.get("start", 0.0)), float(message.get("end", 0.0))
        text, language = str(message.get("text", "")), str(message.get("language", ""))
        warning = str(message.get("warning", ""))
        if kind == "partial":
            stable, lag = int(message.get("stable", 0)), float(message.get("lag", 0.0))
            return Partial(number, start, end, language, text, stable, lag, warning)
        end_sample = int(message.get("end_sample", end * self._rate))
        if message.get("repeated") and end_sample <= self._buffer.final_until:
            return self._handle_words(number, words)
        self._buffer.settle(end_sample)
        if kind == "final" and not text and start == end:
            return None  # the server's answer to a session without speech is not an utterance
        self._utterances = max(self._utterances, number + 1)
        if kind == "error":
            return Failed(number, start, end, str(message.get("message", "")))
        self._aligned.update([number] if words else [])
        return Final(number, start, end, language, text, warning, words)

    def _handle_words(self, number: int, words: tuple[Word, ...]) -> Aligned | None:
        if number in self._aligned or not words:
            return None
        self._aligned.add(number)
        return Aligned(number, words)

    @property
    def started(self) -> bool:
        """Whether there has been a session or a place in the queue, so the address is correct."""
        return self._waited or bool(self._session_id)

    @property
    def may_reconnect(self) -> bool:
        """Whether the server closed the connection without an error, or with a temporary one."""
        return self.server_error is None or is_temporary(self.server_error)


def _words_of(message: dict[str, Any]) -> tuple[Word, ...]:
    return tuple(
        Word(str(word.get("word", "")), float(word.get("start", 0.0)), float(word.get("end", 0.0)))
        for word in message.get("words") or ()
    )


def error_from(message: dict[str, Any]) -> QwenASRError:
    """The exception for an error message of the server."""
    kind = getattr(errors, str(message.get("code", "")), QwenASRError)
    if not (isinstance(kind, type) and issubclass(kind, QwenASRError)) or kind is errors.BadField:
        kind = QwenASRError
    return kind(str(message.get("message", "The server failed without an explanation.")))


def is_temporary(error: QwenASRError) -> bool:
    """Whether the same request may succeed later."""
    return isinstance(error, _TEMPORARY)
