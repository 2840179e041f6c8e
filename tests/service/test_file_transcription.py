"""The words of a file are those of the same audio spoken live, with their finals, however slow the aligner is."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from qwen_asr.config.config import Config
from qwen_asr.engine.aligner import Aligner
from qwen_asr.engine.words import Clip, Word
from qwen_asr.live.events import Aligned, Event, Final
from qwen_asr.service.file_transcription import FileTranscription
from qwen_asr.service.service import Service
from tests.support.checkpoints import Samples, save_aligner, spoken
from tests.support.rest_client import wav

pytestmark = pytest.mark.slow

TEXTS = ["Turn on the kitchen light.", "Open the window."]


@pytest.fixture(scope="module")
def aligner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("aligner")
    save_aligner(folder, classes=60)  # its times are up to 4.8 s
    return folder


@pytest.fixture(scope="module")
def service(aligner: Path) -> Iterator[Service]:
    config = Config(asr_model_path=("demo",), aligner_model_path=str(aligner), device="cpu", dtype="float32")
    with contextlib.closing(Service(config)) as loaded:
        loaded.start()
        assert loaded.wait(120) == "ready", loaded.text
        yield loaded
    torch.set_num_threads(1)


def speech() -> Samples:
    pause = np.zeros(24_000, np.float32)
    return np.concatenate([part for text in TEXTS for part in (pause, spoken(text), pause)])


def live(service: Service, samples: Samples, *, words: bool = True) -> list[Event]:
    events: list[Event] = []
    runner = service.open_session(service.session_options(words=words), events.extend)
    for block in np.array_split(samples, 30):
        runner.feed(block)
    runner.finish().result(timeout=120)
    runner.close()
    return events


def of_file(service: Service, samples: Samples, *, words: bool = True) -> list[Final]:
    async def transcribe() -> list[Final]:
        work = FileTranscription(service, io.BytesIO(wav(samples)), service.session_options(words=words))
        try:
            await work.begin()
            return [final async for final in work.finals()]
        finally:
            work.close()

    return asyncio.run(transcribe())


def test_live_words_are_those_of_the_file(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    rounded = (np.round(speech() * 32_767) / 32_768).astype(np.float32)  # as the WAV has it
    events = live(service, rounded)
    finals = [event for event in events if isinstance(event, Final)]
    aligned = {event.utterance: event.words for event in events if isinstance(event, Aligned)}
    assert [final.text for final in finals] == TEXTS
    assert [final.words for final in finals] == [(), ()]  # the aligner is slow here
    for final in finals:
        words = aligned[final.utterance]
        assert " ".join(word.text for word in words) == final.text
        assert all(final.start <= word.start <= word.end <= final.end for word in words)
    assert len({word.start for words in aligned.values() for word in words}) > 2
    from_file = of_file(service, rounded)
    assert [final.words for final in from_file] == [aligned[0], aligned[1]]
    monkeypatch.setattr("qwen_asr.engine.aligner.Aligner.is_quick", True)
    quick = [event for event in live(service, rounded) if not isinstance(event, Aligned)]
    assert [event.words for event in quick if isinstance(event, Final)] == [aligned[0], aligned[1]]
    assert len(quick) >= 2


def test_without_the_option_nothing_is_aligned(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def align(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("qwen_asr.engine.aligner.Aligner.align_words", align)
    samples = speech()
    assert not any(isinstance(event, Aligned) for event in live(service, samples, words=False))
    assert [final.words for final in of_file(service, samples, words=False)] == [(), ()]


def test_the_demo_has_words_of_its_own_with_each_final() -> None:
    service = Service(Config(asr_model_path=("demo",), device="cpu"))
    with contextlib.closing(service):
        service.start()
        assert service.wait(120) == "ready", service.text
        rounded = (np.round(speech() * 32_767) / 32_768).astype(np.float32)
        events = live(service, rounded)
        assert not any(isinstance(event, Aligned) for event in events)
        finals = [event for event in events if isinstance(event, Final)]
        assert [final.text for final in finals] == TEXTS
        for final in finals:
            assert " ".join(word.text for word in final.words) == final.text
            assert all(one.end <= other.start for one, other in pairwise(final.words))
            assert all(final.start <= word.start < word.end <= final.end for word in final.words)
        assert [final.words for final in of_file(service, rounded)] == [final.words for final in finals]
        assert service.why_no_words("English") is None
        assert "not for German" in str(service.why_no_words("de"))
        german = service.session_options(words=True, language="German")
        unknown: list[Event] = []
        runner = service.open_session(german, unknown.extend)
        runner.feed(rounded)
        runner.finish().result(timeout=120)
        assert [event.words for event in unknown if isinstance(event, Final)] == [(), ()]  # and no error


@pytest.mark.parametrize("run", [live, of_file])
def test_a_failing_aligner_costs_only_words(
    service: Service, monkeypatch: pytest.MonkeyPatch, run: Callable[[Service, Samples], list[Event]]
) -> None:
    original = Aligner.align_words

    def align(self: Aligner, clips: Sequence[Clip]) -> list[tuple[Word, ...]]:
        if any("window" in clip.text for clip in clips):
            raise RuntimeError("poisoned")
        return original(self, clips)

    monkeypatch.setattr("qwen_asr.engine.aligner.Aligner.align_words", align)
    events = run(service, speech())
    finals = [event for event in events if isinstance(event, Final)]
    words = {event.utterance: event.words for event in events if isinstance(event, Final | Aligned)}
    assert [final.text for final in finals] == TEXTS
    assert [bool(words[number]) for number in (0, 1)] == [True, False]
