"""Log formats: text or JSON lines, each with the session that the record is about.

Records have the first characters of a session's id. The whole id is a secret: it is enough to resume the session.
Neither transcripts nor client addresses of sessions are logged.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

SHORT_ID_LENGTH = 8
_session: ContextVar[str] = ContextVar("session", default="")


def short_id(session_id: str) -> str:
    """The part of a session's id that may be logged."""
    return session_id[:SHORT_ID_LENGTH]


def set_session(session_id: str) -> None:
    """Adds the session to all further records of the current task and of the tasks that it starts."""
    _session.set(short_id(session_id))


@contextlib.contextmanager
def session_context(session_id: str) -> Iterator[None]:
    """Adds the session to the records logged within the context."""
    token = _session.set(short_id(session_id))
    try:
        yield
    finally:
        _session.reset(token)


class SeldomLog:
    """Says whether a message is due that strangers can cause: each at most once in `seconds`.

    In that time at most `most` different ones are due: a message may name an address, and an attacker may have a whole
    network of them.
    """

    def __init__(self, seconds: float = 60.0, most: int = 20) -> None:
        self._seconds, self._most = seconds, most
        self._at: dict[str, float] = {}

    def due(self, message: str, now: float) -> bool:
        """Whether to log it at `now`, a monotonic time in seconds."""
        self._at = {text: at for text, at in self._at.items() if now - at < self._seconds}
        if message in self._at or len(self._at) >= self._most:
            return False
        self._at[message] = now
        return True


class SessionFilter(logging.Filter):
    """Sets `record.session`. It belongs on handlers: filters of a logger do not see the records of its children."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True."""
        record.session = _session.get()
        return True


class TextFormatter(logging.Formatter):
    """One line: time, level, logger, [session] if the record has one, message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(session_prefix)s%(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802, RUF100 - the name is logging's
        """See `logging.Formatter`."""
        session = getattr(record, "session", "")
        record.session_prefix = f"[{session}] " if session else ""
        return super().formatMessage(record)


class JsonFormatter(logging.Formatter):
    """One line with a JSON object: time (RFC 3339, UTC), level, logger, message; and where the record has them session,
    error, and the items of its `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, Any] = {
            "time": f"{when}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if session := getattr(record, "session", ""):
            entry["session"] = session
        entry |= getattr(record, "fields", {})
        if record.exc_info:
            entry["error"] = record.exc_text or self.formatException(record.exc_info)  # `exc_text` has been redacted
        return json.dumps(entry, ensure_ascii=False, default=str)


FORMATTERS = {"text": TextFormatter, "json": JsonFormatter}
"""By the values of `--log-format`."""


def configure(level: str, log_format: str = "text") -> None:
    """Logs to standard error: records of this package from `level` on, those of libraries from warnings on."""
    handler = logging.StreamHandler()
    handler.addFilter(SessionFilter())
    handler.setFormatter(FORMATTERS[log_format]())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("qwen_asr").setLevel(level.upper())
