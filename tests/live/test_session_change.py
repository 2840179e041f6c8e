"""Options that change during a session: they hold from the next utterance on, and nothing else changes."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_asr.audio.endpointing import UtteranceDetector
from qwen_asr.engine.hypothesis import Hypothesis
from qwen_asr.engine.scheduler import Scheduler
from qwen_asr.engine.streaming import Utterance
from qwen_asr.errors import BadInput
from qwen_asr.live import guards
from qwen_asr.live.events import Final
from qwen_asr.live.runner import Runner
from qwen_asr.live.session import Session
from qwen_asr.live.session_options import SessionOptions
from tests.support.checkpoints import random_recognizer
from tests.support.engine_double import (
    QUICK,
    EventChecker,
    Loudness,
    Samples,
    UtteranceDouble,
    hypothesis_of,
    make_audio,
    new_session,
    text_of,
    transcribe_exactly,
)

SECOND = 16_000
OPTIONS = SessionOptions(endpoints=QUICK)
segments = st.lists(st.tuples(st.booleans(), st.integers(1, 30_000)), max_size=8)
changes = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from([None, "German", "Spanish"]), st.sampled_from(["", "Ada"])),
    max_size=6,
)


def with_context(samples: Samples, context: str, language: str | None) -> Hypothesis:
    """A model whose text shows the context and the language that it was given."""
    hypothesis = transcribe_exactly(samples, context, language)
    return replace(hypothesis, text=f"{hypothesis.text} {len(context)} {language}")


def run_steps(session: Session, checker: EventChecker) -> None:
    while (step := session.next_step()) is not None:
        checker.take(session.completed(step, hypothesis_of(step)))


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(segments=segments, changes=changes, size=st.integers(300, 20_000), lazy=st.booleans())
def test_utterances_that_begin_later_have_the_new_options_and_nothing_else_changes(
    segments: list[tuple[bool, int]], changes: list[tuple[int, str | None, str]], size: int, lazy: bool
) -> None:
    audio = make_audio(segments)
    blocks = np.array_split(audio, len(audio) // size + 1)

    def run(changes: list[tuple[int, str | None, str]]) -> tuple[list[Final], list[tuple[int, str | None, str]]]:
        session, checker = new_session(with_context, chunk_seconds=0.2), EventChecker()
        used: list[tuple[int, str | None, str]] = [(0, None, "")]  # from which utterance on
        for index, block in enumerate(blocks):
            for at, language, context in changes:
                if at == index:
                    first = session.change(replace(OPTIONS, language=language, context=context))
                    used.append((first, language, context))
            checker.take(session.feed(block))
            if not lazy:
                run_steps(session, checker)
        checker.take(session.finish())
        run_steps(session, checker)
        checker.check_complete(session)
        return checker.finals, used

    finals, used = run(changes)
    plain, _ = run([])
    assert [(final.start, final.end) for final in finals] == [(final.start, final.end) for final in plain]
    for final in finals:
        _, language, context = [entry for entry in used if entry[0] <= final.utterance][-1]
        assert final.text == f"{text_of(audio[final.start : final.end])} {len(context)} {language}"


def test_the_open_utterance_keeps_its_language_also_when_it_is_decoded_again() -> None:
    session, checker = new_session(with_context, chunk_seconds=0.2, language="German"), EventChecker()
    session.feed(make_audio([(True, SECOND)]))
    step = session.next_step()
    assert step is not None
    assert session.change(replace(OPTIONS, language="Spanish")) == 1
    checker.take(session.failed(step, "It broke."))  # a new engine utterance takes its place
    session.feed(make_audio([(False, SECOND), (True, SECOND // 2)]))
    session.finish()
    run_steps(session, checker)
    assert [final.text.split()[-1] for final in checker.finals] == ["German", "Spanish"]


def test_a_change_of_language_forgets_the_language_that_was_established() -> None:
    """Or a short utterance in the new language would be decoded again in the old one."""

    def detects(samples: Samples, context: str, language: str | None) -> Hypothesis:
        detected = "English" if len(samples) > SECOND else "Spanish"
        return replace(transcribe_exactly(samples, context, None), language=language or detected)

    def run(*languages: str | None) -> list[Final]:
        session, checker = new_session(detects, endpoints=replace(QUICK, longest_seconds=30)), EventChecker()
        session.feed(make_audio([(True, 5 * SECOND), (False, SECOND)]))
        run_steps(session, checker)
        for language in languages:
            session.change(replace(OPTIONS, language=language))
        session.feed(make_audio([(True, SECOND // 2)]))
        session.finish()
        run_steps(session, checker)
        return checker.finals

    assert [final.language for final in run()] == ["English", "English"]
    assert [final.language for final in run("German", None)] == ["English", "Spanish"]


def test_the_pause_changes_with_the_next_utterance() -> None:
    session, checker = new_session(), EventChecker()
    pause = (False, SECOND // 2)
    session.feed(make_audio([(True, SECOND // 2)]))
    assert session.change(replace(OPTIONS, endpoints=replace(QUICK, silence_seconds=0.9))) == 1
    session.feed(make_audio([pause, (True, SECOND // 4), pause, (True, SECOND // 4)]))
    session.finish()
    run_steps(session, checker)
    lengths = [(final.end - final.start) / SECOND for final in checker.finals]
    assert len(lengths) == 2
    assert lengths[1] > 1.0  # half a second of silence is inside of it


def test_options_that_the_engine_refuses_change_nothing() -> None:
    def new_utterance(*, context: str, language: str | None, max_new_tokens: int) -> UtteranceDouble:
        if context == "bad":
            raise BadInput("A control token.")
        return UtteranceDouble(with_context, context, language, max_new_tokens)

    factory: Any = new_utterance
    session, checker = Session(factory, UtteranceDetector(QUICK, Loudness()), OPTIONS), EventChecker()
    with pytest.raises(BadInput, match="control token"):
        session.change(replace(OPTIONS, context="bad", language="Spanish"))
    session.feed(make_audio([(True, SECOND), (False, SECOND), (True, SECOND)]))
    session.finish()
    run_steps(session, checker)
    assert {final.text.split()[-1] for final in checker.finals} == {"None"}


def test_the_utterance_that_was_made_for_the_old_options_is_closed() -> None:
    made: list[UtteranceDouble] = []

    def new_utterance(**options: Any) -> UtteranceDouble:
        made.append(UtteranceDouble(transcribe_exactly, **options))
        return made[-1]

    factory: Any = new_utterance
    session = Session(factory, UtteranceDetector(QUICK, Loudness()), OPTIONS)
    session.change(replace(OPTIONS, language="German"))
    assert [utterance.closed for utterance in made] == [True, False]


@pytest.mark.slow
def test_on_the_engine_each_utterance_is_that_of_its_own_language_alone_and_in_a_batch() -> None:
    recognizer = random_recognizer()
    parts = [(True, 9_000), (False, 6_000), (True, 12_000), (False, 6_000), (True, 8_000)]
    languages = {0: "German", 1: "Spanish", 2: None}

    def offline(audio: Samples, final: Final) -> tuple[str, str | None, int]:
        utterance = Utterance(recognizer, language=languages[final.utterance], max_new_tokens=12)
        hypothesis = utterance.feed(audio[final.start : final.end])
        text = guards.clean_text(hypothesis, False, 12)[0]
        return text, hypothesis.language if text else None, hypothesis.prompt_tokens

    def new() -> Session:
        options = SessionOptions(language="German", max_new_tokens=12, chunk_seconds=0.3, endpoints=QUICK)
        return Session(partial(Utterance, recognizer), UtteranceDetector(QUICK, Loudness()), options)

    with Scheduler(recognizer) as scheduler:
        for count in (1, 3):
            checkers = [EventChecker() for _ in range(count)]
            runners = [Runner(new(), scheduler, checker.take) for checker in checkers]
            audios = [make_audio(parts, seed) for seed in range(count)]
            for block in range(40):
                for runner, audio in zip(runners, audios, strict=True):
                    runner.feed(np.array_split(audio, 40)[block])
                    if block in (4, 20):  # within the first and within the second utterance
                        runner.change(replace(OPTIONS, language=languages[1 if block == 4 else 2]))
            for runner in runners:
                runner.finish().result(timeout=120)
            for checker, audio in zip(checkers, audios, strict=True):
                assert [final.utterance for final in checker.finals] == [0, 1, 2]
                found = [(final.text, final.language, final.prompt_tokens) for final in checker.finals]
                assert found == [offline(audio, final) for final in checker.finals]
                assert [language for _, language, _ in found[:2]] == ["German", "Spanish"]
                assert len({text for text, _, _ in found}) == 3  # the language makes the text


def test_a_runner_changes_options_while_other_threads_feed_it() -> None:
    """Every change is in its place: no utterance begins between its decision and its options."""

    class Device:
        def submit(self, utterance: Any, on_start: Any, is_urgent: Any) -> Future[Hypothesis]:
            done: Future[Hypothesis] = Future()
            on_start()
            done.set_result(utterance.finish())
            return done

    checker = EventChecker()
    device: Any = Device()
    runner = Runner(new_session(with_context, chunk_seconds=0.2), device, checker.take)
    audio = make_audio([part for _ in range(12) for part in ((True, 8_000), (False, 6_000))])
    used: list[tuple[int, str | None]] = [(0, None)]
    ended = threading.Event()

    def change() -> None:
        for turn in range(10_000):
            language = ("German", "Spanish", None)[turn % 3]
            used.append((runner.change(replace(OPTIONS, language=language)), language))
            if ended.is_set():
                return

    changer = threading.Thread(target=change)
    changer.start()
    for block in np.array_split(audio, 200):
        runner.feed(block)
    ended.set()
    changer.join(60)
    runner.finish().result(timeout=60)
    assert len(checker.finals) == 12
    for final in checker.finals:
        _, language = [entry for entry in used if entry[0] <= final.utterance][-1]
        assert final.text.rstrip().endswith(str(language))
    runner.close()
    assert runner.change(OPTIONS) == 0
