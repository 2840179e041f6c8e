"""The File tab as a Gradio component: where files are dropped, and what becomes of them.

It is a `gr.HTML` with a script, as the streaming microphone is. The script's modules are in `browser/files`; it sends
files to `route` and links to `links`.
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from qwen_asr.web.access.route_table import PAGE_LINK, PAGE_TRANSCRIBE
from qwen_asr.web.page.bundle import bundle
from qwen_asr.web.page.downloads import download

FOLDER = Path(__file__).parent.parent / "browser" / "files"
START = "\nmodules.file_tab.start(element, props, server);\n//# sourceURL=qwen-asr-files.js\n"


def file_tab(*, file_bytes: int, has_links: bool, elem_id: str = "files") -> gr.HTML:
    """The component: where files are dropped, and what became of them. Call it inside of `gr.Blocks`.

    `file_bytes` is the size of the largest file that the routes take. `has_links`: whether the server fetches links.
    """
    return gr.HTML(
        html_template=(FOLDER / "files.html").read_text(encoding="utf-8"),
        js_on_load=bundle(FOLDER / "file_tab.js") + START,
        apply_default_css=False,
        elem_id=elem_id,
        server_functions=[download],
        file_bytes=file_bytes,
        has_links=has_links,
        # Relative, so that they lead to this server behind any proxy and at any public path.
        transcribe=PAGE_TRANSCRIBE.lstrip("/"),
        link=PAGE_LINK.lstrip("/"),
    )
