"""Qwen3-ForcedAligner: the times of the words of a text that is known, in one pass over audio and text.

The prompt is the audio, then each word with two `<timestamp>` tokens. At these the model classifies the times of the
word's start and end. transformers' processor splits the text into words, builds the prompt, and makes the times rise.
"""

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Qwen3ASRForTokenClassification, Qwen3ASRProcessor
from transformers.models.qwen3_asr.processing_qwen3_asr import FORCED_ALIGNER_LANGUAGES

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.engine.checkpoint import (
    RENAMED,
    Hub,
    convert_config,
    find,
    load_original_parts,
    load_weights,
    pick_device,
    pick_dtype,
    read_config,
    unreadable,
)
from qwen_asr.errors import BadInput, WrongArchitecture

logger = logging.getLogger(__name__)

ALIGNED_LANGUAGES = tuple(sorted(FORCED_ALIGNER_LANGUAGES))
SPLITTERS = {"Japanese": "nagisa", "Korean": "soynlp"}
"""The packages that split text of these languages into words. Nothing here depends on them: soynlp is GPLv3."""
ALIGNER_RENAMED = RENAMED | {r"^thinker\.lm_head\.": "score."}
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
    """A loaded forced aligner on its device. `model` and `processor` are transformers' own."""

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        self.model = model.eval()
        self.processor = processor
        self.name = name
        self.timestamp_token_id = int(model.config.timestamp_token_id)
        self.timestamp_segment_time = float(processor.timestamp_segment_time)
        """Milliseconds from one class to the next."""
        self.longest_seconds = model.config.num_labels * self.timestamp_segment_time / 1000
        """The last time that the model can tell: 400 s with Qwen's weights."""

    def align(self, samples: NDArray[np.float32], text: str, language: str | None) -> list[ForcedAlignItem]:
        """The words of `text`, in order, with the times at which they are spoken; [] for a text without words.

        samples: validated float32 mono at 16 kHz, (n,). language: one of `ALIGNED_LANGUAGES`, or None, which splits the
        text at blanks and Chinese into characters. Each time is within the clip, and no word ends before it starts.

        Raises `BadInput` for another language, for one whose splitter is not installed, and for a clip longer than
        `longest_seconds`.
        """
        if reason := self.why_not(language):
            raise BadInput(reason)
        if len(samples) > self.longest_seconds * SAMPLE_RATE:
            raise BadInput(
                f"The audio is {len(samples) / SAMPLE_RATE:.0f} s long, and {self.name} aligns at most "
                f"{self.longest_seconds:g} s: cut it."
            )
        if not self.processor.split_words_for_alignment(text, language):
            return []  # of no words transformers would look for the latest time
        inputs, word_lists = self.processor.prepare_forced_aligner_inputs([samples], [text], language)
        inputs = inputs.to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            logits = self.model(**inputs).logits
        [found] = self.processor.decode_forced_alignment(
            logits, inputs["input_ids"], word_lists, self.timestamp_token_id, self.timestamp_segment_time
        )
        last = len(samples) * 1000 // SAMPLE_RATE / 1000
        return [_within(last, **word) for word in found]

    @staticmethod
    def why_not(language: str | None) -> str | None:
        """Why text in this language cannot be aligned here, as a sentence; None if it can."""
        if language is not None and language not in ALIGNED_LANGUAGES:
            return f"The forced aligner does not know {language}; expected one of {', '.join(ALIGNED_LANGUAGES)}."
        package = SPLITTERS.get(language or "")
        if package and importlib.util.find_spec(package) is None:
            return f"Splitting {language} text needs the package {package}, which is missing: pip install {package}."
        return None


def _within(last: float, text: str, start_time: float, end_time: float) -> ForcedAlignItem:
    start = min(start_time, last)
    return ForcedAlignItem(text, start, min(max(end_time, start), last))


def load_aligner(path: str, device: str = "auto", dtype: str = "auto", *, hub: Hub | None = None) -> Aligner:
    """Find, fetch and load a forced aligner: a hub id, or a folder in transformers' or Qwen's layout.

    device, dtype: as in `checkpoint.load_recognizer`. Raises what that raises.
    """
    torch_device = pick_device(device)
    source = find(path, torch_device, logger.info, allow_demo=False, hub=hub)
    precision = pick_dtype(dtype, torch_device, source)
    logger.info("Loading %s on %s in %s", source.name, torch_device, str(precision).removeprefix("torch."))
    with unreadable(source.folder):
        model, processor = _load(source.folder, precision)
    return Aligner(model.to(torch_device), processor, source.name)


def _load(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    config = read_config(folder)
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
    if kind.__name__ not in (config.get("architectures") or ()):
        raise WrongArchitecture(
            f"{folder} holds no forced aligner. Give the folder or the id of one: Qwen/Qwen3-ForcedAligner-0.6B."
        )
    return load_weights(kind, folder, dtype=dtype), Qwen3ASRProcessor.from_pretrained(folder)
