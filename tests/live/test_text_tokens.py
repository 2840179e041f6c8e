"""Which tokens belong to the text of a final."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_asr.engine.hypothesis import Hypothesis
from qwen_asr.live.events import Final
from qwen_asr.live.guards import clean_text
from qwen_asr.live.text_tokens import text_tokens
from tests.support.engine_double import Samples, hypothesis_of, make_audio, new_session

HEADER = (b"language", b" English", b"<asr_text>")


def written(pieces: tuple[bytes, ...], text: str) -> Hypothesis:
    """What the model wrote, as `pieces`, and the text that the processor made of it."""
    scores = tuple(-0.1 * (index + 1) for index in range(len(pieces)))
    raw = b"".join(pieces).decode(errors="replace")
    return Hypothesis(tuple(range(len(pieces))), raw, "English", text, 16_000, False, scores, pieces)


TEXTS = st.text(min_size=1, max_size=12).map(lambda text: text.encode(errors="ignore").decode().strip()).filter(bool)


@given(TEXTS, st.data(), st.booleans())
def test_the_tokens_spell_the_text_wherever_it_is_divided(text: str, data: st.DataObject, header: bool) -> None:
    encoded = f" {text}\n".encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, len(encoded) - 1))))
    pieces = tuple(encoded[start:end] for start, end in pairwise([0, *cuts, len(encoded)]))
    tokens = text_tokens(written(HEADER + pieces if header else pieces, text), text)
    assert b"".join(token.data for token in tokens).decode() == text
    assert all(token.log_probability == pytest.approx(-0.1 * (token.id + 1)) for token in tokens)


def test_white_space_of_any_kind_around_the_text_is_no_part_of_it() -> None:
    hypothesis = written((*HEADER, "\u3000".encode(), b" Yes", b",", b" ", b" ma", b"dam.\n"), "Yes,  madam.")
    assert [token.data for token in text_tokens(hypothesis, "Yes,  madam.")] == [b"Yes", b",", b" ", b" ma", b"dam."]


def test_tokens_end_where_a_guard_has_cut_the_text() -> None:
    loop = written((*HEADER, b"Well", b",", *(b" thank", b" you") * 7), "Well," + " thank you" * 7)
    text, warnings = clean_text(loop, False, 512)
    assert warnings
    tokens = text_tokens(loop, text)
    assert (text, [token.id for token in tokens]) == ("Well, thank you", [3, 4, 5, 6])


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ((b"one", b"two three"), "onetwo"),  # a cut in the middle of a token
        ((b"language", b" English<asr_text>one"), "one"),
        ((b"la", b" la", b" la", b" la"), "la la, la"),  # a change in the middle of the text
        ((b"say", b" one"), "one"),
        ((b"\xf0\x9f", b"."), "\ufffd."),
        ((b"one",), ""),
    ],
)
def test_nothing_is_said_about_a_text_that_the_tokens_do_not_spell(pieces: tuple[bytes, ...], text: str) -> None:
    assert text_tokens(written(pieces, text), text) == ()


def test_finals_have_the_tokens_of_their_text_and_their_mean() -> None:
    def transcribe(samples: Samples, context: str, language: str | None) -> Hypothesis:
        return written((*HEADER, b"Good", b" morning."), "Good morning.")

    session = new_session(transcribe)
    session.feed(make_audio([(False, 8000), (True, 16_000), (False, 8000)]))
    step = session.next_step()
    assert step is not None
    [final] = [event for event in session.completed(step, hypothesis_of(step)) if isinstance(event, Final)]
    assert [token.data for token in final.tokens] == [b"Good", b" morning."]
    assert [token.log_probability for token in final.tokens] == pytest.approx([-0.4, -0.5])
    assert final.avg_logprob == pytest.approx(-0.45)
    assert Final(0, 0, 1, None, "", 0.0).avg_logprob is None
