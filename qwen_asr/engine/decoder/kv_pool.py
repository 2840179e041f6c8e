"""The KV cache of all utterances: one pool of pages on the device, and for each utterance a list of its pages.

Pages as in vLLM's PagedAttention (Kwon et al. 2023): an utterance takes a page when it needs one and returns all of
them when it ends. The pages of a long prompt are shared by all utterances that begin with the same tokens. When no page
is free, the pool takes those of the utterance that has waited longest between two steps. That utterance computes its
keys and values again in its next step, from tokens and embeddings that it keeps.
"""

import heapq
import threading
from collections import OrderedDict
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

PAGE = 64
"""Positions in a page. The prompt of an utterance, 8 s of audio and its text fill three."""
SHARE_OF_FREE_MEMORY = {"cuda": 0.7, "mps": 0.3, "cpu": 0.25}
"""How much of the free memory the pool may fill. On a GPU the rest is for activations and captured graphs."""
MAX_POSITIONS = 1 << 19
"""The largest pool, in positions. It is enough for 1,000 utterances at once."""
KEPT_PREFIXES = 64
"""How many shared prompts are kept for later utterances."""


class PoolFull(MemoryError):
    """Every page is in use by a step that is running."""


class KVCache:
    """The keys and values of one utterance: `length` positions in `pages` of the pool.

    A step marks it `busy`. While it is, its pages stay: neither `close` nor another utterance takes them.
    """

    def __init__(self, pool: "KVPool") -> None:
        self._pool = pool
        self.pages: list[int] = []
        self.length = 0
        self.busy = False
        self.closed = False

    @property
    def contiguous(self) -> bool:
        """Whether the pages follow each other in the pool, so that they can be read without a copy."""
        return self.pages == list(range(self.pages[0], self.pages[0] + len(self.pages)))

    def begin(self) -> None:
        """Mark the begin of a step."""
        self._pool.begin(self)

    def end(self) -> None:
        """Mark the end of a step, and return the pages behind `length`, or all after `close`."""
        self._pool.end(self)

    def reserve(self, extra: int) -> None:
        """Make room for `extra` more positions. Raises `PoolFull`."""
        self._pool.reserve(self, extra)

    def crop(self, length: int) -> None:
        """Drop the positions from `length` on. Their pages stay reserved until the step ends."""
        self.length = min(self.length, length)

    def close(self) -> None:
        """Return all pages, now or when the running step ends."""
        self._pool.close(self)


