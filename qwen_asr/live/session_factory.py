"""`create_session`: creates a session for the server, the command line and the Python API."""

from functools import partial

from qwen_asr.audio.vad import Silero
from qwen_asr.engine.decoder.drafts import Beginning
from qwen_asr.engine.recognizer import Recognizer
from qwen_asr.engine.streaming import Utterance
from qwen_asr.live.session import Session
from qwen_asr.live.session_options import SessionOptions


def check_options(recognizer: Recognizer, options: SessionOptions) -> None:
    """Checks that the recognizer can run a session with these options.

    Raises `BadInput` if the system prompt contains a control token of the model or is too long, and `LimitExceeded` if
    its longest utterance would not fit into the KV pool.
    """
    seconds = options.endpoints.longest_seconds
    recognizer.check_room(seconds, options.max_new_tokens, options.system_prompt, options.language)


def create_session(recognizer: Recognizer, silero: Silero, options: SessionOptions) -> Session:
    """Creates a session. Raises what `check_options` raises."""
    check_options(recognizer, options)
    new_utterance = partial(
        Utterance, recognizer, beginning=Beginning(), background=options.background, scored=options.scored
    )
    return Session(new_utterance, options.detector(silero, options.endpoints), options, recognizer.aligner)
