"""`create_session`: creates a session for the server, the command line and the Python API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qwen_asr.live.session import Session

if TYPE_CHECKING:
    from qwen_asr.audio.vad import Silero
    from qwen_asr.engine.interface import SpeechModel
    from qwen_asr.live.session_options import SessionOptions


def check_options(model: SpeechModel, options: SessionOptions) -> None:
    """Checks that the model can run a session with these options.

    Raises `BadInput` if the system prompt contains a control token of the model or is too long, and `LimitExceeded` if
    its longest utterance would not fit into the KV pool.
    """
    seconds = options.endpoints.longest_seconds
    model.check_room(seconds, options.max_new_tokens, options.system_prompt, options.language)


def create_session(model: SpeechModel, silero: Silero, options: SessionOptions) -> Session:
    """Creates a session. Raises what `check_options` raises."""
    check_options(model, options)
    new_utterance = model.utterances(background=options.background, scored=options.scored)
    return Session(new_utterance, options.detector(silero, options.endpoints), options, model.aligner)
