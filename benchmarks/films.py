"""Word error rate of film sound in 5.1 and 7.1: our downmix, FFmpeg's own, the mean of all channels, the centre alone.

    python -m benchmarks.films [--films 24]

In each film a held-out voice speaks in the centre, at -20 dB of full scale. The channel of low-frequency effects has a
rumble that is 10 dB louder. The others have chords in front and bursts of noise around, at random times, at -50 dB: the
demo model was trained with noise no louder than 20 dB below speech. Half of the films are 5.1, half 7.1, as AAC in an
mkv. FFmpeg's downmix is `ffmpeg -ac 1`. The text is that of a session, as in `qwen-asr transcribe`.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import jiwer
import numpy as np
import torch
from scipy.signal import butter, sosfilt

from benchmarks.accuracy import normalize
from benchmarks.arguments import count
from benchmarks.speech import Samples, unseen_sentences
from qwen_asr import Final, Qwen3ASRModel, run_session
from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.decode import load_audio
from training.voices import HELD_OUT, require, speak

_SURROUND = ["FL", "FR", "FC", "LFE", "BL", "BR"]
LAYOUTS = {"5.1": _SURROUND, "7.1": [*_SURROUND, "SL", "SR"]}
SPEECH_DB, EFFECTS_DB, RUMBLE_DB = -20.0, -50.0, -10.0


def film(texts: list[str], number: int, layout: str) -> Samples:
    """The sound of one film at 16 kHz, (samples, channels)."""
    rng = np.random.default_rng(number)
    voice = HELD_OUT[number % len(HELD_OUT)]
    pause = np.zeros(SAMPLE_RATE, np.float32)
    speech = np.concatenate(
        [pause, *(part for text in texts for part in (at_level(speak(text, voice), SPEECH_DB), pause))]
    )
    channels = {"FC": speech, "LFE": rumble(len(speech), rng)}
    for name in LAYOUTS[layout]:
        if name not in channels:
            channels[name] = (chords if name in ("FL", "FR") else bursts)(len(speech), rng)
    return np.stack([channels[name] for name in LAYOUTS[layout]], axis=1)


def at_level(samples: Samples, decibels: float) -> Samples:
    """The samples at this level (root mean square) relative to full scale."""
    scaled: Samples = samples * np.float32(10 ** (decibels / 20) / np.sqrt(np.mean(samples**2)))
    return np.clip(scaled, -1, 1)


def bursts(length: int, rng: np.random.Generator) -> Samples:
    """Noise in bursts of 0.1 to 0.6 s that decay, as of doors, steps and shots; about half of the time."""
    out = np.zeros(length, np.float32)
    begin = int(rng.uniform(0, 0.5) * SAMPLE_RATE)
    while begin < length:
        size = min(length - begin, int(rng.uniform(0.1, 0.6) * SAMPLE_RATE))
        out[begin : begin + size] = rng.standard_normal(size) * np.exp(-3 * np.arange(size) / size)
        begin += size + int(rng.uniform(0.0, 0.6) * SAMPLE_RATE)
    return at_level(out, EFFECTS_DB)


def chords(length: int, rng: np.random.Generator) -> Samples:
    """Chords of three tones with overtones, a new one each half second."""
    out = np.zeros(length, np.float32)
    for begin in range(0, length, SAMPLE_RATE // 2):
        t = np.arange(min(SAMPLE_RATE // 2, length - begin)) / SAMPLE_RATE
        for pitch in 110 * 2 ** (rng.choice(24, 3, replace=False) / 12):
            for overtone in (1, 2, 3, 4):
                out[begin : begin + len(t)] += np.sin(2 * np.pi * pitch * overtone * t) * np.exp(-3 * t) / overtone
    return at_level(out, EFFECTS_DB)


def rumble(length: int, rng: np.random.Generator) -> Samples:
    """Noise below 120 Hz, as the channel of low-frequency effects has it."""
    low = sosfilt(butter(4, 120, fs=SAMPLE_RATE, output="sos"), rng.standard_normal(length))
    return at_level(np.asarray(low, np.float32), RUMBLE_DB)


def encode(samples: Samples, layout: str, path: Path) -> None:
    """Write the film as AAC at 48 kHz."""
    raw = ["-f", "f32le", "-ar", str(SAMPLE_RATE), "-ac", str(samples.shape[1]), "-channel_layout", layout, "-i", "-"]
    command = ["ffmpeg", "-v", "error", "-y", *raw, "-ar", "48000", "-c:a", "aac", "-b:a", "512k", str(path)]
    subprocess.run(command, input=samples.astype("<f4").tobytes(), check=True)


def ffmpegs_downmix(path: Path) -> Samples:
    """What `ffmpeg -ac 1` makes of a film."""
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-ac", "1", "-c:a", "pcm_s16le", "-f", "wav", "-"]
    return load_audio(subprocess.run(command, check=True, capture_output=True).stdout)


def mean(path: Path) -> Samples:
    """The mean of all channels."""
    channels = [load_audio(path, channel=number) for number in range(1, 1 + len(LAYOUTS[path.stem]))]
    return np.mean(channels, axis=0, dtype=np.float32)


MIXES: dict[str, Callable[[Path], Samples]] = {
    "ours": load_audio,
    "`ffmpeg -ac 1`": ffmpegs_downmix,
    "mean of all channels": mean,
    "centre alone": lambda path: load_audio(path, channel="center"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asr-model-path", default="demo")
    parser.add_argument("--films", type=count, default=24)
    options = parser.parse_args()
    require("ffmpeg", "espeak-ng")
    torch.set_num_threads(1)
    model = Qwen3ASRModel.from_pretrained(options.asr_model_path, dtype="float32", device_map="cpu")
    sentences = iter(unseen_sentences(3 * options.films, 300))
    spoken: dict[str, list[str]] = {layout: [] for layout in LAYOUTS}
    heard: dict[tuple[str, str], list[str]] = {(mix, layout): [] for mix in MIXES for layout in LAYOUTS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.films):
            layout = list(LAYOUTS)[number % 2]
            texts = [next(sentences) for _ in range(3)]
            spoken[layout].append(normalize(" ".join(texts)))
            path = Path(folder) / f"{layout}.mkv"
            encode(film(texts, number, layout), layout, path)
            for name, mix in MIXES.items():
                finals = [event for event in run_session(model.session(), [mix(path)]) if isinstance(event, Final)]
                heard[name, layout].append(normalize(" ".join(final.text for final in finals)))
    layouts = [layout for layout in LAYOUTS if spoken[layout]]
    print(f"| mix | {' | '.join(f'{len(spoken[layout])} films in {layout}' for layout in layouts)} | all |")
    print(f"|---|{'---|' * (len(layouts) + 1)}")
    for name in MIXES:
        rates = [jiwer.wer(spoken[layout], heard[name, layout]) for layout in layouts]
        every = [text for layout in layouts for text in heard[name, layout]]
        rates.append(jiwer.wer([text for layout in layouts for text in spoken[layout]], every))
        print(f"| {name} | {' | '.join(f'{rate:.1%}' for rate in rates)} |")


if __name__ == "__main__":
    main()
