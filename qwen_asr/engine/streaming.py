"""Streaming recognition of one utterance: each hypothesis is that of greedy `generate` on the audio so far.

A step encodes the open window (at most 8 s of audio) and any completed window that a raised log-mel floor changed,
prefills the positions that are new to the decoder, and verifies the last hypothesis as a draft in the same pass. The
prefix that agrees is kept, and decoding continues greedily from the first disagreement. Nothing is forced on the model.

A step is a generator. It yields the passes that it needs (`Encode`, `Predict`) and is sent their results, so one
utterance can run alone (`Utterance.feed`) or many together (`scheduler`).
"""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qwen_asr.engine.decoder import KVCache, Row
from qwen_asr.engine.drafts import Draft
from qwen_asr.engine.features import LogMel, Spectrum
from qwen_asr.engine.recognizer import Encode, Pass, Predict, Recognizer

StepGenerator = Generator[Pass, Any, "Hypothesis"]

INITIAL_CAPACITY = 16_000
MAX_WINDOWS = 4
"""How many windows one pass of a step encodes: those of the longest utterance by default. A longer utterance takes
several passes, and the other sessions' passes run between them."""
MAX_POSITIONS = 512
"""How many positions one pass of a step prefills: such an utterance, and a prompt of ordinary length."""


@dataclass(frozen=True)
class Hypothesis:
    """The model's answer for the first `samples` samples of an utterance.

    tokens: generated ids without the end token. raw: their text. language, text: what the processor's own
    `parse_output` makes of `raw`. truncated: whether it ended at the token limit instead of an end token.
    """

    tokens: tuple[int, ...] = ()
    raw: str = ""
    language: str | None = None
    text: str = ""
    samples: int = 0
    truncated: bool = False


@dataclass(frozen=True)
class CachedWindow:
    """Embeddings of a completed window, the floor they were computed with, and the window's lowest raw value."""

    embeddings: Tensor
    floor: float
    lowest: float

    def valid_for(self, floor: float) -> bool:
        """Whether encoding it again with `floor` would give the same."""
        return floor == self.floor or self.lowest >= max(floor, self.floor)


@dataclass
class Work:
    """Counts the work of an utterance: steps, drafted tokens, and how many of these were accepted."""

    drafted: int = 0
    accepted: int = 0
    steps: int = field(default=0)


