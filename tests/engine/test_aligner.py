"""The forced aligner gives transformers' own times, in both layouts, within the clip."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import Qwen3ASRForTokenClassification, Qwen3ASRProcessor

from qwen_asr.engine.aligner import Aligner, ForcedAlignItem, load_aligner
from qwen_asr.engine.words import Clip, Word
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


def align(aligner: Aligner, samples: Samples, text: str, language: str | None) -> list[ForcedAlignItem]:
    [found] = aligner.align([Clip(samples, text, language)])
    return found


def spread(aligner: Aligner, monkeypatch: pytest.MonkeyPatch, classes: list[int]) -> None:
    """Let the model predict these classes at the marks, whatever it hears."""
    original = aligner.model.forward

    def forward(input_ids: torch.Tensor, **inputs: Any) -> Any:
        output = original(input_ids, **inputs)
        for row, logits in zip(input_ids, output.logits, strict=True):
            marks = (row == aligner.timestamp_token_id).nonzero()[:, 0]
            logits[marks, torch.tensor(classes)] = 1e6
        return output

    monkeypatch.setattr(aligner.model, "forward", forward)


@pytest.mark.parametrize("language", ["English", "German", None])
def test_the_times_are_those_of_transformers(folder: Path, aligner: Aligner, language: str | None) -> None:
    samples = long_speech(np.random.default_rng(2), 31.0)
    expected = reference(folder, samples, TEXT, language or "English")
    found = align(aligner, samples, TEXT, language)
    assert [word.text for word in found] == ["The", "meeting", "is", "on", "Monday", "the", "tenth", "of", "May"]
    assert [vars(word) for word in found] == expected
    assert len({word.start_time for word in found}) > 2


def test_both_layouts_give_the_same(folder: Path, aligner: Aligner, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "original"))
    to_original_layout(copied)
    original = load_aligner(str(copied), "cpu", "float32")
    samples = long_speech(np.random.default_rng(3), 31.0)
    assert align(original, samples, TEXT, "English") == align(aligner, samples, TEXT, "English")
    assert original.longest_seconds == aligner.longest_seconds == 32.0


def test_times_are_within_the_clip_and_in_order(aligner: Aligner, monkeypatch: pytest.MonkeyPatch) -> None:
    spread(aligner, monkeypatch, [2, 5, 5, 9, 100, 300])
    found = align(aligner, spoken("Open the window."), "Open the window.", "English")
    length = len(spoken("Open the window.")) / 16_000
    assert [(word.start_time, word.end_time) for word in found[:2]] == [(0.16, 0.4), (0.4, 0.72)]
    assert length - 0.001 < found[2].start_time == found[2].end_time <= length


def test_a_word_does_not_end_before_it_starts(aligner: Aligner, monkeypatch: pytest.MonkeyPatch) -> None:
    for classes in ([9, 2], [5, 1]):
        spread(aligner, monkeypatch, classes)
        [word] = align(aligner, spoken(TEXT), "meeting", "English")
        assert word.start_time <= word.end_time


@pytest.mark.parametrize("text", ["", " … ", "?!", "—"])
def test_text_without_words_has_no_times(aligner: Aligner, text: str) -> None:
    assert align(aligner, spoken(TEXT), text, "English") == []


def test_a_clip_of_one_sample_is_aligned(aligner: Aligner) -> None:
    [word] = align(aligner, np.zeros(1, np.float32), "word", "English")
    assert (word.start_time, word.end_time) == (0.0, 0.0)


def test_chinese_is_aligned_by_character_and_words_lose_their_punctuation(aligner: Aligner) -> None:
    assert [word.text for word in align(aligner, spoken(TEXT), "甚至 A/B 3.5%。", "Chinese")] == [
        "甚",
        "至",
        "AB",
        "35",
    ]


def test_what_cannot_be_aligned_raises(aligner: Aligner, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="does not know Dutch; expected one of Cantonese, Chinese, English"):
        align(aligner, spoken(TEXT), TEXT, "Dutch")
    with pytest.raises(BadInput, match=r"33 s long, and .* aligns at most 32 s"):
        align(aligner, np.zeros(33 * 16_000, np.float32), TEXT, "English")
    monkeypatch.setattr("qwen_asr.engine.aligner.importlib.util.find_spec", lambda name: None)
    for language, package in (("Japanese", "nagisa"), ("Korean", "soynlp")):
        with pytest.raises(BadInput, match=f"pip install {package}"):
            align(aligner, spoken(TEXT), "こんにちは", language)


CLIPS = [
    Clip(long_speech(np.random.default_rng(4), 31.0), TEXT, "English"),
    Clip(spoken("Open the window."), "Open the window.", "German"),
    Clip(spoken(TEXT)[:50_001], "甚至 A/B 3.5%。", "Chinese"),
    Clip(np.zeros(1, np.float32), "one", None),
    Clip(spoken(TEXT), "…", "English"),
    Clip(long_speech(np.random.default_rng(5), 9.0), f"{TEXT} {TEXT}", "English"),
]


def test_clips_that_are_aligned_together_have_the_words_of_each_alone(aligner: Aligner) -> None:
    alone = [aligner.align_words([clip])[0] for clip in CLIPS]
    assert aligner.align_words(CLIPS) == alone
    assert aligner.align_words(CLIPS[::-1]) == alone[::-1]
    assert len({word.start for word in alone[0]}) > 2
    assert aligner.align_words([]) == []


def test_a_long_batch_takes_several_passes(aligner: Aligner, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = aligner.align_words(CLIPS)
    rows: list[int] = []
    original = aligner.model.forward

    def forward(input_ids: torch.Tensor, **inputs: Any) -> Any:
        rows.append(len(input_ids))
        return original(input_ids, **inputs)

    monkeypatch.setattr(aligner.model, "forward", forward)
    monkeypatch.setattr("qwen_asr.engine.aligner.PASS_SECONDS", 12.0)
    assert aligner.align_words(CLIPS) == expected
    assert rows == [3, 1, 1]  # clips of 0 to 3 s, of 9 s and of 31 s


def test_words_are_those_of_the_text_with_its_punctuation(aligner: Aligner, monkeypatch: pytest.MonkeyPatch) -> None:
    spread(aligner, monkeypatch, [1, 2, 3, 3, 9, 5, 300, 300])
    samples = spoken(TEXT)
    [words] = aligner.align_words([Clip(samples, "甚至 A/B 3.5%。", "Chinese")])
    assert [word.text for word in words] == ["甚", "至", "A/B", "3.5%。"]
    assert words[0] == Word("甚", 1280, 2560)
    assert [word.start for word in words] == sorted(word.start for word in words)
    assert all(word.start <= word.end <= len(samples) for word in words)
    assert words[-1].end > len(samples) - 16


def test_punctuation_that_stands_alone_lasts_no_time(aligner: Aligner, monkeypatch: pytest.MonkeyPatch) -> None:
    spread(aligner, monkeypatch, [1, 2, 3, 4])
    [words] = aligner.align_words([Clip(spoken(TEXT), " … one  – ! two\n?", "English")])
    assert words == (
        Word("…", 1280, 1280),
        Word("one", 1280, 2560),
        Word("–", 2560, 2560),
        Word("!", 2560, 2560),
        Word("two", 3840, 5120),
        Word("?", 5120, 5120),
    )


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.sampled_from("ab3 \n.,–…!“”(（）你好。'\u0301"), max_size=30),
    times=st.lists(st.floats(0, 9), min_size=60, max_size=60).map(sorted),
    length=st.integers(0, 80_000),
)
def test_words_cover_the_text_and_rise_within_the_clip(
    aligner: Aligner, monkeypatch: pytest.MonkeyPatch, text: str, times: list[float], length: int
) -> None:
    spoken_words = aligner.processor.split_words_for_alignment(text, None)
    items = [ForcedAlignItem(word, *times[2 * at : 2 * at + 2]) for at, word in enumerate(spoken_words)]
    monkeypatch.setattr(aligner, "align", lambda clips: [items])
    [words] = aligner.align_words([Clip(np.zeros(length, np.float32), text, None)])
    assert [word.text for word in words if len(word.text.split()) != 1] == []
    assert "".join(word.text for word in words) == ("".join(text.split()) if spoken_words else "")
    bounds = [bound for word in words for bound in (word.start, word.end)]
    assert bounds == sorted(bounds)
    assert all(0 <= bound <= length for bound in bounds)


@pytest.mark.parametrize("language", ["Thai", "Dutch", "Japanese", "Korean"])
def test_text_that_cannot_be_aligned_has_no_words(
    aligner: Aligner, monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    monkeypatch.setattr("qwen_asr.engine.aligner.importlib.util.find_spec", lambda name: None)
    clips = [Clip(spoken(TEXT), "สวัสดี", language), Clip(spoken(TEXT), "?!", "English"), CLIPS[1]]
    assert aligner.align_words(clips) == [(), (), *aligner.align_words(CLIPS[1:2])]


def test_an_aligner_on_the_cpu_is_slow(aligner: Aligner) -> None:
    assert not aligner.is_quick


@pytest.mark.parametrize("make", [lambda folder: shutil.copytree(DEMO, folder), lambda folder: folder.mkdir()])
def test_what_is_no_aligner_raises(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "other")
    with pytest.raises((WrongArchitecture, CheckpointNotFound), match=r"no forced aligner|no config.*ForcedAligner"):
        load_aligner(str(tmp_path / "other"), "cpu")


@pytest.mark.parametrize("path", ["demo", "auto", "missing/folder/of/an/aligner"])
def test_a_name_that_is_no_aligner_raises(path: str) -> None:
    with pytest.raises(CheckpointNotFound, match=r"no folder .* such as Qwen/Qwen3-ForcedAligner-0.6B"):
        load_aligner(path, "cpu")


def test_the_hub_is_told_to_be_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(name: str, **options: Any) -> str:
        raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("qwen_asr.engine.hub.download.snapshot_download", unreachable)
    lines: list[str] = []
    with pytest.raises(CheckpointNotFound, match=r"ForcedAligner-0.6B .* cannot be fetched .*--aligner-model-path"):
        load_aligner("Qwen/Qwen3-ForcedAligner-0.6B", "cpu", progress=lines.append)
    assert lines == ["Fetching Qwen/Qwen3-ForcedAligner-0.6B from the Hugging Face hub (several GB the first time)"]


def test_the_progress_of_loading_is_told(folder: Path) -> None:
    lines: list[str] = []
    load_aligner(str(folder), "cpu", progress=lines.append)
    assert len(lines) == 1
    assert lines[0].startswith(f"Loading {folder.name} on cpu in ")
