"""Texts and messages on a terminal."""

from __future__ import annotations

import io

from qwen_asr.cli.terminal import Screen, fit_line
from qwen_asr.client.events import Aligned, Connected, Failed, Final, Gap, Lost, Partial, Queued, Warned, Word


def test_a_long_text_is_shortened_at_the_beginning() -> None:
    assert fit_line("abcdef", 3, 10) == ("abc", "def")
    assert fit_line("abcdef", 3, 6) == ("abc", "def")
    assert fit_line("abcdefg", 4, 6) == ("…cd", "efg")
    assert fit_line("abcdefg", 2, 6) == ("…", "cdefg")
    assert fit_line("東京都の天気", 4, 7) == ("…の", "天気")


def test_messages_about_the_connection() -> None:
    out, messages = io.StringIO(), io.StringIO()
    screen = Screen(out, messages)
    for event in (
        Queued(2), Queued(2), Queued(1), Lost("It stops.", 1, 0.1), Queued(1),
        Connected("x", False, 0.0), Partial(0, 0, 1, "", "a b", 1, 0), Lost("It is gone.", 1, 0.2),
        Connected("x", True, 1.0), Gap(1.0, 2.5),
        Warned("StrayByte", "A stray byte."), Failed(0, 1, 2, "No text."), Final(1, 2, 3, "English", "A b."),
    ):  # fmt: skip
        screen.show(event)
    screen.report_missing_speech()
    assert out.getvalue() == "A b.\n"
    assert messages.getvalue().splitlines() == [
        "The server is full; position in the queue: 2.",
        "The server is full; position in the queue: 1.",
        "It stops. Trying again (1) in 0.1 s.",
        "The server is full; position in the queue: 1.",
        "Connected.",
        "It is gone. Trying again (1) in 0.2 s.",
        "Connected again.",
        "The audio from 1.0 s to 2.5 s could not be sent again and is lost.",
        "A stray byte.",
        "From 1.0 s to 2.0 s there is no text: No text.",
    ]


class Terminal(io.StringIO):
    """A terminal that keeps what is written."""

    def isatty(self) -> bool:
        return True


WORDS = (Word("A", 0.5, 0.75), Word("b.", 0.75, 1.0))


def test_words_have_a_line_each_when_they_come() -> None:
    lines = "0.500\t0.750\tA\n0.750\t1.000\tb.\n"
    pipe, terminal = io.StringIO(), Terminal()
    for out in (pipe, terminal):
        screen = Screen(out, io.StringIO())
        for event in (
            Final(0, 0.5, 1.0, "English", "A b.", words=WORDS), Final(1, 2.0, 3.0, "English", "C."),
            Partial(2, 4.0, 5.0, "", "D", 0, 0), Aligned(1, (Word("C.", 2.0, 2.25),)),
        ):  # fmt: skip
            screen.show(event)
    assert pipe.getvalue() == f"A b.\n{lines}C.\n2.000\t2.250\tC.\n"
    clear = "\r\x1b[K"
    assert terminal.getvalue().startswith(f"{clear}A b.\n{lines}{clear}C.\n{clear}")
    assert terminal.getvalue().endswith(f"D\x1b[0m{clear}2.000\t2.250\tC.\n")  # in place of the tentative text
