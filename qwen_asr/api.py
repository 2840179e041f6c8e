"""The Python API: `Qwen3ASRModel`, compatible with Qwen's own `qwen-asr` package.

::

    model = Qwen3ASRModel.from_pretrained("Qwen/Qwen3-ASR-0.6B", dtype=torch.bfloat16, device_map="cuda:0")
    print(model.transcribe("speech.wav")[0].text)

    state = model.init_streaming_state(chunk_size_sec=1.0)
    for pcm in microphone:                       # float32 or int16 mono at 16 kHz, any length
        model.streaming_transcribe(pcm, state)
        print(state.text)
    model.finish_streaming_transcribe(state)

Qwen's package streams with vLLM only, and its streamed text differs from the offline text. Here
streaming is exact: after `finish_streaming_transcribe` the text is what `transcribe` gives for the same samples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.decode import load_audio
from qwen_asr.audio.endpointing import EndpointConfig, cut_point
from qwen_asr.audio.vad import Silero
from qwen_asr.audio.validation import to_mono
from qwen_asr.engine.checkpoint import load_recognizer
from qwen_asr.engine.languages import LANGUAGES, resolve_language
from qwen_asr.engine.recognizer import Recognizer
from qwen_asr.engine.streaming import Hypothesis, Utterance, run_steps
from qwen_asr.errors import BadInput
from qwen_asr.live.session import Session
from qwen_asr.live.session_factory import create_session
from qwen_asr.live.session_options import SessionOptions
from qwen_asr.live.transcript import join_texts

_NO_WORD_TIMES = "Word times are not available yet"

AudioLike = str | Path | bytes | tuple[NDArray[Any], int]


@dataclass(frozen=True)
class Transcription:
    """The text of one audio. language: the names of the languages in it, separated by commas; "" without speech."""

    language: str
    text: str


class StreamingState:
    """One stream of `Qwen3ASRModel`. Read `text` and `language`; pass the object to the model's methods."""

    def __init__(self, recognizer: Recognizer, settings: dict[str, Any], chunk: int, longest: int) -> None:
        self._recognizer = recognizer
        self._settings = settings
        self._chunk = chunk
        self._longest = longest
        self._finals: list[Hypothesis] = []
        self._finished = False
        self._buffer = np.zeros(0, dtype=np.float32)
        self.utterance = self._new_utterance()

    @property
    def text(self) -> str:
        """The whole text so far."""
        return join_texts([hypothesis.text for hypothesis in self._hypotheses()])

    @property
    def language(self) -> str:
        """The languages so far, separated by commas; "" before the first."""
        return _join_languages(self._hypotheses())

    def feed(self, samples: NDArray[np.float32]) -> None:
        """Take validated float32 mono at 16 kHz; run a step for each full chunk. Raises `BadInput` after `finish`."""
        if self._finished:
            raise BadInput("The stream is finished and takes no more audio: make a new one with init_streaming_state.")
        self._buffer = np.concatenate([self._buffer, samples])
        while len(self._buffer) >= self._chunk:
            self._step(self._buffer[: self._chunk])
            self._buffer = self._buffer[self._chunk :]

    def finish(self) -> None:
        """Run a last step over the remaining samples. A second call does nothing."""
        self._finished = True
        rest, self._buffer = self._buffer, np.zeros(0, dtype=np.float32)
        if len(rest):
            self._step(rest)
        self.utterance.close()

    def _step(self, samples: NDArray[np.float32]) -> None:
        self.utterance.append(samples)
        while self.utterance.length > self._longest:
            samples = self.utterance.samples.copy()
            cut = cut_point(samples[: self._longest], self._longest)
            self.utterance.truncate(cut)
            self._finals.append(self.utterance.finish())
            self.utterance.close()
            self.utterance = self._new_utterance()
            self.utterance.append(samples[cut:])
        self.utterance.finish()

    def _new_utterance(self) -> Utterance:
        return Utterance(self._recognizer, **self._settings)

    def _hypotheses(self) -> list[Hypothesis]:
        return [*self._finals, self.utterance.hypothesis]


