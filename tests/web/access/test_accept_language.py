"""The language of our own pages, as browsers ask for it."""

from __future__ import annotations

import pytest

from qwen_asr.web.access.accept_language import preferred_language


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-US,en;q=0.9,zh;q=0.8", "en"),
        ("fr-FR, ZH-Hant-TW;q=0.4", "zh"),
        ("fr, *;q=0.1", "en"),
        ("en;q=0.2, zh; Q=0.5", "zh"),
        ("zh;q=0", "en"),
        ("zh;q=much, en;q=nan", "en"),
        (",;,=", "en"),
    ],
)
def test_the_best_that_we_have_is_taken(header: str, language: str) -> None:
    scope = {"type": "http", "headers": [(b"accept-language", header.encode())]}
    assert preferred_language(scope) == language
