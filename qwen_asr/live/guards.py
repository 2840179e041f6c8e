"""Guards against known failures of the model: loops, invented text, echoed context, wrong language.

The engine returns exactly what `generate` returns. Only this module changes the text, and each change is reported as a
warning of the event. An echoed context and a wrong language are corrected by decoding again. The functions are pure;
`session` calls them.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.live.transcript import is_unspaced, split_units

if TYPE_CHECKING:
    from qwen_asr.engine.hypothesis import Hypothesis

# Speech has fewer than 20 tokens per second in each of the 30 languages. The base leaves room for the language header.
BASE_TOKENS = 24
TOKENS_PER_SECOND = 20
# Root mean square of the loudest 20 ms, -66 dBFS. Speech is louder, but the model may write text even for such audio.
SILENCE_LEVEL = 5e-4
_FRAME = 320  # samples in 20 ms
# What may be a loop: a phrase of two or more words six times in a row, a single word or a row of digits twelve times.
# People do say that ("no no no", a chorus), but not without end or faster than anybody can speak: see `cut_repetition`.
# parse_output of the processor cuts more than 20 repetitions itself.
PHRASE_REPEATS = 6
WORD_REPEATS = 12
# Adults repeat one syllable at most 5 to 7 times a second (diadochokinetic rates: Kent, Kent and Rosenbek 1987), and no
# language is spoken with more than 8 on average (Pellegrino, Coupé and Marsico 2011: Japanese 7.8, English 6.2).
SYLLABLES_PER_SECOND = 8
_HANGUL = ("\uac00", "\ud7a3")
# Thai, Lao, Myanmar, Khmer. None of the thirty languages is written with the rest.
_THAI_TO_KHMER = ("\u0e00", "\u17ff")
MARKER = "<asr_text>"  # separates the language from the text in the model's output; not part of the text
# One second of speech with the pre-roll and the hang-over (0.3 s each) that the detector adds.
SHORT_SAMPLES = int(1.6 * SAMPLE_RATE)


@dataclass(frozen=True)
class Retry:
    """A request to decode the utterance again with this context and language. `reason` is the prefix of the warning."""

    reason: Literal["context", "language"]
    context: str
    language: str | None


def token_limit(samples: int, configured: int) -> int:
    """The maximum number of tokens for `samples` of audio: at most `configured`."""
    return min(configured, BASE_TOKENS + TOKENS_PER_SECOND * samples // SAMPLE_RATE)


def is_silent(samples: NDArray[np.float32]) -> bool:
    """Whether the loudest 20 ms of `samples` (any length) are below `SILENCE_LEVEL`."""
    whole = samples[: len(samples) // _FRAME * _FRAME].reshape(-1, _FRAME) if len(samples) >= _FRAME else samples[None]
    if whole.size == 0:
        return True
    return bool(np.square(whole, dtype=np.float64).mean(axis=1).max() < SILENCE_LEVEL**2)


def _normalized(unit: str) -> str:
    """A unit without case and punctuation, for comparison. Empty for punctuation alone."""
    return "".join(character for character in unit.casefold() if character.isalnum())


def _repeats_needed(phrase: list[str]) -> int:
    if all(key.isdigit() for key in phrase):
        return WORD_REPEATS
    # In scripts without spaces, a word has about two characters.
    words = sum(0.5 if len(key) == 1 and is_unspaced(key) else 1.0 for key in phrase)
    return PHRASE_REPEATS if words >= 2 else WORD_REPEATS


def _fewest_syllables(key: str) -> float:
    """A lower bound of the syllables in a normalized unit of `split_units`."""
    if _THAI_TO_KHMER[0] <= key[0] <= _THAI_TO_KHMER[1]:
        return 1 / 3  # a syllable has two to four letters
    if is_unspaced(key[0]) or _HANGUL[0] <= key[0] <= _HANGUL[1]:
        return len(key)
    return 1 if key.isdigit() else max(1, len(key) // 4)


def cut_repetition(text: str, seconds: float, truncated: bool = False) -> str:
    """Reduces a loop at the end of `text` to one occurrence. Returns `text` unchanged if there is no loop.

    `seconds` is the length of the audio, `truncated` whether the text stops at the token limit. A repetition is a loop
    of the decoder if it goes on to that limit, or if nobody can say the text in that time. Others are kept: people
    laugh, sing and say "no no no". The last repetition may be incomplete.
    """
    units = split_units(text)
    spoken = [(key, index) for index, unit in enumerate(units) if (key := _normalized(unit))]
    keys = [key for key, _ in spoken]
    if not truncated and sum(map(_fewest_syllables, keys)) <= SYLLABLES_PER_SECOND * seconds:
        return text
    for period in range(1, len(keys) // PHRASE_REPEATS + 1):
        same = 0
        while same + period < len(keys) and keys[-1 - same] == keys[-1 - same - period]:
            same += 1
        begin = len(keys) - same - period
        if (same + period) // period >= _repeats_needed(keys[begin : begin + period]):
            last = spoken[begin + period - 1][1]
            return "".join(units[: last + 1])
    return text


def clean_text(hypothesis: Hypothesis, silent: bool, configured: int) -> tuple[str, list[str]]:
    """The corrected text of a hypothesis, and a warning for each correction. `silent`: the audio contains no sound."""
    if silent:
        warning = "silence: the model wrote text for audio without sound; it was dropped."
        return "", [warning] if hypothesis.text else []
    warnings = []
    # The marker is an ordinary token, so decoding keeps it; parse_output removes only the first one.
    text, marker, _ = hypothesis.text.partition(MARKER)
    if marker:
        warnings.append(f"marker: the model wrote {MARKER} into its text; the text after it was dropped.")
    seconds = hypothesis.samples / SAMPLE_RATE
    without_loop = cut_repetition(text.rstrip(), seconds, hypothesis.truncated)
    if without_loop != text.rstrip():
        warnings.append("repetition: the model repeated the same words in a loop; one occurrence was kept.")
    text = without_loop
    if hypothesis.truncated:
        limit = token_limit(hypothesis.samples, configured)
        reason = (
            "the configured maximum" if limit == configured else f"more than {seconds:.1f} seconds of speech can hold"
        )
        warnings.append(f"tokens: the text stops at {limit} tokens, {reason}.")
    return text, warnings


def echoes_context(text: str, context: str) -> bool:
    """Whether `text` may be an echo of `context`: a run of its words makes up 80 % of `text`, and is not too short."""
    spoken = [key for unit in split_units(text) if (key := _normalized(unit))]
    given = [key for unit in split_units(context) if (key := _normalized(unit))]
    if not spoken or not given:
        return False
    run = SequenceMatcher(None, spoken, given, autojunk=False).find_longest_match().size
    return run >= 0.8 * len(spoken) and run >= min(4, len(given))


def switches_language(hypothesis: Hypothesis, established: str | None) -> bool:
    """Whether a short utterance has another language than the session so far."""
    return (
        established is not None
        and hypothesis.language is not None
        and hypothesis.language != established
        and hypothesis.text != ""
        and hypothesis.samples <= SHORT_SAMPLES
    )


def replaces_first(retry: Retry, first: Hypothesis, second: Hypothesis) -> tuple[bool, str | None]:
    """Whether the second hypothesis replaces the first, and the warning if it does.

    Speakers do say terms from the context. If the second hypothesis, without the context, has similar words, the first
    is kept, because its spelling follows the context. If decoding in the forced language gives no text, the first is
    kept too.
    """
    if retry.reason == "context":
        if SequenceMatcher(None, first.text.casefold(), second.text.casefold(), autojunk=False).ratio() >= 0.5:
            return False, None
        return True, "context: the model echoed the context; the audio was decoded again without it."
    if not second.text:
        return False, None
    return True, (
        f"language: {first.language} is unlikely for such a short utterance; it was decoded again as {retry.language}."
    )