class Qwen3ASRModel:
    """A loaded Qwen3-ASR. Create it with `from_pretrained`."""

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        max_new_tokens: int = 512,
        max_inference_batch_size: int = 8,
        max_utterance_seconds: float = 30.0,
    ) -> None:
        self.recognizer = recognizer
        self.max_new_tokens = max_new_tokens
        self._batch = max_inference_batch_size if max_inference_batch_size > 0 else 1 << 30
        self._longest = int(max_utterance_seconds * SAMPLE_RATE)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        dtype: torch.dtype | str = "auto",
        device_map: str | torch.device | None = None,
        quantize: str = "none",
        max_new_tokens: int = 512,
        max_inference_batch_size: int = 8,
        max_utterance_seconds: float = 30.0,
        forced_aligner: str | Path | None = None,
        forced_aligner_kwargs: dict[str, Any] | None = None,
        attn_implementation: str | None = None,
        **unknown: Any,
    ) -> "Qwen3ASRModel":
        """Load a checkpoint: a hub id, a folder (in transformers' or Qwen's layout), "demo" or "auto".

        dtype: a torch type or its name; "auto" takes 16 bits where the device is fast with them.
        device_map: "cuda:0", "mps", "cpu"; None or "auto" takes the best device of this machine.
        quantize: "int8" for int8 weights in the decoder, on a CPU; "auto" where they are faster; "none".
        max_new_tokens: the longest answer for one utterance, in tokens.
        max_inference_batch_size: how many pieces of audio are transcribed together; 0 or less for no limit.
        max_utterance_seconds: longer audio is cut at the quietest point of its last seconds.
        attn_implementation: accepted for compatibility; ignored, because the engine has its own attention.
        forced_aligner, forced_aligner_kwargs: not supported yet; leave them None.

        Raises `CheckpointError`, `BadConfig` for the device or dtype, and `BadInput` for an unknown argument or a
        forced aligner.
        """
        if forced_aligner is not None or forced_aligner_kwargs is not None:
            raise BadInput(f"{_NO_WORD_TIMES}: leave forced_aligner and forced_aligner_kwargs out.")
        if unknown:
            raise BadInput(
                f"from_pretrained does not know {', '.join(unknown)}: it takes dtype, device_map, quantize, "
                "max_new_tokens, max_inference_batch_size and max_utterance_seconds."
            )
        recognizer = load_recognizer(
            str(pretrained_model_name_or_path),
            str(device_map or "auto"),
            str(dtype).removeprefix("torch."),
            quantize=quantize,
        )
        return cls(
            recognizer,
            max_new_tokens=max_new_tokens,
            max_inference_batch_size=max_inference_batch_size,
            max_utterance_seconds=max_utterance_seconds,
        )

    @classmethod
    def LLM(cls, *_: Any, **__: Any) -> NoReturn:
        """Not supported: in Qwen's package it loads the model with vLLM. Raises `BadInput`."""
        raise BadInput(
            "Qwen3ASRModel.LLM needs vLLM, which is not used here: load the model with Qwen3ASRModel.from_pretrained; "
            "streaming works with that one too."
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

        `context` and `language` apply to all of them, or are lists of the same length. Always returns a list. Raises
        `AudioError` for input that is not audio, `UnknownLanguage`, and `BadInput` when the lists do not match or for
        return_time_stamps, which is not supported yet.
        """
        if return_time_stamps:
            raise BadInput(f"{_NO_WORD_TIMES}: leave return_time_stamps out.")
        audios = list(audio) if isinstance(audio, Sequence) and not _is_one(audio) else [audio]
        contexts = _broadcast(context, len(audios), "context")
        languages = [resolve_language(name) for name in _broadcast(language, len(audios), "language")]
        clips = [load_audio(one) for one in audios]  # type: ignore[arg-type]  # `_is_one` narrowed them
        pieces = [(index, piece) for index, clip in enumerate(clips) for piece in _pieces(clip, self._longest)]
        found: list[list[Hypothesis]] = [[] for _ in audios]
        waiting = iter(pieces)
        while batch := list(islice(waiting, self._batch)):
            utterances = [self._utterance(piece, contexts[index] or "", languages[index]) for index, piece in batch]
            hypotheses = run_steps(self.recognizer, utterances)
            for (index, _), utterance, hypothesis in zip(batch, utterances, hypotheses, strict=True):
                utterance.close()
                found[index].append(hypothesis)
        return [Transcription(_join_languages(parts), join_texts([part.text for part in parts])) for parts in found]

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
        compatibility; ignored, because each step verifies the whole hypothesis. Raises `BadInput` for a chunk_size_sec
        that is no number above 0, and `UnknownLanguage`.
        """
        _check_chunk(chunk_size_sec)
        settings = {
            "context": context,
            "language": resolve_language(language),
            "max_new_tokens": self.max_new_tokens,
        }
        return StreamingState(self.recognizer, settings, max(round(chunk_size_sec * SAMPLE_RATE), 1), self._longest)

    def streaming_transcribe(self, pcm16k: NDArray[Any], state: StreamingState) -> StreamingState:
        """Feed mono samples at 16 kHz, float or int16, of any length. Updates `state` and returns it.

        Raises `AudioError` for samples that are not audio, and `BadInput` when the stream is finished.
        """
        state.feed(to_mono(np.asarray(pcm16k).reshape(-1)))
        return state

    def finish_streaming_transcribe(self, state: StreamingState) -> StreamingState:
        """Transcribe the remaining samples. `state.text` is then what `transcribe` gives for the same samples."""
        state.finish()
        return state

    def session(
        self,
        context: str = "",
        language: str | None = None,
        chunk_size_sec: float = 1.0,
        endpoints: EndpointConfig | None = None,
    ) -> Session:
        """A session of one speaker, with utterances and events, for `run_session` and blocks of 16 kHz samples.

        chunk_size_sec: seconds of new audio between two partials. It is a number here and never automatic:
        `run_session` takes no audio while a step runs, so a session cannot tell how long that lasts.

        The text of each `Final` is what `transcribe` gives for the samples from its `start` to its `end`, except where
        its `warnings` name a guard that changed it. Raises `UnknownLanguage`, and `BadInput` for a chunk_size_sec that
        is no number above 0.
        """
        _check_chunk(chunk_size_sec)
        options = SessionOptions(
            language=language,
            context=context,
            chunk_seconds=chunk_size_sec,
            max_new_tokens=self.max_new_tokens,
            endpoints=endpoints or EndpointConfig(longest_seconds=self._longest / SAMPLE_RATE),
        )
        return create_session(self.recognizer, _silero(), options)

    def _utterance(self, samples: NDArray[np.float32], context: str, language: str | None) -> Utterance:
        utterance = Utterance(self.recognizer, context=context, language=language, max_new_tokens=self.max_new_tokens)
        utterance.append(samples)
        return utterance


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


def _is_one(audio: object) -> bool:
    """Whether this is one audio: text, bytes, a path, or a pair of samples and rate."""
    if isinstance(audio, str | bytes | Path):
        return True
    return isinstance(audio, tuple) and len(audio) == 2 and isinstance(audio[1], int | np.integer)


def _broadcast(value: str | Sequence[str | None] | None, count: int, name: str) -> list[str | None]:
    values = [value] if value is None or isinstance(value, str) else list(value)
    if len(values) == 1:
        return values * count
    if len(values) != count:
        raise BadInput(f"There are {count} audios but {len(values)} values of {name}: give one for all, or one each.")
    return values


def _join_languages(hypotheses: list[Hypothesis]) -> str:
    """The languages in order, without repeating one that follows itself."""
    names: list[str] = []
    for hypothesis in hypotheses:
        if hypothesis.language and hypothesis.language not in names[-1:]:
            names.append(hypothesis.language)
    return ",".join(names)
