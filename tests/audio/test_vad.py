"""Voice activity: equal to the stock model for any chunk sizes, without side effects on torch."""

import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_asr.audio.vad import WINDOW, Silero, VadState, VoiceActivity
from training.voices import Voice, speak

# Two implementations of the network add the same numbers in different orders, so their results differ by rounding, and
# by how much depends on the processor. One window passes through sums of at most 256 terms (the spectrum), 387, 384,
# 192 and 192 (the convolutions), 256 (the LSTM) and 128 (the output). The error of each addition is at most 2^-24
# for values of about one. The LSTM carries errors on for about ten windows. Measured on an AMD EPYC: 1e-5; there the
# stock model itself differs from float64 arithmetic by 1.3e-5.
ROUNDING = 10 * (256 + 387 + 384 + 192 + 192 + 256 + 128) * 2.0**-24  # 1.1e-3
MISTAKE = 100 * ROUNDING
"""A stream that loses its context or its state differs by more than this."""


def streamed(network, speech, lost=()):
    """Probabilities of each whole window, one call per window. `lost` names parts of the state to reset each time."""
    state, probabilities = VadState(), []
    for window in speech[: len(speech) // WINDOW * WINDOW].reshape(-1, WINDOW):
        [probability], state = network.probabilities(window, state)
        state = replace(state, **{name: getattr(VadState(), name) for name in lost})
        probabilities.append(probability)
    return np.array(probabilities)


@pytest.fixture(scope="session")
def speech(require_program):
    """Silence, words and noise, shape (samples,), with an incomplete last window."""
    require_program("espeak-ng")
    noise = np.random.default_rng(0).normal(0, 0.05, 16_000).astype(np.float32)
    words = speak("Turn on the kitchen light. Yes.", Voice("espeak", "en-us+m5"))
    return np.concatenate((np.zeros(8_000, np.float32), words, noise, words[:7_001]))


def test_speech_differs_from_silence_and_noise(silero, speech):
    probabilities = VoiceActivity(silero).feed(speech)
    assert probabilities[:14].max() < 0.2
    assert probabilities[16:60].max() > 0.9
    noise = np.random.default_rng(1).normal(0, 0.05, 32_000).astype(np.float32)
    assert VoiceActivity(silero).feed(noise).max() < 0.5


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.one_of(st.integers(0, 2), st.integers(0, 9_000)), max_size=30))
def test_chunked_equals_whole_bit_for_bit(one_window, speech, sizes):
    expected = VoiceActivity(one_window).feed(speech)
    assert len(expected) == len(speech) // WINDOW
    activity, parts, begin = VoiceActivity(one_window), [], 0
    for size in sizes:
        parts.append(activity.feed(speech[begin : begin + size]))
        begin += size
    parts.append(activity.feed(speech[begin:]))
    assert np.array_equal(np.concatenate(parts), expected)


def test_single_samples_equal_whole(one_window, speech):
    part = speech[8_000:14_000]
    activity = VoiceActivity(one_window)
    single = np.concatenate([activity.feed(part[i : i + 1]) for i in range(len(part))])
    assert np.array_equal(single, VoiceActivity(one_window).feed(part))


@pytest.mark.slow
@pytest.mark.parametrize("max_windows", [2, 3, 32, 512])
def test_batched_windows_equal_single_windows(one_window, speech, max_windows):
    clip = np.tile(speech, 6)
    clip = clip[: len(clip) // WINDOW * WINDOW]
    assert len(clip) // WINDOW > max_windows
    batched, state = Silero(max_windows).probabilities(clip, VadState())
    single, expected = one_window.probabilities(clip, VadState())
    assert np.abs(batched - single).max() < ROUNDING
    assert np.abs(state.hidden - expected.hidden).max() < ROUNDING
    assert np.array_equal(state.context, expected.context)


def test_sessions_in_many_threads_are_independent(one_window, speech):
    expected = VoiceActivity(one_window).feed(speech)

    def detect(size):
        activity = VoiceActivity(one_window)
        return np.concatenate([activity.feed(speech[i : i + size]) for i in range(0, len(speech), size)])

    with ThreadPoolExecutor(4) as pool:
        for probabilities in pool.map(detect, (160, 333, 512, 800, 1_600, 4_000, 5_000, 16_000)):
            assert np.array_equal(probabilities, expected)


@pytest.fixture(scope="session")
def stock(speech):
    """Probabilities from the streaming model of the `silero_vad` package, one per whole window."""
    spec = find_spec("silero_vad")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".torch.jit.load. is deprecated", DeprecationWarning)
        model = torch.jit.load(str(folder / "data" / "silero_vad.jit"))
    model.reset_states()
    windows = torch.from_numpy(speech[: len(speech) // WINDOW * WINDOW].reshape(-1, WINDOW))
    with torch.no_grad():
        return np.array([model(window, 16_000).item() for window in windows])


def test_probabilities_equal_the_stock_streaming_model(silero, speech, stock):
    ours, _ = silero.probabilities(speech[: len(speech) // WINDOW * WINDOW], VadState())
    assert np.abs(stock - ours).max() < ROUNDING
    for threshold in (0.35, 0.5):  # the thresholds at which voice ends and starts
        decided = np.abs(stock - threshold) > ROUNDING
        assert np.array_equal((stock > threshold)[decided], (ours > threshold)[decided])


@pytest.mark.parametrize("lost", ["context", "hidden", "cell"])
def test_the_comparison_detects_a_lost_part_of_the_state(silero, speech, stock, lost):
    assert np.abs(stock - streamed(silero, speech)).max() < ROUNDING
    assert np.abs(stock - streamed(silero, speech, [lost])).max() > MISTAKE


@pytest.mark.slow
def test_the_torch_thread_count_is_unchanged():
    program = (
        "import sys, numpy, torch\n"
        "torch.set_num_threads(2)\n"
        "from qwen_asr.audio.vad import Silero, VoiceActivity\n"
        "VoiceActivity(Silero()).feed(numpy.zeros(5000, numpy.float32))\n"
        "sys.exit('silero_vad' in sys.modules or torch.get_num_threads() != 2)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
