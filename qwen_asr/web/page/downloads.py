"""What the page saves: its transcript, as the user has edited it, as plain text, SubRip, WebVTT or JSON."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, TypeAdapter, ValidationError

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.config.limits import PageLimits
from qwen_asr.engine.words import Word
from qwen_asr.errors import QwenASRError, TooLarge
from qwen_asr.live.events import Final
from qwen_asr.live.subtitles.cues import spells
from qwen_asr.live.subtitles.formats import as_json, srt, txt, vtt
from qwen_asr.web.validation import first_error

WRITERS = {"txt": txt, "srt": srt, "vtt": vtt, "json": as_json}

Seconds = Annotated[float, Field(ge=0, le=PageLimits.transcript_seconds, allow_inf_nan=False)]


class Line(BaseModel):
    """An utterance of the transcript. Words are (text, start, end). Times are in seconds since its beginning."""

    model_config = ConfigDict(strict=True)

    start: Seconds
    end: Seconds
    text: str
    language: Annotated[str, Field(max_length=PageLimits.language_characters)] | None = None
    words: Annotated[list[tuple[str, Seconds, Seconds]], FailFast()] = []


class Download(BaseModel):
    """What the page sends. `lines` is a JSON array of `Line`: a message of the page holds nothing but plain values."""

    model_config = ConfigDict(strict=True)

    format: Literal["txt", "srt", "vtt", "json"]
    lines: str


_LINES = TypeAdapter(Annotated[list[Line], FailFast()])


def download(data: Any) -> dict[str, str]:
    """The file that `data`, a `Download`, asks for, as {"text": …}; {"error": a sentence} if it cannot be made.

    Where the words of a line are not its text, because the user has edited it, they do not count: the times of its cues
    are then shared among its characters. Lines are put in the order of their times. It takes a second for some hours:
    Gradio calls it in a thread of its own.
    """
    try:
        asked = Download.model_validate(data)
        finals = [_final(number, line) for number, line in enumerate(_parsed(asked.lines))]
    except ValidationError as error:
        where = first_error(error)[0] or "JSON"
        return {"error": f"The page sent a transcript that cannot be read ({where}); reload the page."}
    except QwenASRError as error:
        return {"error": str(error)}
    return {"text": WRITERS[asked.format](sorted(finals, key=lambda final: (final.start, final.end)))}


def _parsed(lines: str) -> list[Line]:
    """Raises TooLarge, ValidationError."""
    # Counted first: parsed, each bracket takes far more memory than its byte.
    too_large = lines.count("[") + lines.count("{") > PageLimits.transcript_brackets
    parsed = [] if too_large else _LINES.validate_json(lines)
    if too_large or sum(len(line.text) for line in parsed) > PageLimits.transcript_characters:
        raise TooLarge("The transcript is too long for one file: copy its text instead, a part at a time.")
    return parsed


def _final(number: int, line: Line) -> Final:
    words = tuple(Word(text, _samples(start), _samples(end)) for text, start, end in line.words)
    start, end = _samples(line.start), _samples(line.end)
    kept = words if spells(words, line.text) else ()
    return Final(number, start, max(start, end), line.language, line.text, 0.0, words=kept)


def _samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)
