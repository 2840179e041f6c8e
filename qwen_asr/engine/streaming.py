"""Streaming recognition of one utterance: each hypothesis is that of greedy `generate` on the audio so far.

A step encodes the open window (at most 8 s of audio) and any completed window that a raised log-mel floor changed,
prefills the positions that are new to the decoder, and verifies the last hypothesis as a draft in the same pass. The
prefix that agrees is kept, and decoding continues greedily from the first disagreement. Nothing is forced on the model.

A step is a generator. It yields the passes that it needs (`Encode`, `Predict`) and is sent their results, so one
utterance can run alone (`Utterance.feed`) or many together (`scheduler`).
"""

import weakref
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qwen_asr.engine.decoder.drafts import LANGUAGE_TOKENS, Beginning, Draft
from qwen_asr.engine.decoder.kv_pool import PoolFull
from qwen_asr.engine.decoder.packing import AUDIO, Row
from qwen_asr.engine.encoder import Encoded, Window
from qwen_asr.engine.features import LogMel, Spectrum
from qwen_asr.engine.hypothesis import Hypothesis
from qwen_asr.engine.recognizer import Encode, Pass, Predict, Recognizer, Transform
from qwen_asr.engine.sample_buffer import SampleBuffer

StepGenerator = Generator[Pass, Any, "Decoded"]

MAX_WINDOWS = 4
"""How many windows one pass of a step encodes: those of the longest utterance by default. A longer utterance takes
several passes, and the other sessions' passes run between them. In the background a pass has one window, for the same
reason: live speech may have to wait for it to end."""


@dataclass(frozen=True)
class Decoded:
    """The end of a step: the tokens of an utterance's first `samples` samples. The rest is as in `Hypothesis`.

    `parse` makes text of them, which needs no device, so it can run on another thread.
    """

    utterance: "Utterance"
    tokens: list[int]
    log_probabilities: list[float]
    samples: int
    truncated: bool
    prompt_tokens: int = 0

    def parse(self) -> Hypothesis:
        """The hypothesis, which becomes that of the utterance."""
        return self.utterance.conclude(self)


@dataclass(frozen=True)
class CachedFrames:
    """What was computed from log-mel frames that are final, the floor at that time, and their lowest raw value."""

    computed: Tensor
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


