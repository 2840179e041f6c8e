"""Incremental log-mel: the same frames as transformers' `Qwen3ASRFeatureExtractor` computes for the whole clip.

With a hop of 160 and a centred window of 400, frame t sees samples [160 t - 200, 160 t + 200). It is final once they
all exist. The last frames of a clip see its mirror image instead and are computed again at every step. The floor,
`max(clip) - 8`, is applied last, because louder audio raises it.

The frames that the steps of many utterances need are computed together (`Frontend`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

DYNAMIC_RANGE = 8.0  # decades below the loudest bin, as in Whisper and Qwen3ASRFeatureExtractor

Frames = NDArray[np.float32]
"""Log-mel frames, (frames, bins): log10 of the mel power."""


@dataclass(frozen=True)
class Spectrum:
    """Log-mel of the audio so far.

    raw: (frames, bins) without the floor. final_frames: how many of the frames will not change any more. floor: the
    value to which lower ones are raised.
    """

    raw: Frames
    final_frames: int
    floor: float

    def window(self, start: int, end: int) -> torch.Tensor:
        """Frames [start, end) as the encoder's input, (bins, end - start)."""
        frames = np.maximum(self.raw[start:end], np.float32(self.floor))
        frames += np.float32(4.0)
        frames *= np.float32(0.25)
        return torch.from_numpy(frames).T

    def lowest(self, start: int, end: int) -> float:
        """The smallest raw value in frames [start, end). A floor below it does not change these frames."""
        return float(self.raw[start:end].min())


@dataclass(frozen=True)
class Segment:
    """Samples whose frames are needed: `frames` frames, the first of them centred 200 samples after the start."""

    samples: NDArray[np.float32]
    frames: int


class Frontend:
    """Computes log-mel frames. `extractor` is the checkpoint's `Qwen3ASRFeatureExtractor`: its window, hop, filters."""

    def __init__(self, extractor: Any) -> None:
        self.hop: int = extractor.hop_length
        self.size: int = extractor.n_fft
        self.shortest: int = extractor.min_length
        self.bins: int = extractor.mel_filters.shape[1]
        self._filters = torch.from_numpy(extractor.mel_filters).float().contiguous()
        self._hann = torch.hann_window(self.size)

    @torch.inference_mode()
    def compute(self, segments: list[Segment]) -> list[Frames]:
        """The frames of each segment, each (frames, bins), in one transform over all of them.

        The segments stand one after another, each filled up to whole hops. The frames that span two segments are
        dropped.
        """
        hops = [segment.frames + -(-(self.size - self.hop) // self.hop) for segment in segments]
        starts = np.cumsum([0, *hops])
        joined = np.zeros((starts[-1] + 1) * self.hop, dtype=np.float32)  # one more: at least a whole window
        for segment, start in zip(segments, starts, strict=False):
            joined[start * self.hop : start * self.hop + len(segment.samples)] = segment.samples
        power = torch.stft(
            torch.from_numpy(joined), self.size, self.hop, window=self._hann, center=False, return_complex=True
        )
        frames = (power.abs() ** 2).T @ self._filters
        raw: Frames = frames.clamp_(min=1e-10).log10_().numpy()
        return [raw[start : start + segment.frames] for segment, start in zip(segments, starts, strict=False)]


class LogMel:
    """The log-mel of one utterance. Each final frame is computed once.

    Ask for what is missing with `missing`, have it computed by the `Frontend`, and give it to `spectrum`.
    """

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend
        self._frames: Frames = np.empty((512, frontend.bins), dtype=np.float32)
        self._final = 0
        self._loudest = -float("inf")

    @property
    def final_frames(self) -> int:
        """How many frames are computed and will not change any more."""
        return self._final

    def missing(self, samples: NDArray[np.float32]) -> Segment:
        """The segment to compute before `spectrum(samples, …)`: the frames that are new or not final.

        samples: (n,) the whole clip so far. Earlier calls had a prefix of it.
        """
        if len(samples) < self._frontend.shortest:
            samples = np.pad(samples, (0, self._frontend.shortest - len(samples)))
            return self._segment(samples, 0)
        return self._segment(samples, self._final)

    def spectrum(self, samples: NDArray[np.float32], computed: Frames) -> Spectrum:
        """The log-mel of `samples` from the frames that `missing` asked for."""
        size, hop = self._frontend.size, self._frontend.hop
        if len(samples) < self._frontend.shortest:
            return Spectrum(computed, 0, float(computed.max()) - DYNAMIC_RANGE)
        total = len(samples) // hop
        final = min((len(samples) - size // 2) // hop + 1, total)
        self._make_room(total)
        self._frames[self._final : total] = computed
        if final > self._final:
            self._loudest = max(self._loudest, float(computed[: final - self._final].max()))
            computed = computed[final - self._final :]
            self._final = final
        loudest = max(self._loudest, float(computed.max())) if len(computed) else self._loudest
        # A view: frames behind `final` change in the next step, when nobody uses this spectrum any more.
        return Spectrum(self._frames[:total], final, loudest - DYNAMIC_RANGE)

    def truncate(self, samples: int) -> None:
        """Drop every frame that is not final in a clip of the first `samples` samples."""
        frontend = self._frontend
        final = max((samples - frontend.size // 2) // frontend.hop + 1, 0) if samples >= frontend.shortest else 0
        self._final = min(self._final, final)
        self._loudest = float(self._frames[: self._final].max()) if self._final else -float("inf")

    def _make_room(self, frames: int) -> None:
        while frames > len(self._frames):
            self._frames = np.concatenate([self._frames, np.empty_like(self._frames)])

    def _segment(self, samples: NDArray[np.float32], first: int) -> Segment:
        """What frames [first, end of the clip) see. Outside of the clip there is its mirror image."""
        hop, margin = self._frontend.hop, self._frontend.size // 2
        last = len(samples) // hop
        start, end = first * hop - margin, (last - 1) * hop + margin
        inside = samples[max(start, 0) : min(end, len(samples))]
        left, right = max(-start, 0), max(end - len(samples), 0)
        return Segment(_mirror(samples, inside, left, right), last - first)


def _mirror(samples: NDArray[np.float32], inside: NDArray[np.float32], left: int, right: int) -> NDArray[np.float32]:
    """`inside` with `left` and `right` samples of the clip's mirror image around it, without repeating the edge."""
    parts = [inside]
    if left:
        parts.insert(0, samples[left:0:-1])
    if right:
        parts.append(samples[-2 : -right - 2 : -1])
    return np.concatenate(parts)
