"""What is logged, and how: lines for people or JSON objects for machines, each with the session that it is about.

A record names a session by the first characters of its id. The whole id is a secret: whoever has it may go on with
the session. What people say is logged nowhere, and neither is where they are.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

SHOWN_CHARACTERS = 8
_session: ContextVar[str] = ContextVar("session", default="")


def short(session_id: str) -> str:
    """What the log calls a session."""
    return session_id[:SHOWN_CHARACTERS]


def set_session(session_id: str) -> None:
    """What this task, and those that it starts, log from here on is about that session."""
    _session.set(short(session_id))


@contextlib.contextmanager
def about(session_id: str) -> Iterator[None]:
    """What is logged within is about that session."""
    token = _session.set(short(session_id))
    try:
        yield
    finally:
        _session.reset(token)


class Marked(logging.Filter):
    """Gives each record its session. To be set on handlers: a logger's filters do not see its children's records."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets every record pass."""
        record.session = _session.get()
        return True


class Lines(logging.Formatter):
    """A line for people: time, level, logger, [session] if it is about one, message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(mark)s%(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802, RUF100 - the name is logging's
        """As logging's own, with the mark."""
        session = getattr(record, "session", "")
        record.mark = f"[{session}] " if session else ""
        return super().formatMessage(record)


class Objects(logging.Formatter):
    """A JSON object a line: time (RFC 3339, UTC), level, logger, message; session, error and what else there is."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message holds."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        told: dict[str, Any] = {
            "time": f"{when}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if session := getattr(record, "session", ""):
            told["session"] = session
        told |= getattr(record, "fields", {})
        if record.exc_info:
            told["error"] = record.exc_text or self.formatException(record.exc_info)  # a filter has redacted the text
        return json.dumps(told, ensure_ascii=False, default=str)


FORMATS = {"text": Lines, "json": Objects}


def start(level: str, form: str = "text") -> None:
    """Our own messages from `level` on, those of libraries from warnings on; all to standard error."""
    handler = logging.StreamHandler()
    handler.addFilter(Marked())
    handler.setFormatter(FORMATS[form]())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("qwen_asr").setLevel(level.upper())
