"""The head's classes, the places of its parts in the audio, and its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qwen_asr.engine.frame_aligner.head import (
    CLASSES,
    LETTERS,
    PARTS,
    FrameHead,
    letter_classes,
    load_head,
    part_edges,
)
from qwen_asr.errors import BadCheckpoint
from tests.support.checkpoints import random_recognizer


def test_letters_are_classes_and_the_first_one_of_a_word_is_another() -> None:
    assert letter_classes("Abba.") == [LETTERS, 1, 1, 0]
    assert letter_classes("“o'clock") == letter_classes("oclock")
    assert letter_classes("Émile") == letter_classes("emile")
    assert letter_classes("B2b") == [LETTERS + 1, None, 1]
    assert letter_classes("你好") == [None, None]
    assert letter_classes("—?!") == []


@pytest.mark.parametrize("samples", [1, 200, 8_000, 15_999, 16_000, 16_001, 128_000, 480_123])
def test_the_parts_of_all_rows_are_the_clip(samples: int) -> None:
    recognizer = random_recognizer()
    frames = max(samples, 8_000) // recognizer.frontend.hop  # the extractor fills up to half a second
    rows = sum(recognizer.encoder.embeddings_of(min(800, frames - first)) for first in range(0, frames, 800))
    edges = part_edges(recognizer, rows, samples)
    assert len(edges) == PARTS * rows + 1
    assert edges[0] == 0
    assert samples - 8 * recognizer.frontend.hop <= edges[-1] <= samples
    widths = np.diff(edges)
    assert widths.min() >= 0
    assert widths.max() <= 321  # 20 ms
    if samples >= 16_000:
        assert set(widths[8 : 16_000 // 321]) <= {319, 320, 321, 240}


def test_a_row_is_around_the_frame_that_the_encoder_centres_it_on() -> None:
    """A change of one log-mel frame changes most the row whose parts are at its time. The stem alone is local."""
    recognizer = random_recognizer()
    encoder = recognizer.encoder
    edges = part_edges(recognizer, 26, 32_000)
    quiet = torch.zeros(2, 1, encoder.bins, encoder.chunk_frames)
    for frame in (0, 16, 40, 88, 96, 100, 148, 196):
        loud = quiet.clone()
        loud[frame // 100, :, :, frame % 100] = 5.0
        with torch.inference_mode():
            change = (encoder.stem(loud) - encoder.stem(quiet)).flatten(0, 1).norm(dim=1)
        row = int(change.argmax())
        assert edges[PARTS * row] <= frame * recognizer.frontend.hop <= edges[PARTS * (row + 1)]


def test_a_head_is_read_as_it_was_written_up_to_float16(tmp_path: Path) -> None:
    torch.manual_seed(0)
    head = FrameHead(16, 8)
    head.save(tmp_path / "head.safetensors")
    rows = torch.randn(2, 9, 16)
    with torch.inference_mode():
        logits = load_head(tmp_path / "head.safetensors", 16)(rows)
        assert logits.shape == (2, PARTS * 9, CLASSES)
        assert (logits - head(rows)).abs().max() < 0.01


def test_a_file_that_is_no_head_for_this_checkpoint_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "head.safetensors"
    with pytest.raises(BadCheckpoint, match=r"head\.safetensors holds no head"):
        load_head(file, 16)
    file.write_bytes(b"not weights")
    with pytest.raises(BadCheckpoint):
        load_head(file, 16)
    save_file({"other": torch.zeros(1)}, file)
    with pytest.raises(BadCheckpoint):
        load_head(file, 16)
    save_file({"output.weight": torch.zeros(1)}, file)
    with pytest.raises(BadCheckpoint):
        load_head(file, 16)
    FrameHead(32, 8).save(file)
    with pytest.raises(BadCheckpoint):
        load_head(file, 16)