class KVPool:
    """Storage for `positions` positions, in pages. Thread-safe, except for the storage itself.

    storage: for each layer (pages, PAGE, 2, key-value heads, head width), where 2 are keys and values. The last page,
    `scratch_page`, belongs to no cache: passes of a fixed shape write there what fills them up.
    """

    def __init__(self, config: Any, device: torch.device, dtype: torch.dtype, positions: int) -> None:
        """`config` is the text model's. Raises torch's out-of-memory error if the device cannot hold the storage."""
        self.page_count = max(positions // PAGE, 1)
        shape = (self.page_count + 1, PAGE, 2, config.num_key_value_heads, config.head_dim)
        self.storage = [_zeros(shape, device, dtype) for _ in range(config.num_hidden_layers)]
        self.dtype = dtype
        self._lock = threading.RLock()
        self._references = np.zeros(self.page_count, dtype=np.int64)  # by caches and shared prompts; 0 for a free page
        self._free = self.page_count
        self._heap = list(range(self.page_count))  # the lowest free page first, so that the others stay untouched
        self._in_heap = np.ones(self.page_count, dtype=bool)
        self._idle: OrderedDict[KVCache, None] = OrderedDict()  # with pages and between steps, the oldest first
        self._prefixes: OrderedDict[tuple[int, ...], list[int]] = OrderedDict()  # shared prompts, the oldest first
        self.evictions = 0

    @property
    def scratch_page(self) -> int:
        """The page that is never read."""
        return self.page_count

    @property
    def positions(self) -> int:
        """The number of positions that fit."""
        return self.page_count * PAGE

    @property
    def positions_used(self) -> int:
        """The number of positions in pages that are not free."""
        return self.positions - self._free * PAGE

    @property
    def bytes(self) -> int:
        """The size of the storage in bytes."""
        return sum(layer.numel() * layer.element_size() for layer in self.storage)

    def new_cache(self) -> KVCache:
        """An empty cache. Close it, so that its pages return to the pool."""
        return KVCache(self)

    def attach_prefix(self, cache: KVCache, tokens: list[int]) -> None:
        """Let an empty cache begin with the pages of a shared prompt, if `tokens` begin with one."""
        whole = tuple(tokens[: (len(tokens) - 1) // PAGE * PAGE])
        with self._lock:
            pages = self._prefixes.get(whole)
            if pages is None or cache.pages:
                return
            self._prefixes.move_to_end(whole)
            self._references[pages] += 1
            cache.pages = list(pages)
            cache.length = len(whole)

    def share_prefix(self, cache: KVCache, tokens: list[int]) -> None:
        """Share the full pages of `cache` that hold a prefix of `tokens`, its prompt, with later utterances."""
        count = (len(tokens) - 1) // PAGE
        whole = tuple(tokens[: count * PAGE])
        with self._lock:
            if not count or whole in self._prefixes:
                return
            while len(self._prefixes) >= KEPT_PREFIXES:
                self._drop_prefix()
            self._prefixes[whole] = cache.pages[:count]
            self._references[cache.pages[:count]] += 1

    def begin(self, cache: KVCache) -> None:
        """See `KVCache.begin`."""
        with self._lock:
            cache.busy = True
            self._idle.pop(cache, None)

    def end(self, cache: KVCache) -> None:
        """See `KVCache.end`."""
        with self._lock:
            cache.busy = False
            if cache.closed:
                self._empty(cache)
                return
            needed = -(-cache.length // PAGE)
            self._return(cache.pages[needed:])
            del cache.pages[needed:]
            if cache.pages:
                self._idle[cache] = None

    def close(self, cache: KVCache) -> None:
        """See `KVCache.close`."""
        with self._lock:
            cache.closed = True
            if not cache.busy:
                self._empty(cache)

    def reserve(self, cache: KVCache, extra: int) -> None:
        """See `KVCache.reserve`."""
        with self._lock:
            wanted = -(-(cache.length + extra) // PAGE) - len(cache.pages)
            while wanted > self._free:
                self._evict()
            for _ in range(wanted):
                cache.pages.append(self._take(cache.pages[-1] + 1 if cache.pages else self.page_count))

    def _take(self, preferred: int) -> int:
        """Take the preferred page if it is free, so that the pages of a cache follow each other, else the lowest."""
        page = preferred
        while page >= self.page_count or self._references[page]:
            page = heapq.heappop(self._heap)
            self._in_heap[page] = False
        self._references[page] = 1
        self._free -= 1
        return page

    def _return(self, pages: list[int]) -> None:
        for page in pages:
            self._references[page] -= 1
            if not self._references[page]:
                self._free += 1
                if not self._in_heap[page]:
                    self._in_heap[page] = True
                    heapq.heappush(self._heap, page)

    def _empty(self, cache: KVCache) -> None:
        self._idle.pop(cache, None)
        self._return(cache.pages)
        cache.pages = []
        cache.length = 0

    def _evict(self) -> None:
        """Take the pages of the cache that has been idle longest, or else of a shared prompt. Raises `PoolFull`."""
        if self._idle:
            self._empty(next(iter(self._idle)))
            self.evictions += 1
        elif self._prefixes:
            self._drop_prefix()
        else:
            raise PoolFull(f"All {self.positions} positions of the KV cache are in use.")

    def _drop_prefix(self) -> None:
        _, pages = self._prefixes.popitem(last=False)
        self._return(pages)


def _zeros(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Zeros, because what is masked is still multiplied, and must not be NaN.

    On the CPU they take memory only once they are written: numpy asks the system for zeroed memory, torch fills it.
    """
    if device.type == "cpu":
        return torch.from_numpy(np.zeros(shape, dtype=np.float32)).to(dtype)
    return torch.zeros(shape, device=device, dtype=dtype)


def pool_positions(config: Any, device: torch.device, dtype: torch.dtype, share: float = 1.0) -> int:
    """How many positions fit into the pool's share of the memory that is free now (`SHARE_OF_FREE_MEMORY`).

    share: how much of that this pool may have, where others are to follow.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    position = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * dtype.itemsize
    return int(min(free * SHARE_OF_FREE_MEMORY[device.type] * share // position, MAX_POSITIONS))
