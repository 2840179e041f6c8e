"""A loaded Qwen3-ASR, shared by all utterances: its parts, its prompt, and the parser of its output."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from transformers.convert_slow_tokenizer import bytes_to_unicode

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.engine.decoder.fixed_passes import default_shapes
from qwen_asr.engine.decoder.forward import Decoder
from qwen_asr.engine.decoder.kv_pool import PAGE
from qwen_asr.engine.decoder.packing import Row
from qwen_asr.engine.encoder import Encoder, Window
from qwen_asr.engine.features import Frontend, Segment
from qwen_asr.engine.languages import LANGUAGES
from qwen_asr.engine.words import Clip, WordAligner
from qwen_asr.errors import BadInput, LimitExceeded

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Transform:
    """A pass of the frontend: samples to log-mel frames, (frames, bins)."""

    segment: Segment


@dataclass(frozen=True)
class Encode:
    """A pass of the encoder: one list of windows to their embeddings."""

    windows: list[Window]


@dataclass(frozen=True)
class Predict:
    """A pass of the decoder: the likeliest next tokens of one row."""

    row: Row


@dataclass(frozen=True)
class Align:
    """A pass of the aligner: a clip and its text to the words with their times."""

    clip: Clip


Pass = Transform | Encode | Predict | Align
"""In the order in which a step needs them."""


LONGEST_PROMPT = 10_000
"""Tokens. Qwen3-ASR was trained with contexts of up to so many."""
ENCODED_CHUNKS = [1, 2, 4, 8, 16, 32, 64, 128, 256]
ENCODED_WINDOWS = [1, 2, 4, 8, 16, 32, 64, 128]
"""How many chunks and windows the captured passes of the encoder hold."""
PREFILL_POSITIONS = {"cuda": 512, "mps": 256, "cpu": 128}
"""How many positions one pass of a step prefills at most, so that a long prompt does not delay the other sessions."""


class Recognizer:
    """The checkpoint on its device. `model` and `processor` are transformers' own.

    name: the name that people are shown. is_demo: whether it is the bundled demo checkpoint. quantized: whether the
    decoder's linears have int8 weights. `model` can then no longer run by itself. aligner: finds the times of words, if
    there is one. memory_share: see `pool_positions`.
    """

    aligner: WordAligner | None = None

    def __init__(
        self,
        model: Any,
        processor: Any,
        name: str,
        *,
        is_demo: bool = False,
        quantized: bool = False,
        memory_share: float = 1.0,
    ) -> None:
        self.model = model.eval()
        self.processor = processor
        self.name = name
        self.is_demo = is_demo
        if self.device.type == "cuda":
            # cuDNN's attention makes a plan for every new shape, which takes 130 to 260 ms.
            torch.backends.cuda.enable_cudnn_sdp(False)
        self.frontend = Frontend(processor.feature_extractor)
        self.encoder = Encoder(model)
        self.decoder = Decoder(model, quantized=quantized, memory_share=memory_share)
        self.quantized = quantized
        self.longest_prompt = min(
            LONGEST_PROMPT, self.decoder.config.max_position_embeddings // 2, self.decoder.pool.positions // 4
        )
        self.prompt = lru_cache(maxsize=64)(self._prompt)  # each utterance of a session asks for the same
        self.prefill_positions = PREFILL_POSITIONS[self.device.type]
        self.languages = tuple(LANGUAGES.values())
        self._byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
        self._added = processor.tokenizer.added_tokens_decoder
        end = model.generation_config.eos_token_id
        self.end_tokens = frozenset([end] if isinstance(end, int) else end or ())

    def capture_graphs(self, report: Callable[[str], None]) -> None:
        """On CUDA, capture passes of the usual shapes as graphs, which takes some seconds. `report` gets the progress.

        Without enough memory for the graphs, passes run without them.
        """
        if self.device.type != "cuda":
            return
        replays = self.decoder.fix_shapes(default_shapes()) + self.encoder.fix_shapes(ENCODED_CHUNKS, ENCODED_WINDOWS)
        memory = torch.cuda.graph_pool_handle()
        try:
            with torch.inference_mode():
                for number, replay in enumerate(reversed(replays)):  # the largest first: the others fit into its memory
                    if number % (len(replays) // 10) == 0:
                        report(f"Preparing the GPU: {100 * number // len(replays)} %")
                    replay.capture(self.device, memory)
        except torch.OutOfMemoryError:
            logger.warning("The GPU has no memory for graphs of %s: passes run without them, and slower.", self.name)
            self.decoder.unfix_shapes()
            self.encoder.unfix_shapes()
            torch.cuda.empty_cache()

    @property
    def device(self) -> torch.device:
        """The device that holds the weights."""
        return torch.device(self.model.device)

    @property
    def dtype(self) -> torch.dtype:
        """The data type of the weights."""
        return self.model.dtype  # type: ignore[no-any-return]  # transformers leaves it untyped

    def _prompt(self, context: str, language: str | None) -> tuple[list[int], list[int]]:
        """The processor's own prompt as token ids: those before the audio and those after it.

        Raises `BadInput` when `context` contains one of the model's control tokens, which would break the prompt, and
        when the prompt has more than `longest_prompt` tokens.
        """
        tokenizer = self.processor.tokenizer
        for token in (*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()):
            if token in context:
                raise BadInput(f"The context contains {token!r}, which is a control token of the model: remove it.")
        head, tail = self.prompt_text(context, language).split(self.processor.audio_token)
        before, after = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (head, tail))
        if len(before) > self.longest_prompt:
            raise BadInput(
                f"The context is {len(before):,} tokens long, and this model takes at most {self.longest_prompt:,}: "
                "shorten it to the names and terms that matter most."
            )
        return before, after

    def prompt_text(self, context: str, language: str | None) -> str:
        """The processor's own prompt as text, with one token for the audio."""
        silence = np.zeros(1, dtype=np.float32)
        text = self.processor.apply_transcription_request(silence, language=language, prompt=context, tokenize=False)
        return text if isinstance(text, str) else str(text[0])

    def check_room(self, seconds: float, max_new_tokens: int, context: str, language: str | None) -> None:
        """Raise `LimitExceeded` if the KV pool could not hold one utterance of `seconds` with this prompt."""
        before, after = self.prompt(context, language)
        frames = round(seconds * SAMPLE_RATE / self.frontend.hop)
        needed = len(before) + self.encoder.embeddings_of(frames) + len(after) + max_new_tokens + PAGE
        if needed > self.decoder.pool.positions:
            raise LimitExceeded(
                f"An utterance of {seconds:g} s with this context can take {needed:,} positions of the KV cache, and "
                f"the free memory holds {self.decoder.pool.positions:,}: shorten the context or the longest utterance."
            )

    def parse(self, tokens: list[int]) -> tuple[str, str | None, str]:
        """Generated ids → (raw text, language, transcription), by the processor's own `parse_output`."""
        raw: str = self.processor.tokenizer.decode(tokens, skip_special_tokens=True)
        parsed = self.processor.parse_output(raw)
        return raw, parsed["language"], parsed["transcription"]

    def pieces(self, tokens: Sequence[int]) -> tuple[bytes, ...]:
        """The UTF-8 bytes of each token. Together they are the raw text of `parse`; a character can span several."""
        names = self.processor.tokenizer.convert_ids_to_tokens(list(tokens))
        return tuple(self._piece(token, name) for token, name in zip(tokens, names, strict=True))

    def _piece(self, token: int, name: str) -> bytes:
        if (added := self._added.get(token)) is not None:
            return b"" if added.special else str(added.content).encode()
        return bytes(self._byte_of[character] for character in name)  # byte-level BPE writes a byte as a character

    def run(self, passes: list[Pass]) -> list[Any]:
        """Run passes of any number of utterances, those of the same kind together. Results in the order of `passes`.

        Those of a `Transform` are its frames, of an `Encode` a list of `Encoded`, of a `Predict` a `Prediction`, and of
        an `Align` the words of its clip.
        """
        results: dict[int, Any] = {}
        transforms = [(index, one) for index, one in enumerate(passes) if isinstance(one, Transform)]
        if transforms:
            frames = self.frontend.compute([one.segment for _, one in transforms])
            results.update({index: part for (index, _), part in zip(transforms, frames, strict=True)})
        encodes = [(index, one) for index, one in enumerate(passes) if isinstance(one, Encode)]
        if encodes:
            encoded = iter(self.encoder.encode([window for _, one in encodes for window in one.windows]))
            results.update({index: [next(encoded) for _ in one.windows] for index, one in encodes})
        predicts = [(index, one) for index, one in enumerate(passes) if isinstance(one, Predict)]
        if predicts:
            predictions = self.decoder.predict([one.row for _, one in predicts])
            results.update({index: part for (index, _), part in zip(predicts, predictions, strict=True)})
        aligns = [(index, one) for index, one in enumerate(passes) if isinstance(one, Align)]
        if aligns:
            if self.aligner is None:
                raise RuntimeError("There is no aligner.")
            found = self.aligner.align_words([one.clip for _, one in aligns])
            results.update({index: part for (index, _), part in zip(aligns, found, strict=True)})
        return [results[index] for index in range(len(passes))]

    @staticmethod
    def cache_lengths(passes: list[Pass]) -> list[int]:
        """The lengths of the KV caches, which `restore` needs to undo a failed `run`."""
        return [one.row.cache.length if isinstance(one, Predict) else 0 for one in passes]

    @staticmethod
    def restore(one: Pass, length: int) -> None:
        """Undo what a failed `run` may have done for this pass, so that it can run again."""
        if isinstance(one, Predict):
            one.row.cache.crop(length)
