"""The page: Gradio Blocks with language and context, and tabs for live speech, files and settings."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from qwen_asr.audio.decode import read_pcm_wav
from qwen_asr.config.limits import PageLimits, UploadLimits
from qwen_asr.engine.languages import LANGUAGES
from qwen_asr.errors import QwenASRError
from qwen_asr.service.rate_limit import sender
from qwen_asr.web.page.files.component import file_tab
from qwen_asr.web.page.microphone import BROWSER, STOCK_RECORDING, State, change_options, streaming_microphone
from qwen_asr.web.page.phone.section import TITLE, phone_section
from qwen_asr.web.page.recordings import TIME_LIMIT_MESSAGE, RecordingRegistry
from qwen_asr.web.page.settings_tab import TRANSLATED, add_settings_events, settings_tab
from qwen_asr.web.page.uploads import opened_upload

CSS = [
    BROWSER / "page.css",
    BROWSER / "live" / "live.css",
    BROWSER / "live" / "transcript.css",
    BROWSER / "live" / "big_screen.css",
    BROWSER / "files" / "files.css",
    BROWSER / "microphone" / "microphone.css",
    BROWSER / "phone" / "phone.css",
    BROWSER / "settings" / "settings.css",
]
AUTOMATIC = "Automatic"
LOG_OUT = "<form class='log-out' method='post' action='logout'><button data-t>Log out</button></form>"
HEADER = "<header class='title'><h1 data-t>{}</h1><p data-t>Press Record, speak, and read along.</p>{}</header>"
LATE_BLOCK_SECONDS = 3.0
"""A block of the fallback recorder that comes this soon after the end of its recording still belongs to it."""

# Puts the values of the inputs where the microphone's script finds them.
OPTIONS_JS = """(language, context, model) => {
  const microphone = document.getElementById("microphone");
  if (microphone) microphone.options = {language: language === "%s" ? "auto" : language, context, model};
}"""
# Typing into the drop-down searches for a language; without this the letters would be added to the current name.
SELECT_JS = """() => document.addEventListener("click", (event) => event.target.closest("#language input")?.select())"""
NOTIFY_JS = """() => document.getElementById("microphone").dispatchEvent(new Event("%s"))"""


def theme() -> gr.themes.Base:
    """The page's theme. It uses the system's fonts, because the page must not load anything from other servers."""
    return gr.themes.Default(
        primary_hue="emerald",
        neutral_hue="slate",
        radius_size="lg",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"],
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    ).set(
        # Gradio's grey has a contrast of 2.6 on white. WCAG AA asks for 4.5 for small text.
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        # WCAG 1.4.11 asks for a contrast of 3 for what shows where an input is.
        input_border_color="*neutral_500",
        input_border_color_dark="*neutral_400",
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_400",
        checkbox_border_color_selected="*primary_700",
        checkbox_border_color_selected_dark="*primary_400",
        checkbox_background_color_selected="*primary_700",
    )


def build_page(
    recordings: RecordingRegistry,
    state: State,
    *,
    language: str | None = None,
    context: str = "",
    pause_seconds: float = 0.8,
    limits: PageLimits | None = None,
    file_bytes: int = UploadLimits.file_bytes,
    has_links: bool = True,
    has_login: bool = False,
    host: str = "",
    models: Sequence[str] = (),
) -> gr.Blocks:
    """The whole page. `language` (an English name) and `context` are the first values of the inputs. `models` are the
    names of the server's; if there are several, the page has a drop-down. `pause_seconds` is the server's pause length,
    which the page shows. `file_bytes` and `has_links`: see `file_tab`. `has_login` adds a
    button to log out. `host` is the address that the server listens on.

    Mount the page with `theme()` and `CSS`.
    """
    limits = limits or PageLimits()
    # An upload that no event names stays in Gradio's temporary folder: swept every minute, kept for one.
    page = gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, 60), fill_width=False)
    page.state_session_capacity = 64  # Gradio keeps 18 kB for each tab that ever was, 10,000 of them; none is needed
    with page:
        log_out = LOG_OUT if has_login else ""
        gr.HTML(HEADER.format(TITLE, log_out), js_on_load=TRANSLATED)
        with gr.Row(elem_id="options"):
            language_input = gr.Dropdown(
                [AUTOMATIC, *LANGUAGES.values()],
                value=language or AUTOMATIC,
                label="Language",
                elem_id="language",
                min_width=180,
                scale=1,
            )
            context_input = gr.Textbox(
                context,
                label="Context",
                placeholder="Names and terms (optional)",
                max_lines=3,
                max_length=limits.context_characters,
                min_width=240,
                scale=3,
            )
            inputs: list[gr.Dropdown | gr.Textbox] = [language_input, context_input]
            if len(models) > 1:
                inputs.append(_model_input(models))
        with gr.Tabs(elem_id="tabs"):
            with _tab("Live"):
                streaming_microphone(recordings, state, limits=limits, has_login=has_login)
                _add_fallback_recorder(recordings, state, inputs, limits)
                with gr.Accordion("Use it on a phone", open=False, elem_id="on-a-phone"):
                    phone_section(host)
            with _tab("File"):
                file_tab(file_bytes=file_bytes, has_links=has_links)
            with _tab("Settings"):
                settings = settings_tab(pause_seconds)
        add_settings_events(page, settings, inputs)
        page.load(None, js=SELECT_JS, api_visibility="private")
        gr.on(
            [page.load, *(one.change for one in inputs)],
            fn=None,
            inputs=inputs,
            js=OPTIONS_JS % AUTOMATIC,
            api_visibility="private",
        )
    return page


def _tab(name: str) -> gr.Tab:
    """A tab whose element has the name in lower case as its id."""
    return gr.Tab(name, id=name.lower(), elem_id=name.lower())


def _model_input(models: Sequence[str]) -> gr.Dropdown:
    return gr.Dropdown(
        list(models),
        value=models[0],
        label="Model",
        info="Applies from the next recording or file on.",
        elem_id="model-choice",
        min_width=180,
        scale=1,
    )


def _add_fallback_recorder(
    recordings: RecordingRegistry, state: State, inputs: Sequence[gr.Dropdown | gr.Textbox], limits: PageLimits
) -> None:
    """Gradio's own recorder, for browsers without AudioWorklet. It may lose audio; it is set up to lose little."""
    recorder = FallbackRecorder(recordings, state, limits)
    with gr.Accordion("Trouble with the microphone?", open=False, elem_id="stock"):
        gr.Markdown(
            "If Record does not work in this browser, use this simpler recorder. It sends audio every half second, and "
            "a poor connection may lose some of it. The text appears above."
        )
        audio = gr.Audio(
            sources=["microphone"],
            streaming=True,
            type="filepath",  # with "numpy" Gradio itself decodes the whole file, in any format, playlists too
            label="Simple recorder",
            elem_id="stock-recorder",
            buttons=[],
        )
    # `concurrency_limit=None`: by default one recording would wait for another. The handler is quick.
    audio.stream(
        recorder.take,
        [audio, *inputs],
        stream_every=0.5,
        concurrency_limit=None,
        show_progress="hidden",
        queue=True,
        api_visibility="private",
    )
    # The microphone's script fetches the text. It also ends the recording: a moment after Stop, when the last block has
    # arrived.
    audio.start_recording(None, js=NOTIFY_JS % "fallback-start", api_visibility="private")
    audio.stop_recording(None, js=NOTIFY_JS % "fallback-stop", api_visibility="private")


