"""Speech whose words have known ends: libespeak-ng reports where each word begins, in the samples of the same call.

It is the library of the command `espeak-ng` (Debian package `libespeak-ng1`) and has the same voices. It gives no ends,
so a word ends at the last sample before the next word that is not silent. Words that are spoken as one, such as "on
the", have one event: then only the end of the last one is known.
"""

import ctypes
import functools
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.speech import Samples, add_noise, unseen_sentences
from qwen_asr.audio import SAMPLE_RATE
from training.voices import HELD_OUT, Voice, to_16k

# From espeak-ng/speak_lib.h
_RETRIEVAL, _IS_CHARACTER, _UTF8, _END_PAUSE, _RATE, _PITCH = 1, 1, 1, 0x1000, 1, 3
_LIST_END, _WORD = 0, 1
_SILENT = 1e-3  # of full scale; between words the synthesizer gives exact zeros, or a decay below this


class _Event(ctypes.Structure):
    """`espeak_EVENT`."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


class _Voice(ctypes.Structure):
    """`espeak_VOICE`."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_char_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    )


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class Word:
    """A word of the text, and the second at which it ends; None if it is run together with the next one."""

    text: str
    end: float | None


@functools.cache
def _library() -> tuple[Any, int]:
    """The initialized library and its sampling rate. Raises `OSError` with the package's name if it is missing."""
    try:
        library = ctypes.CDLL("libespeak-ng.so.1")
    except OSError as error:
        raise OSError("libespeak-ng.so.1 is not installed: run `apt-get install libespeak-ng1`") from error
    rate = library.espeak_Initialize(_RETRIEVAL, 0, None, 0)
    if rate <= 0:
        raise OSError("libespeak-ng found no voices: run `apt-get install espeak-ng-data`")
    return library, rate


def _synthesize(text: str, voice: Voice) -> tuple[NDArray[np.float32], int, list[tuple[int, int]]]:
    """Samples, their rate, and for each word event its character in `text` (from 0) and its first sample."""
    library, rate = _library()
    parts: list[NDArray[np.int16]] = []
    starts: list[tuple[int, int]] = []

    def receive(wave: Any, count: int, events: Any) -> int:
        if wave and count:
            parts.append(np.ctypeslib.as_array(wave, (count,)).copy())
        index = 0
        while events[index].type != _LIST_END:
            if events[index].type == _WORD:
                starts.append((events[index].text_position - 1, events[index].audio_position * rate // 1000))
            index += 1
        return 0

    callback = _CALLBACK(receive)
    library.espeak_SetSynthCallback(callback)
    name = voice.name.encode()
    # As the command does: a name may also be that of a language.
    by_name = library.espeak_SetVoiceByName(name) == 0
    if not by_name and library.espeak_SetVoiceByProperties(ctypes.byref(_Voice(languages=name))) != 0:
        raise ValueError(f"espeak-ng has no voice {voice.name!r}.")
    library.espeak_SetParameter(_RATE, voice.speed, 0)
    library.espeak_SetParameter(_PITCH, voice.pitch, 0)
    data = text.encode()
    library.espeak_Synth(data, len(data) + 1, 0, _IS_CHARACTER, 0, _UTF8 | _END_PAUSE, None, None)
    library.espeak_Synchronize()
    return np.concatenate(parts).astype(np.float32) / np.float32(32768), rate, starts


def speak_timed(text: str, voice: Voice) -> tuple[Samples, list[Word]]:
    """`training.voices.speak` for an espeak voice, with the words of `text` and their ends."""
    samples, rate, starts = _synthesize(text, voice)
    ends: dict[int, float] = {}  # by the character at which the word group begins
    for number, (character, begin) in enumerate(starts):
        until = starts[number + 1][1] if number + 1 < len(starts) else len(samples)
        audible = np.flatnonzero(np.abs(samples[begin:until]) > _SILENT)
        ends[character] = (begin + (int(audible[-1]) + 1 if len(audible) else 0)) / rate
    matches = list(re.finditer(r"\S+", text))
    words = []
    for match, following in zip(matches, [*matches[1:], None], strict=True):
        begun = max((character for character in ends if character < match.end()), default=None)
        run_on = following is not None and not any(match.end() <= character < following.end() for character in ends)
        words.append(Word(match[0], None if run_on or begun is None else ends[begun]))
    return to_16k(samples, rate), words


def timed_conversation(seconds: float, seed: int) -> tuple[Samples, list[Word]]:
    """Sentences of a held-out voice, in utterances of one to three, as `speech.conversation`; with its words."""
    rng = np.random.default_rng(seed)
    voice = HELD_OUT[seed % len(HELD_OUT)]
    parts: list[Samples] = []
    words: list[Word] = []
    length = 0
    for text in unseen_sentences(200, seed):
        spoken, timed = speak_timed(text, voice)
        # Longer than the silence that ends an utterance, in one of two cases.
        pause = rng.uniform(1.2, 2.2) if rng.random() < 0.5 else rng.uniform(0.2, 0.6)
        if length + len(spoken) > seconds * SAMPLE_RATE:
            break
        offset = length / SAMPLE_RATE
        words += [Word(word.text, None if word.end is None else offset + word.end) for word in timed]
        parts += [spoken, np.zeros(int(pause * SAMPLE_RATE), dtype=np.float32)]
        length += len(parts[-2]) + len(parts[-1])
    return add_noise(np.concatenate(parts), rng), words
