"""Two ways to show text every second without this engine, for any function that transcribes a whole clip."""

from collections.abc import Callable, Iterator

from benchmarks.speech import Samples
from qwen_asr.audio import SAMPLE_RATE

CHUNK = SAMPLE_RATE
UNFIXED_CHUNKS, UNFIXED_TOKENS = 2, 5  # of Qwen's streaming demo

Transcribe = Callable[[Samples, list[int]], list[int]]
"""All samples so far and a forced prefix to the tokens after the prefix, without the end token."""


def again(transcribe: Transcribe, samples: Samples) -> Iterator[None]:
    """Transcribe all audio so far from scratch at each chunk."""
    for end in range(CHUNK, len(samples) + CHUNK, CHUNK):
        transcribe(samples[:end], [])
        yield


def official(transcribe: Transcribe, samples: Samples) -> Iterator[None]:
    """Transcribe all audio so far, with the text so far except its last tokens as a forced prefix."""
    tokens: list[int] = []
    for number, end in enumerate(range(CHUNK, len(samples) + CHUNK, CHUNK)):
        prefix = tokens[: max(1, len(tokens) - UNFIXED_TOKENS)] if number >= UNFIXED_CHUNKS else []
        tokens = prefix + transcribe(samples[:end], prefix)
        yield
