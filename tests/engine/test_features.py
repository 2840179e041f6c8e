"""The chunked log-mel equals that of the whole clip from the transformers extractor, frame for frame."""

import numpy as np
import pytest
from transformers import Qwen3ASRFeatureExtractor

from qwen_asr.engine.features import Frontend, LogMel, Spectrum
from tests.support.checkpoints import Samples, long_speech, random_sizes

EXTRACTOR = Qwen3ASRFeatureExtractor()
FRONTEND = Frontend(EXTRACTOR)


def spectrum_of(log_mel: LogMel, samples: Samples) -> Spectrum:
    """The log-mel of all samples so far."""
    return log_mel.spectrum(samples, FRONTEND.compute([log_mel.missing(samples)])[0])


def whole(samples: Samples) -> np.ndarray:
    features = EXTRACTOR(samples, sampling_rate=16_000, padding=True, return_tensors="np", n_window=0)  # type: ignore[arg-type]  # the annotation lacks bool
    return features["input_features"][0]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_every_prefix_equals_the_whole_clip(seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = long_speech(rng, 12.0)
    log_mel, position = LogMel(FRONTEND), 0
    for size in random_sizes(rng, len(samples)):
        position += size
        spectrum = spectrum_of(log_mel, samples[:position])
        np.testing.assert_allclose(spectrum.window(0, len(spectrum.raw)), whole(samples[:position]), atol=2e-5, rtol=0)


@pytest.mark.parametrize("length", [1, 159, 160, 7_999, 8_000, 8_001, 8_040, 8_159, 8_160, 16_000])
def test_short_and_odd_lengths(length: int) -> None:
    samples = np.random.default_rng(length).standard_normal(length).astype(np.float32)
    spectrum = spectrum_of(LogMel(FRONTEND), samples)
    np.testing.assert_allclose(spectrum.window(0, len(spectrum.raw)), whole(samples), atol=2e-5, rtol=0)


def test_final_frames_never_change() -> None:
    rng = np.random.default_rng(0)
    samples = long_speech(rng, 5.0)
    log_mel = LogMel(FRONTEND)
    before = spectrum_of(log_mel, samples[:33_333])
    after = spectrum_of(log_mel, samples)
    assert (before.raw[: before.final_frames] == after.raw[: before.final_frames]).all()
    assert len(before.raw) - before.final_frames <= 2


def test_truncation_equals_a_clip_without_the_rest() -> None:
    samples = long_speech(np.random.default_rng(3), 9.0)
    samples[100_000:] *= 50  # the loudest part is removed
    log_mel = LogMel(FRONTEND)
    spectrum_of(log_mel, samples)
    log_mel.truncate(70_001)
    spectrum = spectrum_of(log_mel, samples[:70_001])
    np.testing.assert_allclose(spectrum.window(0, len(spectrum.raw)), whole(samples[:70_001]), atol=2e-5, rtol=0)
