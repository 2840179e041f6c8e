"""Passes of the decoder in fixed shapes, which CUDA captures as graphs (`replay`).

A graph always runs with the same shapes. So there is one for each of some shapes, and a pass runs in the smallest that
holds it, with the rest filled up. Rows that decode one token and rows with more run in different graphs. What fits into
none runs without a graph.

On any other device the same code runs uncaptured, which is how the tests run it; filled up to fixed shapes it is slower
there, so only CUDA uses it.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from qwen_asr.engine.decoder.attention import Part, mask_of
from qwen_asr.engine.decoder.kv_pool import PAGE, KVPool
from qwen_asr.engine.decoder.packing import Packed, Places, Row, pack
from qwen_asr.engine.device.replay import Replay
from qwen_asr.engine.device.transfer import to_device


class Model(Protocol):
    """What a pass needs of `forward.Decoder`, which also says what these are."""

    config: Any
    device: torch.device
    dtype: torch.dtype
    shared_heads: int
    pool: KVPool

    def embed(self, text: Tensor, audio: list[Tensor], sources: Tensor | None) -> Tensor: ...

    def hidden_states(self, x: Tensor, places: Places) -> Tensor: ...

    def logits(self, hidden: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Shape:
    """The shape of a captured pass: `rows` rows with `new` new positions each, `total` with the cached ones, at most.

    At most `predictions` tokens are predicted, in all rows together.
    """

    rows: int
    new: int
    total: int

    @property
    def predictions(self) -> int:
        """One after each position, but for long rows only as many as a draft of an utterance of 15 s has."""
        return self.rows * min(self.new, MOST_PREDICTIONS)


MOST_PREDICTIONS = 64
MOST_POSITIONS = 4096  # of one pass, so that the graphs' memory stays small beside the KV pool
TOTALS = (256, 384, 512, 1024)
"""Positions of an utterance: 13 a second of audio, 3 to 5 a second of text, and the prompt."""
DECODE_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
VERIFY_ROWS = (1, 2, 4, 8, 16, 32, 64)
VERIFY_NEW = (32, 64, 128, 192)
"""New positions of a step: the open window, the end of the prompt and the draft."""


def default_shapes() -> list[Shape]:
    """The shapes that are captured at the start, the smallest first."""
    decode = [Shape(rows, 1, total) for rows in DECODE_ROWS for total in TOTALS]
    verify = [Shape(rows, new, total) for rows in VERIFY_ROWS for new in VERIFY_NEW for total in TOTALS]
    shapes = decode + [
        shape for shape in verify if shape.rows * shape.new <= MOST_POSITIONS and shape.new < shape.total
    ]
    return sorted(shapes, key=lambda shape: (shape.rows * shape.new, shape.total))


class FixedPass:
    """A pass of one shape: buffers for its inputs, and its outputs once `capture` has run."""

    def __init__(self, decoder: Model, shape: Shape) -> None:
        self.shape = shape
        self._decoder = decoder
        n = shape.rows * shape.new
        pages = -(-shape.total // PAGE)
        self._sizes = [n, n, shape.rows * pages, n, shape.predictions]
        self._integers = torch.zeros(sum(self._sizes), dtype=torch.long, device=decoder.device)
        self._x = torch.zeros(n, decoder.config.hidden_size, dtype=decoder.dtype, device=decoder.device)
        self.replay = Replay(self._run)

    def _run(self) -> tuple[Tensor, Tensor]:
        """The predicted tokens and their hidden states, from the buffers."""
        shape, decoder = self.shape, self._decoder
        positions, slots, pages, limits, predicted = self._integers.split(self._sizes)
        mask = mask_of(limits.view(shape.rows, shape.new), shape.total, decoder.shared_heads, decoder.pool.dtype)
        part = Part(shape.rows, shape.new, shape.total, pages, None, mask)
        hidden = decoder.hidden_states(self._x, Places(positions, slots, predicted, [part]))
        return decoder.logits(hidden).argmax(dim=-1), hidden

    def __call__(self, packed: Packed) -> tuple[Tensor, Tensor]:
        """Run a pass that fits. Returns the predicted tokens and their hidden states."""
        shape, count = self.shape, len(packed.rows)
        pages = -(-shape.total // PAGE)
        scratch = self._decoder.pool.scratch_page
        places = packed.row_of * shape.new + packed.step
        filled = [np.zeros(size, dtype=np.int64) for size in self._sizes]
        filled[0][places] = packed.positions
        filled[1][:] = scratch * PAGE
        filled[1][places] = packed.slots
        filled[2][:] = scratch
        table = filled[2].reshape(shape.rows, pages)
        known = packed.table[:, :pages]
        table[:count, : known.shape[1]] = known
        filled[3][places] = packed.positions
        filled[4][: len(packed.predicted)] = places[packed.predicted]
        extra = [packed.text, places] + ([] if packed.sources is None else [packed.sources])
        integers, text, targets, *sources = to_device([np.concatenate(filled), *extra], self._decoder.device)
        self._integers.copy_(integers)
        self._x.index_copy_(0, targets, self._decoder.embed(text, packed.audio, sources[0] if sources else None))
        tokens, hidden = self.replay()
        # Copies: the graphs share their memory, so the next one writes over these.
        return tokens[: len(packed.predicted)].clone(), hidden[: len(packed.predicted)].clone()


class FixedPasses:
    """The passes of all shapes."""

    def __init__(self, decoder: Model, shapes: list[Shape]) -> None:
        self._passes = [FixedPass(decoder, shape) for shape in shapes]

    @property
    def replays(self) -> list[Replay[Any]]:
        """What can be captured, the smallest first."""
        return [one.replay for one in self._passes]

    def _find(self, packed: Packed) -> FixedPass | None:
        """The smallest that holds the pass; None if none does."""
        rows, new, total = len(packed.rows), max(packed.counts), int(packed.positions.max()) + 1
        for one in self._passes:
            shape = one.shape
            fits = rows <= shape.rows and new <= shape.new and total <= shape.total
            if fits and len(packed.predicted) <= shape.predictions:
                return one
        return None

    def divide(self, rows: list[Row]) -> list[tuple[Packed, FixedPass | None]]:
        """Divide a pass into parts, each with the shape that holds it, and one with all rows that fit into none."""
        single = [row for row in rows if row.positions == 1]
        longer = [row for row in rows if row.positions > 1]
        parts: list[tuple[Packed, FixedPass | None]] = []
        loose: list[Row] = []
        for group in (single, longer):
            self._divide(group, parts, loose)
        return [*parts, (pack(loose), None)] if loose else parts

    def _divide(self, rows: list[Row], parts: list[tuple[Packed, FixedPass | None]], loose: list[Row]) -> None:
        if not rows:
            return
        packed = pack(rows)
        if (fixed := self._find(packed)) is not None:
            parts.append((packed, fixed))
        elif len(rows) == 1:
            loose += rows
        else:
            half = len(rows) // 2
            self._divide(rows[:half], parts, loose)
            self._divide(rows[half:], parts, loose)