class FallbackRecorder:
    """Feeds what `gr.Audio` streams into a `Recording`, as the streaming microphone does."""

    def __init__(self, recordings: RecordingRegistry, state: State, limits: PageLimits | None = None) -> None:
        self._recordings = recordings
        self._state = state
        self._limits = limits or PageLimits()
        self._lock = threading.Lock()

    def take(self, path: str | None, language: str, context: str, request: gr.Request, model: str = "") -> None:
        """Takes one block of audio, an uploaded wav file, and deletes it.

        Raises gr.Error for another file, for a block over the limits, and where the recording cannot be opened.
        """
        block = self._read(path)
        if block is None:
            return
        rate, samples = block
        tab = str(request.session_hash)
        with self._lock:  # two blocks of one tab must not open two recordings
            recording = self._recordings.get(tab, STOCK_RECORDING)
            if recording is not None and recording.finished:
                if time.monotonic() - recording.last_request_at < LATE_BLOCK_SECONDS:
                    return
                self._recordings.remove(tab, STOCK_RECORDING)
                recording = None
            spoken = "auto" if language == AUTOMATIC else language
            wanted = partial(self._state.session_options, language=spoken, context=context, words=True, model=model)
            if recording is not None:
                change_options(recording, self._state, partial(wanted, model=recording.options.model))
            else:
                try:
                    options = wanted()
                    # Only the address: Gradio's request wrapper fails on the full scope, which it turns into JSON.
                    address = sender({"client": (request.client.host,)})
                    self._recordings.check_rate(address)
                    recording = self._recordings.open(tab, STOCK_RECORDING, rate, options, address)
                except QwenASRError as error:
                    raise shown(error) from error
            if recording.time_limit_reached:
                recording.finish(recording.received)  # with each block: none may begin a new recording
                raise shown(TIME_LIMIT_MESSAGE)
        recording.append(np.round(samples * 32767).astype("<i2").tobytes())

    def _read(self, path: str | None) -> tuple[int, NDArray[np.float32]] | None:
        if path is None:
            return None
        try:
            with opened_upload(path, self._limits.upload_bytes) as file:
                if file is None:
                    return None
                return read_pcm_wav(file, "The recorder's block", self._limits.block_seconds)
        except QwenASRError as error:
            raise shown(error) from error


def shown(message: QwenASRError | str) -> gr.Error:
    """The error with which Gradio shows `message` on the page, until it is closed there, and logs nothing."""
    return gr.Error(str(message), duration=None, print_exception=False)
