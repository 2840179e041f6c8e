"""No secret reaches a log, in whatever way it got into the message."""

from __future__ import annotations

import io
import logging
import sys
from urllib.parse import quote

import pytest

from qwen_asr.config.config import Config
from qwen_asr.redaction import GONE, Redaction, redact_logs

KEY, PASSWORD = "a+long/key", "päss\\wörd"
REDACTION = Redaction([KEY, f"ada:{PASSWORD}", PASSWORD, "abc"])


@pytest.mark.parametrize(
    "text",
    [
        f"x{KEY}x",
        f"/ws/asr?key={quote(KEY, safe='')}",
        f"{PASSWORD!r}",
        f"login ada:{PASSWORD}",
        "[(b'authorization', b'Bearer unknownsecret')]",
        "< Authorization: Basic dW5rbm93bnNlY3JldA==",
        "{'Authorization': 'Bearer unknownsecret'}",
        "authorization=unknownsecret",
        "GET /v1/realtime?api_key=unknownsecret&x=1",
        "sec-websocket-protocol: realtime, openai-insecure-api-key.unknownsecret",
        "cookie: access-token-AbC-d_e=unknownsecret; a=b",
    ],
)
def test_a_secret_is_gone(text: str) -> None:
    said = REDACTION.redacted(text)
    assert GONE in said
    for secret in (KEY, quote(KEY, safe=""), PASSWORD, repr(PASSWORD)[1:-1], "unknownsecret", "dW5rbm93"):
        assert secret not in said


@pytest.mark.parametrize("text", ["abcd is not the short one", "Authorization is needed.", "The basic idea holds.", ""])
def test_what_is_none_stays(text: str) -> None:
    assert REDACTION.redacted(text) == text
    assert REDACTION.redacted(REDACTION.redacted("it is abc.")) == f"it is {GONE}."


def test_the_handlers_write_none_not_even_in_a_traceback() -> None:
    written = io.StringIO()
    logger = logging.getLogger("qwen_asr.test_redaction")
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False
    others = {other: list(other.filters) for other in logging.getLogger().handlers}
    try:
        redact_logs(Config(api_key=(KEY,), auth=("ada:correct horse",)))
        redact_logs(Config(api_key=(KEY,), auth=("ada:correct horse",)))
        assert len(handler.filters) == 1
        logger.warning("%s came with %d", KEY, 7)
        try:
            raise ValueError(f"not correct horse, {KEY}")
        except ValueError:
            logger.exception("failed")
        logger.warning("no %d", 100)
    finally:
        logger.removeHandler(handler)
        for other, filters in others.items():
            other.filters[:] = filters
    said = written.getvalue()
    assert f"WARNING {GONE} came with 7" in said
    assert f"ValueError: not {GONE}, {GONE}" in said
    assert "WARNING no 100" in said
    assert KEY not in said
    assert "horse" not in said
    assert sys.exc_info() == (None, None, None)
