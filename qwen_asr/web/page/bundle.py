"""Joins the page's JavaScript modules into one script that Gradio can run.

Gradio's `gr.HTML` takes its script as one piece of text. The modules in `browser/` are ordinary ES modules, which Node
tests and eslint checks as they are; `bundle` puts them into one script, so that nobody needs a build step. Each module
becomes a function of its own, so its names stay private:

    modules.byte_queue = (() => { …; return { ByteQueue, toBase64 }; })();
    modules.recording_state = (() => { const { ByteQueue } = modules.byte_queue; …; return { RecordingState }; })();

Two forms of import and export are enough for that, and others are refused:

    import { a, b } from "./module.js";  (or "../folder/module.js")
    export class | function | const name

The modules of one script have different names, whatever folder they are in.
"""

from __future__ import annotations

import re
from pathlib import Path

_IMPORT = re.compile(r'^import \{ ([\w, ]+) \} from "(\.{1,2}/(?:\w+/)*(\w+)\.js)";$', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async function|function|class|const) (\w+))", re.MULTILINE)
_UNSUPPORTED = re.compile(r"^\s*(?:import|export)\b.*", re.MULTILINE)


def bundle(entry: Path) -> str:
    """The module `entry` and all that it imports, each before those that import it.

    The result is the beginning of a function's body. Behind it, `modules.NAME` holds the exports of each module, by its
    file's name without ".js". Raises ValueError for a circle of imports, for two modules of one name, and for a form of
    import or export that is not listed above.
    """
    parts: dict[Path, str] = {}
    _add(entry.resolve(), parts, ())
    names = [path.stem for path in parts]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"Two modules have the name {min(twice)}.")
    return "\n".join(['"use strict";', "const modules = {};", *parts.values()])


def _add(path: Path, parts: dict[Path, str], importers: tuple[Path, ...]) -> None:
    if path in importers:
        circle = " → ".join(module.stem for module in (*importers, path))
        raise ValueError(f"The modules import each other in a circle: {circle}.")
    if path in parts:
        return
    source = path.read_text(encoding="utf-8")
    for _, imported, _ in _IMPORT.findall(source):
        _add((path.parent / imported).resolve(), parts, (*importers, path))
    exports = [found[1] for found in _EXPORT.findall(source)]
    body = _EXPORT.sub(r"\1", _IMPORT.sub(r"const { \1 } = modules.\3;", source))
    if unsupported := _UNSUPPORTED.search(body):
        raise ValueError(f"{path.name} has a line that the bundle does not support: {unsupported[0].strip()!r}.")
    parts[path] = f"modules.{path.stem} = (() => {{\n{body}\nreturn {{ {', '.join(exports)} }};\n}})();"
