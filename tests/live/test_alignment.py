"""The alignments of a session, in any order: no words are lost, and finals keep their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_asr.engine.hypothesis import Hypothesis
from qwen_asr.engine.words import Word
from qwen_asr.live.alignment import Alignment
from qwen_asr.live.events import Aligned, Event, Failed, Final, Partial
from qwen_asr.live.runner import run_session
from qwen_asr.live.session import Session, Step
from tests.support.engine_double import (
    AlignerDouble,
    EventChecker,
    Samples,
    hypothesis_of,
    make_audio,
    new_session,
    transcribe_exactly,
    words_of,
)

SECOND = 16_000
TWO = [(True, SECOND), (False, SECOND), (True, SECOND), (False, SECOND)]


class Driver:
    """Performs the moves that a test chooses: on the step, and on any of the alignments under way."""

    def __init__(self, session: Session, aligner: AlignerDouble) -> None:
        self.session = session
        self.checker = EventChecker()
        self.lost: set[int] = set()  # the utterances whose alignment failed
        self._aligner = aligner
        self._step: Step | None = None
        self._alignments: list[Alignment] = []

    def take(self, events: Sequence[Event]) -> None:
        self.checker.take(events)
        assert self.session.lag >= 0

    def move(self, name: str, which: int) -> None:
        if name == "begin":
            self._step = self.session.next_step() or self._step
        elif name in ("complete", "fail") and self._step is not None:
            step, self._step = self._step, None
            if name == "fail":
                self.take(self.session.failed(step, "It broke."))
            else:
                self.take(self.session.completed(step, hypothesis_of(step)))
        elif name == "align" and (alignment := self.session.next_alignment()) is not None:
            self._alignments.append(alignment)
        elif name in ("aligned", "lose") and self._alignments:
            alignment = self._alignments.pop(which % len(self._alignments))
            if name == "lose":
                self.lost.add(alignment.final.utterance)
                self.take(self.session.not_aligned(alignment, "It broke."))
            else:
                [words] = self._aligner.align_words([alignment.clip])
                self.take(self.session.aligned(alignment, words))


MOVES = ["begin", "complete", "align", "aligned"]


@settings(max_examples=60, deadline=None)
@given(
    segments=st.lists(st.tuples(st.booleans(), st.integers(1, 30_000)), max_size=8),
    moves=st.lists(st.tuples(st.sampled_from([*MOVES, "fail", "lose"]), st.integers(0, 5)), max_size=60),
    size=st.integers(500, 20_000),
    is_quick=st.booleans(),
    background=st.booleans(),
)
def test_any_order_of_completions_loses_no_words(
    segments: list[tuple[bool, int]], moves: list[tuple[str, int]], size: int, is_quick: bool, background: bool
) -> None:
    audio, aligner = make_audio(segments), AlignerDouble(is_quick=is_quick)
    session = new_session(aligner=aligner, words=True, background=background, chunk_seconds=0.2)
    driver = Driver(session, aligner)
    for position in range(0, len(audio), size):
        driver.take(session.feed(audio[position : position + size]))
        driver.move(*moves[position // size % len(moves)]) if moves else None
    driver.take(session.finish())
    for move in moves:
        driver.move(*move)
    while not session.done:
        before = len(driver.checker.events)
        for name in MOVES * 2:
            driver.move(name, 0)
        assert len(driver.checker.events) > before or session.done
    driver.checker.check_complete(session)
    for final in session.transcript.finals:
        lost = final.utterance in driver.lost
        assert final.words == (() if lost else words_of(final.text, final.start, final.end))
    if is_quick or background:
        assert not driver.checker.words  # they come with their finals
        warned = {final.utterance for final in driver.checker.finals if "words: It broke." in final.warnings}
        assert warned == driver.lost
    else:
        assert not any(final.words for final in driver.checker.finals)


def step_of(session: Session) -> Step:
    step = session.next_step()
    assert step is not None
    return step


def complete(session: Session) -> Sequence[Event]:
    step = step_of(session)
    return session.completed(step, hypothesis_of(step))


def alignment_of(session: Session) -> Alignment:
    alignment = session.next_alignment()
    assert alignment is not None
    return alignment


def test_a_final_waits_for_quick_words_and_its_audio_counts_as_not_covered() -> None:
    aligner = AlignerDouble(is_quick=True)
    session = new_session(aligner=aligner, words=True, chunk_seconds=5)
    session.feed(make_audio(TWO))
    session.finish()
    both = session.lag
    assert complete(session) == []
    assert (session.lag, session.busy, session.aligning) == (both, True, True)
    assert session.next_step() is None  # the next utterance waits, so that the events keep their order
    alignment = alignment_of(session)
    assert session.next_alignment() is None
    [final] = session.aligned(alignment, [Word("one", 5, 80)])
    assert isinstance(final, Final)
    assert final.words == (Word("one", final.start + 5, final.start + 80),)
    assert final.lag == session.lag == pytest.approx(both / 2, abs=0.1)
    assert complete(session) == []
    [second] = session.not_aligned(alignment_of(session), "It broke.")
    assert isinstance(second, Final)
    assert (second.words, second.warnings, second.lag) == ((), ("words: It broke.",), 0)
    assert session.done


def test_partials_that_were_shown_stay_covered_while_a_final_waits() -> None:
    session = new_session(aligner=AlignerDouble(is_quick=True), words=True, chunk_seconds=0.2)
    session.feed(make_audio([(True, SECOND)]))
    [partial] = complete(session)
    assert isinstance(partial, Partial)
    session.feed(make_audio([(True, SECOND // 2)]))
    session.finish()
    lag = session.lag
    assert 0 < lag < 1
    assert complete(session) == []
    assert session.lag == lag


def test_slow_words_follow_while_the_next_utterance_goes_on() -> None:
    session = new_session(aligner=AlignerDouble(is_quick=False), words=True, chunk_seconds=0.2)
    session.feed(make_audio(TWO[:2]))
    [final] = complete(session)
    assert isinstance(final, Final)
    assert final.words == ()
    alignment = alignment_of(session)
    assert not session.busy
    session.feed(make_audio([(True, SECOND)]))
    [partial] = complete(session)
    assert isinstance(partial, Partial)
    session.finish()
    [second] = complete(session)
    assert isinstance(second, Final)
    assert session.lag == 0
    assert session.aligning
    assert not session.done
    other = alignment_of(session)
    assert session.aligned(other, [Word("b", 0, 9)]) == [Aligned(1, (Word("b", second.start, second.start + 9),))]
    words = (Word("a", final.start + 1, final.start + 2),)
    assert session.aligned(alignment, [Word("a", 1, 2)]) == [Aligned(0, words)]
    assert session.done
    assert session.transcript.finals[0] == replace(final, words=words)


def test_a_failed_slow_alignment_has_no_event() -> None:
    session = new_session(aligner=AlignerDouble(is_quick=False), words=True, chunk_seconds=5)
    session.feed(make_audio(TWO[:2]))
    session.finish()
    complete(session)
    assert session.not_aligned(alignment_of(session), "It broke.") == []
    assert session.done


def test_the_clip_is_the_utterance_and_stays_as_it_is() -> None:
    audio = make_audio([(False, SECOND), (True, 5 * SECOND)])  # cut at the length limit
    session = new_session(aligner=AlignerDouble(is_quick=False), words=True, chunk_seconds=0.2)
    finals: list[Final] = []
    for block in np.array_split(audio, 40):
        session.feed(block)
        if (step := session.next_step()) is not None:
            finals += [event for event in session.completed(step, hypothesis_of(step)) if isinstance(event, Final)]
    assert len(finals) > 1
    for final in finals:
        alignment = alignment_of(session)
        assert alignment.final == final
        assert (alignment.clip.text, alignment.clip.language) == (final.text, "English")
        assert np.array_equal(alignment.clip.samples, audio[final.start : final.end])


@pytest.mark.parametrize("is_quick", [False, True])
def test_recalled_finals_keep_their_words_or_get_them(is_quick: bool) -> None:
    audio = make_audio([*TWO, *TWO])
    decoded: list[int] = []

    def transcribe(samples: Samples, context: str, language: str | None) -> Hypothesis:
        decoded.append(len(samples))
        return transcribe_exactly(samples, context, language)

    def run(recalled: list[Final]) -> tuple[Final, ...]:
        session = new_session(transcribe, aligner=AlignerDouble(is_quick=is_quick), words=True, chunk_seconds=100)
        session.recall(recalled)
        checker = EventChecker()
        checker.take(list(run_session(session, [audio])))
        checker.check_complete(session)
        return tuple(replace(final, lag=0.0) for final in session.transcript.finals)

    whole = run([])
    assert len(whole) == len(decoded) == 4
    assert all(final.words for final in whole)
    kept = (Word("kept", whole[1].start, whole[1].end),)
    decoded.clear()
    recalled = [replace(whole[0], words=()), replace(whole[1], words=kept), replace(whole[2], words=())]
    assert run(recalled) == (whole[0], replace(whole[1], words=kept), *whole[2:])
    assert len(decoded) == 1
    decoded.clear()
    assert run([replace(whole[0], words=()), replace(whole[1], start=0)]) == whole
    assert len(decoded) == 3  # from the first on that is of other audio


@pytest.mark.parametrize(
    ("text", "language", "options"),
    [
        ("", "English", {"words": True}),
        ("hi", "Thai", {"words": True}),
        ("hi", None, {}),
    ],
)
def test_finals_without_words_do_not_wait(text: str, language: str | None, options: dict[str, Any]) -> None:
    aligner = AlignerDouble(is_quick=True)
    session = new_session(
        lambda samples, *_: Hypothesis((1,), "", language, text, len(samples)), aligner=aligner, **options
    )
    checker = EventChecker()
    checker.take(list(run_session(session, [make_audio(TWO)])))
    checker.check_complete(session)
    assert [(final.text, final.words, final.warnings) for final in checker.finals] == [(text, (), ())] * 2
    assert not aligner.batches


def test_why_there_are_no_words_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    class Unknowing(AlignerDouble):
        def why_not(self, language: str | None) -> str | None:
            return "It knows no language at all."

    for _ in range(2):
        session = new_session(aligner=Unknowing(is_quick=True), words=True)
        assert [type(event) for event in run_session(session, [make_audio(TWO)])][-1:] == [Final]
    assert caplog.text.count("Some text has no times of words. It knows no language at all.") == 1


def test_drop_discards_alignments() -> None:
    for is_quick in (False, True):
        session = new_session(aligner=AlignerDouble(is_quick=is_quick), words=True, chunk_seconds=5)
        session.feed(make_audio(TWO))
        complete(session)
        session.drop()
        assert session.done
        assert session.lag == 0
        assert not session.busy
        assert session.next_alignment() is None


def test_an_alignment_is_reported_once() -> None:
    session = new_session(aligner=AlignerDouble(is_quick=False), words=True, chunk_seconds=5)
    session.feed(make_audio(TWO))
    complete(session)
    alignment = alignment_of(session)
    session.aligned(alignment, ())
    with pytest.raises(ValueError, match="utterance 0 are not awaited"):
        session.aligned(alignment, ())


@pytest.mark.parametrize("is_quick", [False, True])
def test_a_failing_aligner_loses_words_only(is_quick: bool, caplog: pytest.LogCaptureFixture) -> None:
    session = new_session(aligner=AlignerDouble(is_quick=is_quick, poison="w12"), words=True, chunk_seconds=100)
    checker = EventChecker()
    checker.take(list(run_session(session, [make_audio([*TWO, (True, 3 * SECOND)])])))
    checker.check_complete(session)
    assert not any(isinstance(event, Failed) for event in checker.events)
    finals = session.transcript.finals
    assert {bool(final.words) for final in finals} == {False, True}
    assert all(bool(final.words) == ("w12" not in final.text) for final in finals)
    assert "The times of an utterance's words could not be found." in caplog.text