class Utterance(SampleBuffer):
    """Recognizes one utterance while its samples arrive.

    context: goes into the system prompt. language: a name in `languages.LANGUAGES`, which is written into the prompt as
    the processor does it, or None to detect it. max_new_tokens: the longest answer. scored: whether hypotheses have the
    probabilities of their tokens, which needs no further pass. beginning: how the session's last answer began, which
    `close` updates. background: whether its steps give way to those of other utterances (`scheduler`). Not safe for use
    by two threads at once. Close it to return its KV cache. Raises `BadInput` for a context that is too long or has
    control tokens.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        context: str = "",
        language: str | None = None,
        max_new_tokens: int = 512,
        scored: bool = False,
        beginning: Beginning | None = None,
        background: bool = False,
    ) -> None:
        self._scored = scored
        self.background = background
        self._most_windows = 1 if background else MAX_WINDOWS
        self._beginning = beginning or Beginning()
        self._recognizer = recognizer
        self._language = language
        self._head, self._tail = recognizer.prompt(context, language)
        self.max_new_tokens = max_new_tokens
        self.hypothesis = Hypothesis()
        self.work = Work()
        super().__init__()
        self._covered = 0  # samples that the hypothesis covers; -1 when they were replaced
        self._tokens: list[int] = []  # of the last step: the draft of the next
        self._log_mel = LogMel(recognizer.frontend)
        self._windows: list[CachedFrames] = []
        self._stem: CachedFrames | None = None  # the convolutions of the open window's final chunks
        self._cache = recognizer.decoder.new_cache()
        self._cached_windows = 0
        weakref.finalize(self, self._cache.close).atexit = False  # for callers that never close

    def truncate(self, length: int) -> None:
        """Drop the samples from `length` on, and everything computed from them."""
        if length >= self.length:
            return
        self.length = length
        self._covered = -1  # the hypothesis does not cover the samples that are appended next
        self._log_mel.truncate(length)
        self._stem = None
        self._keep_windows(self._log_mel.final_frames // self._recognizer.encoder.window_frames)

    def feed(self, samples: NDArray[np.float32]) -> Hypothesis:
        """Append `samples` and run a step."""
        self.append(samples)
        return run_steps(self._recognizer, [self])[0]

    def finish(self) -> Hypothesis:
        """The hypothesis for all samples: the offline transcription of the utterance."""
        if self._covered == self.length:
            return self.hypothesis
        return run_steps(self._recognizer, [self])[0]

    def step(self) -> StepGenerator:
        """Update the hypothesis to all samples that were appended before the first pass runs."""
        length = self.length
        if not length:
            return Decoded(self, [], [], 0, False)
        self._begin()
        try:
            samples = self._buffer[:length]
            frames = yield Transform(self._log_mel.missing(samples))
            embeddings = yield from self._encode(self._log_mel.spectrum(samples, frames))
            prompt = self._prefix_length(self._cached_windows) + sum(map(len, embeddings)) + len(self._tail)
            tokens, scores, truncated = yield from self._decode(embeddings)
        finally:
            self._cache.end()
        self.work.steps += 1
        self._covered = length
        self._tokens = tokens
        return Decoded(self, tokens, scores, length, truncated, prompt)

    def _begin(self) -> None:
        """Take the cache for a step. It is empty in the first step, and when the pool gave its pages to another."""
        self._cache.begin()
        if not self._cache.length:
            self._cached_windows = 0
            self._recognizer.decoder.pool.attach_prefix(self._cache, self._head)

    def conclude(self, decoded: Decoded) -> Hypothesis:
        """See `Decoded.parse`."""
        if decoded.samples:
            raw, language, text = self._recognizer.parse(decoded.tokens)
            self.hypothesis = Hypothesis(
                tuple(decoded.tokens),
                raw,
                self._language or language,
                text,
                decoded.samples,
                decoded.truncated,
                tuple(decoded.log_probabilities),
                self._recognizer.pieces(decoded.tokens) if self._scored else (),
                decoded.prompt_tokens,
            )
        return self.hypothesis

    def close(self) -> None:
        """Return the memory of the KV cache. No step may be started after it; one that is running may end."""
        self._cache.close()
        if self._tokens and self._language is None:
            self._beginning.tokens = self._tokens[:LANGUAGE_TOKENS]

    def _encode(self, spectrum: Spectrum) -> Generator[Pass, Any, list[Tensor]]:
        """Embeddings of the audio that follows the cached KV. Completed windows are cached."""
        size = self._recognizer.encoder.window_frames
        held = 0
        while held < len(self._windows) and self._windows[held].valid_for(spectrum.floor):
            held += 1
        self._keep_windows(held)
        if self._stem is not None and not self._stem.valid_for(spectrum.floor):
            self._stem = None
        total = len(spectrum.raw)
        bounds = [(start, min(start + size, total)) for start in range(held * size, total, size)]
        fresh: list[Tensor] = []
        for first in range(0, len(bounds), self._most_windows):
            part = bounds[first : first + self._most_windows]
            stem = self._stem.computed if self._stem is not None else None
            windows = [Window(spectrum.window(*bound), stem) for bound in part[:1]]
            windows += [Window(spectrum.window(*bound)) for bound in part[1:]]
            for bound, encoded in zip(part, (yield Encode(windows)), strict=True):
                fresh.append(encoded.embeddings)
                self._keep(spectrum, *bound, encoded)
        unseen = [window.computed for window in self._windows[self._cached_windows : held]]
        return [*unseen, *fresh]

    def _keep(self, spectrum: Spectrum, start: int, end: int, encoded: Encoded) -> None:
        """Keep what stays valid of a window: its embeddings if it is complete, else the stem of its final chunks."""
        size, chunk = self._recognizer.encoder.window_frames, self._recognizer.encoder.chunk_frames
        self._stem = None
        # What is kept is a copy, so that the rest of the pass's result can be freed.
        if end == start + size and end <= spectrum.final_frames:
            self._windows.append(CachedFrames(encoded.embeddings.clone(), spectrum.floor, spectrum.lowest(start, end)))
            return
        chunks = (min(end, spectrum.final_frames) - start) // chunk
        if chunks > 0:
            stem = encoded.stem[: chunks * self._recognizer.encoder.embeddings_of(chunk)].clone()
            self._stem = CachedFrames(stem, spectrum.floor, spectrum.lowest(start, start + chunks * chunk))

    def _keep_windows(self, count: int) -> None:
        """Drop the completed windows from `count` on, and the KV that follows them."""
        if count < len(self._windows):
            self._stem = None
        del self._windows[count:]
        self._cached_windows = min(self._cached_windows, count)

    def _prefix_length(self, windows: int) -> int:
        """How many positions the prompt's head and the first completed windows take."""
        return len(self._head) + sum(len(window.computed) for window in self._windows[:windows])

    def _prefill(self, embeddings: list[Tensor]) -> Generator[Pass, Any, tuple[list[int], list[Tensor]]]:
        """Bring what precedes the answer into the cache, but for the last part: its tokens and its audio embeddings.

        A long prompt takes several passes, and the other sessions' passes run between them.
        """
        cache, most = self._cache, self._recognizer.prefill_positions
        cache.crop(self._prefix_length(self._cached_windows))
        tokens = self._head[cache.length :] + [AUDIO] * sum(map(len, embeddings)) + self._tail
        if len(tokens) <= most:
            return tokens, embeddings
        audio = torch.cat(embeddings)
        while len(tokens) > most:
            part, tokens = tokens[:most], tokens[most:]
            count = part.count(AUDIO)
            cache.reserve(most)
            yield Predict(Row(cache, np.array(part, dtype=np.int64), (audio[:count],) if count else (), 0))
            audio = audio[count:]
        return tokens, [audio] if len(audio) else []

    def _decode(self, embeddings: list[Tensor]) -> Generator[Pass, Any, tuple[list[int], list[float], bool]]:
        """The answer's tokens, their log-probabilities, and whether it ended at `max_new_tokens`."""
        cache = self._cache
        prompt, audio = yield from self._prefill(embeddings)
        draft = Draft((self._tokens or self._beginning.tokens)[: self.max_new_tokens - 1])
        proposal = draft.initial()
        tokens: list[int] = []
        scores: list[float] = []
        while True:
            new = np.array([*prompt, *proposal], dtype=np.int64)
            cache.reserve(len(new))
            try:
                prediction = yield Predict(Row(cache, new, tuple(audio), len(proposal) + 1, self._scored))
            except GeneratorExit:  # the step starts again, and need not decode the same tokens one by one
                self._tokens = tokens + self._tokens[len(tokens) :]
                raise
            accepted = count_accepted(proposal, prediction.tokens)
            self.work.drafted += len(proposal)
            self.work.accepted += accepted
            cache.crop(cache.length - (len(proposal) - accepted))
            tokens += proposal[:accepted]
            scores += prediction.log_probabilities[:accepted]
            token = prediction.tokens[accepted]
            if token in self._recognizer.end_tokens:
                break
            tokens.append(token)
            scores += prediction.log_probabilities[accepted : accepted + 1]
            if len(tokens) >= self.max_new_tokens:
                break
            prompt, audio = [token], []
            proposal = draft.continue_after(tokens)[: self.max_new_tokens - len(tokens) - 1]
        # What stays valid for the whole utterance: the KV of the prompt's head and of the completed windows.
        cache.crop(self._prefix_length(len(self._windows)))
        self._recognizer.decoder.pool.share_prefix(cache, self._head)
        self._cached_windows = len(self._windows)
        return tokens, scores, token not in self._recognizer.end_tokens


