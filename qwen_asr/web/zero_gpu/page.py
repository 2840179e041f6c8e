"""The page: record, or choose a file; then its transcript, and that as files."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.decode import decode_blocks
from qwen_asr.config.config import Config
from qwen_asr.config.limits import PageLimits
from qwen_asr.engine.languages import LANGUAGES, resolve_language
from qwen_asr.errors import QwenASRError, TooLarge
from qwen_asr.live.events import Final
from qwen_asr.live.session_options import SessionOptions, endpoints_of
from qwen_asr.live.transcript import join_texts
from qwen_asr.web.page.downloads import WRITERS
from qwen_asr.web.page.microphone import BROWSER
from qwen_asr.web.page.page import AUTOMATIC, shown
from qwen_asr.web.page.phone.section import TITLE
from qwen_asr.web.page.settings_tab import TRANSLATED, translate_components
from qwen_asr.web.temporary_files import VARIABLE
from qwen_asr.web.zero_gpu.gpu_task import GpuTask, gpu_seconds
from qwen_asr.web.zero_gpu.refusals import OUT_OF_REACH, explain

log = logging.getLogger(__name__)

LONGEST_SECONDS = 20 * 60.0
"""The longest clip. It asks for 170 seconds of GPU time. Where a second counts one and a half times, that is most of
the five minutes that a free account has in a day."""
AT_ONCE = 4
"""Clips that wait for a GPU or are transcribed at the same time; further ones wait in Gradio's queue."""

NOTICE = (BROWSER / "zero_gpu" / "notice.html").read_text(encoding="utf-8")
FAILURE = f"<header class='title'><h1 data-t>{TITLE}</h1></header><p role='alert' data-t>{{}}</p>"

Updates = tuple[Any, ...]
"""The value of the transcript, then those of the buttons that save it."""


def build_page(task: GpuTask, config: Config, note: str) -> gr.Blocks:
    """The page, which calls `task`. `note` is a sentence about the model."""
    page = gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=False)
    with page:
        gr.HTML(NOTICE + f"<p data-t>{escape(note)}</p>", js_on_load=TRANSLATED)
        with gr.Row(elem_id="options"):
            language = gr.Dropdown(
                [AUTOMATIC, *LANGUAGES.values()],
                value=resolve_language(config.default_language) or AUTOMATIC,
                label="Language",
                elem_id="language",
                scale=1,
            )
            context = gr.Textbox(
                config.default_context or "",
                label="Context",
                placeholder="Names and terms (optional)",
                max_lines=3,
                max_length=PageLimits.context_characters,
                scale=3,
            )
        with gr.Tabs():
            with gr.Tab("Record"):
                recording = gr.Audio(sources=["microphone"], type="filepath", label="Recording", buttons=[])
                transcribe_recording = gr.Button("Transcribe the recording", variant="primary", interactive=False)
            with gr.Tab("File"):
                file = gr.File(label="Audio or video file", elem_id="file")
                transcribe_file = gr.Button("Transcribe the file", variant="primary", interactive=False)
        transcript = gr.Textbox(
            label="Transcript", lines=8, max_lines=30, interactive=False, buttons=["copy"], elem_id="text"
        )
        with gr.Row():
            saving = [gr.DownloadButton(form.upper(), interactive=False, size="sm") for form in WRITERS]
        clips = Clips(task, config)
        for button, source in ((transcribe_recording, recording), (transcribe_file, file)):
            # Only then has what was recorded or chosen arrived here.
            source.change(_enabled, source, button, queue=False, show_progress="hidden", api_visibility="private")
            button.click(
                clips.transcribe,
                [source, language, context],
                [transcript, *saving],
                concurrency_limit=AT_ONCE,
                concurrency_id="gpu",
                api_visibility="private",
            )
        translate_components(page)
    return page


def failure_page(message: str) -> gr.Blocks:
    """A page that says why there is no model."""
    page = gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=False)
    with page:
        gr.HTML(FAILURE.format(escape(message)), js_on_load=TRANSLATED)
    return page


class Clips:
    """Transcribes what the page sends, in the main process but for `task`."""

    def __init__(self, task: GpuTask, config: Config) -> None:
        self._task = task
        self._config = config
        self._longest = min(config.max_file_seconds, LONGEST_SECONDS)

    def transcribe(self, path: str, language: str, context: str) -> Iterator[Updates]:
        """The updates of the page while the file at `path` is transcribed. Raises gr.Error with a sentence."""
        try:
            options = self._options(language, context)
            samples = self._read(Path(path))
        except QwenASRError as error:
            raise shown(error) from error
        except FileNotFoundError as error:  # it is removed after a while
            raise shown("The page was open for so long that its audio is gone: record or choose it again.") from error
        unsaved = [gr.update(value=None, interactive=False)] * len(WRITERS)
        finals: list[Final] = []
        yield ("", *unsaved)
        for final in self._finals(samples, options):
            finals.append(final)
            yield (_text(finals), *unsaved)
        if not finals:
            raise shown("No speech was found in it.")
        yield (_text(finals), *[gr.update(value=path, interactive=True) for path in _saved(finals)])

    def _finals(self, samples: NDArray[np.float32], options: SessionOptions) -> Iterator[Final]:
        try:
            yield from self._task(samples, options)
        except gr.Error as error:
            log.info("A GPU task failed: %s: %s", error.title, error.message)
            raise shown(explain(error, gpu_seconds(samples))) from error
        except Exception as error:  # of `spaces`, which raises what its HTTP client raises, and RuntimeError
            log.exception("A GPU task could not be run.")
            raise shown(OUT_OF_REACH) from error

    def _options(self, language: str, context: str) -> SessionOptions:
        config = self._config
        return SessionOptions(
            language=None if language == AUTOMATIC else language,
            context=context,
            prompt=config.default_prompt or "",
            chunk_seconds=config.max_utterance_seconds + 1,  # no partial text: each utterance is decoded once
            max_new_tokens=config.max_new_tokens,
            endpoints=endpoints_of(config),
            background=True,
            words=True,
        )

    def _read(self, path: Path) -> NDArray[np.float32]:
        """The whole clip. Raises AudioError, and TooLarge for one that is too long."""
        parts: list[NDArray[np.float32]] = []
        samples = 0
        with path.open("rb") as file:  # opened, so that messages do not name a path of the server
            for part in decode_blocks(file, "The file"):
                parts.append(part)
                samples += len(part)
                if samples > self._longest * SAMPLE_RATE:
                    raise TooLarge(
                        f"The file is longer than {self._longest / 60:g} minutes, the most that is transcribed at once "
                        "here: cut it into parts."
                    )
        return np.concatenate(parts)


def _enabled(path: str | None) -> Any:
    return gr.update(interactive=path is not None)


def _text(finals: list[Final]) -> str:
    return join_texts(final.text for final in finals)


def _saved(finals: list[Final]) -> list[str]:
    """The transcript as files of all formats, in the folder whose old files are removed."""
    folder = Path(tempfile.mkdtemp(dir=os.environ[VARIABLE]))
    paths = []
    for form, write in WRITERS.items():
        path = folder / f"transcript.{form}"
        path.write_text(write(finals), encoding="utf-8")
        paths.append(str(path))
    return paths
