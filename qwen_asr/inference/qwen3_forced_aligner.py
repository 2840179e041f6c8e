"""`Qwen3ForcedAligner`: the times of the words of a text that is known, as in Qwen's own package.

::

    aligner = Qwen3ForcedAligner.from_pretrained("Qwen/Qwen3-ForcedAligner-0.6B", device_map="cuda:0")
    for word in aligner.align("speech.wav", "Turn on the kitchen light.", "English")[0]:
        print(word.text, word.start_time, word.end_time)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qwen_asr.audio.decode import load_audio
from qwen_asr.engine.aligner import ALIGNED_LANGUAGES, Aligner, ForcedAlignItem, load_aligner
from qwen_asr.engine.languages import resolve_language
from qwen_asr.engine.words import Clip
from qwen_asr.inference.inputs import AudioLike, audio_list, broadcast
from qwen_asr.inference.load_options import read_load_options

__all__ = ["ForcedAlignItem", "ForcedAlignResult", "Qwen3ForcedAligner"]


@dataclass(frozen=True)
class ForcedAlignResult:
    """The aligned words of one audio. It is a sequence of its `items`."""

    items: list[ForcedAlignItem]

    def __iter__(self) -> Iterator[ForcedAlignItem]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> ForcedAlignItem:
        return self.items[index]


class Qwen3ForcedAligner:
    """A loaded forced aligner. Create it with `from_pretrained`.

    model, processor: transformers' own. device, dtype: of its weights. timestamp_token_id: the token of the marks.
    timestamp_segment_time: milliseconds from one time that the model can tell to the next.
    """

    def __init__(self, aligner: Aligner) -> None:
        self.aligner = aligner
        self.model = aligner.model
        self.processor = aligner.processor
        self.device = torch.device(aligner.model.device)
        self.dtype: torch.dtype = aligner.model.dtype
        self.timestamp_token_id = aligner.timestamp_token_id
        self.timestamp_segment_time = aligner.timestamp_segment_time

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        dtype: torch.dtype | str | None = "auto",
        device_map: Any = None,
        **arguments: Any,
    ) -> "Qwen3ForcedAligner":
        """Load a forced aligner: a hub id, or a folder in transformers' or Qwen's layout.

        The arguments are those of `Qwen3ASRModel.from_pretrained`, apart from those of recognition. Raises what that
        raises.
        """
        caller = "Qwen3ForcedAligner.from_pretrained"
        options = read_load_options(caller, device_map, dtype, arguments, own=("dtype", "device_map"))
        return cls(load_aligner(str(pretrained_model_name_or_path), options.device, options.dtype, hub=options.hub))

    def align(
        self,
        audio: AudioLike | Sequence[AudioLike],
        text: str | Sequence[str],
        language: str | Sequence[str | None] | None,
    ) -> list[ForcedAlignResult]:
        """Find the times of each word of each text: one result for each audio.

        audio: as for `Qwen3ASRModel.transcribe`. text: what is said in each. language: one for all, or one each, by
        name or code; see `get_supported_languages`. A text without words gives an empty result.

        The words come without punctuation; Chinese comes as characters. Times are seconds from the start of the audio,
        never beyond its end. Raises `AudioError`, `UnknownLanguage`, and `BadInput` for lists of different lengths, for
        audio that is longer than the model can tell (400 s), and for a language that the model does not know or whose
        words cannot be split: Japanese needs the package nagisa, Korean soynlp.
        """
        audios = audio_list(audio)
        texts = broadcast(text, len(audios), "text", spread=False)
        languages = [resolve_language(name) for name in broadcast(language, len(audios), "language")]
        clips = [
            Clip(load_audio(one), words or "", name) for one, words, name in zip(audios, texts, languages, strict=True)
        ]
        return [ForcedAlignResult(items) for items in self.aligner.align(clips)]

    def get_supported_languages(self) -> list[str]:
        """The names of the languages that the model can align."""
        return list(ALIGNED_LANGUAGES)
