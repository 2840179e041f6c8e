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

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qwen_asr.engine.decoder.attention import attend
from qwen_asr.engine.decoder.fixed_passes import FixedPass, FixedPasses, Shape
from qwen_asr.engine.decoder.int8 import Int8Head, Int8Linear
from qwen_asr.engine.decoder.kv_pool import KVCache, KVPool, pool_positions
from qwen_asr.engine.decoder.packing import Packed, Places, Row, pack, to_inputs
from qwen_asr.engine.device.linear import Linear, fastest_linear, fuse
from qwen_asr.engine.device.replay import Replay
from qwen_asr.errors import BadConfig

Projection = Callable[[Tensor], Tensor]
"""(n, in) to (n, out)."""


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
    qkv: Projection
    heads_norm: Tensor
    output: Projection
    mlp_norm: Tensor
    gate_up: Projection
    down: Projection


class Decoder:
    """The language model and head of a `Qwen3ASRForConditionalGeneration`.

    quantized: whether its linears become int8 (`int8`), on a CPU. What is not linear is computed in float32 then, the
    head still finds the best token of the original weights, and the model loses the weights of these linears.
    memory_share: see `pool_positions`.
    `positions_prefilled` and `tokens_decoded` count the work: positions that a row ran together with others, and those
    that it ran alone.
    """

    def __init__(self, model: Any, *, quantized: bool = False, memory_share: float = 1.0) -> None:
        text_model = model.model.language_model
        self.config = text_model.config
        self._embeddings: Tensor = text_model.embed_tokens.weight
        self._head: Tensor = model.lm_head.weight.detach()
        self.device = self._head.device
        self.dtype = torch.float32 if quantized else self._head.dtype
        self._int8_head = Int8Head(self._head) if quantized else None
        self._eps: float = self.config.rms_norm_eps
        self.shared_heads: int = self.config.num_attention_heads // self.config.num_key_value_heads
        self._scale: float = self.config.head_dim**-0.5
        self._norm: Tensor = text_model.norm.weight.to(self.dtype)
        self._frequencies: Tensor = text_model.rotary_emb.inv_freq.float()
        self._rotation_scale: float = text_model.rotary_emb.attention_scaling
        join = _join_quantized if quantized else partial(_join, fastest_linear(self.device, self.dtype))
        self._layers = [_fuse(layer, join, self.dtype) for layer in text_model.layers]
        # Scores of 16 bits are slow on a CPU, so keys, values and attention are float32 there.
        kv_dtype = torch.float32 if self.device.type == "cpu" else self.dtype
        positions = pool_positions(self.config, self.device, kv_dtype, memory_share)
        self.pool = KVPool(self.config, self.device, kv_dtype, positions)
        self._fixed: FixedPasses | None = None
        self.positions_prefilled = 0
        self.tokens_decoded = 0

    def new_cache(self) -> KVCache:
        """An empty cache in the decoder's pool."""
        return self.pool.new_cache()

    @torch.inference_mode()
    def predict(self, rows: list[Row]) -> list[Prediction]:
        """Run one pass over all rows, and predict the next tokens after the last `predictions` positions of each."""
        scored = any(row.scored for row in rows)
        parts = [(pack(rows), None)] if self._fixed is None else self._fixed.divide(rows)
        outputs = [self._run(packed, fixed, scored) for packed, fixed in parts]
        # Read at once, since each read waits for the device.
        read = (outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)).tolist()
        tokens, scores = read if scored else (read, [])
        predictions, end = {}, 0
        for row in (row for packed, _ in parts for row in packed.rows):
            row.cache.length += row.positions
            self._count(row)
            start, end = end, end + row.predictions
            likelihoods = scores[start:end] if row.scored else []
            predictions[id(row)] = Prediction([int(token) for token in tokens[start:end]], likelihoods)
        return [predictions[id(row)] for row in rows]

    def _run(self, packed: Packed, fixed: FixedPass | None, scored: bool) -> Tensor:
        """The predicted tokens, (n,); with `scored` (2, n) float64: the tokens and the logarithms of their chances."""
        if fixed is not None:
            tokens, hidden = fixed(packed)
            return self._best(hidden) if scored else tokens
        inputs = to_inputs(packed, self.shared_heads, self.device, self.pool.dtype)
        hidden = self.hidden_states(self.embed(inputs.text, inputs.audio, inputs.sources), inputs.places)
        if scored:
            return self._best(hidden)
        return self.logits(hidden).argmax(dim=-1) if self._int8_head is None else self._int8_head.best(hidden)

    def _best(self, hidden: Tensor) -> Tensor:
        logits = self.logits(hidden)
        best = logits.max(dim=-1)
        logarithms = best.values.float() - logits.float().logsumexp(dim=-1)
        return torch.stack([best.indices.double(), logarithms.double()])

    def logits(self, hidden: Tensor) -> Tensor:
        """The head: (n, width) to (n, vocabulary)."""
        return F.linear(hidden.to(self._head.dtype), self._head)

    def fix_shapes(self, shapes: list[Shape]) -> list[Replay[Any]]:
        """Run passes in these shapes from now on where they fit. Returns what can be captured as CUDA graphs."""
        self._fixed = FixedPasses(self, shapes)
        return self._fixed.replays

    def unfix_shapes(self) -> None:
        """Run all passes in their own shapes again."""
        self._fixed = None

    def _count(self, row: Row) -> None:
        if row.positions == 1:
            self.tokens_decoded += 1
        else:
            self.positions_prefilled += row.positions

    def embed(self, text: Tensor, audio: list[Tensor], sources: Tensor | None) -> Tensor:
        """Embeddings of packed positions, (n, width); the arguments are as in `Packed`."""
        embedded = F.embedding(text, self._embeddings)
        if sources is not None:
            embedded = torch.cat([embedded, *audio]).index_select(0, sources)
        return embedded.to(self.dtype)

    def hidden_states(self, x: Tensor, places: Places) -> Tensor:
        """The last hidden states of the positions `places.predicted`, (predicted, width).

        x: (n, width) the embeddings. The shapes alone decide which operators run, so that they can be captured in a
        CUDA graph.
        """
        config = self.config
        cos, sin = self._rotation(places.positions, x.dtype)
        for layer, storage in zip(self._layers, self.pool.storage, strict=True):
            heads = layer.qkv(_rms_norm(x, layer.input_norm, self._eps)).unflatten(1, (-1, config.head_dim))
            rotated, values = heads.split([len(layer.heads_norm), config.num_key_value_heads], dim=1)
            rotated = _rms_norm(rotated, layer.heads_norm, self._eps)
            rotated = rotated * cos + rotated.roll(config.head_dim // 2, -1) * sin
            query, keys = rotated.split([config.num_attention_heads, config.num_key_value_heads], dim=1)
            known = torch.stack([keys, values], dim=1).to(storage.dtype)
            storage.flatten(0, 1).index_copy_(0, places.slots, known)
            x = x + layer.output(attend(places.parts, places.order, storage, query, self._scale))
            gate, up = layer.gate_up(_rms_norm(x, layer.mlp_norm, self._eps)).chunk(2, dim=-1)
            x = x + layer.down(F.silu(gate) * up)
        return _rms_norm(x.index_select(0, places.predicted), self._norm, self._eps)

    def _rotation(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotary embedding, each (n, 1, head width), the first half of the sines negative.

        With that sign, x * cos + roll(x) * sin is what transformers computes with `rotate_half`.
        """
        angles = positions[:, None].float() * self._frequencies
        cos, sin = angles.cos() * self._rotation_scale, angles.sin() * self._rotation_scale
        return torch.cat([cos, cos], -1).to(dtype)[:, None], torch.cat([-sin, sin], -1).to(dtype)[:, None]


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As transformers' `Qwen3RMSNorm`, which rounds to 16 bits before the weight is applied."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def _fuse(layer: Any, join: Callable[..., Projection], dtype: torch.dtype) -> _Layer:
    """The weights of a transformers layer, with those that take the same input in one matrix."""
    attention, mlp = layer.self_attn, layer.mlp
    config = attention.config
    norms = [attention.q_norm.weight] * config.num_attention_heads
    norms += [attention.k_norm.weight] * config.num_key_value_heads
    return _Layer(
        input_norm=layer.input_layernorm.weight.to(dtype),
        qkv=join(attention.q_proj, attention.k_proj, attention.v_proj),
        heads_norm=torch.stack(norms).to(dtype),
        output=join(attention.o_proj),
        mlp_norm=layer.post_attention_layernorm.weight.to(dtype),
        gate_up=join(mlp.gate_proj, mlp.up_proj),
        down=join(mlp.down_proj),
    )


def _join(linear: Linear, *linears: nn.Linear) -> Projection:
    """One linear for several with the same input. These keep views of its weights."""
    bias = fuse([one.bias for one in linears]) if linears[0].bias is not None else None
    weight = fuse([one.weight for one in linears])
    return lambda x: linear(x, weight, bias)


def _join_quantized(*linears: nn.Linear) -> Projection:
    """One int8 linear for several with the same input. These lose their weights, so that the memory is free."""
    if linears[0].bias is not None:
        raise BadConfig("This checkpoint's decoder has biases, which int8 weights do not support: --quantize none.")
    quantized = Int8Linear(torch.cat([linear.weight.detach() for linear in linears]))
    for linear in linears:
        linear.weight = nn.Parameter(torch.empty(0), requires_grad=False)
    return quantized
