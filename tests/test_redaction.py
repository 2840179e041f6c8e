"""Secrets are removed from the log, in messages and tracebacks."""

from __future__ import annotations

import base64
import io
import logging
import sys
from typing import Any
from urllib.parse import quote

import pytest

from qwen_asr.config.config import Config
from qwen_asr.redaction import REPLACEMENT, Redaction, redact_logs

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
        "cookie: qwen_asr_login_8000=unknownsecret; a=b",
        "(b'cookie', b'a=b; __Host-qwen_asr_visitor_443=unknownsecret')",
        "{'X-API-Key': 'unknownsecret'}",
        "< api-key: unknownsecret",
        "{'value': 'ek_unknownsecret-1234567'}",
    ],
)
def test_secrets_are_removed(text: str) -> None:
    redacted = REDACTION.redacted(text)
    assert REPLACEMENT in redacted
    for secret in (KEY, quote(KEY, safe=""), PASSWORD, repr(PASSWORD)[1:-1], "unknownsecret", "dW5rbm93"):
        assert secret not in redacted


@pytest.mark.parametrize("text", ["abcd is not the short one", "Authorization is needed.", "The basic idea holds.", ""])
def test_other_text_is_unchanged(text: str) -> None:
    assert REDACTION.redacted(text) == text
    assert REDACTION.redacted(REDACTION.redacted("it is abc.")) == f"it is {REPLACEMENT}."


def test_all_handlers_are_redacted_once() -> None:
    written = io.StringIO()
    logger = logging.getLogger("qwen_asr.test_redaction")
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False
    others = {other: list(other.filters) for other in logging.getLogger().handlers}
    try:
        redact_logs(Config(api_key=(KEY,), auth=("ada:correct horse",)).secrets)
        redact_logs(Config(api_key=(KEY,), auth=("ada:correct horse",)).secrets)
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
    log = written.getvalue()
    assert f"WARNING {REPLACEMENT} came with 7" in log
    assert f"ValueError: not {REPLACEMENT}, {REPLACEMENT}" in log
    assert "WARNING no 100" in log
    assert KEY not in log
    assert "horse" not in log
    assert sys.exc_info() == (None, None, None)


def test_the_secrets_of_the_options() -> None:
    options: dict[str, Any] = {"ssl_certfile": "a.pem", "ssl_keyfile_password": "pass phrase"}
    config = Config(api_key=(KEY,), auth=("ada:correct horse",), **options)
    assert set(config.secrets) == {KEY, "ada:correct horse", "correct horse", "pass phrase"}
    assert Config().secrets == ()
    basic = base64.b64encode(b"ada:correct horse").decode()
    assert Redaction(config.secrets).redacted(f"{basic} or pass+phrase") == f"{REPLACEMENT} or {REPLACEMENT}"
