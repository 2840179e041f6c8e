"""The sentences for people, for the errors that the real client of ZeroGPU raises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import pytest
from spaces.config import Config as SpacesConfig
from spaces.zero import client
from spaces.zero.api import APIClient

from qwen_asr.web.zero_gpu.refusals import explain
from tests.support.zero_gpu_scheduler import Scheduler, zero_gpu_scheduler

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Gradio app Queue instance:UserWarning"),  # there is no Gradio around
    pytest.mark.filterwarnings("ignore:.*Nvidia driver:UserWarning"),  # nor a GPU
]


@pytest.fixture(scope="module")
def one_scheduler() -> Iterator[Scheduler]:
    with zero_gpu_scheduler() as scheduler:
        yield scheduler


@pytest.fixture
def scheduler(one_scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Scheduler]:
    """A scheduler that the client asks."""
    (tmp_path / "cgroup").write_text("0::/space\n")
    monkeypatch.setattr(SpacesConfig, "zerogpu_proc_self_cgroup_path", str(tmp_path / "cgroup"))
    one_scheduler.reset()
    with httpx.Client(base_url=one_scheduler.url) as http:  # the client's own is never closed
        monkeypatch.setattr(client, "api_client", lambda: APIClient(http))
        yield one_scheduler


def said(*, known: bool = True) -> str:
    """What a visitor is told who asks for a minute, and whom Hugging Face knows or not."""

    class Headers(dict[str, str]):
        """The client wants an object with attributes."""

    request: Any = SimpleNamespace(headers=Headers({"x-ip-token": ".e30.", "x-gradio-user": "app"} if known else {}))
    with pytest.raises(gr.Error) as refused:
        client.schedule(task_id=1, request=request, duration=timedelta(seconds=60))
    return explain(refused.value, 60)


def test_a_quota_that_does_not_suffice(scheduler: Scheduler) -> None:
    scheduler.left = 10
    short, remedy = "Your GPU time of today does not suffice for this clip.", "Transcribe a shorter one, or log in"
    # Of some GPUs a second counts as more than one.
    known = rf"{short} You have exceeded your ZeroGPU quota \(\d+s requested vs\. 10s left\)\. Try again in 0:10:00\. "
    assert re.match(known + remedy, said())
    assert said(known=False).startswith(f"{short} {remedy} to Hugging Face")
    scheduler.wait = 0
    assert "You have exceeded your ZeroGPU runs limit." in said()


def test_a_clip_that_asks_for_more_than_a_call_may_have(scheduler: Scheduler) -> None:
    scheduler.left, scheduler.wait = 10, -1
    assert said().endswith("more than one call may have: cut it into parts.")


@pytest.mark.parametrize("known", [True, False])
def test_no_gpu_became_free(scheduler: Scheduler, known: bool) -> None:
    scheduler.in_queue = "failed"
    assert said(known=known).startswith("No GPU was free within a minute: try again later.")


@pytest.mark.parametrize(
    ("status", "sentence"),
    [(503, "No GPU was free within a minute"), (401, "This page has been open for too long")],
)
def test_no_gpu_at_once(scheduler: Scheduler, status: int, sentence: str) -> None:
    scheduler.status = status
    assert said().startswith(sentence)


def test_what_happens_in_a_gpu_process() -> None:
    def error(message: str) -> gr.Error:
        return gr.Error(message, title="ZeroGPU worker error")

    assert "it may have needed more than 60 seconds" in explain(error("GPU task aborted"), 60)
    assert "failed on the GPU (OutOfMemoryError)" in explain(error("'OutOfMemoryError'"), 60)
    assert explain(gr.Error("The context is too long."), 60) == "The context is too long."
    other = gr.Error("<b>Something</b> &amp; more", title="ZeroGPU news")
    assert explain(other, 60) == "Hugging Face lent no GPU (Something & more): try again in a minute."
