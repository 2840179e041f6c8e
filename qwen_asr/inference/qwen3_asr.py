"""`Qwen3ASRModel`: transcribes and streams, with the names and arguments of Qwen's own `qwen-asr` package.

::

    model = Qwen3ASRModel.from_pretrained("Qwen/Qwen3-ASR-0.6B", dtype=torch.bfloat16, device_map="cuda:0")
    print(model.transcribe("speech.wav")[0].text)

    state = model.init_streaming_state(chunk_size_sec=1.0)
    for pcm in microphone:                       # at 16 kHz, any length
        model.streaming_transcribe(pcm, state)
        print(state.text)
    model.finish_streaming_transcribe(state)

Qwen's package streams with vLLM only, and its streamed text differs from the offline text. Here
streaming is exact: after `finish_streaming_transcribe` the text is what `transcribe` gives for the same samples.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.decode import load_audio
from qwen_asr.audio.endpointing import EndpointConfig, cut_point
from qwen_asr.audio.vad import Silero
from qwen_asr.engine.aligner import ForcedAlignItem, align_items, own_aligner
from qwen_asr.engine.checkpoint import load_recognizer
from qwen_asr.engine.hypothesis import Hypothesis
from qwen_asr.engine.languages import LANGUAGES, resolve_language
from qwen_asr.engine.local_engine import LocalModel
from qwen_asr.engine.recognizer import Recognizer
from qwen_asr.engine.streaming import Utterance, run_steps
from qwen_asr.engine.words import Clip
from qwen_asr.errors import BadInput
from qwen_asr.inference.inputs import AudioLike, audio_list, broadcast, text_or_none, whole_number
from qwen_asr.inference.load_options import read_load_options
from qwen_asr.inference.qwen3_forced_aligner import ForcedAlignResult, Qwen3ForcedAligner
from qwen_asr.inference.streaming_state import StreamingState
from qwen_asr.inference.utils import merge_languages
from qwen_asr.live.session import Session
from qwen_asr.live.session_factory import create_session
from qwen_asr.live.session_options import SessionOptions
from qwen_asr.live.transcript import join_texts

log = logging.getLogger(__name__)

MAX_NEW_TOKENS = 512
OWN_ARGUMENTS = (
    "forced_aligner",
    "forced_aligner_kwargs",
    "max_inference_batch_size",
    "max_new_tokens",
    "dtype",
    "device_map",
    "quantize",
    "max_utterance_seconds",
)


@dataclass(frozen=True)
class Transcription:
    """The text of one audio. language: the names of the languages in it, separated by commas; "" without speech."""

    language: str
    text: str
    time_stamps: ForcedAlignResult | None = None


ASRTranscription = Transcription
ASRStreamingState = StreamingState
"""The names in Qwen's package."""


