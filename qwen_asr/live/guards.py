"""What keeps a recognizer's known failures away from people. Pure functions; the session says when to apply them.

The engine gives exactly what `generate` gives. Here, and only here, is text changed, and each change is a warning of
the event that it changed. Two of the failures (context echoed, language flipped) are mended by decoding again.
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
    from qwen_asr.engine.streaming import Hypothesis

# Nobody speaks 20 tokens a second in any of the 30 languages; the constant leaves room for the language header.
TOKENS_AT_LEAST = 24
TOKENS_PER_SECOND = 20
# Loudest 20 ms below -66 dBFS: no microphone makes speech out of that, but a model may.
SILENCE_LEVEL = 5e-4
_FRAME = 320
# A phrase of two or more words said six times on end is a loop; a single word or a row of digits may be meant
# ("no no no no", a code), up to twelve. The processor's parse_output cuts what repeats more than 20 times itself.
PHRASE_REPEATS = 6
MARKER = "<asr_text>"  # stands between the language and the text of an answer, and has no place in the text
WORD_REPEATS = 12
# One second of speech with the pre-roll and the hang-over (0.3 s each) that the detector leaves around it.
SHORT_SAMPLES = int(1.6 * SAMPLE_RATE)


@dataclass(frozen=True)
class Retry:
    """Decode the utterance again with this context and language. `reason` is also the prefix of the warning."""

    reason: Literal["context", "language"]
    context: str
    language: str | None


def token_limit(samples: int, configured: int) -> int:
    """The most tokens that `samples` of audio may become: never above what was configured."""
    return min(configured, TOKENS_AT_LEAST + TOKENS_PER_SECOND * samples // SAMPLE_RATE)


def is_silent(samples: NDArray[np.float32]) -> bool:
    """Whether the loudest 20 ms of `samples` (any length) lie below SILENCE_LEVEL."""
    whole = samples[: len(samples) // _FRAME * _FRAME].reshape(-1, _FRAME) if len(samples) >= _FRAME else samples[None]
    if whole.size == 0:
        return True
    return bool(np.square(whole, dtype=np.float64).mean(axis=1).max() < SILENCE_LEVEL**2)


def _key(unit: str) -> str:
    """What is compared of a unit: no case, no punctuation. Empty for punctuation alone."""
    return "".join(character for character in unit.casefold() if character.isalnum())


def _repeats_needed(phrase: list[str]) -> int:
    if all(key.isdigit() for key in phrase):
        return WORD_REPEATS
    # A word of a script without spaces is about two characters.
    words = sum(0.5 if len(key) == 1 and is_unspaced(key) else 1.0 for key in phrase)
    return PHRASE_REPEATS if words >= 2 else WORD_REPEATS


def cut_repetition(text: str) -> str:
    """`text` with a loop at its end reduced to one round; unchanged where there is none.

    The last round may be incomplete, as it is when the decoder ran into its limit.
    """
    units = split_units(text)
    spoken = [(key, index) for index, unit in enumerate(units) if (key := _key(unit))]
    keys = [key for key, _ in spoken]
    for period in range(1, len(keys) // PHRASE_REPEATS + 1):
        same = 0
        while same + period < len(keys) and keys[-1 - same] == keys[-1 - same - period]:
            same += 1
        begin = len(keys) - same - period
        if (same + period) // period >= _repeats_needed(keys[begin : begin + period]):
            last = spoken[begin + period - 1][1]
            return "".join(units[: last + 1])
    return text


def cleaned(hypothesis: Hypothesis, silent: bool, configured: int) -> tuple[str, list[str]]:
    """The hypothesis' text as people may see it, and a warning for each thing that was wrong with it."""
    if silent:
        changed = "silence: the model wrote text for audio without sound; it was dropped."
        return "", [changed] if hypothesis.text else []
    warnings = []
    # An ordinary token, so decoding keeps it; parse_output takes only the first away.
    text, marker, _ = hypothesis.text.partition(MARKER)
    if marker:
        warnings.append(f"marker: the model wrote {MARKER} into its text; what stood behind it was dropped.")
    once = cut_repetition(text.rstrip())
    if once != text.rstrip():
        warnings.append("repetition: the model repeated the same words in a loop; one round was kept.")
    text = once
    if hypothesis.truncated:
        limit = token_limit(hypothesis.samples, configured)
        why = (
            "the configured maximum"
            if limit == configured
            else f"more than {hypothesis.samples / SAMPLE_RATE:.1f} seconds of speech can hold"
        )
        warnings.append(f"tokens: the text stops at {limit} tokens, {why}.")
    return text, warnings


def echoes(text: str, context: str) -> bool:
    """Whether `text` may be the context read back: nearly all of it is one run of the context's words, a long one."""
    spoken = [key for unit in split_units(text) if (key := _key(unit))]
    given = [key for unit in split_units(context) if (key := _key(unit))]
    if not spoken or not given:
        return False
    run = SequenceMatcher(None, spoken, given, autojunk=False).find_longest_match().size
    return run >= 0.8 * len(spoken) and run >= min(4, len(given))


def flips(hypothesis: Hypothesis, established: str | None) -> bool:
    """Whether a short utterance speaks another language than the session did until now."""
    return (
        established is not None
        and hypothesis.language is not None
        and hypothesis.language != established
        and hypothesis.text != ""
        and hypothesis.samples <= SHORT_SAMPLES
    )


def better(retry: Retry, first: Hypothesis, second: Hypothesis) -> tuple[bool, str | None]:
    """Whether the second decoding is to be taken, and the warning if that changed the event.

    People do say what stands in the context. Where the model hears about the same words without the context, the first
    decoding stays: it has the context's spelling. A language forced on a word that it lacks may give nothing: the word
    stays.
    """
    if retry.reason == "context":
        if SequenceMatcher(None, first.text.casefold(), second.text.casefold(), autojunk=False).ratio() >= 0.5:
            return False, None
        return True, "context: the model read the context back; the audio was decoded again without it."
    if not second.text:
        return False, None
    return True, (
        f"language: {first.language} on so short an utterance was doubted; it was decoded again as {retry.language}."
    )
