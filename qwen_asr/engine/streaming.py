"""One utterance, exact and flat: after every step the hypothesis is that of greedy `generate` on the audio so far.

A step encodes the open window (at most 8 s of audio) and any completed window that the moved log-mel floor changed,
prefills what the decoder has not seen yet, and verifies the last hypothesis as a draft in the same pass: the agreeing
prefix is kept, and decoding goes on greedily from the first disagreement. Nothing is forced on the model.

A step is a generator that yields the passes it needs (`Encode`, `Predict`) and is sent their results, so that one
utterance can be run alone (`Utterance.feed`) or many together (`scheduler`).
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

Step = Generator[Pass, Any, "Hypothesis"]

FIRST_CAPACITY = 16_000
MOST_WINDOWS = 4
"""Windows that one pass of a step encodes: the default's longest utterance. What has more takes several passes, and the
sessions beside it their turns between them."""
MOST_POSITIONS = 512
"""Likewise of what one pass of a step prefills: such an utterance, and a prompt of ordinary length."""


@dataclass(frozen=True)
class Hypothesis:
    """What the model hears in the first `samples` samples of an utterance.

    tokens: generated ids without the end token. raw: their text. language, text: `raw` through the processor's own
    `parse_output`. truncated: it ended at the token limit, not at an end token.
    """

    tokens: tuple[int, ...] = ()
    raw: str = ""
    language: str | None = None
    text: str = ""
    samples: int = 0
    truncated: bool = False


@dataclass(frozen=True)
class CachedWindow:
    """Embeddings of a completed window, with the floor they were made under and the window's smallest raw value."""

    embeddings: Tensor
    floor: float
    lowest: float

    def holds(self, floor: float) -> bool:
        """Whether encoding it again under `floor` would give the same."""
        return floor == self.floor or self.lowest >= max(floor, self.floor)


@dataclass
class Work:
    """What the steps of an utterance cost: drafted tokens and how many of them were accepted."""

    drafted: int = 0
    accepted: int = 0
    steps: int = field(default=0)


