"""Live speech recognition with Qwen3-ASR.

Audio flows through the packages in this order, and each imports only from those before it::

    audio      any file or sample rate → float32 mono 16 kHz → utterances with sample-exact start and end
    engine     samples of an utterance → hypotheses, each equal to offline `generate` on the audio so far
    fleet      the same from engines in other processes, which hold a copy of the samples
    live       the session of one speaker: utterances → engine steps → `Partial`, `Final`, `Failed` and `Aligned` events
    service    the recognizer that all sessions share, admission and shutdown
    web        the page, WebSockets and HTTP routes
    cli        the commands

`inference`, beside them, is the Python API.

Use `Qwen3ASRModel` like the class of the same name in Qwen's own package, and `Session` with `run_session` for live
events. Each name is imported when it is first used, so that the commands start quickly.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qwen_asr.errors import missing_package

if TYPE_CHECKING:
    from qwen_asr.engine.words import Word
    from qwen_asr.inference.qwen3_asr import Qwen3ASRModel, Transcription
    from qwen_asr.inference.qwen3_forced_aligner import Qwen3ForcedAligner
    from qwen_asr.inference.utils import parse_asr_output
    from qwen_asr.live.events import Aligned, Failed, Final, Partial
    from qwen_asr.live.runner import run_session
    from qwen_asr.live.session import Session

__version__ = "0.2.0.dev0"

_MODULES = {
    "Qwen3ASRModel": "qwen_asr.inference.qwen3_asr",
    "Transcription": "qwen_asr.inference.qwen3_asr",
    "Qwen3ForcedAligner": "qwen_asr.inference.qwen3_forced_aligner",
    "parse_asr_output": "qwen_asr.inference.utils",
    "Session": "qwen_asr.live.session",
    "run_session": "qwen_asr.live.runner",
    "Partial": "qwen_asr.live.events",
    "Final": "qwen_asr.live.events",
    "Failed": "qwen_asr.live.events",
    "Aligned": "qwen_asr.live.events",
    "Word": "qwen_asr.engine.words",
}

__all__ = [
    "Aligned",
    "Failed",
    "Final",
    "Partial",
    "Qwen3ASRModel",
    "Qwen3ForcedAligner",
    "Session",
    "Transcription",
    "Word",
    "parse_asr_output",
    "run_session",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(_MODULES[name])
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == __name__:
            raise
        raise ModuleNotFoundError(missing_package(error.name), name=error.name) from None
    return getattr(module, name)
