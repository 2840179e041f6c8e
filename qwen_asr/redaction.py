"""Secrets never reach a log, whoever logs: a filter on the handlers, which sees every record as it will be written."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from qwen_asr.config.config import Config

GONE = "[redacted]"
_SURELY_SECRET = 6  # characters
# What carries a secret by its form, known to the server or not. The quotes are those of printed headers.
_FORMS = [
    r"(authorization[\"']?\s*[:=,]\s*(?:b?[\"'])?\s*(?:(?:bearer|basic)\s+)?)[^\s\"',)]+",
    r"\b((?:bearer|basic)\s+)[\w.~+/=-]{8,}",
    r"(api_key=)[^&\s\"']*",
    r"(openai-insecure-api-key\.)[^\s,\"']+",
    r"(access-token-[\w-]+=)[^;\s\"']+",
]
_PATTERNS = [re.compile(form, re.IGNORECASE) for form in _FORMS]


class Redaction(logging.Filter):
    """Lets every record pass, without `secrets` and without what has the form of one."""

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__()
        written = {form for secret in secrets for form in _ways_to_write(secret)}
        longest_first = sorted(filter(None, written), key=len, reverse=True)
        known = "|".join(map(_pattern, longest_first))
        self._known = re.compile(known) if known else None

    def redacted(self, text: str) -> str:
        """`text` without secrets."""
        if self._known is not None:
            text = self._known.sub(GONE, text)
        for pattern in _PATTERNS:
            text = pattern.sub(rf"\1{GONE}", text)
        return text

    def filter(self, record: logging.LogRecord) -> bool:
        """Changes the record, traceback included; True: it is written."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # the handler will say that its arguments do not fit
            return True
        record.msg, record.args = self.redacted(message), None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:  # formatters take it as it is
            record.exc_text = self.redacted(record.exc_text)
        return True


def _ways_to_write(secret: str) -> tuple[str, ...]:
    return secret, quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]


def _pattern(text: str) -> str:
    # A short one is looked for as a word of its own: the password "a" would leave no log at all.
    return re.escape(text) if len(text) >= _SURELY_SECRET else rf"(?<!\w){re.escape(text)}(?!\w)"


def redact_logs(config: Config) -> None:
    """Puts the filter on every handler that there is now; to be called again once others have been added."""
    passwords = [user.partition(":")[2] for user in config.auth]
    basic = [base64.b64encode(user.encode()).decode() for user in config.auth]
    secrets = [*config.api_key, *config.auth, *passwords, *basic, config.ssl_keyfile_password or ""]
    redaction = Redaction([secret for secret in secrets if secret])
    loggers = [logging.getLogger(), *map(logging.getLogger, logging.root.manager.loggerDict)]
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        for old in [known for known in handler.filters if isinstance(known, Redaction)]:
            handler.removeFilter(old)
        handler.addFilter(redaction)
