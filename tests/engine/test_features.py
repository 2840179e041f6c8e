"""The chunked log-mel equals that of the whole clip from the transformers extractor, frame for frame."""

import numpy as np
import pytest
from transformers import Qwen3ASRFeatureExtractor

from qwen_asr.engine.features import LogMel
from tests.support.checkpoints import Samples, long_speech, random_sizes

EXTRACTOR = Qwen3ASRFeatureExtractor()


def whole(samples: Samples) -> np.ndarray:
    features = EXTRACTOR(samples, sampling_rate=16_000, padding=True, return_tensors="np", n_window=0)  # type: ignore[arg-type]  # the annotation lacks bool
    return features["input_features"][0]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_every_prefix_equals_the_whole_clip(seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = long_speech(rng, 12.0)
    log_mel, position = LogMel(EXTRACTOR), 0
    for size in random_sizes(rng, len(samples)):
        position += size
        spectrum = log_mel.spectrum(samples[:position])
        np.testing.assert_allclose(
            spectrum.window(0, spectrum.raw.shape[1]), whole(samples[:position]), atol=2e-5, rtol=0
        )


@pytest.mark.parametrize("length", [1, 159, 160, 7_999, 8_000, 8_001, 8_040, 8_159, 8_160, 16_000])
def test_short_and_odd_lengths(length: int) -> None:
    samples = np.random.default_rng(length).standard_normal(length).astype(np.float32)
    spectrum = LogMel(EXTRACTOR).spectrum(samples)
    np.testing.assert_allclose(spectrum.window(0, spectrum.raw.shape[1]), whole(samples), atol=2e-5, rtol=0)


def test_final_frames_never_change() -> None:
    rng = np.random.default_rng(0)
    samples = long_speech(rng, 5.0)
    log_mel = LogMel(EXTRACTOR)
    before = log_mel.spectrum(samples[:33_333])
    after = log_mel.spectrum(samples)
    assert (before.raw[:, : before.final_frames] == after.raw[:, : before.final_frames]).all()
    assert before.raw.shape[1] - before.final_frames <= 2


def test_truncation_equals_a_clip_without_the_rest() -> None:
    samples = long_speech(np.random.default_rng(3), 9.0)
    samples[100_000:] *= 50  # the loudest part is removed
    log_mel = LogMel(EXTRACTOR)
    log_mel.spectrum(samples)
    log_mel.truncate(70_001)
    spectrum = log_mel.spectrum(samples[:70_001])
    np.testing.assert_allclose(spectrum.window(0, spectrum.raw.shape[1]), whole(samples[:70_001]), atol=2e-5, rtol=0)
