"""The words that Python gives to the page: each has its Chinese in the page's script."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
import pytest

from qwen_asr.config.config import Config
from qwen_asr.engine.scheduler import explain
from qwen_asr.errors import LimitExceeded, ServerStopping
from qwen_asr.service.rate_limit import Rates
from qwen_asr.service.service import DEMO_NOTE, FALLBACK_NOTE, Service, short_of_memory
from qwen_asr.web.access.login import WORDS
from qwen_asr.web.page.microphone import BROWSER
from qwen_asr.web.page.page import build_page
from qwen_asr.web.page.recordings import TIME_LIMIT_MESSAGE, RecordingRegistry
from qwen_asr.web.page.settings_tab import PAUSES
from tests.support.rate_clock import Clock

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pandas, in Gradio

TRANSLATE = """
const { setLanguage, t } = await import(process.argv[1]);
setLanguage("zh");
const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
console.log(JSON.stringify(JSON.parse(Buffer.concat(chunks)).map((text) => t(text))));
"""


@pytest.fixture
def chinese(program: Callable[[str], str]) -> Callable[[list[str]], list[str]]:
    """`chinese(texts)` is what the page shows for them in Chinese."""

    def translate(texts: list[str]) -> list[str]:
        module = (BROWSER / "shared" / "text.js").as_uri()
        command = [program("node"), "--input-type=module", "--eval", TRANSLATE, module]
        done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=True)
        return list(json.loads(done.stdout))

    return translate


@pytest.fixture
def fields() -> Iterator[list[dict[str, Any]]]:
    """What the page's script gets about Gradio's components, when the page opens."""
    recordings = RecordingRegistry(lambda *_, **__: None)  # type: ignore[arg-type]  # never opened

    async def build() -> gr.Blocks:  # without a loop Gradio creates some, and closes none
        return build_page(recordings, Service(Config()), pause_seconds=0.6)

    page = asyncio.run(build())
    scripts = [str(dependency["js"]) for dependency in page.get_config_file()["dependencies"]]
    [call] = [script for script in scripts if "pageSettings.load" in script]
    yield json.loads(call[call.index("load(") + 5 : -1])
    recordings.close()


def untranslated(texts: list[str], chinese: Callable[[list[str]], list[str]]) -> list[str]:
    both_languages = ("English (英语)", "中文 (Chinese)")
    return [
        text for text, shown in zip(texts, chinese(texts), strict=True) if shown == text and text not in both_languages
    ]


@pytest.mark.slow
def test_every_word_of_gradios_components_is_translated(
    fields: list[dict[str, Any]], chinese: Callable[[list[str]], list[str]]
) -> None:
    texts = [text for field in fields for text in field["texts"].values()]
    texts += [words for field in fields for words, _ in field.get("choices", [])]
    assert {"Language", "Context", "Live", "Settings", "Automatic", "Turkish", "Trouble with the microphone?"} <= {
        *texts
    }
    assert "As the server (0.6 s)" in texts
    assert untranslated(texts, chinese) == []


@pytest.mark.slow
def test_the_login_page_has_the_same_title(chinese: Callable[[list[str]], list[str]]) -> None:
    assert chinese([WORDS["en"]["title"]]) == [WORDS["zh"]["title"]]


@pytest.mark.slow
def test_sentences_of_the_server_that_people_meet_are_translated(
    chinese: Callable[[list[str]], list[str]], clock: Clock
) -> None:
    rates = Rates("1/minute")
    rates.hit("address")
    with pytest.raises(LimitExceeded) as refused:
        rates.check("address")
    progress = [
        "Loading model (1234 MB) on cuda:0 in bfloat16",
        "Fetching Qwen/Qwen3-ASR-0.6B from the Hugging Face hub (several GB the first time)",
        "Fetching Qwen/Qwen3-ASR-0.6B from the mirror example.com that HF_ENDPOINT names (several GB the first time)",
        "Fetching Qwen/Qwen3-ASR-0.6B: 12 % of 1.9 GB",
        "Preparing the GPU: 40 %",
    ]
    service = Service(Config())
    for number, text in enumerate(progress):
        service._progress(text)
        progress[number] = service.text
    errors = [short_of_memory(), ServerStopping(), refused.value]
    texts = [DEMO_NOTE, FALLBACK_NOTE + DEMO_NOTE, TIME_LIMIT_MESSAGE, *map(str, errors), *progress]
    texts += [explain(MemoryError()), explain(RuntimeError("x")), "Model: demo"]
    assert untranslated(texts, chinese) == []


def test_every_pause_length_can_be_chosen_on_the_server_too() -> None:
    for seconds in PAUSES:
        assert Config(silence_threshold=seconds).silence_threshold == seconds
