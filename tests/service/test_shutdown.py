"""Graceful shutdown: audio already received is transcribed, on every route, before the server ends."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from playwright.sync_api import sync_playwright

from qwen_asr.config.config import Config
from qwen_asr.config.limits import Limits, ShutdownLimits
from qwen_asr.service.service import Service
from tests.support.browser import MARKS, Tab, start_chromium, write_wav
from tests.support.checkpoints import demo_recognizer, spoken
from tests.support.faults import before_each_decoding
from tests.support.processes import ServerProcess
from tests.support.processes import until as eventually
from tests.support.rest_client import offline, speech, wav
from tests.support.sockets import PATIENT, Client, Listening, client, listening, silence, until

pytestmark = pytest.mark.slow

SENTENCE = "The meeting is on Monday the tenth of May."
OPTIONS = ("--asr-model-path", "demo", "--port", "0", "--chunk-size-sec", "0.5")


# Minutes for the last texts, so that a slow machine has time for everything that these tests do meanwhile.
MINUTES = """
from functools import partial
from qwen_asr.config.limits import Limits, ShutdownLimits
from qwen_asr.web import app
app.serve = partial(app.serve, limits=Limits(shutdown=ShutdownLimits(seconds=300)))
"""


def started(folder: Path, repository: Path, first: str = "") -> tuple[ServerProcess, str]:
    """A server over plain HTTP, and its address once it is ready."""
    server = ServerProcess(folder, repository, *OPTIONS, first=first + MINUTES)
    url = server.line_with("http://localhost")
    server.line_with("Ready.")
    return server, url


async def ready(url: str) -> httpx.Response:
    """The response of /readyz."""
    async with httpx.AsyncClient(timeout=60) as asking:
        return await asking.get(f"{url}/readyz")


def transcribed(url: str, recording: bytes) -> httpx.Response | Exception:
    """The response of the REST route, or the error if the connection ended before that."""
    try:
        sent: dict[str, Any] = {"files": {"file": recording}, "data": {"model": "any"}}
        return httpx.post(f"{url}/v1/audio/transcriptions", timeout=120, **sent)
    except httpx.TransportError as error:
        return error


def is_transcribing(url: str) -> bool:
    """Waits until a file is being transcribed; returns whether it is."""
    return eventually(lambda: 'sessions{kind="rest"} 1.0' in httpx.get(f"{url}/metrics", timeout=60).text)


def check_last_words(speaker: Client, heard: np.ndarray) -> None:
    """The last final is the offline transcription of its samples; the error that names the shutdown follows it."""
    *_, final, error = speaker.messages
    assert final["type"] == "final"
    assert final["text"] == offline(wav(heard), final["start"], final["end"]) != ""
    assert final["received_samples"] <= len(heard)
    assert (error["type"], error["code"]) == ("error", "ServerStopping")
    assert "restarting" in error["message"]


def test_sigterm_during_a_session(tmp_path: Path, repository: Path, request: pytest.FixtureRequest) -> None:
    server, url = started(tmp_path, repository)
    request.addfinalizer(server.kill)
    heard = np.concatenate([silence(0.5), spoken(SENTENCE)])  # no pause behind it: the utterance is open
    socket = f"ws{url.removeprefix('http')}/ws/asr"

    async def speak() -> Client:
        async with client(socket) as speaker, client(socket) as silent:
            await speaker.config()
            await speaker.audio(heard)
            assert await until(lambda: speaker.messages[-1].get("received_samples") == len(heard))
            file = speech(60)  # 12 minutes, far longer than this test takes
            filing = asyncio.create_task(asyncio.to_thread(transcribed, url, file))
            assert await asyncio.to_thread(is_transcribing, url)
            server.process.send_signal(signal.SIGTERM)
            assert await speaker.closed() == 1012
            assert await silent.closed() == 1012  # it had not sent its config
            # The file keeps the server running; new clients are refused.
            answer = await ready(url)
            assert (answer.status_code, answer.json()["status"]) == (503, "stopping")
            async with client(socket) as late:
                assert await late.closed() == 1012
            refused = await asyncio.to_thread(transcribed, url, speech())
            assert isinstance(refused, httpx.Response)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "server_stopping")
            assert not filing.done()
            server.process.send_signal(signal.SIGTERM)  # a second signal ends it at once
            code, said = await asyncio.to_thread(server.end)
            assert code == 0, said
            assert "Traceback" not in said
            assert "Cancel" not in said
            await filing
        return speaker

    check_last_words(asyncio.run(speak()), heard)


LITTLE_DISK = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"
"""No file may be larger than 1 MiB. To a program this looks like a full disk."""


def test_a_full_disk_and_sigterm_during_a_recording_of_the_page(
    tmp_path: Path, repository: Path, request: pytest.FixtureRequest
) -> None:
    server, url = started(tmp_path, repository, LITTLE_DISK)
    request.addfinalizer(server.kill)
    sound = np.concatenate([silence(1), spoken(SENTENCE), silence(20)])
    with ThreadPoolExecutor(1) as pool, sync_playwright() as playwright, contextlib.ExitStack() as open_ones:
        browser = start_chromium(playwright, write_wav(tmp_path / "speech.wav", sound, 16_000))
        open_ones.callback(browser.close)
        tab = open_ones.enter_context(Tab(browser, url))
        tab.record()
        full = transcribed(url, speech(8))
        assert isinstance(full, httpx.Response)
        assert (full.status_code, full.json()["error"]["code"]) == (507, "storage_error")
        tab.page.wait_for_function("document.querySelector('.utterance .words')?.innerText.length > 20")
        whole = pool.submit(transcribed, url, speech())
        assert is_transcribing(url) or whole.done()
        server.process.send_signal(signal.SIGTERM)
        answer = whole.result(120)
        assert isinstance(answer, httpx.Response)
        assert answer.status_code == 200
        assert "kitchen light" in answer.json()["text"]
        tab.page.wait_for_function("document.querySelector('.utterance').dataset.final === 'true'")
        code, said = server.end()
        tab.wait_status("The server is restarting")  # for as long as no server answers
        [text] = tab.texts()
    assert code == 0, said
    assert re.fullmatch(r"The meeting is on Monday the tenth of May\.|The meeting is on .*", text)
    assert "Cancel" not in said
    assert "Traceback" not in said
    ended = [line for line in said.splitlines() if "Session ended" in line]
    assert any("page" in line and "1 utterances (0 failed)" in line for line in ended)
    assert all("meeting" not in line.lower() for line in said.splitlines())


for mark in MARKS:
    test_a_full_disk_and_sigterm_during_a_recording_of_the_page = mark(
        test_a_full_disk_and_sigterm_during_a_recording_of_the_page
    )


@pytest.mark.parametrize("seconds", [600.0, 0.0])
def test_a_client_far_ahead_of_the_recognizer_gets_the_texts_that_there_is_time_for(seconds: float) -> None:
    """The recognizer is held up until the server, which has ceased to read from the client, stops."""
    torch.set_num_threads(1)
    heard = np.concatenate([silence(0.5), *[spoken(SENTENCE), silence(1.2)] * 6])
    limits = Limits(shutdown=ShutdownLimits(seconds=seconds))
    decoding, go_on = threading.Event(), threading.Event()

    def hold_up(_: int) -> None:
        decoding.set()
        assert go_on.wait(120)

    async def speak(served: Listening) -> Client:
        async with client(served.url) as speaker:
            await speaker.config()
            sending = asyncio.create_task(speaker.connection.send(heard.astype("<f4").tobytes()))
            assert await until(decoding.is_set)
            [connection] = served.route.connections
            served.server.should_exit = True
            assert await until(lambda: connection._stopping)
            go_on.set()
            assert await speaker.closed() == 1012
            sending.cancel()
        return speaker

    with (
        contextlib.closing(Service(Config(chunk_size_sec=0.5), demo_recognizer(), limits=limits)) as service,
        before_each_decoding(demo_recognizer(), hold_up),
        listening(service, replace(PATIENT, ahead_seconds=1.0)) as server,
    ):
        speaker = asyncio.run(speak(server))
    assert speaker.of_type("error")[-1]["code"] == "ServerStopping"
    if seconds:
        check_last_words(speaker, heard)
        assert speaker.of_type("final")[-1]["received_samples"] < len(heard)
