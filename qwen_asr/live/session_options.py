"""`SessionOptions`: the options of one session, such as language, context and endpointing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from qwen_asr.audio.endpointing import Detector, EndpointConfig, UtteranceDetector
from qwen_asr.audio.vad import Silero, VoiceActivity
from qwen_asr.config.config import Config
from qwen_asr.engine.languages import resolve_language
from qwen_asr.errors import BadConfig

DetectorFactory = Callable[[Silero, EndpointConfig], Detector]
"""Creates the utterance detector of a session from the shared VAD network and the endpointing options."""


def voice_detector(silero: Silero, endpoints: EndpointConfig) -> Detector:
    """A detector that finds utterances by voice activity."""
    return UtteranceDetector(endpoints, VoiceActivity(silero))


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """The options of one session. Raises `UnknownLanguage`, and `BadConfig` for `chunk_seconds` not above 0.

    `Service.session_options` fills in the server's defaults.
    """

    language: str | None = None
    """The spoken language, given as a name or a code and stored as the English name. None: detected by the model."""
    context: str = ""
    """Names and terms that are likely to be spoken."""
    prompt: str = ""
    """An instruction for the model, placed before the context."""
    chunk_seconds: float | None = None
    """Seconds of new audio between two partials. None: as few as the device can keep up with; see `live.pacing`."""
    max_new_tokens: int = 512
    """The maximum number of tokens of one utterance."""
    endpoints: EndpointConfig = field(default_factory=EndpointConfig)
    """The rules for where an utterance starts and ends."""
    detector: DetectorFactory = voice_detector
    """Creates the detector that applies `endpoints`."""
    background: bool = False
    """Whether nobody waits for the text while it is spoken, as with a file: its steps give way to those of others, and
    each final waits for its words."""

    scored: bool = False
    """Whether finals have the probabilities of their tokens."""
    words: bool = False
    """Whether finals have the times of their words, where the recognizer has an aligner. A slow one gives them later,
    as `Aligned`."""

    model: str = ""
    """The name of the server's model that runs it; empty for the default one. It cannot be changed later."""

    def __post_init__(self) -> None:
        if self.chunk_seconds is not None and not self.chunk_seconds > 0:
            raise BadConfig(f"The chunk is {self.chunk_seconds} seconds long; it must be above 0, for example 1.0.")
        object.__setattr__(self, "language", resolve_language(self.language))

    @property
    def system_prompt(self) -> str:
        """The model's system prompt: the prompt, a blank line, the context; without the blank line if one is empty."""
        return "\n\n".join(part for part in (self.prompt, self.context) if part)


def endpoints_of(config: Config, silence_seconds: float | None = None) -> EndpointConfig:
    """The endpointing options of the server's configuration, with another `silence_seconds` where it is given.

    Raises `BadConfig` if that is out of the range of `--silence-threshold`.
    """
    limits = Config.__dataclass_fields__["silence_threshold"].metadata
    if silence_seconds is not None and not limits["low"] <= silence_seconds <= limits["high"]:
        raise BadConfig(
            f"The pause that ends an utterance is {silence_seconds:g} seconds; it must be from {limits['low']:g} to "
            f"{limits['high']:g}, for example {config.silence_threshold:g}."
        )
    return EndpointConfig(
        threshold=config.vad_threshold,
        silence_seconds=config.silence_threshold if silence_seconds is None else silence_seconds,
        min_speech_seconds=config.min_speech_duration,
        longest_seconds=config.max_utterance_seconds,
    )
