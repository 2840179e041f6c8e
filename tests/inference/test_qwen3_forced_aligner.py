"""`Qwen3ForcedAligner`: the methods and results of Qwen's package, with any audio."""

from typing import Any

import numpy as np
import pytest
import torch

from qwen_asr import Qwen3ForcedAligner
from qwen_asr.errors import BadInput, UnknownLanguage
from qwen_asr.inference.qwen3_forced_aligner import ForcedAlignItem, ForcedAlignResult
from tests.support.checkpoints import save_aligner, spoken

TEXT = "Turn on the kitchen light."
OTHER = "Open the window."


@pytest.fixture(scope="module")
def aligner(tmp_path_factory: pytest.TempPathFactory) -> Qwen3ForcedAligner:
    folder = tmp_path_factory.mktemp("aligner")
    save_aligner(folder)
    return Qwen3ForcedAligner.from_pretrained(
        folder, dtype=torch.float32, device_map="cpu", attn_implementation="flash_attention_2"
    )


def test_one_audio_gives_a_list_with_one_result(aligner: Qwen3ForcedAligner) -> None:
    results = aligner.align((spoken(TEXT), 16_000), TEXT, "English")
    assert isinstance(results, list)
    [result] = results
    assert isinstance(result, ForcedAlignResult)
    assert len(result) == len(result.items) == 5
    assert [item.text for item in result] == ["Turn", "on", "the", "kitchen", "light"]
    assert result[0] == result.items[0]
    assert result[-1].text == "light"
    assert isinstance(result[0], ForcedAlignItem)
    assert 0 <= result[0].start_time <= result[0].end_time <= len(spoken(TEXT)) / 16_000


def test_a_batch_gives_what_each_gives_alone(aligner: Qwen3ForcedAligner) -> None:
    clips = [(spoken(TEXT), 16_000), (16_000, np.stack([spoken(OTHER)] * 2)), (spoken(TEXT), 16_000.0)]
    texts = [TEXT, OTHER, TEXT]
    alone = [aligner.align(clip, text, "en")[0] for clip, text in zip(clips, texts, strict=True)]
    assert aligner.align(clips, texts, "English") == alone
    assert aligner.align(clips, texts, ["English", "english", "en"]) == alone
    assert alone[0] == alone[2] != alone[1]


def test_the_attributes_are_those_of_the_original(aligner: Qwen3ForcedAligner) -> None:
    assert aligner.device == torch.device("cpu")
    assert aligner.timestamp_token_id == aligner.model.config.timestamp_token_id
    assert aligner.timestamp_segment_time == 80
    assert len(aligner.get_supported_languages()) == 11
    assert "Cantonese" in aligner.get_supported_languages()


def test_wrong_input_raises(aligner: Qwen3ForcedAligner) -> None:
    clip = (spoken(TEXT), 16_000)
    with pytest.raises(BadInput, match="There are 2 audios but 1 values of text: give one each"):
        aligner.align([clip, clip], TEXT, "English")
    with pytest.raises(BadInput, match="2 audios but 3 values of language"):
        aligner.align([clip, clip], [TEXT, TEXT], ["English"] * 3)
    with pytest.raises(UnknownLanguage):
        aligner.align(clip, TEXT, "Klingon")
    with pytest.raises(BadInput, match="does not know Dutch"):
        aligner.align(clip, TEXT, "Dutch")
    wrong: Any = 5
    with pytest.raises(BadInput, match="text was given 5"):
        aligner.align(clip, wrong, "English")
    with pytest.raises(BadInput, match="did you mean device_map"):
        Qwen3ForcedAligner.from_pretrained("anything", device="cpu")
