"""Settled text, and the history of finals."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_asr.live.events import Final
from qwen_asr.live.transcript import Settling, Transcript, join_texts, split_units

words = st.text(st.sampled_from("ab .,北京กำ한ナ\n"), max_size=12)


@settings(deadline=None)
@given(words | st.text(max_size=30))
def test_splitting_keeps_every_character(text: str) -> None:
    assert "".join(split_units(text)) == text.rstrip()


def test_a_unit_is_a_word_or_a_character_in_scripts_without_spaces() -> None:
    assert split_units("Turn on, the  light") == ["Turn", " on,", " the", "  light"]
    assert split_units("I love 北京。") == ["I", " love", " 北", "京", "。"]
    assert split_units("안녕 하세요") == ["안녕", " 하세요"]
    assert split_units("ที่นี่") == ["ที่", "นี่"]  # vowel signs and tone marks stay with their letter


@settings(deadline=None)
@given(st.lists(words, max_size=8))
def test_settled_text_only_grows(hypotheses: list[str]) -> None:
    settling, before = Settling(), ""
    for text in hypotheses:
        shown, stable = settling.update(text.strip())
        assert shown.startswith(before)
        assert stable >= len(before)
        before = shown[:stable]
    assert settling.corrects("") == (before != "")
    assert not settling.corrects(before + " more")


def test_the_common_prefix_of_two_hypotheses_settles() -> None:
    settling = Settling()
    assert settling.update("Turn on the kitten.") == ("Turn on the kitten.", 0)
    text = "Turn on the kitchen light."
    assert settling.update(text) == (text, len("Turn on the"))
    longer = "Turn on the kitchen light and go."
    assert settling.update(longer) == (longer, len("Turn on the kitchen"))


def test_a_full_stop_at_the_end_stays_tentative() -> None:
    settling = Settling()
    settling.update("It is ten.")
    assert settling.update("It is ten.") == ("It is ten.", len("It is ten"))
    assert settling.update("It is ten past one.") == ("It is ten past one.", len("It is ten"))
    assert not settling.corrects("It is ten past one.")


def test_characters_settle_in_scripts_without_spaces() -> None:
    settling = Settling()
    settling.update("今天天气很")
    assert settling.update("今天天气好不好") == ("今天天气好不好", 4)


def test_a_contradiction_keeps_the_settled_text_and_shows_the_words_after_it() -> None:
    settling = Settling()
    settling.update("the cat sat on")
    settling.update("the cat sat on a")
    assert settling.settled == "the cat sat on"
    assert settling.update("the bat sat on a mat") == ("the cat sat on a mat", len("the cat sat on"))
    assert settling.update("the bat sat on a mat") == ("the cat sat on a mat", len("the cat sat on"))
    assert settling.corrects("the bat sat on a mat")
    assert settling.update("") == ("the cat sat on", len("the cat sat on"))


def final(number: int, text: str, language: str | None = "English", start: int = 0, end: int = 16000) -> Final:
    return Final(number, start, end, language, text, 0.0)


def test_history() -> None:
    history = Transcript([final(0, "One.")])
    history.add(final(1, "", None))
    history.add(final(2, "Two.", start=24000, end=48000))
    assert history.text == "One. Two."
    assert history.language == "English"
    assert [one.utterance for one in history.finals] == [0, 1, 2]
    assert history.as_dict() == {
        "text": "One. Two.",
        "language": "English",
        "utterances": [
            {"utterance": 0, "start": 0.0, "end": 1.0, "language": "English", "text": "One."},
            {"utterance": 2, "start": 1.5, "end": 3.0, "language": "English", "text": "Two."},
        ],
    }
    assert Transcript().as_dict() == {"text": "", "language": None, "utterances": []}


def test_texts_are_joined_with_spaces_only_in_scripts_that_have_them() -> None:
    assert join_texts(["你好。", "", "再见。", "Bye.", "Ciao."]) == "你好。再见。 Bye. Ciao."
