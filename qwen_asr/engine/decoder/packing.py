"""Packs the rows of a decoder pass into one sequence: the indices are built on the host and copied at once."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qwen_asr.engine.decoder.attention import Indices, Layout, Part, arrange, mask_of, page_table
from qwen_asr.engine.decoder.kv_pool import PAGE, KVCache
from qwen_asr.engine.device.transfer import to_device

AUDIO = -1
"""Stands for an audio embedding among the token ids of a row."""


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
class Packed:
    """The rows of a pass as one sequence of n positions, on the host.

    table: (rows, most pages) the pages of each cache. row_of, step: (n,) the row of each position, and its number in
    the row. positions: (n,) its number in the utterance. slots: (n,) where its keys and values go, in positions of the
    pool. predicted: the indices after which a token is predicted. text: the ids of those that are text. sources: (n,)
    the index of each position's embedding among those of the text and then the audio; None without audio.
    """

    rows: list[Row]
    table: Indices
    row_of: Indices
    step: Indices
    positions: Indices
    slots: Indices
    predicted: Indices
    text: Indices
    audio: list[Tensor]
    sources: Indices | None

    @property
    def counts(self) -> list[int]:
        """The number of positions of each row."""
        return [row.positions for row in self.rows]


def pack(rows: list[Row]) -> Packed:
    """Pack the rows, in their order."""
    counts = np.array([row.positions for row in rows])
    table = page_table([row.cache for row in rows])
    row_of = np.repeat(np.arange(len(rows)), counts)
    step = np.arange(len(row_of)) - (np.cumsum(counts) - counts)[row_of]
    positions = np.array([row.cache.length for row in rows])[row_of] + step
    slots = table[row_of, positions // PAGE] * PAGE + positions % PAGE
    kept = counts - np.array([row.predictions for row in rows])
    tokens = np.concatenate([row.tokens for row in rows])
    audio = [part for row in rows for part in row.audio]
    is_text = tokens != AUDIO
    sources = np.where(is_text, np.cumsum(is_text) - 1, is_text.sum() + np.cumsum(~is_text) - 1) if audio else None
    predicted = np.flatnonzero(step >= kept[row_of])
    return Packed(rows, table, row_of, step, positions, slots, predicted, tokens[is_text], audio, sources)


@dataclass(frozen=True)
class Places:
    """Where the positions of a pass stand, on the device; see `Packed`. parts, order: as in `attention.attend`."""

    positions: Tensor
    slots: Tensor
    predicted: Tensor
    parts: list[Part]
    order: Tensor | None = None


@dataclass(frozen=True)
class Inputs:
    """The inputs of a pass on the device; see `Packed`."""

    text: Tensor
    audio: list[Tensor]
    sources: Tensor | None
    places: Places


def to_inputs(packed: Packed, heads: int, device: torch.device, dtype: torch.dtype) -> Inputs:
    """Copy a pass to the device. heads: the query heads that share a key-value head. dtype: that of the scores."""
    layout: Layout = arrange([row.cache for row in packed.rows], packed.counts, packed.table)
    optional = [packed.sources, layout.order]
    for group in layout.groups:
        optional += [group.limits, group.pages if isinstance(group.pages, np.ndarray) else None, group.queries]
    required = [packed.text, packed.positions, packed.slots, packed.predicted]
    moved = iter(to_device([*required, *(one for one in optional if one is not None)], device))
    text, positions, slots, predicted = (next(moved) for _ in required)
    sources, order, *grouped = (next(moved) if one is not None else None for one in optional)
    parts = []
    for index, group in enumerate(layout.groups):
        limits, pages, queries = grouped[3 * index : 3 * index + 3]
        mask = None if limits is None else mask_of(limits, group.total, heads, dtype)
        first = group.pages if isinstance(group.pages, int) else 0
        parts.append(Part(group.rows, group.new, group.total, first if pages is None else pages, queries, mask))
    return Inputs(text, packed.audio, sources, Places(positions, slots, predicted, parts, order))
