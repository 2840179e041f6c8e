"""Shows recognized text on a terminal; the current utterance is rewritten in place.

If the output is not a terminal, only final texts are written, one per line. Words with times have a line each: start
and end in seconds, and the word, with tabs between them.
"""

from __future__ import annotations

import shutil
import sys
import unicodedata
from collections.abc import Iterable
from typing import TextIO

from qwen_asr.client.events import (
    Aligned,
    Connected,
    Event,
    Failed,
    Final,
    Gap,
    Loading,
    Lost,
    Partial,
    Queued,
    Warned,
    Word,
)

_CLEAR_LINE = "\r\x1b[K"
_FAINT, _RESET = "\x1b[2m", "\x1b[0m"


class Screen:
    """Call `show` for each event. Texts go to `out`, messages about the connection to `messages`."""

    def __init__(self, out: TextIO | None = None, messages: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._messages = messages or sys.stderr
        self._is_terminal = self._out.isatty()
        self._disconnected = False
        self._was_connected = False
        self._last_waiting_message = ""
        self._found_speech = False  # an utterance counts even if the server failed to transcribe it

    def show(self, event: Event) -> None:
        """Writes what the event changes."""
        if isinstance(event, Partial):
            if self._is_terminal:
                settled, tentative = fit_line(event.text, event.stable, shutil.get_terminal_size().columns - 1)
                self._write(f"{_CLEAR_LINE}{settled}{_FAINT}{tentative}{_RESET}")
        elif isinstance(event, Final):
            self._found_speech = self._found_speech or bool(event.text.strip())
            self._write_lines([event.text] if event.text.strip() else [], event.words)
        elif isinstance(event, Aligned):
            self._write_lines([], event.words)
        else:
            self._show_message(event)

    def close(self) -> None:
        """Clears tentative text."""
        if self._is_terminal:
            self._write(_CLEAR_LINE)

    def report_missing_speech(self) -> None:
        """After the last event: writes a message if there was no speech, because no output looks like a failure."""
        if not self._found_speech:
            self._write_message("No speech was found.")

    def _show_message(self, event: Connected | Failed | Gap | Loading | Lost | Queued | Warned) -> None:
        sentence = message_for(event)
        if isinstance(event, Connected):
            if self._disconnected:
                sentence = "Connected again." if self._was_connected else "Connected."
            if event.warning:
                sentence += (" " if sentence else "") + event.warning
            self._disconnected, self._was_connected = False, True
        self._disconnected = self._disconnected or isinstance(event, Lost)
        self._found_speech = self._found_speech or isinstance(event, Failed)
        is_waiting = isinstance(event, Queued | Loading)
        repeated = is_waiting and sentence == self._last_waiting_message
        self._last_waiting_message = sentence if is_waiting else ""
        if sentence and not repeated:
            self._write_message(sentence)

    def _write_lines(self, lines: list[str], words: Iterable[Word]) -> None:
        """Replaces tentative text by lines; each word has one."""
        timed = (f"{word.start:.3f}\t{word.end:.3f}\t{word.text}" for word in words)
        self._write((_CLEAR_LINE if self._is_terminal else "") + "".join(f"{line}\n" for line in (*lines, *timed)))

    def _write_message(self, sentence: str) -> None:
        clear = _CLEAR_LINE if self._is_terminal and self._messages.isatty() else ""
        self._messages.write(f"{clear}{sentence}\n")
        self._messages.flush()

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def message_for(event: Connected | Failed | Gap | Loading | Lost | Queued | Warned) -> str:
    """The event as a sentence; empty for `Connected`."""
    if isinstance(event, Failed):
        return f"From {event.start:.1f} s to {event.end:.1f} s there is no text: {event.message}"
    if isinstance(event, Gap):
        return f"The audio from {event.start:.1f} s to {event.end:.1f} s could not be sent again and is lost."
    if isinstance(event, Lost):
        return f"{event.reason} Trying again ({event.attempt}) in {event.delay:.1f} s."
    if isinstance(event, Loading | Warned):
        return event.message
    if isinstance(event, Queued):
        return f"The server is full; position in the queue: {event.position}."
    return ""


def fit_line(text: str, stable: int, columns: int) -> tuple[str, str]:
    """The settled (`text[:stable]`) and tentative part of a text, shortened at the beginning to fit into one line."""
    width = sum(map(_columns, text))
    if width <= columns:
        return text[:stable], text[stable:]
    begin = 0
    while begin < len(text) and width > columns - 1:  # one column for the ellipsis
        width -= _columns(text[begin])
        begin += 1
    return "…" + text[begin:stable], text[max(stable, begin) :]


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
