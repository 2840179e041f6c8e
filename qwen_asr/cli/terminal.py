"""Texts on a terminal: the utterance that is spoken on one line that is rewritten, finished ones above it.

Where the output is no terminal only the finals are written, a line each.
"""

from __future__ import annotations

import shutil
import sys
import unicodedata
from typing import TextIO

from qwen_asr.client.events import Connected, Event, Failed, Final, Gap, Lost, Partial, Queued

_CLEAR_LINE = "\r\x1b[K"
_FAINT, _PLAIN = "\x1b[2m", "\x1b[0m"


class Screen:
    """`show` each event. Texts go to `out`, what there is to say about the connection to `notices`."""

    def __init__(self, out: TextIO | None = None, notices: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._notices = notices or sys.stderr
        self._rewrites = self._out.isatty()
        self._away = False
        self._was_connected = False
        self._queued = ""  # what was said last of the queue in which we stand
        self._found = False  # whether anything was spoken, with a text or without

    def show(self, event: Event) -> None:
        """Writes what the event changes."""
        if isinstance(event, Partial):
            if self._rewrites:
                settled, tentative = fitted(event.text, event.stable, shutil.get_terminal_size().columns - 1)
                self._write(f"{_CLEAR_LINE}{settled}{_FAINT}{tentative}{_PLAIN}")
        elif isinstance(event, Final):
            self._found = self._found or bool(event.text.strip())
            self._write((_CLEAR_LINE if self._rewrites else "") + (event.text + "\n" if event.text.strip() else ""))
        else:
            self._notice(event)

    def close(self) -> None:
        """Nothing tentative stays behind."""
        if self._rewrites:
            self._write(_CLEAR_LINE)

    def end(self) -> None:
        """All was heard: says so where there was nothing, which else would look like a failure."""
        if not self._found:
            self._say("No speech was found.")

    def _notice(self, event: Connected | Failed | Gap | Lost | Queued) -> None:
        sentence = notice(event)
        if isinstance(event, Connected):
            sentence = ("Connected again." if self._was_connected else "Connected.") if self._away else ""
            if event.warning:
                sentence += (" " if sentence else "") + event.warning
            self._away, self._was_connected = False, True
        self._away = self._away or isinstance(event, Lost)
        self._found = self._found or isinstance(event, Failed)
        repeated = isinstance(event, Queued) and sentence == self._queued
        self._queued = sentence if isinstance(event, Queued) else ""
        if sentence and not repeated:
            self._say(sentence)

    def _say(self, sentence: str) -> None:
        clear = _CLEAR_LINE if self._rewrites and self._notices.isatty() else ""
        self._notices.write(f"{clear}{sentence}\n")
        self._notices.flush()

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def notice(event: Connected | Failed | Gap | Lost | Queued) -> str:
    """What to say of it, in a sentence."""
    if isinstance(event, Failed):
        return f"From {event.start:.1f} s to {event.end:.1f} s there is no text: {event.message}"
    if isinstance(event, Gap):
        return f"The audio from {event.start:.1f} s to {event.end:.1f} s could not be sent again and is lost."
    if isinstance(event, Lost):
        return f"{event.reason} Trying again ({event.attempt}) in {event.delay:.1f} s."
    if isinstance(event, Queued):
        return f"The server is full; number {event.position} in its queue."
    return ""


def fitted(text: str, stable: int, columns: int) -> tuple[str, str]:
    """The settled and the tentative part of a text, of which so much of the end is shown as fits into a line."""
    width = sum(map(_columns, text))
    if width <= columns:
        return text[:stable], text[stable:]
    shown = 0
    while shown < len(text) and width > columns - 1:  # one column is the ellipsis
        width -= _columns(text[shown])
        shown += 1
    return "…" + text[shown:stable], text[max(stable, shown) :]


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
