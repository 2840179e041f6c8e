"""Qwen3-ForcedAligner: the times of the words of a text that is known, in one pass over audio and text.

The prompt is the audio, then each word with two `<timestamp>` tokens. At these the model classifies the times of the
word's start and end. transformers' processor splits the text into words, builds the prompt, and makes the times rise.
"""

import importlib.util
import logging
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3ASRForTokenClassification, Qwen3ASRProcessor
from transformers.models.qwen3_asr.processing_qwen3_asr import FORCED_ALIGNER_LANGUAGES

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.engine.checkpoint import (
    RENAMED,
    convert_config,
    find_named,
    load_original_parts,
    load_recognizer,
    load_weights,
    pick_device,
    pick_dtype,
    unreadable,
)
from qwen_asr.engine.frame_aligner import load_frame_aligner
from qwen_asr.engine.hub.checkpoints import ALIGNER, kind_of, read_config
from qwen_asr.engine.hub.download import Hub, Progress
from qwen_asr.engine.recognizer import Recognizer
from qwen_asr.engine.words import Clip, Word, WordAligner, cut_at_words
from qwen_asr.errors import BadInput, WrongArchitecture

logger = logging.getLogger(__name__)

ALIGNED_LANGUAGES = tuple(sorted(FORCED_ALIGNER_LANGUAGES))
SPLITTERS = {"Japanese": "nagisa", "Korean": "soynlp"}
"""The packages that split text of these languages into words. Nothing here depends on them: soynlp is GPLv3."""
ALIGNER_RENAMED = RENAMED | {r"^thinker\.lm_head\.": "score."}
PASS_SECONDS = 120
"""How much audio one pass of a batch holds, counting each clip as long as the longest. The first convolution makes 6 MB
of float32 of each second at the size of Qwen's weights."""
# What Qwen's package writes: the audio, and each word with the marks of its start and its end.
ALIGNER_TEMPLATE = """
{%- for message in messages -%}{%- for part in message.content -%}
{%- if part.type == 'audio' -%}{{- '<|audio_start|><|audio_pad|><|audio_end|>' -}}
{%- elif part.type == 'text' -%}{{- part.text + '<timestamp><timestamp>' -}}
{%- endif -%}
{%- endfor -%}{%- endfor -%}
""".strip()


@dataclass(frozen=True)
class ForcedAlignItem:
    """A word without its punctuation, or a character in Chinese, and its time in the clip, in seconds."""

    text: str
    start_time: float
    end_time: float


