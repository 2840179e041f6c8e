"""Which text settles."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_asr.live.settling import Settling

words = st.text(st.sampled_from("ab .,北京กำ한ナ\n"), max_size=12)


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
