"""Removes secrets from the log: a filter on the handlers, which sees the records of all loggers."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

REPLACEMENT = "[redacted]"
_MIN_SUBSTRING_LENGTH = 6  # characters; a shorter secret is only removed as a whole word
# Credentials that can be recognized by their context, whether the server knows them or not. The quotes are those of
# printed headers.
_CONTEXTS = [
    r"(authorization[\"']?\s*[:=,]\s*(?:b?[\"'])?\s*(?:(?:bearer|basic)\s+)?)[^\s\"',)]+",
    r"\b((?:bearer|basic)\s+)[\w.~+/=-]{8,}",
    r"(\b(?:x-api-key|api-key)[\"']?\s*[:=,]\s*(?:b?[\"'])?)[^\s\"',)]+",
    r"(api_key=)[^&\s\"']*",
    r"(openai-insecure-api-key\.)[^\s,\"']+",
    r"(\bek_)[\w-]{16,}",
    r"(qwen_asr_(?:login|visitor)_\d+=)[^;\s\"']+",
]
_PATTERNS = [re.compile(context, re.IGNORECASE) for context in _CONTEXTS]


class Redaction(logging.Filter):
    """Replaces `secrets`, and whatever stands where credentials do, in messages and tracebacks."""

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__()
        spellings = {spelling for secret in secrets if secret for spelling in _spellings(secret)}
        longest_first = sorted(spellings, key=len, reverse=True)
        known = "|".join(map(_pattern, longest_first))
        self._known = re.compile(known) if known else None

    def redacted(self, text: str) -> str:
        """Returns `text` without secrets."""
        if self._known is not None:
            text = self._known.sub(REPLACEMENT, text)
        for pattern in _PATTERNS:
            text = pattern.sub(rf"\1{REPLACEMENT}", text)
        return text

    def filter(self, record: logging.LogRecord) -> bool:
        """Changes the record. Always True."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # the arguments do not fit; the handler reports it
            return True
        record.msg, record.args = self.redacted(message), None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:  # formatters use it instead of formatting `exc_info`
            record.exc_text = self.redacted(record.exc_text)
        return True


def _spellings(secret: str) -> tuple[str, ...]:
    """How a secret can appear in a log: plain, in URLs, in a `repr`, and as credentials of HTTP Basic."""
    data = secret.encode(errors="surrogateescape")
    return secret, quote(data, safe=""), quote_plus(data), repr(secret)[1:-1], base64.b64encode(data).decode()


def _pattern(text: str) -> str:
    # Removed everywhere, a password such as "a" would leave no readable log.
    return re.escape(text) if len(text) >= _MIN_SUBSTRING_LENGTH else rf"(?<!\w){re.escape(text)}(?!\w)"


def redact_logs(secrets: Iterable[str]) -> None:
    """Adds the filter to all handlers that exist, in place of an earlier one. Call it again after adding handlers."""
    redaction = Redaction(secrets)
    loggers = [logging.getLogger(), *map(logging.getLogger, logging.root.manager.loggerDict)]
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        for old in [known for known in handler.filters if isinstance(known, Redaction)]:
            handler.removeFilter(old)
        handler.addFilter(redaction)
