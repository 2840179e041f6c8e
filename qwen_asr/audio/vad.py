"""Silero voice activity detection: the probability of speech for each 32 ms of audio.

The network is the one in the `silero-vad` package, in its form for whole sequences, run by onnxruntime. Its recurrent
state is an explicit input and output, so one model serves all sessions, and any number of windows is one call, which
releases the GIL. The probabilities equal those of the package's streaming model up to float32 rounding. `VoiceActivity`
gives it quiet speech at a gain (`gain`).

How many windows share a call does not change the probabilities either, up to the same rounding; they are equal bit for
bit where the machine's matrix kernels add in the same order for any number of rows. Measured on one core of an Intel
Xeon (Sapphire Rapids): 95 µs a window with one window a call, 48 µs with 32 (the TorchScript form: 194 µs).
"""

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-untyped]  # it ships no types
from numpy.typing import NDArray

from qwen_asr.audio.gain import GainControl

WINDOW = 512  # samples, 32 ms
_CONTEXT = 64  # samples of the previous window that go in front of each window
_MAX_WINDOWS = 512  # in one call, to bound the scratch memory for a long file
_MODEL = "silero_vad_16k_sequence.onnx"


def _zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


@dataclass(frozen=True, eq=False)
class VadState:
    """The network's state in one stream; ``VadState()`` is the state at its beginning."""

    hidden: NDArray[np.float32] = field(default_factory=lambda: _zeros(1, 1, 128))
    cell: NDArray[np.float32] = field(default_factory=lambda: _zeros(1, 1, 128))
    context: NDArray[np.float32] = field(default_factory=lambda: _zeros(_CONTEXT))


class Silero:
    """The network. It holds no state of a stream: one serves all sessions, and any thread may call it.

    max_windows: how many windows one call of the network takes at most. With 1 the result is the same bit for bit
    however the samples are split, on any processor, at about twice the time.
    """

    def __init__(self, max_windows: int = _MAX_WINDOWS) -> None:
        self._max_windows = max_windows
        options = onnxruntime.SessionOptions()
        # One thread per call: the network is too small to split, and the sessions already run in parallel.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(_model_path()), sess_options=options, providers=["CPUExecutionProvider"]
        )

    def probabilities(
        self, samples: NDArray[np.float32], state: VadState, gains: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[np.float32], VadState]:
        """Float32 mono 16 kHz, (k * 512,) → probabilities (k,) in 0..1 and the next state. `state` is not changed.

        gains: what to multiply each window with, (k,). None: nothing.
        """
        windows = np.asarray(samples, dtype=np.float32).reshape(-1, WINDOW)
        gains = np.ones(len(windows), np.float32) if gains is None else gains
        parts = [_zeros(0)]
        for begin in range(0, len(windows), self._max_windows):
            end = begin + self._max_windows
            probabilities, state = self._call(windows[begin:end], gains[begin:end], state)
            parts.append(probabilities)
        return np.concatenate(parts), state

    def _call(
        self, windows: NDArray[np.float32], gains: NDArray[np.float32], state: VadState
    ) -> tuple[NDArray[np.float32], VadState]:
        """Run the network once on windows (k, 512), k >= 1, each preceded by the end of the window before it.

        That end gets the gain of the window that it precedes: a gain that changes makes no step in what is heard.
        """
        inputs = np.empty((len(windows), _CONTEXT + WINDOW), np.float32)
        inputs[0, :_CONTEXT] = state.context
        inputs[1:, :_CONTEXT] = windows[:-1, -_CONTEXT:]
        inputs[:, _CONTEXT:] = windows
        inputs *= gains[:, None]
        probabilities, hidden, cell = self._session.run(
            ["speech_probs", "hn", "cn"], {"input": inputs, "h": state.hidden, "c": state.cell}
        )
        return probabilities.reshape(-1), VadState(hidden, cell, windows[-1, -_CONTEXT:].copy())


class VoiceActivity:
    """Voice activity of one stream: samples of any length in, a probability for each completed window out.

    The network hears quiet speech at the gain of `gain.GainControl`.
    """

    def __init__(self, silero: Silero) -> None:
        self._silero = silero
        self._state = VadState()
        self._gain = GainControl()
        self._rest = _zeros(0)

    def feed(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Float32 mono 16 kHz (n,), n >= 0 → probabilities of the windows that these samples complete, (k,)."""
        samples = np.concatenate((self._rest, samples))
        whole = len(samples) // WINDOW * WINDOW
        self._rest = samples[whole:].copy()
        gains = self._gain.feed(samples[:whole].reshape(-1, WINDOW))
        probabilities, self._state = self._silero.probabilities(samples[:whole], self._state, gains)
        return probabilities


def _model_path() -> Path:
    """Path of the model file. The package is located but not imported: its import sets torch to one thread."""
    spec = find_spec("silero_vad")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "data" / _MODEL
        if path.is_file():
            return path
    raise ModuleNotFoundError(f"{_MODEL} was not found: install the `silero-vad` package, version 6.2 or later.")
