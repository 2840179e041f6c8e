"""Writes finals as SubRip, WebVTT, plain text or JSON. Utterances without text are left out."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.live.events import Final
from qwen_asr.live.transcript import Transcript


def srt(finals: Iterable[Final]) -> str:
    """SubRip. The format has no escapes, so an arrow in the text, which would start a new cue, is shortened to `->`."""
    return "".join(
        f"{number}\n{_time(start, ',')} --> {_time(end, ',')}\n{text.replace('-->', '->')}\n\n"
        for number, (start, end, text) in enumerate(_cues(finals), 1)
    )


def vtt(finals: Iterable[Final]) -> str:
    """WebVTT (https://www.w3.org/TR/webvtt1/): `&`, `<` and `>` are escaped."""
    return "WEBVTT\n\n" + "".join(
        f"{_time(start, '.')} --> {_time(end, '.')}\n{_escaped(text)}\n\n" for start, end, text in _cues(finals)
    )


def txt(finals: Iterable[Final]) -> str:
    """Plain text, one line per utterance."""
    return "".join(f"{text}\n" for _, _, text in _cues(finals))


def as_json(finals: Iterable[Final]) -> str:
    """`Transcript.as_dict` as JSON: text, language, utterances with times in seconds."""
    return json.dumps(Transcript(finals).as_dict(), ensure_ascii=False, indent=2) + "\n"


def _cues(finals: Iterable[Final]) -> Iterator[tuple[int, int, str]]:
    """Yields (start, end, text) in order and without overlaps. Times are in milliseconds; the text is one line."""
    latest = 0
    for final in sorted(finals, key=lambda final: (final.start, final.end)):
        text = _one_line(final.text)
        if text:
            start = max(latest, _milliseconds(final.start))
            latest = max(start + 1, _milliseconds(final.end))
            yield start, latest, text


def _one_line(text: str) -> str:
    """Removes line breaks, which would end a cue or line, and control characters, which some players cannot handle."""
    spaced = " ".join(text.split())
    return "".join(character for character in spaced if unicodedata.category(character) != "Cc").strip()


def _milliseconds(samples: int) -> int:
    return samples * 1000 // SAMPLE_RATE


def _time(milliseconds: int, point: str) -> str:
    seconds, thousandths = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{thousandths:03}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
