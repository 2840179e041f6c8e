"""The page: Gradio Blocks around the streaming microphone. What moves is in the microphone, what stands still here."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio.resample import to_mono
from qwen_asr.engine.languages import LANGUAGES
from qwen_asr.errors import QwenASRError
from qwen_asr.service.rate_limit import sender
from qwen_asr.web.page.microphone import STOCK_RECORDING, State, streaming_microphone
from qwen_asr.web.page.recordings import TIME_LIMIT_MESSAGE, RecordingRegistry

HERE = Path(__file__).parent
CSS = HERE / "page.css"
AUTOMATIC = "Automatic"
TITLE = "Qwen3-ASR live"
STRAGGLERS_SECONDS = 3.0
"""So long after its end, a block of the stock recorder belongs to the recording that ended, not to a new one."""

# Keeps what the two inputs say where the microphone's script finds it. Nothing goes to the server before Record.
WISHES_JS = """(language, context) => {
  const microphone = document.getElementById("microphone");
  if (microphone) microphone.wishes = {language: language === "%s" ? null : language, context};
}"""
# Typing into the drop-down looks for a language; without this it would be added to the name that stands there.
SELECT_JS = """() => document.addEventListener("click", (event) => event.target.closest("#language input")?.select())"""
TELL_JS = """() => document.getElementById("microphone").dispatchEvent(new Event("%s"))"""


def theme() -> gr.themes.Base:
    """Calm, and with the system's own fonts: the page must not ask a font server, or any other, for anything."""
    return gr.themes.Default(
        primary_hue="emerald",
        neutral_hue="slate",
        radius_size="lg",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"],
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    ).set(
        # Gradio's grey has a contrast of 2.6 on white; 4.5 is what small text needs to be read by everybody (WCAG AA).
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
    )


def build_page(
    recordings: RecordingRegistry, state: State, *, language: str | None = None, context: str = "", **settings: Any
) -> gr.Blocks:
    """The whole page. `language` (an English name) and `context` are what the inputs hold at first.

    `settings` go to the streaming microphone. Mount it with `theme()` and `CSS`.
    """
    # The stock recorder leaves each block as a file in Gradio's temporary folder: swept every minute, kept for one.
    page = gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, 60), fill_width=False)
    with page:
        gr.HTML(f"<header class='title'><h1>{TITLE}</h1><p>Press Record, speak, and read along.</p></header>")
        with gr.Row(elem_id="wishes"):
            spoken = gr.Dropdown(
                [AUTOMATIC, *LANGUAGES.values()],
                value=language or AUTOMATIC,
                label="Language",
                elem_id="language",
                min_width=180,
                scale=1,
            )
            names = gr.Textbox(
                context,
                label="Context",
                placeholder="Names and terms that will be spoken (optional)",
                max_lines=3,
                max_length=10_000,
                min_width=240,
                scale=3,
            )
        streaming_microphone(recordings, state, **settings)
        _add_fallback_recorder(recordings, state, spoken, names)
        keep = {"fn": None, "inputs": [spoken, names], "js": WISHES_JS % AUTOMATIC, "api_visibility": "private"}
        page.load(None, js=SELECT_JS, api_visibility="private")
        gr.on([page.load, spoken.change, names.change], **keep)

        def leave(request: gr.Request) -> None:  # Gradio gives the request by this annotation
            recordings.tab_closed(str(request.session_hash))

        page.unload(leave)
    return page


def _add_fallback_recorder(recordings: RecordingRegistry, state: State, spoken: gr.Dropdown, names: gr.Textbox) -> None:
    """Gradio's own recorder, for browsers without AudioWorklet. It may lose sound; set up to lose little."""
    stock = FallbackRecorder(recordings, state)
    with gr.Accordion("Trouble with the microphone? Open the fallback", open=False, elem_id="stock"):
        gr.Markdown(
            "It sends sound every half second and may lose some of it on a poor connection. The text appears above."
        )
        audio = gr.Audio(
            sources=["microphone"],
            streaming=True,
            type="numpy",
            label="Simple recorder",
            elem_id="stock-recorder",
            buttons=[],
        )
    # `concurrency_limit=None`: by default one recording would wait for another. The handler only takes the block.
    audio.stream(
        stock.take,
        [audio, spoken, names],
        stream_every=0.5,
        concurrency_limit=None,
        show_progress="hidden",
        queue=True,
        api_visibility="private",
    )
    # The text comes through the microphone's script, which also says when the recording is over: a moment after Stop,
    # for the last block is still on its way then.
    audio.start_recording(None, js=TELL_JS % "stock-start", api_visibility="private")
    audio.stop_recording(None, js=TELL_JS % "stock-stop", api_visibility="private")


class FallbackRecorder:
    """Takes what `gr.Audio` streams into the same kind of recording as the page's own microphone."""

    def __init__(self, recordings: RecordingRegistry, state: State) -> None:
        self._recordings = recordings
        self._state = state
        self._lock = threading.Lock()

    def take(self, block: tuple[int, NDArray[Any]] | None, language: str, context: str, request: gr.Request) -> None:
        """One block of sound, (rate, samples). Raises gr.Error where the recording cannot be opened."""
        if block is None:
            return
        rate, samples = block
        tab = str(request.session_hash)
        with self._lock:  # two blocks of one tab must not both open its recording
            recording = self._recordings.get(tab, STOCK_RECORDING)
            if recording is not None and recording.finished:
                if time.monotonic() - recording.heard_at < STRAGGLERS_SECONDS:
                    return
                self._recordings.remove(tab, STOCK_RECORDING)
                recording = None
            if recording is None:
                spoken = None if language == AUTOMATIC else language
                try:
                    options = self._state.session_options(language=spoken, context=context)
                    # The address alone: Gradio's request would turn more of the other one into JSON, and fails at it.
                    self._recordings.check_rate(sender({"client": (request.client.host,)}))
                    recording = self._recordings.open(tab, STOCK_RECORDING, rate, options)
                except QwenASRError as error:
                    raise gr.Error(str(error), duration=None) from error
            if recording.time_limit_reached:
                recording.finish(recording.received)  # with each block: none may begin a new recording
                raise gr.Error(TIME_LIMIT_MESSAGE, duration=None)
        recording.append(np.round(to_mono(samples) * 32767).astype("<i2").tobytes())