class Qwen3ASRModel:
    """A loaded Qwen3-ASR. Create it with `from_pretrained`, or with `LLM`.

    model, processor: transformers' own. device, dtype: of its weights. forced_aligner: a `Qwen3ForcedAligner` or None.
    backend: "transformers", or "vllm" for a model that `LLM` has loaded, because programs ask for it before they
    stream; the engine is the same. max_new_tokens: the longest answer for one utterance, in tokens.
    max_inference_batch_size: how many pieces of audio are transcribed together; 0 or less for no limit.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        max_inference_batch_size: int = 8,
        max_utterance_seconds: float = 30.0,
        forced_aligner: Qwen3ForcedAligner | None = None,
        backend: str = "transformers",
    ) -> None:
        self.recognizer = recognizer
        self.max_new_tokens = max_new_tokens
        self.max_inference_batch_size = max_inference_batch_size
        self.forced_aligner = forced_aligner
        if forced_aligner is not None:
            recognizer.aligner = forced_aligner.aligner
        self.backend = backend
        self.model = recognizer.model
        self.processor = recognizer.processor
        self.device = recognizer.device
        self.dtype = recognizer.dtype
        self._longest = int(max_utterance_seconds * SAMPLE_RATE)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        forced_aligner: str | Path | Qwen3ForcedAligner | None = None,
        forced_aligner_kwargs: dict[str, Any] | None = None,
        max_inference_batch_size: int | None = 8,
        max_new_tokens: int | None = MAX_NEW_TOKENS,
        *,
        dtype: torch.dtype | str | None = "auto",
        device_map: Any = None,
        quantize: str = "none",
        max_utterance_seconds: float = 30.0,
        **arguments: Any,
    ) -> "Qwen3ASRModel":
        """Load a checkpoint: a hub id, a folder (in transformers' or Qwen's layout), "demo" or "auto".

        forced_aligner: what `Qwen3ForcedAligner.from_pretrained` loads with `forced_aligner_kwargs`, or a loaded one.
        max_inference_batch_size: how many pieces of audio are transcribed together; None, 0 or less for no limit.
        max_new_tokens: the longest answer for one utterance, in tokens.
        dtype: a torch type or its name; "auto" takes 16 bits where the device is fast with them.
        device_map: "cuda:0", "mps", "cpu"; None or "auto" takes the best device of this machine.
        quantize: "int8" for int8 weights in the decoder, on a CPU; "auto" where they are faster; "none".
        max_utterance_seconds: longer audio is cut at the quietest point of its last seconds.
        arguments: cache_dir, revision, token, local_files_only and force_download are for the download. torch_dtype is
        dtype. Others of transformers' are ignored with a line in the log.

        Raises `CheckpointError`, `BadConfig` for the device or dtype, and `BadInput` for an unknown argument.
        """
        return cls._load(
            "transformers",
            pretrained_model_name_or_path,
            forced_aligner,
            forced_aligner_kwargs,
            arguments,
            max_inference_batch_size=max_inference_batch_size,
            max_new_tokens=max_new_tokens,
            dtype=dtype,
            device_map=device_map,
            quantize=quantize,
            max_utterance_seconds=max_utterance_seconds,
        )

    @classmethod
    def LLM(
        cls,
        model: str | Path,
        forced_aligner: str | Path | Qwen3ForcedAligner | None = None,
        forced_aligner_kwargs: dict[str, Any] | None = None,
        max_inference_batch_size: int | None = 8,
        max_new_tokens: int | None = MAX_NEW_TOKENS,
        *,
        dtype: torch.dtype | str | None = "auto",
        device_map: Any = None,
        quantize: str = "none",
        max_utterance_seconds: float = 30.0,
        **arguments: Any,
    ) -> "Qwen3ASRModel":
        """Load a checkpoint as `from_pretrained` does. In Qwen's package this method loads it with vLLM.

        The parameters are those of `from_pretrained`. arguments: vLLM's, such as gpu_memory_utilization, are ignored
        with a line in the log; revision, download_dir and hf_token are for the download. Raises what `from_pretrained`
        raises, but `BadInput` only for an argument whose name is nearly that of a known one.
        """
        return cls._load(
            "vllm",
            model,
            forced_aligner,
            forced_aligner_kwargs,
            arguments,
            max_inference_batch_size=max_inference_batch_size,
            max_new_tokens=max_new_tokens,
            dtype=dtype,
            device_map=device_map,
            quantize=quantize,
            max_utterance_seconds=max_utterance_seconds,
        )

    @classmethod
    def _load(
        cls,
        backend: str,
        path: str | Path,
        forced_aligner: str | Path | Qwen3ForcedAligner | None,
        forced_aligner_kwargs: dict[str, Any] | None,
        arguments: dict[str, Any],
        *,
        max_inference_batch_size: int | None,
        max_new_tokens: int | None,
        dtype: Any,
        device_map: Any,
        quantize: str,
        max_utterance_seconds: float,
    ) -> "Qwen3ASRModel":
        llm = backend == "vllm"
        caller = "Qwen3ASRModel.LLM" if llm else "Qwen3ASRModel.from_pretrained"
        options = read_load_options(caller, device_map, dtype, arguments, OWN_ARGUMENTS, ignore_unknown=llm)
        batch_size = whole_number(max_inference_batch_size or 0, "max_inference_batch_size")
        longest_answer = whole_number(MAX_NEW_TOKENS if max_new_tokens is None else max_new_tokens, "max_new_tokens", 1)
        if not isinstance(forced_aligner, str | Path | Qwen3ForcedAligner | None):
            raise BadInput(f"forced_aligner was given {forced_aligner!r}; expected a name, a folder or a loaded one.")
        if isinstance(forced_aligner, str | Path):  # before the recognizer's KV pool takes a share of the free memory
            forced_aligner = Qwen3ForcedAligner.from_pretrained(forced_aligner, **(forced_aligner_kwargs or {}))
        recognizer = load_recognizer(str(path), options.device, options.dtype, quantize=quantize, hub=options.hub)
        recognizer.aligner = own_aligner(recognizer)
        return cls(
            recognizer,
            max_new_tokens=longest_answer,
            max_inference_batch_size=batch_size,
            max_utterance_seconds=max_utterance_seconds,
            forced_aligner=forced_aligner,
            backend=backend,
        )

    @staticmethod
    def get_supported_languages() -> list[str]:
        """The names of the thirty languages."""
        return list(LANGUAGES.values())

    def transcribe(
        self,
        audio: AudioLike | Sequence[AudioLike],
        context: str | Sequence[str] = "",
        language: str | Sequence[str | None] | None = None,
        return_time_stamps: bool = False,
    ) -> list[Transcription]:
        """Transcribe one audio or a list of them: a path, URL, base64 text, file bytes or `(samples, rate)` each.

        `context` and `language` apply to all of them, or are lists of the same length. Always returns a list. With
        `return_time_stamps` the `time_stamps` of each hold the times of its words, by the model's forced aligner; None
        without one, without words, and in languages that it does not know. Raises `AudioError` for input that is not
        audio, `UnknownLanguage`, and `BadInput` when the lists do not match.
        """
        audios = audio_list(audio)
        contexts = broadcast(context, len(audios), "context")
        languages = [resolve_language(name) for name in broadcast(language, len(audios), "language")]
        clips = [load_audio(one) for one in audios]
        pieces = [(index, piece) for index, clip in enumerate(clips) for piece in _pieces(clip, self._longest)]
        found: list[list[Hypothesis]] = [[] for _ in audios]
        waiting = iter(pieces)
        batch_size = self.max_inference_batch_size if self.max_inference_batch_size > 0 else len(pieces)
        while batch := list(islice(waiting, batch_size)):
            utterances = [self._utterance(piece, contexts[index] or "", languages[index]) for index, piece in batch]
            hypotheses = run_steps(self.recognizer, utterances)
            for (index, _), utterance, hypothesis in zip(batch, utterances, hypotheses, strict=True):
                utterance.close()
                found[index].append(hypothesis)
        times = self._time_stamps(clips, found) if return_time_stamps else [None] * len(clips)
        return [
            Transcription(
                merge_languages(part.language for part in parts), join_texts([part.text for part in parts]), time
            )
            for parts, time in zip(found, times, strict=True)
        ]

    def init_streaming_state(
        self,
        context: str = "",
        language: str | None = None,
        unfixed_chunk_num: int = 2,
        unfixed_token_num: int = 5,
        chunk_size_sec: float = 2.0,
    ) -> StreamingState:
        """Start a new stream.

        chunk_size_sec: seconds of audio between two steps, above 0. unfixed_chunk_num, unfixed_token_num: accepted for
        compatibility; ignored, because each step verifies the whole hypothesis. A `max_new_tokens` below 512 does not
        hold for streams: in Qwen's package it bounds what one step adds, here the text of an utterance. Raises
        `BadInput` for a chunk_size_sec that is no number above 0, and `UnknownLanguage`.
        """
        _check_chunk(chunk_size_sec)
        return StreamingState(
            self.recognizer,
            context=text_or_none(context, "context") or "",
            language=resolve_language(text_or_none(language, "language")),
            max_new_tokens=max(self.max_new_tokens, MAX_NEW_TOKENS),
            unfixed_chunk_num=whole_number(unfixed_chunk_num, "unfixed_chunk_num"),
            unfixed_token_num=whole_number(unfixed_token_num, "unfixed_token_num"),
            chunk_size_sec=float(chunk_size_sec),
            chunk_size_samples=max(round(chunk_size_sec * SAMPLE_RATE), 1),
            longest=self._longest,
        )

    def streaming_transcribe(self, pcm16k: NDArray[Any], state: StreamingState) -> StreamingState:
        """Feed samples at 16 kHz, of any length: mono or with channels, float or integer, as `ArrayReader` reads them.

        Updates `state` and returns it. Raises `AudioError` for samples that are not audio, and `BadInput` when the
        stream is finished.
        """
        _check_state(state)
        state.feed(pcm16k)
        return state

    def finish_streaming_transcribe(self, state: StreamingState) -> StreamingState:
        """Transcribe the remaining samples. `state.text` is then what `transcribe` gives for the same samples."""
        _check_state(state)
        state.finish()
        return state

    def session(
        self,
        context: str = "",
        language: str | None = None,
        chunk_size_sec: float = 1.0,
        endpoints: EndpointConfig | None = None,
        words: bool = False,
    ) -> Session:
        """A session of one speaker, with utterances and events, for `run_session` and blocks of 16 kHz samples.

        chunk_size_sec: seconds of new audio between two partials. It is a number here and never automatic:
        `run_session` takes no audio while a step runs, so a session cannot tell how long that lasts.
        words: whether finals have the times of their words, by the model's forced aligner. Where that takes long, on a
        CPU, a `Final` comes without them, and an `Aligned` follows it.

        The text of each `Final` is what `transcribe` gives for the samples from its `start` to its `end`, except where
        its `warnings` name a guard that changed it. Raises `UnknownLanguage`, and `BadInput` for a chunk_size_sec that
        is no number above 0.
        """
        _check_chunk(chunk_size_sec)
        options = SessionOptions(
            language=text_or_none(language, "language"),
            context=text_or_none(context, "context") or "",
            chunk_seconds=chunk_size_sec,
            max_new_tokens=self.max_new_tokens,
            endpoints=endpoints or EndpointConfig(longest_seconds=self._longest / SAMPLE_RATE),
            words=words,
        )
        return create_session(LocalModel(self.recognizer), _silero(), options)

    def _utterance(self, samples: NDArray[np.float32], context: str, language: str | None) -> Utterance:
        utterance = Utterance(self.recognizer, context=context, language=language, max_new_tokens=self.max_new_tokens)
        utterance.append(samples)
        return utterance

    def _time_stamps(
        self, clips: list[NDArray[np.float32]], found: list[list[Hypothesis]]
    ) -> list[ForcedAlignResult | None]:
        """The times of the words of each clip. Its pieces are aligned apart, and their times moved to their starts."""
        aligner = self.recognizer.aligner if self.forced_aligner is None else self.forced_aligner.aligner
        if aligner is None:
            log.warning("Word times need a forced aligner: give from_pretrained one. time_stamps are None.")
            return [None] * len(clips)
        pieces: list[tuple[int, float, Clip]] = []  # with the number of its clip, and its start in seconds
        reasons: set[str] = set()
        for number, (clip, hypotheses) in enumerate(zip(clips, found, strict=True)):
            offset = 0
            for piece, hypothesis in zip(_pieces(clip, self._longest), hypotheses, strict=True):
                if reason := aligner.why_not(hypothesis.language):
                    reasons.add(reason)
                else:
                    pieces.append((number, offset / SAMPLE_RATE, Clip(piece, hypothesis.text, hypothesis.language)))
                offset += len(piece)
        for reason in sorted(reasons):
            log.warning("Some words have no times. %s", reason)
        words: list[list[ForcedAlignItem]] = [[] for _ in clips]
        aligned = align_items(aligner, [piece for _, _, piece in pieces])
        for (number, seconds, _), items in zip(pieces, aligned, strict=True):
            words[number] += [_moved(item, seconds) for item in items]
        return [ForcedAlignResult(items) if items else None for items in words]


def _moved(word: ForcedAlignItem, seconds: float) -> ForcedAlignItem:
    return ForcedAlignItem(word.text, round(word.start_time + seconds, 3), round(word.end_time + seconds, 3))


@cache
def _silero() -> Silero:
    return Silero()


def _pieces(samples: NDArray[np.float32], longest: int) -> Iterator[NDArray[np.float32]]:
    while len(samples) > longest:
        cut = cut_point(samples[:longest], longest)
        yield samples[:cut]
        samples = samples[cut:]
    yield samples


def _check_chunk(seconds: object) -> None:
    if not (isinstance(seconds, Real) and float(seconds) > 0):
        raise BadInput(f"chunk_size_sec must be a number of seconds above 0, got {seconds!r}.")


def _check_state(state: object) -> None:
    if not isinstance(state, StreamingState):
        raise BadInput(f"The state is {state!r}; expected the one that init_streaming_state returns.")