def count_accepted(proposal: list[int], predicted: list[int]) -> int:
    """How many leading tokens of `proposal` are the model's own choice."""
    for index, token in enumerate(proposal):
        if predicted[index] != token:
            return index
    return len(proposal)


def run_steps(recognizer: Recognizer, utterances: Sequence[Utterance]) -> list[Hypothesis]:
    """Run a step of each utterance to its end, with their passes together. Returns hypotheses in this order.

    A step that finds the KV pool full starts again when another one has ended. Raises `PoolFull` if one does not fit
    alone.
    """
    done: dict[int, Decoded] = {}
    steps: dict[int, StepGenerator] = {}
    results: dict[int, Any] = {}
    waiting = list(range(len(utterances)))
    while len(done) < len(utterances):
        if not results or len(steps) > len(results):  # all at first, then those that wait whenever a step has ended
            steps = {index: steps[index] for index in results} | {index: utterances[index].step() for index in waiting}
            results |= dict.fromkeys(waiting)
            waiting = []
        passes: dict[int, Pass] = {}
        for index, result in results.items():
            try:
                passes[index] = steps[index].send(result)
            except StopIteration as stop:
                done[index] = stop.value
            except PoolFull:
                if len(results) == 1:
                    raise
                waiting.append(index)
                del steps[index]
        results = dict(zip(passes, recognizer.run(list(passes.values())), strict=True))
    return [done[index].parse() for index in range(len(utterances))]
