"""The text decoder, over many utterances at once, each with its own KV cache.

The new positions of all rows are packed into one sequence, so each pass reads every weight once. Only attention runs
row by row, over the cache of that row. The model code is transformers' own Qwen3, with an attention function from here.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "qwen_asr_packed"
INITIAL_CAPACITY = 256


class KVCache:
    """Keys and values of one utterance: (layers, 2, key-value heads, capacity, head width), `length` of them in use."""

    def __init__(self, config: Any, device: torch.device, dtype: torch.dtype) -> None:
        width = config.head_dim
        self._store = torch.empty(
            config.num_hidden_layers, 2, config.num_key_value_heads, INITIAL_CAPACITY, width, device=device, dtype=dtype
        )
        self.length = 0

    def reserve(self, extra: int) -> None:
        """Make room for `extra` more positions, doubling the capacity when it is too small."""
        while self.length + extra > self._store.shape[3]:
            self._store = torch.cat([self._store, torch.empty_like(self._store)], dim=3)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append (heads, n, width); return all keys and values, (heads, length + n, width)."""
        end = self.length + keys.shape[1]
        self._store[layer, 0, :, self.length : end] = keys
        self._store[layer, 1, :, self.length : end] = values
        return self._store[layer, 0, :, :end], self._store[layer, 1, :, :end]

    def crop(self, length: int) -> None:
        """Drop the positions from `length` on."""
        self.length = min(self.length, length)


@dataclass(frozen=True)
class Row:
    """One utterance's part of a pass.

    embeds: (n, width), the positions that follow the cache. predictions: 0..n, for how many of the last positions the
    next token is predicted.
    """

    cache: KVCache
    embeds: Tensor
    predictions: int


class Decoder:
    """The language model and head of a `Qwen3ASRForConditionalGeneration`.

    `positions_prefilled` and `tokens_decoded` count the work: positions that a row ran together with others, and those
    that it ran alone.
    """

    def __init__(self, model: Any) -> None:
        self._language_model = model.model.language_model
        self._head = model.lm_head
        self.config = self._language_model.config
        self._language_model.set_attn_implementation(ATTENTION)
        self.positions_prefilled = 0
        self.tokens_decoded = 0

    def new_cache(self) -> KVCache:
        """An empty cache on the model's device."""
        return KVCache(self.config, self._head.weight.device, self._head.weight.dtype)

    def embed(self, tokens: list[int]) -> Tensor:
        """Token ids → embeddings, (n, width)."""
        table = self._language_model.embed_tokens
        with torch.inference_mode():
            embedded: Tensor = table(torch.tensor(tokens, dtype=torch.long, device=table.weight.device))
        return embedded

    @torch.inference_mode()
    def predict(self, rows: list[Row]) -> list[list[int]]:
        """Run one pass over all rows. Returns the next tokens after the last `predictions` positions of each row."""
        positions = [torch.arange(row.cache.length, row.cache.length + len(row.embeds)) for row in rows]
        for row in rows:
            row.cache.reserve(len(row.embeds))
            self._count(row)
        embeds = torch.cat([row.embeds for row in rows])
        hidden = self._language_model(
            inputs_embeds=embeds[None],
            position_ids=torch.cat(positions)[None].to(embeds.device),
            attention_mask=dict.fromkeys(self.config.layer_types),
            use_cache=False,
            rows=rows,
        ).last_hidden_state[0]
        parts = hidden.split([len(row.embeds) for row in rows])
        kept = torch.cat([part[len(part) - row.predictions :] for part, row in zip(parts, rows, strict=True)])
        best = self._head(kept).argmax(dim=-1).tolist()
        for row in rows:
            row.cache.length += len(row.embeds)
        ends = torch.tensor([row.predictions for row in rows]).cumsum(0).tolist()
        return [best[end - row.predictions : end] for end, row in zip(ends, rows, strict=True)]

    def _count(self, row: Row) -> None:
        if len(row.embeds) == 1:
            self.tokens_decoded += 1
        else:
            self.positions_prefilled += len(row.embeds)


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *args: Any,
    rows: list[Row] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """An attention function for transformers: query (1, heads, n, width), key and value with the key-value heads.

    Returns (1, n, heads, width). Without `rows` it is plain SDPA, so that `generate` works on the same model.
    """
    if rows is None:
        plain: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, *args, **kwargs
        )
        return plain
    lengths = [len(row.embeds) for row in rows]
    parts = zip(rows, query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    mixed = [_attend(module, row.cache, q, k, v) for row, q, k, v in parts]
    return torch.cat(mixed, dim=2).transpose(1, 2), None


def _attend(module: Any, cache: KVCache, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of one row: append its keys and values, attend to all of its past and causally to itself."""
    keys, values = (x[None] for x in cache.write(module.layer_idx, key[0], value[0]))
    new, total = query.shape[2], keys.shape[2]
    if new == 1:
        return F.scaled_dot_product_attention(query, keys, values, scale=module.scaling, enable_gqa=True)
    keys, values = (repeat_kv(x, module.num_key_value_groups) for x in (keys, values))
    if new == total:
        return F.scaled_dot_product_attention(query, keys, values, is_causal=True, scale=module.scaling)
    mask = torch.ones(new, total, dtype=torch.bool, device=query.device).tril(total - new)
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=module.scaling)


AttentionInterface.register(ATTENTION, packed_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
