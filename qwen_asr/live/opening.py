"""A session on a loaded recognizer: what the page, the files and the Python API open for each speaker."""

from qwen_asr.audio.utterance import EndpointConfig, UtteranceDetector
from qwen_asr.audio.vad import Silero, VoiceActivity
from qwen_asr.config import Config
from qwen_asr.engine.languages import resolve_language
from qwen_asr.engine.recognizer import Recognizer
from qwen_asr.engine.streaming import Utterance
from qwen_asr.live.session import Session


def open_session(
    recognizer: Recognizer,
    silero: Silero,
    endpoints: EndpointConfig,
    *,
    chunk_seconds: float = 1.0,
    context: str = "",
    language: str | None = None,
    max_new_tokens: int = 512,
) -> Session:
    """A new session of one speaker; `language` is a name or code. Raises `UnknownLanguage`, `BadConfig`, `BadInput`."""

    def new_utterance(context: str, language: str | None, max_new_tokens: int) -> Utterance:
        return Utterance(recognizer, context=context, language=language, max_new_tokens=max_new_tokens)

    return Session(
        new_utterance,
        UtteranceDetector(endpoints, VoiceActivity(silero)),
        chunk_seconds=chunk_seconds,
        context=context,
        language=resolve_language(language),
        max_new_tokens=max_new_tokens,
    )


def endpoints_of(config: Config) -> EndpointConfig:
    """How utterances are found, as the options say."""
    return EndpointConfig(
        threshold=config.vad_threshold,
        silence_seconds=config.silence_threshold,
        min_speech_seconds=config.min_speech_duration,
        longest_seconds=config.max_utterance_seconds,
    )