class Utterance:
    """Recognizes one utterance while its samples arrive.

    context: goes into the system prompt. language: a name in `languages.LANGUAGES`, which is written into the
    prompt as the processor does it, or None to detect it. max_new_tokens: the longest answer. Not safe for use by two
    threads at once. Raises `BadInput` for control tokens in `context`.
    """

    def __init__(
        self, recognizer: Recognizer, *, context: str = "", language: str | None = None, max_new_tokens: int = 512
    ) -> None:
        self._recognizer = recognizer
        self._language = language
        self._head, self._tail = recognizer.prompt(context, language)
        self.max_new_tokens = max_new_tokens
        self.hypothesis = Hypothesis()
        self.work = Work()
        self._buffer = np.zeros(INITIAL_CAPACITY, dtype=np.float32)
        self.length = 0
        self._covered = 0  # samples that the hypothesis covers; -1 when they were replaced
        self._features = LogMel(recognizer.extractor)
        self._windows: list[CachedWindow] = []
        self._cache: KVCache | None = None
        self._cached_windows = 0

    @property
    def samples(self) -> NDArray[np.float32]:
        """All samples appended so far, (length,)."""
        return self._buffer[: self.length]

    def append(self, samples: NDArray[np.float32]) -> None:
        """Append validated float32 mono samples at 16 kHz, (n,). The model does not run."""
        end = self.length + len(samples)
        if end > len(self._buffer):
            grown = np.zeros(max(end, 2 * len(self._buffer)), dtype=np.float32)
            grown[: self.length] = self.samples
            self._buffer = grown
        self._buffer[self.length : end] = samples
        self.length = end

    def truncate(self, length: int) -> None:
        """Drop the samples from `length` on, and everything computed from them."""
        if length >= self.length:
            return
        self.length = length
        self._covered = -1  # the hypothesis does not cover the samples that are appended next
        self._features.truncate(length)
        self._keep_windows(self._features.final_frames // self._recognizer.encoder.window_frames)

    def feed(self, samples: NDArray[np.float32]) -> Hypothesis:
        """Append `samples` and run a step."""
        self.append(samples)
        return run_steps(self._recognizer, [self.step()])[0]

    def finish(self) -> Hypothesis:
        """The hypothesis for all samples: the offline transcription of the utterance."""
        if self._covered == self.length:
            return self.hypothesis
        return run_steps(self._recognizer, [self.step()])[0]

    def step(self) -> StepGenerator:
        """Update the hypothesis to all samples that were appended before the first pass runs."""
        length = self.length
        if not length:
            return self.hypothesis
        spectrum = self._features.spectrum(self._buffer[:length])
        embeddings = yield from self._encode(spectrum)
        tokens, ended = yield from self._decode(embeddings)
        self.work.steps += 1
        self._covered = length
        self.hypothesis = self._parse(tokens, length, not ended)
        return self.hypothesis

    def _encode(self, spectrum: Spectrum) -> Generator[Pass, Any, Tensor]:
        """Embeddings of the audio that follows the cached KV, (n, width). Completed windows are cached."""
        size = self._recognizer.encoder.window_frames
        held = 0
        while held < len(self._windows) and self._windows[held].valid_for(spectrum.floor):
            held += 1
        self._keep_windows(held)
        total = spectrum.raw.shape[1]
        bounds = [(start, min(start + size, total)) for start in range(held * size, total, size)]
        fresh: list[Tensor] = []
        for first in range(0, len(bounds), MAX_WINDOWS):
            part = bounds[first : first + MAX_WINDOWS]
            fresh += yield Encode([spectrum.window(start, end) for start, end in part])
        for (start, end), embeddings in zip(bounds, fresh, strict=True):
            if end == start + size and end <= spectrum.final_frames:
                self._windows.append(CachedWindow(embeddings, spectrum.floor, spectrum.lowest(start, end)))
        unseen = [window.embeddings for window in self._windows[self._cached_windows : held]]
        return torch.cat([*unseen, *fresh])

    def _keep_windows(self, count: int) -> None:
        """Drop the completed windows from `count` on, and the KV that follows them."""
        del self._windows[count:]
        self._cached_windows = min(self._cached_windows, count)

    def _decode(self, embeddings: Tensor) -> Generator[Pass, Any, tuple[list[int], bool]]:
        """The answer's tokens, and whether it ended with an end token (else at `max_new_tokens`)."""
        decoder = self._recognizer.decoder
        cache = self._prefix_cache()
        new = embeddings
        if not cache.length:
            new = torch.cat([decoder.embed(self._head), new])
        pending = torch.cat([new, decoder.embed(self._tail)])
        while len(pending) > MAX_POSITIONS:
            yield Predict(Row(cache, pending[:MAX_POSITIONS], 0))
            pending = pending[MAX_POSITIONS:]
        draft = Draft(self.hypothesis.tokens[: self.max_new_tokens - 1])
        proposal = draft.initial()
        tokens: list[int] = []
        while True:
            embeds = torch.cat([pending, decoder.embed(proposal)]) if proposal else pending
            predicted: list[int] = yield Predict(Row(cache, embeds, len(proposal) + 1))
            accepted = count_accepted(proposal, predicted)
            self.work.drafted += len(proposal)
            self.work.accepted += accepted
            cache.crop(cache.length - (len(proposal) - accepted))
            tokens += proposal[:accepted]
            token = predicted[accepted]
            if token in self._recognizer.end_tokens:
                break
            tokens.append(token)
            if len(tokens) >= self.max_new_tokens:
                break
            pending = decoder.embed([token])
            proposal = draft.continue_after(tokens)[: self.max_new_tokens - len(tokens) - 1]
        self._crop_to_prefix(cache)
        return tokens, token in self._recognizer.end_tokens

    def _prefix_cache(self) -> KVCache:
        """The cache with the prompt's head and the windows that are still valid; empty before the first step."""
        if self._cache is None:
            self._cache = self._recognizer.decoder.new_cache()
        self._crop(self._cache, self._cached_windows)
        return self._cache

    def _crop_to_prefix(self, cache: KVCache) -> None:
        """Keep the KV of the prompt's head and of the completed windows: it stays valid for the whole utterance."""
        self._crop(cache, len(self._windows))
        self._cached_windows = len(self._windows)

    def _crop(self, cache: KVCache, windows: int) -> None:
        cache.crop(len(self._head) + sum(len(window.embeddings) for window in self._windows[:windows]))

    def _parse(self, tokens: list[int], samples: int, truncated: bool) -> Hypothesis:
        raw, language, text = self._recognizer.parse(tokens)
        return Hypothesis(tuple(tokens), raw, self._language or language, text, samples, truncated)


def count_accepted(proposal: list[int], predicted: list[int]) -> int:
    """How many leading tokens of `proposal` are the model's own choice."""
    for index, token in enumerate(proposal):
        if predicted[index] != token:
            return index
    return len(proposal)


def run_steps(recognizer: Recognizer, steps: list[StepGenerator]) -> list[Hypothesis]:
    """Run steps of different utterances to their end, with their passes together. Returns hypotheses in this order."""
    done: dict[int, Hypothesis] = {}
    results: dict[int, Any] = dict.fromkeys(range(len(steps)))
    while results:
        passes: dict[int, Pass] = {}
        for index, result in results.items():
            try:
                passes[index] = steps[index].send(result)
            except StopIteration as stop:
                done[index] = stop.value
        results = dict(zip(passes, recognizer.run(list(passes.values())), strict=True))
    return [done[index] for index in range(len(steps))]
