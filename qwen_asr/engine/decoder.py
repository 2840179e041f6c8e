"""The text decoder, over many utterances at once.

The new positions of all rows are packed into one sequence, so each pass reads every weight once, and attention runs in
groups of rows (`attention`) over the pages of the KV pool (`kv_pool`). The forward pass is written here over the
weights of transformers' Qwen3, with query, key and value in one matrix, and gate and up in another. The modules keep
views of these, so transformers' own `generate` works on the same model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from qwen_asr.engine.attention import Part, arrange, attend, mask_of, page_table
from qwen_asr.engine.kv_pool import PAGE, KVCache, KVPool, pool_positions

AUDIO = -1
"""Stands for an audio embedding among the token ids of a row."""

Linear = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Row:
    """One utterance's part of a pass.

    tokens: (n,) the ids that follow the cache, `AUDIO` for an audio embedding. audio: these embeddings, in order, each
    (some, width). predictions: 0..n, for how many of the last positions the next token is predicted. The cache has room
    for n more positions. scored: whether the probabilities of the predicted tokens are wanted.
    """

    cache: KVCache
    tokens: NDArray[np.int64]
    audio: tuple[Tensor, ...]
    predictions: int
    scored: bool = False

    @property
    def positions(self) -> int:
        """How many positions the pass adds to the cache."""
        return len(self.tokens)


@dataclass(frozen=True)
class Prediction:
    """The likeliest next token after each of a row's last positions.

    log_probabilities: the natural logarithms of their probabilities, if the row is scored; else empty.
    """

    tokens: list[int]
    log_probabilities: list[float]


@dataclass(frozen=True)
class _Layer:
    """The weights of a decoder layer; `heads_norm` is that of the query heads, then that of the key heads."""

    input_norm: Tensor
    qkv: Linear
    heads_norm: Tensor
    output: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear


class Decoder:
    """The language model and head of a `Qwen3ASRForConditionalGeneration`.

    `positions_prefilled` and `tokens_decoded` count the work: positions that a row ran together with others, and those
    that it ran alone.
    """

    def __init__(self, model: Any) -> None:
        text_model = model.model.language_model
        self.config = text_model.config
        self._embeddings: Tensor = text_model.embed_tokens.weight
        self._head: Tensor = model.lm_head.weight
        self.device = self._head.device
        self._eps: float = self.config.rms_norm_eps
        self._scale: float = self.config.head_dim**-0.5
        self._norm: Tensor = text_model.norm.weight
        self._frequencies: Tensor = text_model.rotary_emb.inv_freq.float()
        self._rotation_scale: float = text_model.rotary_emb.attention_scaling
        self._layers = [_fuse(layer) for layer in text_model.layers]
        # Scores of 16 bits are slow on a CPU, so keys, values and attention are float32 there.
        kv_dtype = torch.float32 if self.device.type == "cpu" else self._head.dtype
        self.pool = KVPool(self.config, self.device, kv_dtype, pool_positions(self.config, self.device, kv_dtype))
        self.positions_prefilled = 0
        self.tokens_decoded = 0

    def new_cache(self) -> KVCache:
        """An empty cache in the decoder's pool."""
        return self.pool.new_cache()

    @torch.inference_mode()
    def predict(self, rows: list[Row]) -> list[Prediction]:
        """Run one pass over all rows, and predict the next tokens after the last `predictions` positions of each."""
        hidden = self._forward(_prepare(rows, self.config, self.device, self.pool.dtype))
        for row in rows:
            row.cache.length += row.positions
            self._count(row)
        counts = [row.predictions for row in rows]
        if not any(counts):
            return [Prediction([], []) for _ in rows]
        logits = F.linear(hidden, self._head)
        best = logits.max(dim=-1)
        if not any(row.scored for row in rows):
            tokens, scores = best.indices.tolist(), []
        else:  # read together, since each read waits for the device
            logarithms = best.values.float() - logits.float().logsumexp(dim=-1)
            tokens, scores = torch.stack([best.indices.double(), logarithms.double()]).tolist()
        ends = np.cumsum(counts).tolist()
        return [
            Prediction(
                [int(token) for token in tokens[end - row.predictions : end]],
                scores[end - row.predictions : end] if row.scored else [],
            )
            for end, row in zip(ends, rows, strict=True)
        ]

    def _count(self, row: Row) -> None:
        if row.positions == 1:
            self.tokens_decoded += 1
        else:
            self.positions_prefilled += row.positions

    def _forward(self, inputs: "_Inputs") -> Tensor:
        """The hidden states from which tokens are predicted, (predictions of all rows, width)."""
        x = self._embed(inputs)
        cos, sin = self._rotation(inputs.positions, x.dtype)
        for layer, storage in zip(self._layers, self.pool.storage, strict=True):
            heads = layer.qkv(_rms_norm(x, layer.input_norm, self._eps)).unflatten(1, (-1, self.config.head_dim))
            rotated, values = heads.split([len(layer.heads_norm), self.config.num_key_value_heads], dim=1)
            rotated = _rms_norm(rotated, layer.heads_norm, self._eps)
            rotated = rotated * cos + rotated.roll(self.config.head_dim // 2, -1) * sin
            query, keys = rotated.split([self.config.num_attention_heads, self.config.num_key_value_heads], dim=1)
            known = torch.stack([keys, values], dim=1).to(storage.dtype)
            storage.flatten(0, 1).index_copy_(0, inputs.slots, known)
            x = x + layer.output(attend(inputs.parts, inputs.order, storage, query, self._scale))
            gate, up = layer.gate_up(_rms_norm(x, layer.mlp_norm, self._eps)).chunk(2, dim=-1)
            x = x + layer.down(F.silu(gate) * up)
        return _rms_norm(x.index_select(0, inputs.predicted), self._norm, self._eps)

    def _embed(self, inputs: "_Inputs") -> Tensor:
        """Embeddings of the packed positions, (n, width)."""
        text = F.embedding(inputs.text, self._embeddings)
        if inputs.audio_order is None:
            return text
        return torch.cat([text, *inputs.audio]).index_select(0, inputs.audio_order)

    def _rotation(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotary embedding, each (n, 1, head width), the first half of the sines negative.

        With that sign, x * cos + roll(x) * sin is what transformers computes with `rotate_half`.
        """
        angles = positions[:, None].float() * self._frequencies
        cos, sin = angles.cos() * self._rotation_scale, angles.sin() * self._rotation_scale
        return torch.cat([cos, cos], -1).to(dtype)[:, None], torch.cat([-sin, sin], -1).to(dtype)[:, None]


@dataclass(frozen=True)
class _Inputs:
    """The inputs of a pass on the device, for n packed positions.

    text: the token ids. audio_order: (n,) the index of each position's embedding among those of the text and then the
    audio; None without audio. slots: (n,) where the keys and values go, in positions of the pool. predicted: the packed
    positions after which a token is predicted.
    """

    text: Tensor
    audio: list[Tensor]
    audio_order: Tensor | None
    positions: Tensor
    slots: Tensor
    predicted: Tensor
    parts: list[Part]
    order: Tensor | None


def _prepare(rows: list[Row], config: Any, device: torch.device, dtype: torch.dtype) -> _Inputs:
    """Build the indices on the host, and copy them to the device at once."""
    caches, counts = [row.cache for row in rows], [row.positions for row in rows]
    table = page_table(caches)
    layout = arrange(caches, counts, table)
    tokens = np.concatenate([row.tokens for row in rows])
    is_text = tokens != AUDIO
    audio = [part for row in rows for part in row.audio]
    row_of = np.repeat(np.arange(len(rows)), counts)
    ends = np.cumsum(counts)
    inside = np.arange(len(tokens)) - (ends - counts)[row_of]
    positions = np.array([cache.length for cache in caches])[row_of] + inside
    slots = table[row_of, positions // PAGE] * PAGE + positions % PAGE
    predictions = np.array([row.predictions for row in rows])
    predicted = np.flatnonzero(inside >= (counts - predictions)[row_of])
    text_count = int(is_text.sum())
    arrays = [tokens[is_text], positions, slots, predicted]
    if audio:
        arrays.append(np.where(is_text, np.cumsum(is_text) - 1, text_count + np.cumsum(~is_text) - 1))
    for group in layout.groups:
        arrays += [one for one in (group.limits, group.pages, group.queries) if isinstance(one, np.ndarray)]
    if layout.order is not None:
        arrays.append(layout.order)
    moved = iter(_to_device(arrays, device))
    text, place, slot, predict = (next(moved) for _ in range(4))
    audio_order = next(moved) if audio else None
    shared = config.num_attention_heads // config.num_key_value_heads
    parts = []
    for group in layout.groups:
        mask = None if group.limits is None else mask_of(next(moved), group.total, shared, dtype)
        pages = group.pages if isinstance(group.pages, int) else next(moved)
        queries = next(moved) if group.queries is not None else None
        parts.append(Part(group.rows, group.new, group.total, pages, queries, mask))
    order = next(moved) if layout.order is not None else None
    return _Inputs(text, audio, audio_order, place, slot, predict, parts, order)


def _to_device(arrays: list[NDArray[np.int64]], device: torch.device) -> list[Tensor]:
    """Copy the arrays to the device in one transfer."""
    if device.type == "cpu":
        return [torch.from_numpy(array) for array in arrays]
    packed = torch.from_numpy(np.concatenate([array.ravel() for array in arrays]))
    if device.type == "cuda":
        packed = packed.pin_memory()
    split = packed.to(device, non_blocking=True).split([array.size for array in arrays])
    return [part.view(array.shape) for part, array in zip(split, arrays, strict=True)]


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As transformers' `Qwen3RMSNorm`, which rounds to 16 bits before the weight is applied."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def _fuse(layer: Any) -> _Layer:
    """The weights of a transformers layer, with those that take the same input in one matrix."""
    attention, mlp = layer.self_attn, layer.mlp
    qkv = _join(attention.q_proj, attention.k_proj, attention.v_proj)
    gate_up = _join(mlp.gate_proj, mlp.up_proj)
    config = attention.config
    norms = [attention.q_norm.weight] * config.num_attention_heads + [
        attention.k_norm.weight
    ] * config.num_key_value_heads
    return _Layer(
        layer.input_layernorm.weight, qkv, torch.stack(norms), _join(attention.o_proj),
        layer.post_attention_layernorm.weight, gate_up, _join(mlp.down_proj),
    )  # fmt: skip


def _join(*linears: nn.Linear) -> Linear:
    """One linear for several with the same input. These keep views of its weights."""
    bias = _join_tensors(linears, "bias") if linears[0].bias is not None else None
    return partial(F.linear, weight=_join_tensors(linears, "weight"), bias=bias)


def _join_tensors(linears: tuple[nn.Linear, ...], name: str) -> Tensor:
    tensors: list[Tensor] = [getattr(linear, name) for linear in linears]
    if len(tensors) == 1:
        return tensors[0].detach()
    joined = torch.cat([tensor.detach() for tensor in tensors])
    for linear, view in zip(linears, joined.split([len(tensor) for tensor in tensors]), strict=True):
        setattr(linear, name, nn.Parameter(view, requires_grad=False))
    return joined
