"""Which of the languages of our pages a browser asks for, by its `Accept-Language` header (RFC 9110, 12.5.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import Headers

if TYPE_CHECKING:
    from starlette.types import Scope

LANGUAGES = ("en", "zh")


def preferred_language(scope: Scope) -> str:
    """ "en" or "zh": the one of the highest quality, of several the first, and "en" where none is asked for."""
    asked = []
    for item in Headers(scope=scope).get("accept-language", "").split(","):
        name, _, parameter = item.strip().partition(";")
        if (code := name.strip().partition("-")[0].lower()) in LANGUAGES:
            asked.append((_quality(parameter), code))
    quality, code = max(asked, key=lambda one: one[0], default=(0.0, ""))
    return code if quality > 0 else "en"


def _quality(parameter: str) -> float:
    name, _, value = parameter.strip().partition("=")
    try:
        return float(value) if name.strip().lower() == "q" else 1.0
    except ValueError:
        return 0.0
