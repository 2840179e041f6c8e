"""The audio encoder: log-mel windows to embeddings, many windows of many utterances in one pass.

It computes the same as transformers' `Qwen3ASREncoder.forward` and its projector, with the weights of these modules.
Only the packing differs: transformers dispatches the attention of each window by itself, here one call serves all
windows. So the number of operators of a pass does not depend on the number of windows.

A pass has two parts. The stem, three convolutions and a projection, sees each chunk of 100 frames by itself. What it
gives for a complete chunk can be remembered while the window grows. The layers attend within the window.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from qwen_asr.engine.device.linear import fastest_linear, fuse
from qwen_asr.engine.device.replay import Replay
from qwen_asr.engine.device.transfer import to_device

FLOAT16_LIMIT = torch.finfo(torch.float16).max - 1000
"""To this the hidden states are clamped in float16, as in `Qwen3ASRAudioEncoderLayer`."""


@dataclass(frozen=True)
class Window:
    """One attention window of an utterance.

    frames: (bins, 1..window_frames) log-mel with the floor applied, float32, on the CPU. stem: what an earlier pass
    returned for the first complete chunks of the same frames, (rows, width), or None. The convolutions run only on the
    chunks after it.
    """

    frames: Tensor
    stem: Tensor | None = None


@dataclass(frozen=True)
class Encoded:
    """The result for one window, on the model's device.

    embeddings: (embeddings_of(frames), output width). stem: (13 × complete chunks, width), to remember for the next
    pass. Both are views of the result of the whole pass: clone what is kept for long, so that the rest can be freed.
    """

    embeddings: Tensor
    stem: Tensor


@dataclass(frozen=True)
class Layout:
    """Where the rows of a pass stand in its attention, which is padded to (windows, length).

    Without `padded` and `packed` the rows themselves are padded, (windows * length, width). padded: (windows * length,)
    the row for each place; a place without a row repeats one of its own window, so that no window sees another's
    values. packed: (rows,) the place of each row. mask: (windows, 1, 1, length) from `key_mask`, or None where every
    place has a row.
    """

    windows: int
    length: int
    padded: Tensor | None = None
    packed: Tensor | None = None
    mask: Tensor | None = None


class Encoder:
    """The audio tower and projector of a `Qwen3ASRForConditionalGeneration`.

    window_frames: log-mel frames in an attention window, 800 (8 s) in Qwen's checkpoints. chunk_frames: those that the
    convolutions see together, 100. `frames_encoded` counts the work: frames that went through the layers.

    The parameters of the modules stay theirs, so that transformers can run the same model, but change their place in
    memory: query, key and value become views of one matrix, and the convolutions channels-last where that is faster.
    """

    def __init__(self, model: Any) -> None:
        self._tower = model.model.audio_tower
        self._projector = model.model.multi_modal_projector
        weight = self._tower.conv2d1.weight
        self._device, self._dtype = weight.device, weight.dtype
        self._convolutions = (self._tower.conv2d1, self._tower.conv2d2, self._tower.conv2d3)
        if self._device.type == "cuda" or (self._device.type == "cpu" and self._dtype != torch.float32):
            # Twice as fast on a CPU with bfloat16 units. In float32 there it gains nothing; on MPS nobody measured it.
            for convolution in self._convolutions:
                convolution.weight.data = convolution.weight.data.contiguous(memory_format=torch.channels_last)
        self._layers = [_LayerWeights.of(layer) for layer in self._tower.layers]
        self._linear = fastest_linear(self._device, self._dtype)
        self.chunk_frames: int = 2 * self._tower.config.n_window
        self._chunk_rows = _after_convolutions(self.chunk_frames)
        self._fixed: _FixedShapes | None = None
        self.window_frames: int = self._tower.config.n_window_infer
        self.frames_encoded = 0

    @property
    def input_like(self) -> Tensor:
        """A tensor on the encoder's device and of its data type."""
        weight: Tensor = self._tower.conv2d1.weight
        return weight

    @property
    def bins(self) -> int:
        """The log-mel bins of a frame."""
        return int(self._tower.config.num_mel_bins)

    @property
    def width(self) -> int:
        """The width of the rows between the stem and the layers."""
        return int(self._tower.config.d_model)

    def embeddings_of(self, frames: int) -> int:
        """How many embeddings `frames` log-mel frames give: 13 for each complete chunk, fewer for the rest."""
        return self._chunk_rows * (frames // self.chunk_frames) + _after_convolutions(frames % self.chunk_frames)

    @torch.inference_mode()
    def encode(self, windows: list[Window]) -> list[Encoded]:
        """Encode any number of windows, at least one, in one pass. Results in the order of `windows`."""
        most = len(windows) if self._fixed is None else self._fixed.most_windows
        parts = [self._encode(windows[first : first + most]) for first in range(0, len(windows), most)]
        return [encoded for part in parts for encoded in part]

    def fix_shapes(self, chunks: list[int], windows: list[int]) -> list[Replay[Any]]:
        """Run the stem over so many chunks and the layers over so many windows at once from now on, filled up.

        Chunks beyond the largest number run as they are. Returns what can be captured as CUDA graphs.
        """
        self._fixed = _FixedShapes(self, chunks, windows)
        return self._fixed.replays

    def unfix_shapes(self) -> None:
        """Run all passes in their own shapes again."""
        self._fixed = None

    def _encode(self, windows: list[Window]) -> list[Encoded]:
        frames = [window.frames.shape[1] for window in windows]
        known = [0 if window.stem is None else len(window.stem) for window in windows]
        counts = [self.embeddings_of(one) for one in frames]
        self.frames_encoded += sum(frames)
        chunks = self._chunks(windows, known)
        fresh = [self._run_stem(chunks.to(self._device, self._dtype)).flatten(0, 1)] if len(chunks) else []
        pool = torch.cat([*fresh, *(window.stem for window in windows if window.stem is not None)])
        order, layout = self._plan(self._chunk_rows * len(chunks), known, counts)
        rows = pool.index_select(0, order)
        embeddings = self._run_layers(rows, counts, layout).split(counts)
        complete = [self._chunk_rows * (one // self.chunk_frames) for one in frames]
        sizes = [size for done, count in zip(complete, counts, strict=True) for size in (done, count - done)]
        stems = rows.split(sizes)[::2]
        return [Encoded(*pair) for pair in zip(embeddings, stems, strict=True)]

    def _run_stem(self, chunks: Tensor) -> Tensor:
        fixed = self._fixed.find_stem(len(chunks)) if self._fixed is not None else None
        return self.stem(chunks) if fixed is None else fixed(chunks)

    def _run_layers(self, rows: Tensor, counts: list[int], layout: Layout) -> Tensor:
        return self.layers(rows, layout) if self._fixed is None else self._fixed.find_layers(len(counts))(rows, counts)

    def stem(self, chunks: Tensor) -> Tensor:
        """Chunks of log-mel, (chunks, 1, bins, 100), to rows with their position in the chunk, (chunks, 13, width)."""
        hidden = chunks
        for convolution in self._convolutions:
            hidden = torch.ops.aten.gelu_(convolution(hidden))  # in place: 6 MB a chunk at the size of 0.6B
        hidden = self._linear(hidden.permute(0, 3, 1, 2).flatten(2), self._tower.conv_out.weight, None)
        positions = self._tower.positional_embedding.positional_embedding[: hidden.shape[1]]
        embedded: Tensor = hidden + positions.to(hidden.dtype)
        return embedded

    def layers(self, rows: Tensor, layout: Layout) -> Tensor:
        """Rows of the stem, (rows, width), to embeddings, (rows, output width)."""
        hidden, linear = rows, self._linear
        for layer in self._layers:
            qkv = linear(_normed(hidden, layer.attention_norm), layer.qkv_weight, layer.qkv_bias)
            mixed = _attention(qkv, layer.heads, layer.scaling, layout)
            hidden = hidden + linear(mixed, layer.out.weight, layer.out.bias)
            widened = linear(_normed(hidden, layer.feed_norm), layer.fc1.weight, layer.fc1.bias)
            hidden = hidden + linear(layer.activation(widened), layer.fc2.weight, layer.fc2.bias)
            if hidden.dtype == torch.float16:
                hidden = hidden.clamp(-FLOAT16_LIMIT, FLOAT16_LIMIT)
        first, second = self._projector.linear_1, self._projector.linear_2
        widened = linear(_normed(hidden, self._tower.ln_post), first.weight, first.bias)
        return linear(self._projector.act(widened), second.weight, second.bias)

    def _chunks(self, windows: list[Window], known: list[int]) -> Tensor:
        """The chunks that are not in the stems, (chunks, 1, bins, chunk). The last of a window ends in zeros, as the
        processor pads it. Numpy copies them, as torch would dispatch operators for each window."""
        spans = [
            (np.from_dlpack(window.frames), rows // self._chunk_rows * self.chunk_frames, window.frames.shape[1])
            for window, rows in zip(windows, known, strict=True)
        ]
        total = sum(-((start - end) // self.chunk_frames) for _, start, end in spans)
        chunks = np.zeros((total, 1, len(windows[0].frames), self.chunk_frames), dtype=np.float32)
        position = 0
        for frames, start, end in spans:
            complete, rest = divmod(end - start, self.chunk_frames)
            if complete:
                whole = frames[:, start : end - rest].reshape(len(frames), complete, self.chunk_frames)
                chunks[position : position + complete, 0] = whole.transpose(1, 0, 2)
            if rest:
                chunks[position + complete, 0, :, :rest] = frames[:, end - rest :]
            position += complete + (rest > 0)
        return torch.from_numpy(chunks)

    def _plan(self, fresh: int, known: list[int], counts: list[int]) -> tuple[Tensor, Layout]:
        """Where each row of the pass comes from, (rows,), and the layout of its attention.

        fresh: rows of the chunks of all windows, which come first; the stems follow. known: rows of each stem. counts:
        rows of each window.
        """
        remembered, rows = np.array(known), np.array(counts)
        new = rows - remembered
        padded_new = -(-new // self._chunk_rows) * self._chunk_rows  # the last chunk of a window has rows of padding
        sources = np.stack([fresh + _starts(remembered), _starts(padded_new)], axis=1).ravel()
        order = _ranges(sources, np.stack([remembered, new], axis=1).ravel())
        windows, length = len(counts), max(counts)
        if min(counts) == length:
            return to_device([order], self._device)[0], Layout(windows, length)
        places = np.minimum(np.arange(length), rows[:, None] - 1) + _starts(rows)[:, None]
        taken = _ranges(np.arange(windows) * length, rows)
        order_there, padded, packed, valid = to_device([order, places.ravel(), taken, rows], self._device)
        return order_there, Layout(windows, length, padded, packed, key_mask(valid, length, self._dtype))


class _FixedStem:
    """The stem over a fixed number of chunks."""

    def __init__(self, encoder: Encoder, chunks: int) -> None:
        weight = encoder.input_like
        self.chunks = chunks
        self._buffer = weight.new_zeros(chunks, 1, encoder.bins, encoder.chunk_frames)
        self.replay = Replay(lambda: encoder.stem(self._buffer))

    def __call__(self, chunks: Tensor) -> Tensor:
        self._buffer[: len(chunks)] = chunks
        return self.replay()[: len(chunks)]


class _FixedLayers:
    """The layers over a fixed number of windows, each padded to a whole one."""

    def __init__(self, encoder: Encoder, windows: int) -> None:
        weight = encoder.input_like
        self.windows = windows
        self._length = encoder.embeddings_of(encoder.window_frames)
        self._rows = weight.new_zeros(windows * self._length, encoder.width)
        self._counts = torch.ones(windows, dtype=torch.long, device=weight.device)
        self.replay = Replay(lambda: encoder.layers(self._rows, self._layout(weight.dtype)))

    def _layout(self, dtype: torch.dtype) -> Layout:
        return Layout(self.windows, self._length, mask=key_mask(self._counts, self._length, dtype))

    def __call__(self, rows: Tensor, counts: list[int]) -> Tensor:
        filled = np.ones(self.windows, dtype=np.int64)
        filled[: len(counts)] = counts
        places = _ranges(np.arange(len(counts)) * self._length, np.array(counts))
        filled_there, places_there = to_device([filled, places], rows.device)
        self._counts.copy_(filled_there)
        self._rows.index_copy_(0, places_there, rows)
        return self.replay().index_select(0, places_there)


class _FixedShapes:
    """The parts of the encoder in fixed shapes, the smallest first."""

    def __init__(self, encoder: Encoder, chunks: list[int], windows: list[int]) -> None:
        self._stems = [_FixedStem(encoder, count) for count in sorted(chunks)]
        self._layers = [_FixedLayers(encoder, count) for count in sorted(windows)]
        self.most_windows = max(windows)

    @property
    def replays(self) -> list[Replay[Any]]:
        return [one.replay for one in self._stems] + [one.replay for one in self._layers]

    def find_stem(self, chunks: int) -> _FixedStem | None:
        return next((one for one in self._stems if one.chunks >= chunks), None)

    def find_layers(self, windows: int) -> _FixedLayers:
        return next(one for one in self._layers if one.windows >= windows)


def key_mask(counts: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """How many rows each window has, (windows,) from 1 to `length`, as what is added to the scores of the attention.

    (windows, 1, 1, length): 0, and minus infinity where a window has no row. (Of a boolean mask, every call of the
    attention would make this again.)
    """
    missing = torch.arange(length, device=counts.device) >= counts[:, None]
    mask = torch.zeros(missing.shape, dtype=dtype, device=counts.device).masked_fill_(missing, -torch.inf)
    return mask[:, None, None]


class _LayerWeights(NamedTuple):
    """A `Qwen3ASRAudioEncoderLayer`, with its query, key and value as one matrix, (3 * width, width)."""

    heads: int
    scaling: float
    attention_norm: Any
    qkv_weight: Tensor
    qkv_bias: Tensor
    out: Any
    feed_norm: Any
    fc1: Any
    activation: Callable[[Tensor], Tensor]
    fc2: Any

    @classmethod
    def of(cls, layer: Any) -> Self:
        attention = layer.self_attn
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        return cls(
            attention.num_heads,
            attention.scaling,
            layer.self_attn_layer_norm,
            fuse([projection.weight for projection in projections]),
            fuse([projection.bias for projection in projections]),
            attention.out_proj,
            layer.final_layer_norm,
            layer.fc1,
            layer.activation_fn,
            layer.fc2,
        )


def _attention(qkv: Tensor, heads: int, scaling: float, layout: Layout) -> Tensor:
    """(rows, 3 * width) to (rows, width), all windows in one call."""
    if layout.padded is not None:
        qkv = qkv.index_select(0, layout.padded)
    query, key, value = qkv.view(layout.windows, layout.length, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind()
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=layout.mask, scale=scaling)
    mixed = mixed.transpose(1, 2).flatten(2).flatten(0, 1)
    return mixed if layout.packed is None else mixed.index_select(0, layout.packed)


def _normed(rows: Tensor, norm: Any) -> Tensor:
    return F.layer_norm(rows, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _starts(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of several pieces begins that stand one after the other."""
    return np.cumsum(sizes) - sizes


def _ranges(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """start, start + 1 … for each start, as many as its size says, one after the other."""
    return np.arange(sizes.sum()) + np.repeat(starts - _starts(sizes), sizes)


def _after_convolutions(frames: int) -> int:
    for _ in range(3):
        frames = (frames + 1) // 2
    return frames
