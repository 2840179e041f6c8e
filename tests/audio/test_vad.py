"""Voice activity: the stock model's probabilities, whatever the chunks, and no side effect on torch."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_asr.audio.vad import WINDOW, VadState, VoiceActivity
from training.voices import Voice, speak


@pytest.fixture(scope="session")
def speech(needs):
    """Silence, words, noise: (samples,), not a whole number of windows."""
    needs("espeak-ng")
    noise = np.random.default_rng(0).normal(0, 0.05, 16_000).astype(np.float32)
    words = speak("Turn on the kitchen light. Yes.", Voice("espeak", "en-us+m5"))
    return np.concatenate((np.zeros(8_000, np.float32), words, noise, words[:7_001]))


def test_speech_is_told_from_silence_and_noise(silero, speech):
    probabilities = VoiceActivity(silero).feed(speech)
    assert probabilities[:14].max() < 0.2
    assert probabilities[16:60].max() > 0.9
    noise = np.random.default_rng(1).normal(0, 0.05, 32_000).astype(np.float32)
    assert VoiceActivity(silero).feed(noise).max() < 0.5


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.one_of(st.integers(0, 2), st.integers(0, 9_000)), max_size=30))
def test_chunked_is_whole_bit_for_bit(silero, speech, sizes):
    expected = VoiceActivity(silero).feed(speech)
    assert len(expected) == len(speech) // WINDOW
    activity, found, begin = VoiceActivity(silero), [], 0
    for size in sizes:
        found.append(activity.feed(speech[begin : begin + size]))
        begin += size
    found.append(activity.feed(speech[begin:]))
    assert np.array_equal(np.concatenate(found), expected)


def test_single_samples_are_whole(silero, speech):
    part = speech[8_000:14_000]
    activity = VoiceActivity(silero)
    single = np.concatenate([activity.feed(part[i : i + 1]) for i in range(len(part))])
    assert np.array_equal(single, VoiceActivity(silero).feed(part))


def test_a_long_clip_is_the_same_in_blocks_of_the_network(silero, speech):
    clip = np.tile(speech, 6)
    clip = clip[: len(clip) // WINDOW * WINDOW]
    assert len(clip) // WINDOW > 512
    at_once, _ = silero.probabilities(clip, VadState())
    state, singly = VadState(), []
    for begin in range(0, len(clip), WINDOW):
        probabilities, state = silero.probabilities(clip[begin : begin + WINDOW], state)
        singly.append(probabilities)
    assert np.array_equal(np.concatenate(singly), at_once)


def test_sessions_in_many_threads_do_not_disturb_each_other(silero, speech):
    expected = VoiceActivity(silero).feed(speech)

    def listen(size):
        activity = VoiceActivity(silero)
        return np.concatenate([activity.feed(speech[i : i + size]) for i in range(0, len(speech), size)])

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(listen, (160, 333, 512, 800, 1_600, 4_000, 5_000, 16_000)):
            assert np.array_equal(found, expected)


@pytest.mark.filterwarnings("ignore:.torch.jit.load. is deprecated:DeprecationWarning")  # how the stock model loads
def test_it_is_the_stock_streaming_model(silero, speech):
    folder = Path(find_spec("silero_vad").submodule_search_locations[0])
    model = torch.jit.load(str(folder / "data" / "silero_vad.jit"))
    model.reset_states()
    windows = torch.from_numpy(speech[: len(speech) // WINDOW * WINDOW].reshape(-1, WINDOW))
    with torch.no_grad():
        stock = np.array([model(window, 16_000).item() for window in windows])
    assert np.abs(stock - VoiceActivity(silero).feed(speech)).max() < 1e-5


def test_torch_keeps_its_threads():
    program = (
        "import sys, numpy, torch\n"
        "torch.set_num_threads(2)\n"
        "from qwen_asr.audio.vad import Silero, VoiceActivity\n"
        "VoiceActivity(Silero()).feed(numpy.zeros(5000, numpy.float32))\n"
        "sys.exit('silero_vad' in sys.modules or torch.get_num_threads() != 2)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
