"""Audio files in, finals out: the session that the page drives, driven by a file. What `qwen-asr transcribe` does.

A file is read block by block, so its length does not matter; its silence is skipped, and its utterances come out one
after the other while the rest is still to be read.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio.decode import decode_blocks, fetch, is_address
from qwen_asr.audio.vad import Silero
from qwen_asr.config.config import Config
from qwen_asr.engine.checkpoint import load_recognizer
from qwen_asr.engine.recognizer import Recognizer
from qwen_asr.errors import AudioError, StepFailed
from qwen_asr.live.events import Failed, Final
from qwen_asr.live.runner import run_session
from qwen_asr.live.session import Session
from qwen_asr.live.session_factory import create_session
from qwen_asr.live.session_options import SessionOptions, endpoints_of

STANDARD_INPUT = "Standard input"


class FileTranscriber:
    """Transcribes files with one model, which it loads when the first file that is audio comes."""

    def __init__(
        self,
        config: Config,
        *,
        language: str | None = None,
        context: str = "",
        on_read: Callable[[int], None] = lambda samples: None,
    ) -> None:
        """`on_read` is told how many samples (16 kHz) were read, block by block."""
        self._config = config
        self._on_read = on_read
        self._language = language
        self._context = context
        self._silero = Silero()
        self._recognizer: Recognizer | None = None

    def finals(self, name: str) -> Iterator[Final]:
        """The utterances of a file, in order, as soon as each is known.

        `name` is a path, an http(s) URL, or "-" for standard input. Raises AudioError for what is no audio (before any
        model is loaded), CheckpointError where there is no model, and StepFailed where the model failed.
        """
        blocks = decode_blocks(_opened(name), STANDARD_INPUT if name == "-" else repr(name))
        first = next(blocks, None)
        if first is None:
            raise AudioError(f"{name!r} holds no sound at all; expected an audio or video file.")
        for event in run_session(self._session(), self._told(chain([first], blocks))):
            if isinstance(event, Failed):
                raise StepFailed(event.message)
            if isinstance(event, Final):
                yield event

    def _told(self, blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        for block in blocks:
            yield block
            self._on_read(len(block))  # the session has asked for more, and is done with this one

    def _session(self) -> Session:
        config = self._config
        if self._recognizer is None:
            # The demo in a real model's place would give wrong text that looks right, in a file that is kept.
            self._recognizer = load_recognizer(config.asr_model_path, config.device, config.dtype, demo_instead=False)
        options = SessionOptions(
            language=self._language,
            context=self._context,
            # Nobody watches a file's text grow: each utterance is decoded once, at its end.
            chunk_seconds=config.max_utterance_seconds + 1,
            max_new_tokens=config.max_new_tokens,
            endpoints=endpoints_of(config),
        )
        return create_session(self._recognizer, self._silero, options)


def _opened(name: str) -> Path | BinaryIO:
    if name == "-":
        return sys.stdin.buffer
    return io.BytesIO(fetch(name)) if is_address(name) else Path(name)
