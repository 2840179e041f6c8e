"""Silero voice activity: the probability of speech for every 32 ms.

The network is the one inside the `silero-vad` package, in its form for whole sequences, run by onnxruntime: its
recurrent state goes in and out explicitly, so one model serves every session and any number of windows is one call
that releases the GIL. The probabilities are those of the stock streaming model to 1e-6, and bit for bit the same
however many windows a call holds. Measured on one core: 95 µs a window one by one, 48 µs by 32 (the TorchScript
form: 194 µs).
"""

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-untyped]  # it ships no types
from numpy.typing import NDArray

WINDOW = 512  # samples, 32 ms
_CONTEXT = 64  # samples of the previous window that the network sees in front of each
_MOST_WINDOWS = 512  # in one call, which bounds the scratch memory of a long file
_MODEL = "silero_vad_16k_sequence.onnx"


def _zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


@dataclass(frozen=True, eq=False)
class VadState:
    """Where the network stands in one stream; ``VadState()`` is the beginning of one."""

    hidden: NDArray[np.float32] = field(default_factory=lambda: _zeros(1, 1, 128))
    cell: NDArray[np.float32] = field(default_factory=lambda: _zeros(1, 1, 128))
    context: NDArray[np.float32] = field(default_factory=lambda: _zeros(_CONTEXT))


class Silero:
    """The network: no state of its own, one for all sessions, safe to call from any thread."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        # One thread a call: the network is too small to share out, and the sessions are the parallelism.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(_model_path()), sess_options=options, providers=["CPUExecutionProvider"]
        )

    def probabilities(self, samples: NDArray[np.float32], state: VadState) -> tuple[NDArray[np.float32], VadState]:
        """Float32 mono 16 kHz, (k * 512,) → probabilities (k,) and the state behind them. `state` is not changed."""
        windows = np.asarray(samples, dtype=np.float32).reshape(-1, WINDOW)
        found = []
        for begin in range(0, len(windows), _MOST_WINDOWS):
            probabilities, state = self._call(windows[begin : begin + _MOST_WINDOWS], state)
            found.append(probabilities)
        return (np.concatenate(found) if found else _zeros(0)), state

    def _call(self, windows: NDArray[np.float32], state: VadState) -> tuple[NDArray[np.float32], VadState]:
        """One run over windows (k, 512), k >= 1, each with the end of the one before it in front."""
        inputs = np.empty((len(windows), _CONTEXT + WINDOW), np.float32)
        inputs[0, :_CONTEXT] = state.context
        inputs[1:, :_CONTEXT] = windows[:-1, -_CONTEXT:]
        inputs[:, _CONTEXT:] = windows
        probabilities, hidden, cell = self._session.run(
            ["speech_probs", "hn", "cn"], {"input": inputs, "h": state.hidden, "c": state.cell}
        )
        return probabilities.reshape(-1), VadState(hidden, cell, windows[-1, -_CONTEXT:].copy())


class VoiceActivity:
    """Voice activity of one stream: samples of any length in, a probability for each completed window out."""

    def __init__(self, silero: Silero) -> None:
        self._silero = silero
        self._state = VadState()
        self._rest = _zeros(0)

    def feed(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Float32 mono 16 kHz (n,), n >= 0 → probabilities of the windows completed by them, (k,), k >= 0."""
        samples = np.concatenate((self._rest, samples))
        whole = len(samples) // WINDOW * WINDOW
        self._rest = samples[whole:].copy()
        probabilities, self._state = self._silero.probabilities(samples[:whole], self._state)
        return probabilities


def _model_path() -> Path:
    """The model's file. The package is located, not imported: importing it sets torch to one thread for everybody."""
    spec = find_spec("silero_vad")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "data" / _MODEL
        if path.is_file():
            return path
    raise ModuleNotFoundError(f"{_MODEL} was not found: install the `silero-vad` package, release 6.2 or newer")
