"""Joins the page's JavaScript modules into one script that Gradio can run.

Gradio's `gr.HTML` takes its script as one piece of text. The modules in `browser/` are ordinary ES modules, which Node
tests and eslint checks as they are; `bundle` puts them into one script, so that nobody needs a build step. Each module
becomes a function of its own, so its names stay private:

    modules.byte_queue = (() => { …; return { ByteQueue, toBase64 }; })();
    modules.recording_state = (() => { const { ByteQueue } = modules.byte_queue; …; return { RecordingState }; })();

Two forms of import and export are enough for that, and others are refused:

    import { a, b } from "./module.js";
    export class | function | const name
"""

from __future__ import annotations

import re
from pathlib import Path

_IMPORT = re.compile(r'^import \{ ([\w, ]+) \} from "\./(\w+)\.js";$', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async function|function|class|const) (\w+))", re.MULTILINE)
_UNSUPPORTED = re.compile(r"^\s*(?:import|export)\b.*", re.MULTILINE)


def bundle(folder: Path, entry: str) -> str:
    """The module `entry` (a name without ".js") and all that it imports, each before those that import it.

    The result is the beginning of a function's body. Behind it, `modules.NAME` holds the exports of each module. Raises
    ValueError for a circle of imports, and for a form of import or export that is not listed above.
    """
    parts: dict[str, str] = {}
    _add(folder, entry, parts, ())
    return "\n".join(['"use strict";', "const modules = {};", *parts.values()])


def _add(folder: Path, name: str, parts: dict[str, str], importers: tuple[str, ...]) -> None:
    if name in importers:
        raise ValueError(f"The modules import each other in a circle: {' → '.join((*importers, name))}.")
    if name in parts:
        return
    source = (folder / f"{name}.js").read_text(encoding="utf-8")
    for _, imported in _IMPORT.findall(source):
        _add(folder, imported, parts, (*importers, name))
    exports = [found[1] for found in _EXPORT.findall(source)]
    body = _EXPORT.sub(r"\1", _IMPORT.sub(r"const { \1 } = modules.\2;", source))
    if unsupported := _UNSUPPORTED.search(body):
        raise ValueError(f"{name}.js has a line that the bundle does not support: {unsupported[0].strip()!r}.")
    parts[name] = f"modules.{name} = (() => {{\n{body}\nreturn {{ {', '.join(exports)} }};\n}})();"
