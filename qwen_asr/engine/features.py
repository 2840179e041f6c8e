"""Incremental log-mel: the same frames as transformers' `Qwen3ASRFeatureExtractor` computes for the whole clip.

With a hop of 160 and a centred window of 400, frame t sees samples [160 t - 200, 160 t + 200). It is final once they
all exist. The last frames of a clip see its mirror image instead and are computed again at every step. The floor,
`max(clip) - 8`, is applied last, because louder audio raises it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DYNAMIC_RANGE = 8.0  # decades below the loudest bin, as in Whisper and Qwen3ASRFeatureExtractor


@dataclass(frozen=True)
class Spectrum:
    """Log-mel of the audio so far.

    raw: (bins, frames) float32, log10 of the mel power without the floor. final_frames: how many of the frames will not
    change any more. floor: the value to which lower ones are raised.
    """

    raw: Tensor
    final_frames: int
    floor: float

    def window(self, start: int, end: int) -> Tensor:
        """Frames [start, end) as the encoder's input, (bins, end - start)."""
        return (torch.clamp(self.raw[:, start:end], min=self.floor) + 4.0) / 4.0

    def lowest(self, start: int, end: int) -> float:
        """The smallest raw value in frames [start, end). A floor below it does not change these frames."""
        return float(self.raw[:, start:end].min())


class LogMel:
    """Samples in, `Spectrum` out; each final frame is computed once.

    `extractor` is the checkpoint's `Qwen3ASRFeatureExtractor`; its window, hop, filters and shortest clip are used.
    """

    def __init__(self, extractor: Any) -> None:
        self._hop: int = extractor.hop_length
        self._size: int = extractor.n_fft
        self._shortest: int = extractor.min_length
        self._filters = torch.from_numpy(extractor.mel_filters).float().T.contiguous()
        self._hann = torch.hann_window(self._size)
        self._frames = torch.empty(self._filters.shape[0], 1024)
        self._final = 0
        self._loudest = -float("inf")

    @property
    def final_frames(self) -> int:
        """How many frames are computed and will not change any more."""
        return self._final

    def spectrum(self, samples: NDArray[np.float32]) -> Spectrum:
        """The log-mel of `samples`, (n,): the whole clip so far. Earlier calls had a prefix of it."""
        if len(samples) < self._shortest:
            samples = np.pad(samples, (0, self._shortest - len(samples)))
            raw = self._compute(samples, 0, len(samples) // self._hop)
            return Spectrum(raw, 0, float(raw.max()) - DYNAMIC_RANGE)
        total = len(samples) // self._hop
        final = min((len(samples) - self._size // 2) // self._hop + 1, total)
        if final > self._final:
            self._store(self._compute(samples, self._final, final), final)
        ending = self._compute(samples, final, total)
        loudest = max([self._loudest] + ([float(ending.max())] if total > final else []))
        return Spectrum(torch.cat([self._frames[:, :final], ending], dim=1), final, loudest - DYNAMIC_RANGE)

    def truncate(self, samples: int) -> None:
        """Drop every frame that is not final in a clip of the first `samples` samples."""
        final = max((samples - self._size // 2) // self._hop + 1, 0) if samples >= self._shortest else 0
        self._final = min(self._final, final)
        kept = self._frames[:, : self._final]
        self._loudest = float(kept.max()) if self._final else -float("inf")

    def _store(self, frames: Tensor, final: int) -> None:
        while final > self._frames.shape[1]:
            self._frames = torch.cat([self._frames, torch.empty_like(self._frames)], dim=1)
        self._frames[:, self._final : final] = frames
        self._final = final
        self._loudest = max(self._loudest, float(frames.max()))

    def _compute(self, samples: NDArray[np.float32], first: int, last: int) -> Tensor:
        """Compute frames [first, last), (bins, last - first). Outside of the clip there is its mirror image."""
        if last <= first:
            return torch.empty(self._filters.shape[0], 0)
        margin = self._size // 2
        start, end = first * self._hop - margin, (last - 1) * self._hop + margin
        inside = samples[max(start, 0) : min(end, len(samples))]
        left, right = max(-start, 0), max(end - len(samples), 0)
        segment = torch.from_numpy(_mirror(samples, inside, left, right))
        power = (
            torch.stft(segment, self._size, self._hop, window=self._hann, center=False, return_complex=True).abs() ** 2
        )
        return (self._filters @ power).clamp(min=1e-10).log10()


def _mirror(samples: NDArray[np.float32], inside: NDArray[np.float32], left: int, right: int) -> NDArray[np.float32]:
    """`inside` with `left` and `right` samples of the clip's mirror image around it, without repeating the edge."""
    parts = [inside]
    if left:
        parts.insert(0, samples[left:0:-1])
    if right:
        parts.append(samples[-2 : -right - 2 : -1])
    return np.concatenate(parts)
