"""Attention of packed rows over the paged KV cache, in a number of operators that does not grow with the rows.

The new positions of all rows are packed into one sequence. Rows of similar shape form a group, which runs in one call
of scaled dot-product attention a layer: their pages are gathered, their queries padded to the longest, and a mask hides
what a row must not see. Decoding steps (one new position) never share a group with longer rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from qwen_asr.engine.decoder.kv_pool import PAGE, KVCache

NEW_LIMITS = (1, 160)
"""Rows with up to so many new positions share a group: a decoding step, the check of a draft, else a long prefill."""
TOTAL_LIMITS = (1024, 4096)
"""Rows with up to so many positions share a group: an utterance, or one with a long or a very long prompt."""

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Rows that run in one call: `rows` of them, `new` positions in the one with most, `total` with the cached ones.

    pages: (rows * pages of `total`,) indices into the pool, or the first page if there is one row and its pages follow
    each other. queries: (rows * new,) indices of packed positions; None if these are all of them, in order.
    limits: (rows, new) the last position that each query sees; None if each sees all of `total`.
    """

    rows: int
    new: int
    total: int
    pages: Indices | int
    queries: Indices | None
    limits: Indices | None


@dataclass(frozen=True)
class Layout:
    """The groups of a pass, and for each packed position its index among their results; None if they are in order."""

    groups: list[Group]
    order: Indices | None


def page_table(caches: Sequence[KVCache]) -> Indices:
    """The pages of each cache, (rows, most pages), filled with page 0."""
    most = max(len(cache.pages) for cache in caches)
    return np.array([cache.pages + [0] * (most - len(cache.pages)) for cache in caches], dtype=np.int64)


def arrange(caches: Sequence[KVCache], counts: Sequence[int], table: Indices) -> Layout:
    """Arrange rows with `counts` new positions each in groups. The caches have room for them; `table` is theirs."""
    members: dict[tuple[int, int], list[int]] = {}
    for index, (cache, count) in enumerate(zip(caches, counts, strict=True)):
        key = _class_of(count, NEW_LIMITS), _class_of(cache.length + count, TOTAL_LIMITS)
        members.setdefault(key, []).append(index)
    new, past = np.asarray(counts), np.array([cache.length for cache in caches])
    starts = np.concatenate([[0], np.cumsum(new)])
    groups = []
    order = np.empty(starts[-1], dtype=np.int64)
    offset, padded = 0, False
    for rows in members.values():
        most = int(new[rows].max())
        total = int((past[rows] + new[rows]).max())
        steps = np.arange(most)
        inside = steps < new[rows, None]  # (rows, most)
        queries = np.where(inside, starts[rows][:, None] + steps, 0)
        limits = np.where(inside, past[rows][:, None] + steps, 0)
        order[queries[inside]] = offset + np.flatnonzero(inside)
        offset += inside.size
        padded |= not inside.all()
        alone = len(caches) == 1 and caches[0].contiguous
        pages = int(table[0, 0]) if alone else table[rows, : -(-total // PAGE)].reshape(-1)
        in_order = len(members) == 1 and not padded
        sees_all = bool((limits == total - 1).all())
        groups.append(
            Group(
                len(rows),
                most,
                total,
                pages,
                None if in_order else queries.reshape(-1),
                None if sees_all else limits,
            )
        )
    return Layout(groups, None if len(members) == 1 and not padded else order)


def _class_of(size: int, limits: tuple[int, ...]) -> int:
    return sum(size > limit for limit in limits)


@dataclass(frozen=True)
class Part:
    """A `Group` on the device: its indices as tensors, and its mask, (rows, 1, heads of a group * new, total)."""

    rows: int
    new: int
    total: int
    pages: Tensor | int
    queries: Tensor | None
    mask: Tensor | None


def mask_of(limits: Tensor, total: int, heads: int, dtype: torch.dtype) -> Tensor:
    """What is added to the scores: 0 up to the limit of each query, else -inf. limits: (rows, new)."""
    visible = torch.arange(total, device=limits.device) <= limits[:, None, None, :, None]
    visible = visible.expand(-1, -1, heads, -1, -1).flatten(2, 3)
    return torch.where(visible, 0.0, float("-inf")).to(dtype)


def attend(parts: list[Part], order: Tensor | None, storage: Tensor, query: Tensor, scale: float) -> Tensor:
    """Attention of one layer, (n, query heads * width).

    query: (n, query heads, width), packed. storage: the layer's pages, which hold the new keys and values too. The
    query heads that share a key-value head run as more queries of that head, so no key or value is repeated.
    """
    _, _, _, heads, width = storage.shape
    shared = query.shape[1] // heads
    results = []
    for part in parts:
        if isinstance(part.pages, int):
            known = storage.flatten(0, 1).narrow(0, part.pages * PAGE, part.total).unsqueeze(0)
        else:
            known = storage.index_select(0, part.pages).view(part.rows, -1, 2, heads, width)[:, : part.total]
        keys, values = known.permute(2, 0, 3, 1, 4).unbind(0)
        asked = query if part.queries is None else query.index_select(0, part.queries)
        asked = asked.view(part.rows, part.new, heads, shared, width).permute(0, 2, 3, 1, 4).flatten(2, 3)
        mixed = F.scaled_dot_product_attention(asked.to(keys.dtype), keys, values, attn_mask=part.mask, scale=scale)
        mixed = mixed.unflatten(2, (shared, part.new)).permute(0, 3, 1, 2, 4)
        results.append(mixed.reshape(part.rows * part.new, -1))
    packed = results[0] if len(results) == 1 else torch.cat(results)
    return (packed if order is None else packed.index_select(0, order)).to(query.dtype)
