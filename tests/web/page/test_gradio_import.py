"""Gradio is imported without its work on stub files, which works again afterwards, and without pandas."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.commands import run

IMPORT = """
import ast, sys

def not_now(*_):
    raise AssertionError("Gradio works on its stub files")

get_source_segment, ast.get_source_segment = ast.get_source_segment, not_now
finders = list(sys.meta_path)
"""


@pytest.mark.slow
def test_gradio_does_not_touch_its_stub_files_during_the_import(tmp_path: Path) -> None:
    component = "import gradio as gr\n\n\nclass Louder(gr.Textbox):\n    EVENTS = ['change']\n"
    (tmp_path / "louder.py").write_text(component, encoding="utf-8")
    done = run(
        sys.executable,
        "-c",
        f"{IMPORT}\n"
        "from qwen_asr.web.page.gradio_import import import_gradio\n"
        "import_gradio()\n"
        "assert sys.meta_path == finders\n"
        "ast.get_source_segment = get_source_segment\n"
        f"sys.path.append({str(tmp_path)!r})\n"
        "import louder, gradio\n"
        "assert gradio.Textbox().change and louder.Louder().change\n",
    )
    assert done.returncode == 0, done.stderr
    assert "def change(self" in (tmp_path / "louder.pyi").read_text(encoding="utf-8")


@pytest.mark.slow
def test_gradio_itself_works_on_its_stub_files() -> None:
    """Once this fails, Gradio needs no help, and `gradio_import` can go."""
    done = run(sys.executable, "-c", f"{IMPORT}\nimport gradio")
    assert "Gradio works on its stub files" in done.stderr


@pytest.mark.slow
def test_pandas_is_loaded_when_it_is_first_used() -> None:
    done = run(
        sys.executable,
        "-c",
        "import sys\n"
        "from qwen_asr.web.page.gradio_import import import_gradio\n"
        "import_gradio()\n"
        "import gradio\n"
        "assert 'pandas.core' not in sys.modules\n"
        "table = gradio.Dataframe().postprocess([['a', 1]])\n"
        "assert table.data == [['a', 1]], table\n"
        "import pandas\n"
        "assert pandas.DataFrame([1]).shape == (1, 1)\n",
    )
    assert done.returncode == 0, done.stderr
