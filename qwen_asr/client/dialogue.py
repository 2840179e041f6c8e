"""What a client says to `/ws/asr` and makes of the answers, through any number of connections. No I/O.

docs/protocol.md is the other half of this.
"""

from __future__ import annotations

from typing import Any

from qwen_asr import errors
from qwen_asr.client.events import Connected, Event, Failed, Final, Partial, Queued
from qwen_asr.client.history import History
from qwen_asr.errors import ConnectionFailed, QwenASRError

_LATER = (errors.NotReady, errors.LimitExceeded, errors.TimedOut)


class Dialogue:
    """One speaker's conversation. `settings` are the keys of a config as the protocol names them."""

    def __init__(self, settings: dict[str, Any], rate: int, history: History) -> None:
        self._settings = settings
        self._rate = rate
        self._history = history
        self._session_id = ""
        self._queued = False
        self._utterances = 0  # that have ended
        self._first_utterance = 0  # what the session's number 0 is here
        self.finalized = False
        """Whether the server was told on this connection that no more comes."""
        self.problem: QwenASRError | None = None
        """What the server said before it closes."""

    def config(self) -> dict[str, Any]:
        """The first message of a connection."""
        self.finalized, self.problem = False, None
        again = {"resume": self._session_id, "offset": self._history.settled} if self._session_id else {}
        return {"type": "config", **self._settings, **again}

    def finalize(self) -> dict[str, Any]:
        """The last message."""
        self.finalized = True
        return {"type": "finalize"}

    def greeted(self, message: dict[str, Any]) -> tuple[Event, int | None]:
        """An answer to the config: what to tell, and, once there is a session, from which sample on to send.

        Raises the error that the server answered with, and ConnectionFailed for what is no answer.
        """
        kind = message.get("type")
        if kind == "queued":
            self._queued = True
            return Queued(int(message.get("position", 0))), None
        if kind == "error":
            raise error_of(message)
        if kind not in ("session_created", "session_resumed"):
            raise ConnectionFailed(f"The server answered the config with {kind!r}, which is no session.")
        position = message.get("received_samples", self._history.settled)
        if not isinstance(position, int) or not 0 <= position <= self._history.end:
            raise ConnectionFailed(f"The server wants the audio from {position!r} on, which was never recorded.")
        resumed = kind == "session_resumed"
        self._session_id = str(message.get("session_id", ""))
        if not resumed:
            self._first_utterance = self._utterances
        start = position / self._rate
        return Connected(self._session_id, resumed, start, str(message.get("warning", ""))), position

    def heard(self, message: dict[str, Any]) -> Event | None:
        """Any later message: what to tell of it, None where there is nothing new."""
        kind = message.get("type")
        if kind == "error" and "utterance" not in message:
            self.problem = error_of(message)
            return None
        if kind not in ("partial", "final", "error"):
            return None  # of a later version of the protocol
        number = self._first_utterance + int(message.get("utterance", 0))
        start, end = float(message.get("start", 0.0)), float(message.get("end", 0.0))
        text, language = str(message.get("text", "")), str(message.get("language", ""))
        warning = str(message.get("warning", ""))
        if kind == "partial":
            stable, lag = int(message.get("stable", 0)), float(message.get("lag", 0.0))
            return Partial(number, start, end, language, text, stable, lag, warning)
        ended = int(message.get("end_sample", end * self._rate))
        if message.get("repeated") and ended <= self._history.settled:
            return None
        self._history.settle(ended)
        if kind == "final" and not text and start == end:
            return None  # the answer to a session in which nothing was said is no utterance
        self._utterances = max(self._utterances, number + 1)
        if kind == "error":
            return Failed(number, start, end, str(message.get("message", "")))
        return Final(number, start, end, language, text, warning)

    @property
    def started(self) -> bool:
        """Whether there has been a session, or a place in the queue for one: the address is right."""
        return self._queued or bool(self._session_id)

    @property
    def may_come_back(self) -> bool:
        """Whether what the server said before it closed will be otherwise a little later."""
        return self.problem is None or isinstance(self.problem, _LATER)


def error_of(message: dict[str, Any]) -> QwenASRError:
    """The error that a server's message names, as one of ours."""
    kind = getattr(errors, str(message.get("code", "")), QwenASRError)
    if not (isinstance(kind, type) and issubclass(kind, QwenASRError)) or kind is errors.BadField:
        kind = QwenASRError
    return kind(str(message.get("message", "The server failed and does not say why.")))


def passes(error: QwenASRError) -> bool:
    """Whether the same will succeed a little later."""
    return isinstance(error, _LATER)
