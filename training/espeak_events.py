"""Speech whose words have known times: libespeak-ng reports where words and phonemes begin, in the samples it returns.

It is the library of the command `espeak-ng` (Debian package `libespeak-ng1`) and has the same voices. Audio and events
come from one call: two calls of the same text may differ.

A word begins at its event. The silence in the mouth before a "t" or "k" is part of the word. The library has no event
for the end of a word, but one for each phoneme, and a pause is a phoneme: so a word ends where the pause after its last
sound begins, or else where the next word begins. Words that are spoken as one, such as "on the", share one event. Then
only the start of the first and the end of the last are known.
"""

import ctypes
import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.voices import SAMPLE_RATE, Voice, to_16k

# From espeak-ng/speak_lib.h
_RETRIEVAL, _PHONEME_EVENTS, _IS_CHARACTER, _UTF8, _END_PAUSE, _RATE, _PITCH = 1, 1, 1, 1, 0x1000, 1, 3
_LIST_END, _WORD, _PHONEME = 0, 1, 7
_PAUSE = b"_"  # with which the names of all pauses begin


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
class SpokenWord:
    """A word of a text, with its punctuation, and its first sample and the one after its last, at 16 kHz.

    `start` is None if the word runs on from the one before it, and `end` if it runs into the one after it.
    """

    text: str
    start: int | None
    end: int | None

    def moved(self, factor: float, offset: int) -> "SpokenWord":
        """The word in audio that was stretched by `factor` and then put `offset` samples later."""
        start, end = (None if at is None else round(at * factor) + offset for at in (self.start, self.end))
        return SpokenWord(self.text, start, end)


@dataclass(frozen=True)
class _Heard:
    """An event: of the word that begins at `character` of the text, from 0; or of the phoneme `name`."""

    sample: int
    character: int
    name: bytes = b""


@functools.cache
def _library() -> tuple[Any, int]:
    """The initialized library and its sampling rate. Raises `OSError` with the package's name if it is missing."""
    try:
        library = ctypes.CDLL("libespeak-ng.so.1")
    except OSError as error:
        raise OSError("libespeak-ng.so.1 is not installed: run `apt-get install libespeak-ng1`") from error
    rate = library.espeak_Initialize(_RETRIEVAL, 0, None, _PHONEME_EVENTS)
    if rate <= 0:
        raise OSError("libespeak-ng found no voices: run `apt-get install espeak-ng-data`")
    return library, rate


def _synthesize(text: str, voice: Voice) -> tuple[NDArray[np.float32], int, list[_Heard]]:
    """Samples, their rate, and the events of words and phonemes in the order in which they are heard."""
    library, rate = _library()
    parts: list[NDArray[np.int16]] = []
    heard: list[_Heard] = []

    def receive(wave: Any, count: int, events: Any) -> int:
        if wave and count:
            parts.append(np.ctypeslib.as_array(wave, (count,)).copy())
        index = 0
        while (event := events[index]).type != _LIST_END:
            if event.type == _WORD and event.text_position > 0:  # 0: an end that the library reports as a word
                heard.append(_Heard(event.sample, event.text_position - 1))
            elif event.type == _PHONEME:
                heard.append(_Heard(event.sample, -1, event.id))
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
    samples = np.concatenate([np.zeros(0, dtype=np.int16), *parts])
    return samples.astype(np.float32) / np.float32(32768), rate, sorted(heard, key=lambda one: one.sample)


def speak_timed(text: str, voice: Voice) -> tuple[NDArray[np.float32], list[SpokenWord]]:
    """`training.voices.speak` for an espeak voice, with the words of `text`, as blanks part them, and their times.

    Only one thread at a time may call it. Raises `OSError` without the library, and `ValueError` for an unknown voice.
    """
    samples, rate, heard = _synthesize(text, voice)
    words = [place for place, one in enumerate(heard) if one.character >= 0]
    spans: list[tuple[int, int, int]] = []  # the character, the first sample, and the one after the last
    for place, following in zip(words, [*words[1:], len(heard)], strict=False):
        until = heard[following].sample if following < len(heard) else len(samples)
        spans.append((heard[place].character, heard[place].sample, _end(heard[place + 1 : following], until)))
    return to_16k(samples, rate), list(_words(text, spans, SAMPLE_RATE / rate))


def _end(phonemes: Sequence[_Heard], until: int) -> int:
    """Where the last sound of a word ends: at the pause after it, or where the next word begins."""
    sounds = [place for place, one in enumerate(phonemes) if not one.name.startswith(_PAUSE)]
    after = sounds[-1] + 1 if sounds else len(phonemes)
    return phonemes[after].sample if after < len(phonemes) else until


def _words(text: str, spans: list[tuple[int, int, int]], scale: float) -> Iterator[SpokenWord]:
    """The words of the text with the spans that begin in them; each span lasts until the word before the next one's."""
    matches = list(re.finditer(r"\S+", text))
    own = [[span for span in spans if match.start() <= span[0] < match.end()] for match in matches]
    end: int | None = None
    for number, match in enumerate(matches):
        if own[number]:
            end = own[number][-1][2]
        runs_on = number + 1 < len(matches) and not own[number + 1]
        start = round(own[number][0][1] * scale) if own[number] else None
        yield SpokenWord(match[0], start, None if runs_on or end is None else round(end * scale))
