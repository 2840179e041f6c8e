"""The pool of KV pages: no page is ever in two caches, none is lost, and running steps keep theirs."""

import gc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from qwen_asr.engine.decoder.kv_pool import PAGE, KVCache, KVPool, PoolFull, pool_positions
from qwen_asr.engine.streaming import Utterance
from tests.support.checkpoints import demo_recognizer, spoken

CONFIG = SimpleNamespace(num_hidden_layers=1, num_key_value_heads=1, head_dim=2)


def new_pool(pages: int) -> KVPool:
    return KVPool(CONFIG, torch.device("cpu"), torch.float32, pages * PAGE)


def fill(cache: KVCache, positions: int) -> None:
    """Let the cache hold so many more positions, as a pass does."""
    cache.reserve(positions)
    cache.length += positions


def test_pages_follow_each_other_while_one_cache_grows() -> None:
    pool = new_pool(8)
    cache = pool.new_cache()
    cache.begin()
    for _ in range(5):
        fill(cache, PAGE)
        assert cache.contiguous
    assert cache.pages == [0, 1, 2, 3, 4]


def test_the_end_of_a_step_returns_the_pages_behind_the_kept_positions() -> None:
    pool = new_pool(8)
    cache = pool.new_cache()
    cache.begin()
    fill(cache, 3 * PAGE)
    cache.crop(PAGE + 1)
    assert pool.positions_used == 3 * PAGE  # they may be needed again in the step
    cache.end()
    assert pool.positions_used == 2 * PAGE


def test_a_full_pool_takes_the_pages_of_the_cache_that_is_idle_longest() -> None:
    pool = new_pool(4)
    first, second, third = (pool.new_cache() for _ in range(3))
    for cache in (first, second):
        cache.begin()
        fill(cache, PAGE)
        cache.end()
    third.begin()
    fill(third, 3 * PAGE)
    assert (first.length, second.length, pool.evictions) == (0, PAGE, 1)


def test_a_running_step_keeps_its_pages_and_the_other_is_told() -> None:
    pool = new_pool(2)
    running, other = pool.new_cache(), pool.new_cache()
    running.begin()
    fill(running, 2 * PAGE)
    running.close()
    other.begin()
    with pytest.raises(PoolFull, match="All 128 positions"):
        other.reserve(1)
    running.end()
    other.reserve(2 * PAGE)


def test_a_prompt_is_shared_and_outlives_its_first_utterance() -> None:
    pool = new_pool(8)
    tokens = list(range(2 * PAGE + 10))
    first, second, other = (pool.new_cache() for _ in range(3))
    first.begin()
    fill(first, 3 * PAGE)
    pool.share_prefix(first, tokens)
    first.end()
    pool.attach_prefix(second, tokens)
    pool.attach_prefix(other, [7, *tokens])
    assert (second.pages, second.length) == (first.pages[:2], 2 * PAGE)
    assert (other.pages, other.length) == ([], 0)
    first.close()
    second.close()
    assert pool.positions_used == 2 * PAGE  # for the next session with this prompt


def test_the_last_token_of_a_prompt_is_never_shared() -> None:
    """The page with the last token also holds what follows the prompt, so only pages before it can be shared."""
    pool = new_pool(8)
    for count, shared in ((1, 0), (PAGE, 0), (PAGE + 1, PAGE), (2 * PAGE, PAGE)):
        cache, later = pool.new_cache(), pool.new_cache()
        tokens = [count, *range(count - 1)]
        cache.begin()
        fill(cache, count)
        pool.share_prefix(cache, tokens)
        cache.end()
        pool.attach_prefix(later, tokens)
        assert later.length == shared
        cache.close()
        later.close()


def test_the_pool_fits_into_its_share_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    free = 1 << 20
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=free))
    positions = pool_positions(CONFIG, torch.device("cpu"), torch.float32)
    assert positions == free // 4 // 16  # keys and values of two float32 numbers
    assert pool_positions(CONFIG, torch.device("cpu"), torch.float32, 0.25) == positions // 4
    assert new_pool(3).bytes == (3 + 1) * PAGE * 16  # with the scratch page


@pytest.mark.slow
def test_a_dropped_utterance_returns_its_pages() -> None:
    recognizer = demo_recognizer()
    gc.collect()
    before = recognizer.decoder.pool.positions_used
    utterance = Utterance(recognizer, max_new_tokens=8)
    utterance.feed(spoken("Stop the music."))
    assert recognizer.decoder.pool.positions_used > before
    del utterance
    gc.collect()
    assert recognizer.decoder.pool.positions_used == before


class PoolMachine(RuleBasedStateMachine):
    """Any order of calls, on a pool that is too small."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = new_pool(6)
        self.caches: list[KVCache] = []

    @rule()
    def open(self) -> None:
        self.caches.append(self.pool.new_cache())

    @precondition(lambda self: self.caches)
    @rule(index=st.integers(0, 9), count=st.integers(1, 3 * PAGE))
    def grow(self, index: int, count: int) -> None:
        cache = self.caches[index % len(self.caches)]
        if not cache.busy:
            cache.begin()
        length = cache.length
        try:
            fill(cache, count)
        except PoolFull:
            assert cache.length == length

    @precondition(lambda self: self.caches)
    @rule(index=st.integers(0, 9), kept=st.integers(0, 3 * PAGE))
    def end(self, index: int, kept: int) -> None:
        cache = self.caches[index % len(self.caches)]
        if cache.busy:
            cache.crop(kept)
            cache.end()

    @precondition(lambda self: self.caches)
    @rule(index=st.integers(0, 9))
    def close(self, index: int) -> None:
        cache = self.caches.pop(index % len(self.caches))
        cache.close()
        if cache.busy:
            cache.end()

    @precondition(lambda self: self.caches)
    @rule(index=st.integers(0, 9), prompt=st.integers(0, 1))
    def share(self, index: int, prompt: int) -> None:
        cache = self.caches[index % len(self.caches)]
        tokens = [prompt] * (PAGE + 1)
        if not cache.pages:
            self.pool.attach_prefix(cache, tokens)
            if cache.pages and not cache.busy:
                cache.begin()
        elif cache.length > PAGE:
            self.pool.share_prefix(cache, tokens)

    @invariant()
    def every_page_is_free_or_known(self) -> None:
        held = [page for cache in self.caches for page in cache.pages]
        shared = [page for pages in self.pool._prefixes.values() for page in pages]
        references = np.bincount([*held, *shared], minlength=self.pool.page_count)
        assert (references == self.pool._references).all()
        assert self.pool.positions_used == int((references > 0).sum()) * PAGE
        assert all(len(cache.pages) * PAGE >= cache.length for cache in self.caches)


PoolMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
test_pages_are_never_lost_or_given_twice = pytest.mark.slow(PoolMachine.TestCase)
