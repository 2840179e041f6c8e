"""What programs import from here in Qwen's own package: the parser of the model's output, and constants."""

from collections.abc import Iterable
from typing import Any

from transformers import Qwen3ASRProcessor

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.engine.languages import LANGUAGES

__all__ = ["SAMPLE_RATE", "SUPPORTED_LANGUAGES", "merge_languages", "parse_asr_output"]

SUPPORTED_LANGUAGES = list(LANGUAGES.values())


def parse_asr_output(raw: str | None, user_language: str | None = None) -> tuple[str, str]:
    """Language and text of what the model has written, such as "language English<asr_text>Hello.".

    user_language: the language that the prompt named, so that the model has written text alone. The language is ""
    where none is named or the model heard no speech. transformers' processor reads it, and cuts endless repetitions.
    """
    parse: Any = Qwen3ASRProcessor.parse_output
    parsed = parse(None, raw or "")  # it uses nothing of the object
    return user_language or parsed["language"] or "", parsed["transcription"]


def merge_languages(languages: Iterable[str | None]) -> str:
    """The names in order, separated by commas, without repeating one that follows itself; None and "" do not count."""
    names: list[str] = []
    for language in languages:
        if language and language not in names[-1:]:
            names.append(language)
    return ",".join(names)
