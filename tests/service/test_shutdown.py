"""A server that is told to stop: what was received gets its text, on every way in, and then it ends."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from playwright.sync_api import sync_playwright

from qwen_asr.config.config import Config
from qwen_asr.config.limits import Limits, ShutdownLimits, SocketLimits
from qwen_asr.service.service import Service
from tests.support.browser import MARKS, Tab, start_chromium, write_wav
from tests.support.checkpoints import demo_recognizer, spoken
from tests.support.faults import before_each_decoding
from tests.support.processes import ServerProcess
from tests.support.rest_client import offline, speech, wav
from tests.support.sockets import Client, client, listening, silence, until

SENTENCE = "The meeting is on Monday the tenth of May."
OPTIONS = ("--asr-model-path", "demo", "--port", "0", "--chunk-size-sec", "0.5")


def started(folder: Path, repository: Path, first: str = "") -> tuple[ServerProcess, str]:
    """A server over plain HTTP, and its address once it is ready."""
    server = ServerProcess(folder, repository, *OPTIONS, first=first)
    url = server.line_with("http://localhost")
    server.line_with("Ready.")
    return server, url


async def ready(url: str) -> httpx.Response:
    """What /readyz says."""
    async with httpx.AsyncClient() as asking:
        return await asking.get(f"{url}/readyz")


def transcribed(url: str, recording: bytes) -> httpx.Response | Exception:
    """What the REST route answers; the failure where the connection ended before that."""
    try:
        sent: dict[str, Any] = {"files": {"file": recording}, "data": {"model": "any"}}
        return httpx.post(f"{url}/v1/audio/transcriptions", timeout=120, **sent)
    except httpx.TransportError as error:
        return error


def is_transcribing(url: str, seconds: float = 10) -> bool:
    """Whether a file is being transcribed, within so long."""
    end = time.monotonic() + seconds
    while 'sessions{kind="rest"} 1.0' not in httpx.get(f"{url}/metrics").text:
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def check_last_words(speaker: Client, heard: np.ndarray) -> None:
    """The last final is what offline transcription gives for its samples; then the error that says why."""
    *_, final, error = speaker.messages
    assert final["type"] == "final"
    assert final["text"] == offline(wav(heard), final["start"], final["end"]) != ""
    assert final["received_samples"] <= len(heard)
    assert (error["type"], error["code"]) == ("error", "ServerStopping")
    assert "restarting" in error["message"]


@pytest.mark.slow
def test_sigterm_while_somebody_speaks(tmp_path: Path, repository: Path, request: pytest.FixtureRequest) -> None:
    server, url = started(tmp_path, repository)
    request.addfinalizer(server.kill)
    heard = np.concatenate([silence(0.5), spoken(SENTENCE)])  # no pause behind it: the utterance is open
    socket = f"ws{url.removeprefix('http')}/ws/asr"

    async def speak() -> Client:
        async with client(socket) as speaker, client(socket) as silent:
            await speaker.config()
            await speaker.audio(heard)
            assert await until(lambda: speaker.messages[-1].get("received_samples") == len(heard))
            file = speech(60)  # longer than there is time for
            filing = asyncio.create_task(asyncio.to_thread(transcribed, url, file))
            assert await asyncio.to_thread(is_transcribing, url)
            server.process.send_signal(signal.SIGTERM)
            assert await speaker.closed() == 1012
            assert await silent.closed() == 1012  # it had not sent its config
            # The file keeps the server; whoever comes now is told that it stops.
            answer = await ready(url)
            assert (answer.status_code, answer.json()["status"]) == (503, "stopping")
            async with client(socket) as late:
                assert await late.closed() == 1012
            refused = await asyncio.to_thread(transcribed, url, speech())
            assert isinstance(refused, httpx.Response)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "server_stopping")
            assert not filing.done()
            server.process.send_signal(signal.SIGTERM)  # the second ends it at once
            code, said = await asyncio.to_thread(server.end)
            assert code == 0, said
            assert "Traceback" not in said
            assert "Cancel" not in said
            await filing
        return speaker

    check_last_words(asyncio.run(speak()), heard)


LITTLE_DISK = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"
"""No file may be larger than 1 MiB: to a program the same as a disk on which no more is left."""


@pytest.mark.slow
def test_a_full_disk_and_sigterm_while_a_page_listens(
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
    test_a_full_disk_and_sigterm_while_a_page_listens = mark(test_a_full_disk_and_sigterm_while_a_page_listens)


@pytest.mark.parametrize("seconds", [60.0, 0.0])
@pytest.mark.slow
def test_a_client_far_ahead_of_the_recognizer_gets_the_texts_that_there_is_time_for(seconds: float) -> None:
    """The server stops while it has ceased to read from a client, because the recognizer is slow."""
    torch.set_num_threads(1)
    heard = np.concatenate([silence(0.5), *[spoken(SENTENCE), silence(1.2)] * 6])
    limits = Limits(sockets=SocketLimits(ahead_seconds=1.0), shutdown=ShutdownLimits(seconds=seconds))

    async def speak(url: str, stop: object) -> Client:
        async with client(url) as speaker:
            await speaker.config()
            sending = asyncio.create_task(speaker.connection.send(heard.astype("<f4").tobytes()))
            await speaker.wait_for("partial")
            stop.should_exit = True  # type: ignore[attr-defined]  # the server, which uvicorn types no better
            assert await speaker.closed() == 1012
            sending.cancel()
        return speaker

    with (
        contextlib.closing(Service(Config(chunk_size_sec=0.5), demo_recognizer(), limits=limits)) as service,
        before_each_decoding(demo_recognizer(), lambda _: time.sleep(0.02)),
        listening(service) as server,
    ):
        speaker = asyncio.run(speak(server.url, server.server))
    assert speaker.of_type("error")[-1]["code"] == "ServerStopping"
    if seconds:
        check_last_words(speaker, heard)
        assert speaker.of_type("final")[-1]["received_samples"] < len(heard)
