"""Which text settles."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_asr.live.settling import MIN_DISTANCE, Settling


class Apart:
    """Feeds hypotheses that are far enough apart to be compared."""

    def __init__(self) -> None:
        self.settling = Settling()
        self._samples = 0

    def update(self, text: str) -> tuple[str, int]:
        self._samples += MIN_DISTANCE
        return self.settling.update(text, self._samples)


words = st.text(st.sampled_from("ab .,北京กำ한ナ\n"), max_size=12)


@settings(deadline=None)
@given(st.lists(st.tuples(words, st.integers(1, 2 * MIN_DISTANCE)), max_size=8))
def test_settled_text_only_grows(hypotheses: list[tuple[str, int]]) -> None:
    settling, before, samples = Settling(), "", 0
    for text, new in hypotheses:
        samples += new
        shown, stable = settling.update(text.strip(), samples)
        assert shown.startswith(before)
        assert stable >= len(before)
        before = shown[:stable]
    assert settling.corrects("") == (before != "")
    assert not settling.corrects(before + " more")


@given(st.lists(st.integers(1, 2 * MIN_DISTANCE), min_size=1, max_size=12))
@settings(deadline=None)
def test_hypotheses_that_are_too_close_are_not_compared(distances: list[int]) -> None:
    """The n-th hypothesis has n words, so the settled words name the hypothesis that it was compared with."""
    settling, ends = Settling(), [0]
    for number, new in enumerate(distances, 1):
        ends.append(ends[-1] + new)
        settling.update(" ".join(["word"] * number), ends[-1])
        compared = [earlier for earlier in range(1, number) if ends[-1] - ends[earlier] >= MIN_DISTANCE]
        assert len(settling.settled.split()) == max(compared, default=0)


def test_a_word_that_has_come_and_gone_between_two_hypotheses_does_not_settle() -> None:
    settling = Settling()
    for samples, text in [(0.2, "Turn on"), (0.8, "Turn off"), (1.6, "Turn on the")]:
        _, stable = settling.update(text, round(samples * MIN_DISTANCE))
    assert settling.settled == "Turn"
    assert stable == len("Turn")
    settling.update("Turn on the light", 2 * MIN_DISTANCE)
    assert settling.settled == "Turn"  # the one in between still counts
    settling.update("Turn on the light", 3 * MIN_DISTANCE)
    assert settling.settled == "Turn on the light"


def test_the_common_prefix_of_two_hypotheses_settles() -> None:
    settling = Apart()
    assert settling.update("Turn on the kitten.") == ("Turn on the kitten.", 0)
    text = "Turn on the kitchen light."
    assert settling.update(text) == (text, len("Turn on the"))
    longer = "Turn on the kitchen light and go."
    assert settling.update(longer) == (longer, len("Turn on the kitchen"))


def test_a_full_stop_at_the_end_stays_tentative() -> None:
    settling = Apart()
    settling.update("It is ten.")
    assert settling.update("It is ten.") == ("It is ten.", len("It is ten"))
    assert settling.update("It is ten past one.") == ("It is ten past one.", len("It is ten"))
    assert not settling.settling.corrects("It is ten past one.")


def test_characters_settle_in_scripts_without_spaces() -> None:
    settling = Apart()
    settling.update("今天天气很")
    assert settling.update("今天天气好不好") == ("今天天气好不好", 4)


def test_a_contradiction_keeps_the_settled_text_and_shows_the_words_after_it() -> None:
    settling = Apart()
    settling.update("the cat sat on")
    settling.update("the cat sat on a")
    assert settling.settling.settled == "the cat sat on"
    assert settling.update("the bat sat on a mat") == ("the cat sat on a mat", len("the cat sat on"))
    assert settling.update("the bat sat on a mat") == ("the cat sat on a mat", len("the cat sat on"))
    assert settling.settling.corrects("the bat sat on a mat")
    assert settling.update("") == ("the cat sat on", len("the cat sat on"))