class Utterance:
    """Samples of one utterance in, hypotheses out.

    `context` goes into the system prompt, `language` (a name of `languages.LANGUAGES`, or None to detect it) is forced
    as the processor does it, `max_new_tokens` bounds the answer. Not safe for use from two threads at once.
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
        self._buffer = np.zeros(FIRST_CAPACITY, dtype=np.float32)
        self.length = 0
        self._heard = 0  # how much of what is there now the hypothesis covers
        self._features = LogMel(recognizer.extractor)
        self._windows: list[CachedWindow] = []
        self._cache: KVCache | None = None
        self._cached_windows = 0

    @property
    def samples(self) -> NDArray[np.float32]:
        """Everything appended so far, (length,)."""
        return self._buffer[: self.length]

    def append(self, samples: NDArray[np.float32]) -> None:
        """Add float32 mono samples at 16 kHz, (n,). No model runs."""
        end = self.length + len(samples)
        if end > len(self._buffer):
            grown = np.zeros(max(end, 2 * len(self._buffer)), dtype=np.float32)
            grown[: self.length] = self.samples
            self._buffer = grown
        self._buffer[self.length : end] = samples
        self.length = end

    def truncate(self, length: int) -> None:
        """Forget the samples from `length` on, and what was made of them."""
        if length >= self.length:
            return
        self.length = length
        self._heard = -1  # whatever is appended here next, the hypothesis does not cover it
        self._features.truncate(length)
        self._keep_windows(self._features.final_frames // self._recognizer.encoder.window_frames)

    def feed(self, samples: NDArray[np.float32]) -> Hypothesis:
        """Append `samples` and run a step on them at once."""
        self.append(samples)
        return run_steps(self._recognizer, [self.step()])[0]

    def finish(self) -> Hypothesis:
        """The hypothesis for everything appended: the offline transcription of the utterance."""
        if self._heard == self.length:
            return self.hypothesis
        return run_steps(self._recognizer, [self.step()])[0]

    def step(self) -> Step:
        """Bring the hypothesis up to date with every sample appended before this call's first pass."""
        length = self.length
        if not length:
            return self.hypothesis
        spectrum = self._features.spectrum(self._buffer[:length])
        embeddings = yield from self._encode(spectrum)
        tokens, ended = yield from self._decode(embeddings)
        self.work.steps += 1
        self._heard = length
        self.hypothesis = self._parse(tokens, length, not ended)
        return self.hypothesis

    def _encode(self, spectrum: Spectrum) -> Generator[Pass, Any, Tensor]:
        """Embeddings of the audio behind the cached windows' KV, (n, width); completed windows are put by."""
        size = self._recognizer.encoder.window_frames
        held = 0
        while held < len(self._windows) and self._windows[held].holds(spectrum.floor):
            held += 1
        self._keep_windows(held)
        total = spectrum.raw.shape[1]
        bounds = [(start, min(start + size, total)) for start in range(held * size, total, size)]
        fresh: list[Tensor] = []
        for first in range(0, len(bounds), MOST_WINDOWS):
            part = bounds[first : first + MOST_WINDOWS]
            fresh += yield Encode([spectrum.window(start, end) for start, end in part])
        for (start, end), embeddings in zip(bounds, fresh, strict=True):
            if end == start + size and end <= spectrum.final_frames:
                self._windows.append(CachedWindow(embeddings, spectrum.floor, spectrum.lowest(start, end)))
        unseen = [window.embeddings for window in self._windows[self._cached_windows : held]]
        return torch.cat([*unseen, *fresh])

    def _keep_windows(self, count: int) -> None:
        """Forget the completed windows from `count` on, and the KV behind them."""
        del self._windows[count:]
        self._cached_windows = min(self._cached_windows, count)

    def _decode(self, embeddings: Tensor) -> Generator[Pass, Any, tuple[list[int], bool]]:
        """The answer's tokens, and whether it ended by itself (else at `max_new_tokens`)."""
        decoder = self._recognizer.decoder
        cache = self._prefix_cache()
        behind = embeddings
        if not cache.length:
            behind = torch.cat([decoder.embed(self._head), behind])
        pending = torch.cat([behind, decoder.embed(self._tail)])
        while len(pending) > MOST_POSITIONS:
            yield Predict(Row(cache, pending[:MOST_POSITIONS], 0))
            pending = pending[MOST_POSITIONS:]
        draft = Draft(self.hypothesis.tokens[: self.max_new_tokens - 1])
        proposal = draft.first()
        tokens: list[int] = []
        while True:
            embeds = torch.cat([pending, decoder.embed(proposal)]) if proposal else pending
            predicted: list[int] = yield Predict(Row(cache, embeds, len(proposal) + 1))
            accepted = agreement(proposal, predicted)
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
            proposal = draft.following(tokens)[: self.max_new_tokens - len(tokens) - 1]
        self._crop_to_prefix(cache)
        return tokens, token in self._recognizer.end_tokens

    def _prefix_cache(self) -> KVCache:
        """The cache, holding the prompt's head and the windows that are still good (nothing before the first step)."""
        if self._cache is None:
            self._cache = self._recognizer.decoder.new_cache()
        self._crop(self._cache, self._cached_windows)
        return self._cache

    def _crop_to_prefix(self, cache: KVCache) -> None:
        """Keep the KV of the prompt's head and the completed windows: it stays true for the whole utterance."""
        self._crop(cache, len(self._windows))
        self._cached_windows = len(self._windows)

    def _crop(self, cache: KVCache, windows: int) -> None:
        cache.crop(len(self._head) + sum(len(window.embeddings) for window in self._windows[:windows]))

    def _parse(self, tokens: list[int], samples: int, truncated: bool) -> Hypothesis:
        raw, language, text = self._recognizer.parse(tokens)
        return Hypothesis(tuple(tokens), raw, self._language or language, text, samples, truncated)


def agreement(proposal: list[int], predicted: list[int]) -> int:
    """How many leading tokens of `proposal` the model would have chosen itself."""
    for index, token in enumerate(proposal):
        if predicted[index] != token:
            return index
    return len(proposal)


def run_steps(recognizer: Recognizer, steps: list[Step]) -> list[Hypothesis]:
    """Run steps of different utterances to their ends, their passes together. Hypotheses in the order of `steps`."""
    done: dict[int, Hypothesis] = {}
    results: dict[int, Any] = dict.fromkeys(range(len(steps)))
    while results:
        wanted: dict[int, Pass] = {}
        for index, result in results.items():
            try:
                wanted[index] = steps[index].send(result)
            except StopIteration as stop:
                done[index] = stop.value
        results = dict(zip(wanted, recognizer.run(list(wanted.values())), strict=True))
    return [done[index] for index in range(len(steps))]
