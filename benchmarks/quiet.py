"""Sentences that the voice detector loses, cuts or invents, by level and background, without its gain and with it.

    python -m benchmarks.quiet [--sentences 40] [--pause 3] [--noise-seconds 60]

Held-out voices speak unseen sentences. The level of a sentence is its root mean square; all is rounded to 16 bits.
Lost: no utterance touches the sentence. Cut: an utterance begins after the first sound of the sentence or ends before
its last (1 % of its loudest sample). Invented: an utterance touches no sentence. The second table has noise alone, each
kind at falling and rising levels and after digital silence: all utterances in it are invented.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.arguments import count, positive
from benchmarks.speech import Samples, unseen_sentences
from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.endpointing import Ended, EndpointConfig, UtteranceDetector, VoiceModel
from qwen_asr.audio.vad import WINDOW, Silero, VadState, VoiceActivity
from training.voices import HELD_OUT, speak

Signal = NDArray[np.float64]
Range = tuple[int, int]

LEVELS = (-20, -26, -45, -55, -65, -70)  # dBFS
BACKGROUNDS = (("none", 0), ("pink", 20), ("pink", 10), ("white", 15))  # and by how many dB it is below the speech
NOISE_LEVELS = (-26, -40, -50, -60, -70)  # dBFS
NOISES = ("white", "pink", "brown", "hum", "keys", "room", "fan")


class WithoutGain:
    """A `VoiceActivity` that hears the stream as it is. It takes it whole."""

    def __init__(self, silero: Silero) -> None:
        self._silero = silero

    def feed(self, samples: Samples) -> Samples:
        """The probabilities of all windows."""
        probabilities, _ = self._silero.probabilities(samples[: len(samples) // WINDOW * WINDOW], VadState())
        return probabilities


@dataclass
class Stream:
    """A stream, and where its sentences are: from the first to the last sound."""

    name: str
    samples: Samples
    sentences: list[Range]


def at_level(samples: Signal | Samples, decibels: float) -> Signal:
    """The samples with that root mean square, in dBFS."""
    samples = samples.astype(np.float64)
    scaled: Signal = samples * 10 ** (decibels / 20) / np.sqrt(np.mean(samples**2))
    return scaled


def as_16_bit(samples: Signal) -> Samples:
    """The samples, limited to full scale and rounded to 16 bits."""
    return (np.round(np.clip(samples, -1, 32767 / 32768) * 32768) / 32768).astype(np.float32)


def noise(kind: str, length: int, rng: np.random.Generator) -> Signal:
    """One of `NOISES`, (length,), at some level."""
    seconds = np.arange(length) / SAMPLE_RATE
    white = rng.standard_normal(length)
    hum: Signal = np.sum([np.sin(2 * np.pi * 50 * n * seconds + n) / n for n in range(1, 8)], axis=0)
    match kind:
        case "white" | "pink" | "brown":
            return _colored(white, ("white", "pink", "brown").index(kind))
        case "hum":
            return hum
        case "keys":  # three to twelve strokes a second, of up to 40 ms
            sound = 0.003 * _colored(white, 1)
            for begin in np.cumsum(rng.uniform(0.08, 0.35, length // 1_000) * SAMPLE_RATE).astype(int):
                part = sound[begin : begin + int(rng.uniform(60, 700))]
                decay = np.exp(-5 * np.arange(len(part)) / max(len(part), 1))
                part += rng.standard_normal(len(part)) * decay * rng.uniform(0.3, 1)
            return sound
        case "room":  # low, with a hum, at a level that wanders
            sound = _colored(white, 1.5)
            points = np.arange(0, length + SAMPLE_RATE, SAMPLE_RATE)
            wandering = np.interp(np.arange(length), points, rng.uniform(0.7, 1.3, len(points)))
            return sound / sound.std() * wandering + 0.3 * hum
        case _:  # a fan: around 400 Hz, with four beats in a second
            spectrum = np.fft.rfft(white)
            spectrum *= np.exp(-(((np.fft.rfftfreq(length, 1 / SAMPLE_RATE) - 400) / 300) ** 2))
            sound = np.fft.irfft(spectrum, length)
            beats = 1 + 0.4 * np.sin(2 * np.pi * 4 * seconds)
            return sound / sound.std() * beats + 0.1 * white


def _colored(white: Signal, exponent: float) -> Signal:
    """Noise whose power falls with the frequency to the power of `exponent`, from 20 Hz on."""
    frequencies = np.maximum(np.fft.rfftfreq(len(white), 1 / SAMPLE_RATE), 20)
    colored: Signal = np.fft.irfft(np.fft.rfft(white) * frequencies ** (-exponent / 2), len(white))
    return colored


def audible(clip: Signal) -> Range:
    """From the first to the last sample that has 1 % of the loudest."""
    found = np.flatnonzero(np.abs(clip) > 0.01 * np.abs(clip).max())
    return int(found[0]), int(found[-1]) + 1


def speech(
    name: str, clips: list[Samples], levels: tuple[float, ...], background: str, below: float, pause: float
) -> Stream:
    """The clips at `levels`, in turn, with `pause` seconds before each and after the last.

    The background is `below` dB below the lowest level.
    """
    silence = np.zeros(round(pause * SAMPLE_RATE))
    parts, sentences, position = [silence], [], len(silence)
    for number, clip in enumerate(clips):
        leveled = at_level(clip, levels[number % len(levels)])
        begin, end = audible(leveled)
        sentences.append((position + begin, position + end))
        parts += [leveled, silence]
        position += len(leveled) + len(silence)
    samples = np.concatenate(parts)
    if background != "none":
        samples += at_level(noise(background, len(samples), np.random.default_rng(0)), min(levels) - below)
    return Stream(name, as_16_bit(samples), sentences)


def with_clicks(stream: Stream, length: int, ahead: float) -> Stream:
    """The stream with a click of `length` samples, near full scale, `ahead` seconds before each sentence."""
    samples, rng = stream.samples.astype(np.float64), np.random.default_rng(1)
    for begin, _ in stream.sentences:
        at = begin - round(ahead * SAMPLE_RATE)
        samples[at : at + length] += 0.8 * rng.uniform(-1, 1, length) * np.exp(-3 * np.arange(length) / length)
    return Stream(stream.name, as_16_bit(samples), stream.sentences)


def streams(clips: list[Samples], pause: float) -> Iterator[Stream]:
    """The rows of the first table."""
    for level in LEVELS:
        for background, below in BACKGROUNDS:
            name = f"{level} dBFS, no background" if background == "none" else f"{level} dBFS, {background} −{below} dB"
            yield speech(name, clips, (level,), background, below, pause)
    for loud, quiet, below in ((-26, -60, 20), (-20, -50, 20)):
        name = f"{loud} and {quiet} dBFS in turn, pink −{below} dB, pauses of 1.2 s"
        yield speech(name, clips, (loud, quiet), "pink", below, 1.2)
    for length, ahead in ((200, 0.05), (800, 0.3), (5_000, 0.6)):
        name = f"-60 dBFS, {ahead} s after a click of {1000 * length // SAMPLE_RATE} ms, pink −20 dB"
        yield with_clicks(speech(name, clips, (-60,), "pink", 20, pause), length, ahead)


def noises(seconds: float) -> Iterator[Stream]:
    """The rows of the second table."""
    for number, kind in enumerate(NOISES):
        sound = noise(kind, round(seconds * SAMPLE_RATE), np.random.default_rng(number))
        parts = [at_level(sound, level) for level in NOISE_LEVELS]
        silence = np.zeros(4 * SAMPLE_RATE)
        yield Stream(
            kind, as_16_bit(np.concatenate([*parts, *parts[::-1], silence, *parts[1:3], silence, parts[4]])), []
        )


def utterances(samples: Samples, voice: VoiceModel) -> list[Range]:
    """The utterances that are found in the stream."""
    detector = UtteranceDetector(EndpointConfig(), voice)
    return [
        (event.start, event.end) for event in [*detector.feed(samples), *detector.finish()] if isinstance(event, Ended)
    ]


def score(stream: Stream, voice: VoiceModel) -> tuple[int, int, int, int]:
    """How many sentences are lost, cut at the beginning and at the end, and how many utterances are invented."""
    found = utterances(stream.samples, voice)
    lost = begins = ends = 0
    real: set[Range] = set()
    for begin, end in stream.sentences:
        touching = [one for one in found if one[0] < end and one[1] > begin]
        real.update(touching)
        lost += not touching
        begins += bool(touching) and touching[0][0] > begin
        ends += bool(touching) and touching[-1][1] < end
    return lost, begins, ends, len(found) - len(real)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=count, default=40)
    parser.add_argument("--pause", type=positive, default=3.0, help="seconds before each sentence")
    parser.add_argument("--noise-seconds", type=positive, default=60.0, help="of each noise at each level")
    options = parser.parse_args()
    silero = Silero()
    texts = unseen_sentences(options.sentences, seed=7)
    clips = [speak(text, HELD_OUT[number % len(HELD_OUT)]) for number, text in enumerate(texts)]
    print(f"{len(clips)} sentences; without the gain / with it\n")
    print("| sentences | lost | begin cut | end cut | invented |\n|---|---|---|---|---|")
    for stream in streams(clips, options.pause):
        pairs = zip(score(stream, WithoutGain(silero)), score(stream, VoiceActivity(silero)), strict=True)
        print(f"| {stream.name} | {' | '.join(f'{before} / {after}' for before, after in pairs)} |", flush=True)
    print("\n| noise alone | seconds | invented |\n|---|---|---|")
    for stream in noises(options.noise_seconds):
        before, after = (score(stream, voice)[3] for voice in (WithoutGain(silero), VoiceActivity(silero)))
        print(f"| {stream.name} | {len(stream.samples) // SAMPLE_RATE} | {before} / {after} |", flush=True)


if __name__ == "__main__":
    main()
