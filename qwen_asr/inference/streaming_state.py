"""`StreamingState`: one stream of `Qwen3ASRModel`, with the attributes that it has in Qwen's own package."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio.endpointing import cut_point
from qwen_asr.audio.validation import ArrayReader
from qwen_asr.engine.hypothesis import Hypothesis
from qwen_asr.engine.recognizer import Recognizer
from qwen_asr.engine.streaming import Utterance
from qwen_asr.errors import BadInput
from qwen_asr.inference.utils import merge_languages
from qwen_asr.live.transcript import join_texts


class StreamingState:
    """One stream of `Qwen3ASRModel`. Read its attributes; pass the object to the model's methods.

    text: the whole text so far. language: its languages, separated by commas; "" before the first.
    chunk_id: how many steps have run. chunk_size_sec, chunk_size_samples: the audio between two steps.
    buffer: the samples of the chunk that is not yet full, float32 mono at 16 kHz, (n,).
    context, force_language: as given, with the language's name. prompt_raw: the prompt around the audio, as text.
    unfixed_chunk_num, unfixed_token_num: as given; without effect.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        context: str,
        language: str | None,
        max_new_tokens: int,
        unfixed_chunk_num: int,
        unfixed_token_num: int,
        chunk_size_sec: float,
        chunk_size_samples: int,
        longest: int,
    ) -> None:
        """language: a name in `LANGUAGES`, or None. longest: the samples of the longest utterance."""
        self.context = context
        self.force_language = language
        self.unfixed_chunk_num = unfixed_chunk_num
        self.unfixed_token_num = unfixed_token_num
        self.chunk_size_sec = chunk_size_sec
        self.chunk_size_samples = chunk_size_samples
        self.prompt_raw = recognizer.prompt_text(context, language)
        self.chunk_id = 0
        self.buffer = np.zeros(0, dtype=np.float32)
        self.text = ""
        self.language = ""
        self._recognizer = recognizer
        self._settings: dict[str, Any] = {"context": context, "language": language, "max_new_tokens": max_new_tokens}
        self._longest = longest
        self._reader = ArrayReader()
        self._consumed: list[NDArray[np.float32]] = []
        self._finals: list[Hypothesis] = []
        self._finished = False
        self.utterance = self._new_utterance()

    @property
    def audio_accum(self) -> NDArray[np.float32]:
        """All samples that steps have taken, (n,): 230 MB an hour. They are joined when this is read, not in a step."""
        if len(self._consumed) != 1:
            self._consumed = [np.concatenate([np.zeros(0, dtype=np.float32), *self._consumed])]
        return self._consumed[0]

    def feed(self, samples: Any) -> None:
        """Take samples at 16 kHz, as `ArrayReader` reads them; run a step for each full chunk.

        Raises `AudioError`, and `BadInput` after `finish`.
        """
        if self._finished:
            raise BadInput("The stream is finished and takes no more audio: make a new one with init_streaming_state.")
        self.buffer = np.concatenate([self.buffer, self._reader.read(samples)])
        while len(self.buffer) >= self.chunk_size_samples:
            chunk, self.buffer = np.split(self.buffer, [self.chunk_size_samples])
            self._step(chunk)

    def finish(self) -> None:
        """Run a last step over the remaining samples. A second call does nothing, unless the first has failed."""
        self._finished = True
        rest, self.buffer = self.buffer, np.zeros(0, dtype=np.float32)
        if len(rest):
            self._step(rest)
        else:
            self._run()
        self.utterance.close()

    def _step(self, samples: NDArray[np.float32]) -> None:
        self._consumed.append(samples)
        self.utterance.append(samples)
        self.chunk_id += 1
        self._run()

    def _run(self) -> None:
        """Bring the text up to all samples that were taken."""
        while self.utterance.length > self._longest:
            held = self.utterance.samples.copy()
            cut = cut_point(held[: self._longest], self._longest)
            self.utterance.truncate(cut)
            self._finals.append(self.utterance.finish())
            self.utterance.close()
            self.utterance = self._new_utterance()
            self.utterance.append(held[cut:])
        self.utterance.finish()
        hypotheses = [*self._finals, self.utterance.hypothesis]
        self.text = join_texts([hypothesis.text for hypothesis in hypotheses])
        self.language = merge_languages(hypothesis.language for hypothesis in hypotheses)

    def _new_utterance(self) -> Utterance:
        return Utterance(self._recognizer, **self._settings)
