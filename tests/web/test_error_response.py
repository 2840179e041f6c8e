"""How errors become JSON, and that unexpected ones show nothing of the server."""

from __future__ import annotations

import json

import pytest

from qwen_asr.config.limits import RETRY_AFTER_SECONDS
from qwen_asr.errors import (
    AudioError,
    BadField,
    InvalidApiKey,
    LimitExceeded,
    NotReady,
    QwenASRError,
    ServerStopping,
    TooLarge,
    UnknownLanguage,
)
from qwen_asr.web.error_response import error_body, error_response, status_response, to_public_error


@pytest.mark.parametrize(
    ("error", "kind", "param", "code"),
    [
        (AudioError("x"), "invalid_request_error", "file", "audio_error"),
        (UnknownLanguage("x"), "invalid_request_error", "language", "unknown_language"),
        (BadField("stream", "x"), "invalid_request_error", "stream", "bad_field"),
        (TooLarge("x"), "invalid_request_error", None, "too_large"),
        (InvalidApiKey("x"), "invalid_request_error", None, "invalid_api_key"),
        (LimitExceeded("x"), "rate_limit_error", None, "limit_exceeded"),
        (NotReady("x"), "server_error", None, "not_ready"),
        (QwenASRError("x"), "server_error", None, "qwen_asr_error"),
    ],
)
def test_the_fields_of_an_error(error: QwenASRError, kind: str, param: str | None, code: str) -> None:
    details = error_body(error).error
    assert (details.message, details.type, details.param, details.code) == ("x", kind, param, code)
    response = error_response(error)
    assert response.status_code == error.http_status
    assert json.loads(bytes(response.body)) == error_body(error).model_dump()


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (LimitExceeded("x", 17), "17"),
        (LimitExceeded("x"), str(RETRY_AFTER_SECONDS)),
        (NotReady("x"), str(RETRY_AFTER_SECONDS)),
        (ServerStopping(), str(RETRY_AFTER_SECONDS)),
        (TooLarge("x"), None),
    ],
)
def test_retry_after_is_sent_where_a_retry_can_succeed(error: QwenASRError, seconds: str | None) -> None:
    assert error_response(error).headers.get("retry-after") == seconds


def test_an_unexpected_error_is_logged_and_hidden(caplog: pytest.LogCaptureFixture) -> None:
    response = error_response(ValueError("/home/user/secret"))
    assert response.status_code == 500
    assert b"secret" not in response.body
    [record] = caplog.records
    assert record.exc_info is not None
    assert "/home/user/secret" in caplog.text
    public = to_public_error(KeyError("x"), "Connect again.")
    assert (type(public), str(public)) == (QwenASRError, "Connect again.")


def test_an_error_of_this_package_stays_the_same_object(caplog: pytest.LogCaptureFixture) -> None:
    error = TooLarge("x")
    assert to_public_error(error) is error
    assert not caplog.records


def test_an_error_that_only_http_knows() -> None:
    response = status_response(405, "Use GET.", code="method_not_allowed", headers={"Allow": "GET"})
    assert response.headers["allow"] == "GET"
    assert json.loads(bytes(response.body)) == {
        "error": {"message": "Use GET.", "type": "invalid_request_error", "param": None, "code": "method_not_allowed"}
    }
