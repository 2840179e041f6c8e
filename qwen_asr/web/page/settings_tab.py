"""The Settings tab, and what keeps the words of all Gradio components in the page's language.

Everything here runs in the browser: `page_settings.js` keeps the choices there and applies them. The server learns none
of them, except what a recording is opened with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import gradio as gr

TRANSLATED = "window.pageSettings.follow(element)"
"""The script of a `gr.HTML` that has nothing but words, each in an element with the attribute `data-t`."""
AUTO = "auto"
"""The value of the choice that chooses nothing."""
FONT_SIZES = {"Small": 1.0, "Medium": 1.15, "Large": 1.5, "Very large": 2.0, "Huge": 2.75}
"""In rem. Medium is what the style sheet has."""
MEDIUM = FONT_SIZES["Medium"]
PAUSES = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 3.0)
"""Seconds of silence that end an utterance. All are in the range of the option `silence_threshold`."""
INPUT_SETTINGS = ("spokenLanguage", "context", "model")
"""The names under which the browser keeps the inputs above the tabs."""
_WORDS = ("label", "info", "placeholder")
_LOAD = "() => window.pageSettings.load(%s)"
_CHOOSE = "(value) => window.pageSettings.choose(%s, value)"


@dataclass(frozen=True)
class SettingsTab:
    """The components of the tab. `settings` are the names under which the browser keeps their values."""

    settings: dict[Any, str]  # of Gradio's components, which get their events' methods only when Gradio is imported
    remember: gr.Checkbox
    reset: gr.Button


def settings_tab(pause_seconds: float) -> SettingsTab:
    """Adds the components; call it inside of a `gr.Tab`. `pause_seconds` is the server's pause length."""
    gr.HTML(
        "<h2 class='tab-title' data-t>Settings</h2>",
        js_on_load=f"{TRANSLATED}; window.pageSettings.followRadioGroups(element)",
        apply_default_css=False,
    )
    gr.Markdown("Choices are kept in this browser, and apply at once.")
    gr.Markdown(
        "This browser keeps no settings for this page (private window, or its storage is full or forbidden). They last "
        "until the page is closed.",
        elem_id="settings-not-kept",
    )
    language = gr.Radio(
        [("As the browser", AUTO), ("English (英语)", "en"), ("中文 (Chinese)", "zh")],
        value=AUTO,
        label="Page language",
        info="Of the page itself. What you speak is chosen above, under Language. The buttons of the simple recorder "
        "change when the page is opened again.",
        elem_id="page-language",
    )
    theme = gr.Radio(
        [("As the system", AUTO), ("Light", "light"), ("Dark", "dark")], value=AUTO, label="Theme", elem_id="page-theme"
    )
    font_size = gr.Radio(
        list(FONT_SIZES.items()),
        value=MEDIUM,
        label="Text size",
        info="Of the transcripts in all tabs.",
        elem_id="font-size",
    )
    pause = gr.Radio(
        [(f"As the server ({pause_seconds:g} s)", AUTO), *((f"{seconds:g} s", seconds) for seconds in PAUSES)],
        value=AUTO,
        label="Pause length",
        info="Silence of this length ends an utterance. A longer pause makes longer paragraphs. Applies from the next "
        "sentence on.",
        elem_id="pause-length",
    )
    remember = gr.Checkbox(
        False,
        label="Remember the fields above",
        info="For your next visit. They are kept in this browser only, as plain text, until you "
        "untick this or reset. A context may hold names: leave this off on a shared computer.",
        elem_id="remember",
    )
    reset = gr.Button("Reset settings", size="sm", elem_id="reset-settings")
    names = {language: "language", theme: "theme", font_size: "fontSize", pause: "pauseSeconds", remember: "remember"}
    return SettingsTab(names, remember, reset)


def translate_components(page: gr.Blocks, settings: Mapping[Any, str] = MappingProxyType({})) -> list[Any]:
    """Puts the words of all components into the page's language when it is loaded, and restores the `settings`.

    Call it inside of `page`, after all components exist. Returns those that it changes.
    """
    blocks: list[Any] = [block for block in page.blocks.values() if block in settings or _texts(block)]
    fields = [_field(block, settings.get(block)) for block in blocks]
    page.load(fn=None, js=_LOAD % json.dumps(fields), outputs=blocks, api_visibility="private")
    return blocks


def add_settings_events(page: gr.Blocks, tab: SettingsTab, inputs: Sequence[Any]) -> None:
    """Lets the browser keep and restore the choices. Call it inside of `page`, after all components exist.

    `inputs` are the components above the tabs: the language, the context and, if there is a choice, the model.
    """
    blocks = translate_components(page, {**tab.settings, **dict(zip(inputs, INPUT_SETTINGS, strict=False))})
    private: dict[str, Any] = {"fn": None, "api_visibility": "private"}
    for component, name in tab.settings.items():
        if component is not tab.remember:
            outputs = blocks if name == "language" else None  # no other choice changes a word
            component.input(js=_CHOOSE % json.dumps(name), inputs=component, outputs=outputs, **private)
    tab.remember.input(
        js="(...values) => { window.pageSettings.remember(...values); }",
        inputs=[tab.remember, *inputs],
        **private,
    )
    gr.on(
        [one.change for one in inputs],
        js="(...values) => { window.pageSettings.keepFields(...values); }",
        inputs=inputs,
        **private,
    )
    tab.reset.click(js="() => window.pageSettings.reset()", outputs=blocks, **private)


def _field(block: Any, setting: str | None) -> dict[str, Any]:
    """What `updates` in labels.js needs to know about a component."""
    field: dict[str, Any] = {"texts": _texts(block), "setting": setting}
    if choices := getattr(block, "choices", None):
        field["choices"] = [list(choice) for choice in choices]
    if setting:
        field["value"] = block.value
    return field


def _texts(block: Any) -> dict[str, str]:
    """The English words of a component, by the names of Gradio's properties."""
    texts = {name: getattr(block, name, None) for name in _WORDS}
    if isinstance(block, gr.Markdown | gr.Button):
        texts["value"] = block.value
        texts["label"] = None  # of Markdown it is not shown
    return {name: text for name, text in texts.items() if isinstance(text, str) and text}
