"""The audio encoder: log-mel windows to embeddings, many windows of many utterances in one pass.

It computes the same as transformers' `Qwen3ASREncoder.forward` and its projector. Only the packing differs: windows
never attend to each other, so those of different utterances share one sequence.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Window:
    frames: Tensor
    stem: Tensor | None = None


@dataclass(frozen=True)
class Encoded:
    embeddings: Tensor
    stem: Tensor


class Encoder:
    """The audio tower and projector of a `Qwen3ASRForConditionalGeneration`.

    window_frames: log-mel frames in an attention window, 800 (8 s) in Qwen's checkpoints. `frames_encoded` counts the
    work.
    """

    def __init__(self, model: Any) -> None:
        self._tower = model.model.audio_tower
        self._projector = model.model.multi_modal_projector
        self._chunk = 2 * self._tower.config.n_window
        self.window_frames: int = self._tower.config.n_window_infer
        self.frames_encoded = 0
        self.chunk_frames = self._chunk

    def embeddings_of(self, frames: int) -> int:
        """How many embeddings `frames` log-mel frames give: three convolutions of stride 2 in each chunk."""
        return sum(_after_convolutions(length) for length in self._chunk_lengths(frames))

    @torch.inference_mode()
    def encode(self, windows):
        return [Encoded(e, e) for e in self._encode([w.frames for w in windows])]

    @torch.inference_mode()
    def _encode(self, windows: list[Tensor]) -> list[Tensor]:
        """Log-mel windows, each (bins, 1..window_frames), to embeddings, each (embeddings_of(frames), width)."""
        weight = self._tower.conv2d1.weight
        self.frames_encoded += sum(window.shape[1] for window in windows)
        chunks = torch.cat([self._chunks(window) for window in windows]).to(weight.device, weight.dtype)
        hidden = self._convolve(chunks)
        lengths = [_after_convolutions(n) for window in windows for n in self._chunk_lengths(window.shape[1])]
        valid = torch.arange(hidden.shape[1]) < torch.tensor(lengths)[:, None]
        hidden = hidden[valid.to(hidden.device)]
        counts = [self.embeddings_of(window.shape[1]) for window in windows]
        bounds = torch.tensor([0, *counts], device=hidden.device).cumsum(0, dtype=torch.int32)
        for layer in self._tower.layers:
            hidden = layer(hidden, bounds, max_seqlen=max(counts))[0]
        embedded = self._projector(self._tower.ln_post(hidden))
        return list(embedded.split(counts))

    def _chunk_lengths(self, frames: int) -> list[int]:
        rest = frames % self._chunk
        return [self._chunk] * (frames // self._chunk) + ([rest] if rest else [])

    def _chunks(self, window: Tensor) -> Tensor:
        """(bins, frames) → (chunks, 1, bins, chunk), the last chunk padded with zeros as the processor does."""
        padded = F.pad(window, (0, -window.shape[1] % self._chunk))
        return padded.reshape(window.shape[0], -1, self._chunk).transpose(0, 1).unsqueeze(1)

    def _convolve(self, chunks: Tensor) -> Tensor:
        """(chunks, 1, bins, chunk) → (chunks, 13, width), with the position of each embedding in its chunk."""
        tower = self._tower
        hidden = chunks
        for convolution in (tower.conv2d1, tower.conv2d2, tower.conv2d3):
            hidden = F.gelu(convolution(hidden))
        hidden = tower.conv_out(hidden.permute(0, 3, 1, 2).flatten(2))
        positions = tower.positional_embedding.positional_embedding[: hidden.shape[1]]
        embedded: Tensor = hidden + positions.to(hidden.dtype)
        return embedded


def _after_convolutions(frames: int) -> int:
    for _ in range(3):
        frames = (frames + 1) // 2
    return frames