class Aligner:
    """A loaded forced aligner on its device, a `WordAligner`. `model` and `processor` are transformers' own."""

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        self.model = model.eval()
        self.processor = processor
        self.name = name
        self.timestamp_token_id = int(model.config.timestamp_token_id)
        self.timestamp_segment_time = float(processor.timestamp_segment_time)
        """Milliseconds from one class to the next."""
        self.longest_seconds = model.config.num_labels * self.timestamp_segment_time / 1000
        """The last time that the model can tell: 400 s with Qwen's weights."""

    @property
    def is_quick(self) -> bool:
        """Whether the times come so soon that a final can wait for them: on a GPU. A CPU takes seconds for a clip."""
        return torch.device(self.model.device).type != "cpu"

    def align_words(self, clips: Sequence[Clip]) -> list[tuple[Word, ...]]:
        """The words of each clip; see `WordAligner`. There are none in languages that `why_not` has a reason against.

        Raises `BadInput` for a clip longer than `longest_seconds`.
        """
        known = [clip for clip in clips if self.why_not(clip.language) is None]
        found = iter(self.align(known))
        return [_cover(clip, next(found)) if self.why_not(clip.language) is None else () for clip in clips]

    def align(self, clips: Sequence[Clip]) -> list[list[ForcedAlignItem]]:
        """The words of each clip, in order and without punctuation, with the times at which they are spoken.

        samples: validated float32 mono at 16 kHz, (n,). language: one of `ALIGNED_LANGUAGES`, or None, which splits the
        text at blanks and Chinese into characters. A text without words has no items. Each time is within the clip, and
        no word ends before it starts.

        Raises `BadInput` for another language, for one whose splitter is not installed, and for a clip longer than
        `longest_seconds`.
        """
        for clip in clips:
            self._check(clip)
        found: list[list[ForcedAlignItem]] = [[] for _ in clips]
        # Of no words transformers would look for the latest time.
        speaking = [
            index
            for index, clip in enumerate(clips)
            if self.processor.split_words_for_alignment(clip.text, clip.language)
        ]
        for batch in _batches(speaking, [len(clip.samples) for clip in clips]):
            for index, items in zip(batch, self._run([clips[index] for index in batch]), strict=True):
                found[index] = items
        return found

    def _check(self, clip: Clip) -> None:
        if reason := self.why_not(clip.language):
            raise BadInput(reason)
        seconds = len(clip.samples) / SAMPLE_RATE
        if seconds > self.longest_seconds:
            raise BadInput(
                f"The audio is {seconds:.0f} s long, and {self.name} aligns at most {self.longest_seconds:g} s: cut it."
            )

    def _run(self, clips: list[Clip]) -> list[list[ForcedAlignItem]]:
        prepared = [
            self.processor.prepare_forced_aligner_inputs([clip.samples], [clip.text], clip.language) for clip in clips
        ]
        inputs = self._joined([one for one, _ in prepared])
        with torch.inference_mode():
            logits = self.model(**inputs).logits
        found = self.processor.decode_forced_alignment(
            logits,
            inputs["input_ids"],
            [words for _, [words] in prepared],
            self.timestamp_token_id,
            self.timestamp_segment_time,
        )
        lasts = [len(clip.samples) * 1000 // SAMPLE_RATE / 1000 for clip in clips]
        return [[_within(last, **word) for word in words] for last, words in zip(lasts, found, strict=True)]

    def _joined(self, prepared: list[Any]) -> dict[str, torch.Tensor]:
        """The inputs of several clips as those of one pass.

        The processor prepares each alone: in a batch it fills up the samples before it computes their spectrum, which
        changes the last frames of the shorter ones. It also fills up the text at the left, which moves all positions.
        """
        pad = self.processor.tokenizer.pad_token_id
        filling = {"input_ids": pad, "attention_mask": 0, "input_features": 0, "input_features_mask": 0}
        joined = {}
        for name, value in filling.items():
            rows = [one[name] for one in prepared]
            longest = max(row.shape[-1] for row in rows)
            row = torch.cat([torch.nn.functional.pad(row, (0, longest - row.shape[-1]), value=value) for row in rows])
            joined[name] = row.to(self.model.device, self.model.dtype if row.is_floating_point() else None)
        return joined

    @staticmethod
    def why_not(language: str | None) -> str | None:
        """Why text in this language cannot be aligned here, as a sentence; None if it can."""
        if language is not None and language not in ALIGNED_LANGUAGES:
            return f"The forced aligner does not know {language}; expected one of {', '.join(ALIGNED_LANGUAGES)}."
        package = SPLITTERS.get(language or "")
        if package and importlib.util.find_spec(package) is None:
            return f"Splitting {language} text needs the package {package}, which is missing: pip install {package}."
        return None


def _batches(indices: list[int], lengths: list[int]) -> Iterator[list[int]]:
    """The indices in groups of similar lengths (samples), each of which fills `PASS_SECONDS` at most."""
    batch: list[int] = []
    for index in sorted(indices, key=lambda index: lengths[index]):
        if batch and (len(batch) + 1) * lengths[index] > PASS_SECONDS * SAMPLE_RATE:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _cover(clip: Clip, items: list[ForcedAlignItem]) -> tuple[Word, ...]:
    """The words as the text has them, which they cover together."""
    words: list[Word] = []
    earliest = 0
    for part, item in zip(cut_at_words(clip.text, [item.text for item in items]), items, strict=True):
        start = min(max(round(item.start_time * SAMPLE_RATE), earliest), len(clip.samples))
        end = min(max(round(item.end_time * SAMPLE_RATE), start), len(clip.samples))
        if part:
            words += _apart(part, start, end)
            earliest = words[-1].start
        elif words:  # the splitter has made a word that the text does not have
            words[-1] = Word(words[-1].text, words[-1].start, max(words[-1].end, end))
    return tuple(words)


def _apart(part: str, start: int, end: int) -> Iterator[Word]:
    """A spoken word, and punctuation that stands alone before or after it, which lasts no time."""
    chunks = part.split()
    spoken = next((index for index, chunk in enumerate(chunks) if _bare(chunk)), 0)
    for index, chunk in enumerate(chunks):
        yield Word(chunk, start if index <= spoken else end, start if index < spoken else end)


def _within(last: float, text: str, start_time: float, end_time: float) -> ForcedAlignItem:
    start = min(start_time, last)
    return ForcedAlignItem(text, start, min(max(end_time, start), last))


def align_items(aligner: WordAligner, clips: Sequence[Clip]) -> list[list[ForcedAlignItem]]:
    """The words of each clip in the form of `Aligner.align`, from any aligner."""
    if isinstance(aligner, Aligner):
        return aligner.align(clips)
    return [
        [ForcedAlignItem(_bare(word.text), *_seconds(word)) for word in words if _bare(word.text)]
        for words in aligner.align_words(clips)
    ]


def _bare(word: str) -> str:
    """A word as transformers' processor has it: letters, digits and apostrophes."""
    return "".join(part for part in word if part == "'" or unicodedata.category(part)[0] in "LN")


def _seconds(word: Word) -> tuple[float, float]:
    return round(word.start / SAMPLE_RATE, 3), round(word.end / SAMPLE_RATE, 3)


def load_with_aligner(
    path: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress | None = None,
    *,
    aligner_path: str | None = None,
    quantize: str = "none",
    allow_demo: bool = True,
    memory_share: float = 1.0,
) -> Recognizer:
    """Load a recognizer with what finds the times of words: the forced aligner at `aligner_path`, a hub id or a folder.

    Without a path there is none, but the demo has one of its own. The other arguments are as in
    `checkpoint.load_recognizer`, whose errors it raises for both.
    """
    # First, because the recognizer takes a share of the memory that is free then for its KV pool.
    aligner = None if aligner_path is None else load_aligner(aligner_path, device, dtype, progress)
    recognizer = load_recognizer(
        path, device, dtype, progress, quantize=quantize, allow_demo=allow_demo, memory_share=memory_share
    )
    recognizer.aligner = aligner or own_aligner(recognizer)
    return recognizer


def own_aligner(recognizer: Recognizer) -> WordAligner | None:
    """The aligner that is bundled with the recognizer: the demo has one."""
    return load_frame_aligner(recognizer) if recognizer.is_demo else None


def load_aligner(
    path: str,
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress | None = None,
    *,
    hub: Hub | None = None,
) -> Aligner:
    """Find, fetch and load a forced aligner: a hub id, or a folder in transformers' or Qwen's layout.

    device, dtype, progress: as in `checkpoint.load_recognizer`. Raises what that raises.
    """
    report = progress or logger.info
    torch_device = pick_device(device)
    source = find_named(path, report, hub or Hub(), ALIGNER, "--aligner-model-path")
    read_config(source.folder, f"a forced aligner, such as {ALIGNER}")  # fails before "Loading" is reported
    precision = pick_dtype(dtype, torch_device, source)
    report(f"Loading {source.name} on {torch_device} in {str(precision).removeprefix('torch.')}")
    with unreadable(source.folder):
        model, processor = _load(source.folder, precision)
    return Aligner(model.to(torch_device), processor, source.name)


def _load(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    config = read_config(folder)
    if kind_of(config) != "aligner":
        raise WrongArchitecture(f"{folder} holds no forced aligner. Give the folder or the id of one: {ALIGNER}.")
    kind = Qwen3ASRForTokenClassification
    if "classify_num" in (thinker := config.get("thinker_config") or {}):
        converted = convert_config(
            thinker, num_labels=thinker["classify_num"], timestamp_token_id=config["timestamp_token_id"]
        )
        model = load_weights(kind, folder, config=converted, dtype=dtype, key_mapping=ALIGNER_RENAMED)
        tokenizer, extractor = load_original_parts(folder, converted)
        step = config["timestamp_segment_time"]
        return model, Qwen3ASRProcessor(
            extractor, tokenizer, chat_template=ALIGNER_TEMPLATE, timestamp_segment_time=step
        )
    return load_weights(kind, folder, dtype=dtype), Qwen3ASRProcessor.from_pretrained(folder)
