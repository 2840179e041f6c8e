"""The page's modules as one script: nothing of one module reaches another except by import."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from qwen_asr.web.page.bundle import bundle
from qwen_asr.web.page.microphone import BROWSER, START


def folder_with(path: Path, **modules: str) -> Path:
    for name, source in modules.items():
        (path / f"{name}.js").write_text(source, encoding="utf-8")
    return path


def test_modules_come_before_those_that_import_them(tmp_path: Path, program: Callable[[str], str]) -> None:
    folder = folder_with(
        tmp_path,
        base='const secret = 1;\nexport const one = secret;\nexport class Two {}\nconsole.log("base");\n',
        middle='import { one } from "./base.js";\nexport function three() { return one + 2; }\n',
        top='import { one, Two } from "./base.js";\nimport { three } from "./middle.js";\n'
        "export async function start(more) { return [one, typeof Two, three(), typeof secret, more]; }\n",
    )
    script = f'{bundle(folder / "top.js")}\nmodules.top.start("x").then((it) => console.log(JSON.stringify(it)));'
    done = subprocess.run([program("node"), "-e", script], capture_output=True, text=True, check=True)
    once, result = done.stdout.splitlines()
    assert once == "base"  # imported twice, run once
    assert json.loads(result) == [1, "function", 3, "undefined", "x"]


def test_the_page_is_one_script_that_node_can_read(program: Callable[[str], str]) -> None:
    script = bundle(BROWSER / "live" / "microphone.js") + START
    assert not re.search(r"^\s*(import|export)\b", script, re.MULTILINE)
    joined = re.findall(r"^modules\.(\w+) = ", script, re.MULTILINE)
    files = {
        path.stem
        for folder in ("kept_audio", "live", "microphone", "shared")
        for path in (BROWSER / folder).glob("*.js")
    }
    assert set(joined) >= files - {"worklet"}  # the worklet is a thread of its own
    run = f"new Function('element', 'props', 'server', {json.dumps(script)})"
    subprocess.run([program("node"), "-e", run], check=True)


@pytest.mark.parametrize(
    "line",
    [
        'import * as all from "./other.js";',
        'import other from "./other.js";',
        'import "./other.js";',
        'import { a } from "elsewhere";',
        "export default 1;",
        "export let a = 1;",
        "const a = 1;\nexport { a };",
    ],
)
def test_other_forms_of_import_and_export_are_refused(line: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"top\.js has a line that the bundle does not support"):
        bundle(folder_with(tmp_path, top=line) / "top.js")


def test_a_circle_of_imports_is_refused(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path, one='import { b } from "./two.js";\n', two='import { a } from "./one.js";\nexport const b = 1;\n'
    )
    with pytest.raises(ValueError, match="one → two → one"):
        bundle(folder / "one.js")


def test_modules_of_other_folders(tmp_path: Path, program: Callable[[str], str]) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "live").mkdir()
    folder_with(tmp_path / "shared", text="export const word = 1;\n", base="export const two = 2;\n")
    folder_with(
        tmp_path / "live",
        own='import { two } from "../shared/base.js";\nexport const four = two + two;\n',
        top='import { word } from "../shared/text.js";\nimport { four } from "./own.js";\n'
        "export function start() { return word + four; }\n",
    )
    script = bundle(tmp_path / "live" / "top.js") + "\nconsole.log(modules.top.start());"
    assert subprocess.run([program("node"), "-e", script], capture_output=True, text=True, check=True).stdout == "5\n"


def test_two_modules_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    folder_with(tmp_path / "shared", text="export const a = 1;\n")
    folder_with(tmp_path, text="export const b = 1;\n")
    top = 'import { a } from "./shared/text.js";\nimport { b } from "./text.js";\n'
    with pytest.raises(ValueError, match="Two modules have the name text"):
        bundle(folder_with(tmp_path, top=top) / "top.js")
