"""The forced aligner gives transformers' own times, in both layouts, within the clip."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3ASRForTokenClassification, Qwen3ASRProcessor

from qwen_asr.engine.aligner import Aligner, load_aligner
from qwen_asr.errors import BadInput, CheckpointNotFound, WrongArchitecture
from tests.support.checkpoints import DEMO, Samples, long_speech, save_aligner, spoken, to_original_layout

TEXT = "The meeting is on Monday, the tenth of May."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("aligner")
    save_aligner(folder)
    return folder


@pytest.fixture(scope="module")
def aligner(folder: Path) -> Aligner:
    return load_aligner(str(folder), "cpu", "float32")


def reference(folder: Path, samples: Samples, text: str, language: str) -> list[dict[str, Any]]:
    """transformers' own model and processor, from end to end."""
    model: Any = Qwen3ASRForTokenClassification.from_pretrained(folder, dtype=torch.float32).eval()
    processor = Qwen3ASRProcessor.from_pretrained(folder)
    inputs, words = processor.prepare_forced_aligner_inputs([samples], [text], language)
    with torch.inference_mode():
        logits = model(**inputs).logits
    return processor.decode_forced_alignment(logits, inputs["input_ids"], words, model.config.timestamp_token_id)[0]


def spread(aligner: Aligner, monkeypatch: pytest.MonkeyPatch, classes: list[int]) -> None:
    """Let the model predict these classes at the marks, whatever it hears."""
    original = aligner.model.forward

    def forward(input_ids: torch.Tensor, **inputs: Any) -> Any:
        output = original(input_ids, **inputs)
        marks = (input_ids[0] == aligner.timestamp_token_id).nonzero()[:, 0]
        output.logits[0, marks, torch.tensor(classes)] = 1e6
        return output

    monkeypatch.setattr(aligner.model, "forward", forward)


@pytest.mark.parametrize("language", ["English", "German", None])
def test_the_times_are_those_of_transformers(folder: Path, aligner: Aligner, language: str | None) -> None:
    samples = long_speech(np.random.default_rng(2), 31.0)
    expected = reference(folder, samples, TEXT, language or "English")
    found = aligner.align(samples, TEXT, language)
    assert [word.text for word in found] == ["The", "meeting", "is", "on", "Monday", "the", "tenth", "of", "May"]
    assert [vars(word) for word in found] == expected
    assert len({word.start_time for word in found}) > 2


def test_both_layouts_give_the_same(folder: Path, aligner: Aligner, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "original"))
    to_original_layout(copied)
    original = load_aligner(str(copied), "cpu", "float32")
    samples = long_speech(np.random.default_rng(3), 31.0)
    assert original.align(samples, TEXT, "English") == aligner.align(samples, TEXT, "English")
    assert original.longest_seconds == aligner.longest_seconds == 32.0


def test_times_are_within_the_clip_and_in_order(aligner: Aligner, monkeypatch: pytest.MonkeyPatch) -> None:
    spread(aligner, monkeypatch, [2, 5, 5, 9, 100, 300])
    found = aligner.align(spoken("Open the window."), "Open the window.", "English")
    length = len(spoken("Open the window.")) / 16_000
    assert [(word.start_time, word.end_time) for word in found[:2]] == [(0.16, 0.4), (0.4, 0.72)]
    assert length - 0.001 < found[2].start_time == found[2].end_time <= length


def test_a_word_does_not_end_before_it_starts(aligner: Aligner, monkeypatch: pytest.MonkeyPatch) -> None:
    for classes in ([9, 2], [5, 1]):
        spread(aligner, monkeypatch, classes)
        [word] = aligner.align(spoken(TEXT), "meeting", "English")
        assert word.start_time <= word.end_time


@pytest.mark.parametrize("text", ["", " … ", "?!", "—"])
def test_text_without_words_has_no_times(aligner: Aligner, text: str) -> None:
    assert aligner.align(spoken(TEXT), text, "English") == []


def test_a_clip_of_one_sample_is_aligned(aligner: Aligner) -> None:
    [word] = aligner.align(np.zeros(1, np.float32), "word", "English")
    assert (word.start_time, word.end_time) == (0.0, 0.0)


def test_chinese_is_aligned_by_character_and_words_lose_their_punctuation(aligner: Aligner) -> None:
    assert [word.text for word in aligner.align(spoken(TEXT), "甚至 A/B 3.5%。", "Chinese")] == ["甚", "至", "AB", "35"]


def test_what_cannot_be_aligned_raises(aligner: Aligner, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="does not know Dutch; expected one of Cantonese, Chinese, English"):
        aligner.align(spoken(TEXT), TEXT, "Dutch")
    with pytest.raises(BadInput, match=r"33 s long, and .* aligns at most 32 s"):
        aligner.align(np.zeros(33 * 16_000, np.float32), TEXT, "English")
    monkeypatch.setattr("qwen_asr.engine.aligner.importlib.util.find_spec", lambda name: None)
    for language, package in (("Japanese", "nagisa"), ("Korean", "soynlp")):
        with pytest.raises(BadInput, match=f"pip install {package}"):
            aligner.align(spoken(TEXT), "こんにちは", language)


@pytest.mark.parametrize("make", [lambda folder: shutil.copytree(DEMO, folder), lambda folder: folder.mkdir()])
def test_what_is_no_aligner_raises(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "other")
    with pytest.raises((WrongArchitecture, CheckpointNotFound), match=r"no forced aligner|no config"):
        load_aligner(str(tmp_path / "other"), "cpu")
