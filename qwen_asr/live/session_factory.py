"""A session on a loaded recognizer: what the page, the files and the Python API open for each speaker."""

from collections.abc import Callable

from qwen_asr.audio.endpointing import Detector, EndpointConfig, UtteranceDetector
from qwen_asr.audio.vad import Silero, VoiceActivity
from qwen_asr.config.config import Config
from qwen_asr.engine.languages import resolve_language
from qwen_asr.engine.recognizer import Recognizer
from qwen_asr.engine.streaming import Utterance
from qwen_asr.live.session import Session

Detection = Callable[[Silero, EndpointConfig], Detector]
"""Makes what finds a session's utterances, out of the shared network and how the server finds them otherwise."""


def create_session(
    recognizer: Recognizer,
    silero: Silero,
    endpoints: EndpointConfig,
    *,
    chunk_seconds: float = 1.0,
    context: str = "",
    language: str | None = None,
    max_new_tokens: int = 512,
    detection: Detection | None = None,
) -> Session:
    """A new session of one speaker; `language` is a name or code. Raises `UnknownLanguage`, `BadConfig`, `BadInput`.

    Utterances are found by voice, unless `detection` makes another detector.
    """

    def new_utterance(context: str, language: str | None, max_new_tokens: int) -> Utterance:
        return Utterance(recognizer, context=context, language=language, max_new_tokens=max_new_tokens)

    return Session(
        new_utterance,
        (detection or voice_detector)(silero, endpoints),
        chunk_seconds=chunk_seconds,
        context=context,
        language=resolve_language(language),
        max_new_tokens=max_new_tokens,
    )


def voice_detector(silero: Silero, endpoints: EndpointConfig) -> UtteranceDetector:
    """The detector of a speaker who pauses."""
    return UtteranceDetector(endpoints, VoiceActivity(silero))


def endpoints_of(config: Config) -> EndpointConfig:
    """How utterances are found, as the options say."""
    return EndpointConfig(
        threshold=config.vad_threshold,
        silence_seconds=config.silence_threshold,
        min_speech_seconds=config.min_speech_duration,
        longest_seconds=config.max_utterance_seconds,
    )
