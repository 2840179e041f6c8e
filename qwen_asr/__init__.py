"""Live speech recognition with Qwen3-ASR.

How a spoken word gets on the page, room by room (each imports only from those before it)::

    audio    any rate or file → float32 mono 16 kHz; voice activity; utterances with sample-exact start and end
    engine   utterance samples → hypotheses, each equal to offline `generate` on the audio so far
    live     one speaker's session: utterances → engine steps → Partial, Final, Failed events; guards; subtitles
    web      the page and its microphone, over HTTPS

`Qwen3ASRModel` has the method names of Qwen's own package; `Session` and `run_session` are one speaker with utterances
and events. Everything is imported when it is first used, so that the command line answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qwen_asr.errors import missing_package

if TYPE_CHECKING:
    from qwen_asr.api import Qwen3ASRModel, Transcription
    from qwen_asr.live.events import Failed, Final, Partial
    from qwen_asr.live.runner import run_session
    from qwen_asr.live.session import Session

__version__ = "0.1.0"

_PLACES = {
    "Qwen3ASRModel": "qwen_asr.api",
    "Transcription": "qwen_asr.api",
    "Session": "qwen_asr.live.session",
    "run_session": "qwen_asr.live.runner",
    "Partial": "qwen_asr.live.events",
    "Final": "qwen_asr.live.events",
    "Failed": "qwen_asr.live.events",
}

__all__ = ["Failed", "Final", "Partial", "Qwen3ASRModel", "Session", "Transcription", "run_session"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(_PLACES[name])
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == __name__:
            raise
        raise ModuleNotFoundError(missing_package(error.name), name=error.name) from None
    return getattr(module, name)
