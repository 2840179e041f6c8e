"""`SessionOptions`: everything that one session is opened with, checked once and passed on whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from qwen_asr.audio.endpointing import Detector, EndpointConfig, UtteranceDetector
from qwen_asr.audio.vad import Silero, VoiceActivity
from qwen_asr.config.config import Config
from qwen_asr.engine.languages import resolve_language
from qwen_asr.errors import BadConfig

DetectorFactory = Callable[[Silero, EndpointConfig], Detector]
"""Makes the detector that finds a session's utterances, from the shared network and the session's endpointing."""


def voice_detector(silero: Silero, endpoints: EndpointConfig) -> Detector:
    """A detector that finds utterances by voice activity."""
    return UtteranceDetector(endpoints, VoiceActivity(silero))


@dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """The options of one session. Raises `UnknownLanguage`, and `BadConfig` for `chunk_seconds` not above 0.

    `Service.session_options` fills in the server's defaults.
    """

    language: str | None = None
    """The spoken language: given as a name or a code, kept as the English name. None: recognized by the model."""
    context: str = ""
    """Names and terms that will be spoken, for the model."""
    prompt: str = ""
    """An instruction for the model, in front of the context."""
    chunk_seconds: float = 1.0
    """Seconds of new speech between two partial texts."""
    max_new_tokens: int = 512
    """The most tokens that one utterance may have."""
    endpoints: EndpointConfig = field(default_factory=EndpointConfig)
    """Where an utterance begins and ends."""
    detector: DetectorFactory = voice_detector
    """Makes the detector that applies `endpoints`."""

    def __post_init__(self) -> None:
        if not self.chunk_seconds > 0:
            raise BadConfig(f"The chunk is {self.chunk_seconds} seconds long; it must be above 0, for example 1.0.")
        object.__setattr__(self, "language", resolve_language(self.language))

    @property
    def system_prompt(self) -> str:
        """The model's system prompt: the prompt, a blank line, the context; without the blank line if one is empty."""
        return "\n\n".join(part for part in (self.prompt, self.context) if part)


def endpoints_of(config: Config) -> EndpointConfig:
    """The endpointing that the server's options ask for."""
    return EndpointConfig(
        threshold=config.vad_threshold,
        silence_seconds=config.silence_threshold,
        min_speech_seconds=config.min_speech_duration,
        longest_seconds=config.max_utterance_seconds,
    )
