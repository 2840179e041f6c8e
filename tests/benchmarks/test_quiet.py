"""The benchmark of quiet speech counts what is lost, cut and invented."""

import numpy as np

from benchmarks.quiet import NOISES, at_level, noise, score, speech, with_clicks
from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.vad import WINDOW
from tests.support.engine_double import ScriptedVoiceActivity


def test_each_mistake_is_counted_once() -> None:
    clip = np.sin(np.arange(SAMPLE_RATE)).astype(np.float32)
    stream = speech("two", [clip, clip], (-20, -40), "none", 0, 3.0)
    assert [(round(begin / SAMPLE_RATE, 2), round(end / SAMPLE_RATE, 2)) for begin, end in stream.sentences] == [
        (3.0, 4.0),
        (7.0, 8.0),
    ]
    assert len(with_clicks(stream, 200, 0.1).samples) == len(stream.samples) == 11 * SAMPLE_RATE

    def mistakes(*voiced: tuple[float, float]) -> tuple[int, int, int, int]:
        ends = np.arange(1, len(stream.samples) // WINDOW + 1) * WINDOW / SAMPLE_RATE
        probabilities = [float(any(begin < end <= until for begin, until in voiced)) for end in ends]
        return score(stream, ScriptedVoiceActivity(probabilities))

    assert mistakes((3.0, 4.0), (7.0, 8.0)) == (0, 0, 0, 0)
    assert mistakes((3.0, 4.0)) == (1, 0, 0, 0)
    assert mistakes((3.5, 4.0), (7.0, 7.5)) == (0, 1, 1, 0)
    assert mistakes((1.0, 1.5), (3.0, 8.0)) == (0, 0, 0, 1)


def test_each_noise_has_the_length_and_the_level_that_was_asked_for() -> None:
    for kind in NOISES:
        sound = at_level(noise(kind, 40_001, np.random.default_rng(0)), -40)
        assert sound.shape == (40_001,)
        assert abs(np.sqrt(np.mean(sound**2)) - 0.01) < 1e-6
