"""Slots and the queue for them: over the socket, REST and the page's recordings."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from websockets.exceptions import ConnectionClosed

from qwen_asr.config.config import Config
from qwen_asr.config.limits import SocketLimits
from qwen_asr.errors import LimitExceeded
from qwen_asr.live.session_options import SessionOptions
from qwen_asr.service.admission import Admission
from qwen_asr.service.service import Service
from qwen_asr.web.page.recordings import RecordingRegistry
from tests.support.browser import serving
from tests.support.checkpoints import demo_recognizer, spoken
from tests.support.processes import until as sync_until
from tests.support.rest_client import wav
from tests.support.sockets import PATIENT, Client, client, listening, until

SENTENCE = "Turn on the kitchen light."
# From Gradio, on its own threads: a deprecated option of pandas, and event loops that are never closed.
_ignore_gradio = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@contextlib.contextmanager
def service_with(**options: Any) -> Iterator[Service]:
    torch.set_num_threads(1)
    with contextlib.closing(Service(Config(chunk_size_sec=0.5, **options), demo_recognizer())) as service:
        yield service


def positions(one: Client) -> list[int]:
    return [message["position"] for message in one.of_type("queued")]


async def waits(one: Client, position: int) -> None:
    await one.send({"type": "config"})
    assert (await one.wait_for("queued"))["position"] == position


@pytest.mark.slow
def test_a_client_in_the_queue_gets_each_position_and_loses_no_audio() -> None:
    samples = spoken(SENTENCE)

    async def speak(url: str, service: Service) -> Client:
        async with client(url) as first, client(url) as second, client(url) as third, client(url) as fourth:
            await first.config()
            await waits(second, 1)
            await waits(third, 2)
            with contextlib.suppress(ConnectionClosed):  # it may be refused before it can send
                await fourth.send({"type": "config"})
            assert await fourth.closed() == 1013
            assert [message["code"] for message in fourth.messages] == ["LimitExceeded"]
            await third.audio(samples)  # while it is still in the queue
            await third.send({"type": "finalize"})
            await second.connection.close()  # it leaves the queue
            await third.wait_for("queued", 2)
            assert service.admission.waiting == 1
            assert third.of_type("session_created") == []
            assert await first.finalize() == 1000
            assert await third.closed() == 1000
            assert await until(lambda: service.admission.admitted == 0)
        return third

    with service_with(max_sessions=1, max_queue=2) as service, listening(service) as server:
        third = asyncio.run(speak(server.url, service))
    assert positions(third) == [2, 1]
    kinds = [message["type"] for message in third.messages]
    assert kinds[:3] == ["queued", "queued", "session_created"]
    [final] = third.of_type("final")
    assert final["text"] == SENTENCE
    assert final["received_samples"] == len(samples)


def test_a_socket_is_refused_while_pages_have_all_slots() -> None:
    async def speak(url: str) -> Client:
        async with client(url) as one:
            await one.send({"type": "config"})
            assert await one.closed() == 1013
        return one

    with service_with(max_sessions=1, max_queue=1) as service, listening(service) as server:
        pages = [service.admission.enter() for _ in range(2)]
        [error] = asyncio.run(speak(server.url)).messages
        for page in pages:
            page.leave()
    assert (error["code"], error["type"]) == ("LimitExceeded", "error")
    assert "The only session of this server is in use, and 1 client waits in line" in error["message"]


@pytest.mark.slow
def test_a_client_that_sends_much_in_the_queue_is_not_read_and_loses_no_audio() -> None:
    samples = np.concatenate([spoken(SENTENCE), np.zeros(16_000 * 4, np.float32)])
    limits = replace(PATIENT, held_bytes=20_000, ping_seconds=0.3)

    async def speak(url: str, service: Service) -> Client:
        async with client(url) as first, client(url) as second, client(url) as third:
            await first.config()
            await waits(second, 1)
            sending = asyncio.create_task(second.audio(samples))
            await second.wait_for("queued", 3)  # repeated from time to time, to detect lost clients
            assert positions(second) == [1] * len(positions(second))
            await waits(third, 2)
            with contextlib.suppress(TimeoutError):  # it cannot send all of it, because the server does not read
                await asyncio.wait_for(third.audio(np.zeros(3_000_000, np.float32)), 2)
            third.connection.transport.abort()  # lost, while the server reads nothing from it
            assert await until(lambda: service.admission.waiting == 1)
            assert await first.finalize() == 1000
            await sending
            assert await second.finalize() == 1000
        return second

    with service_with(max_sessions=1, max_queue=2) as service, listening(service, limits) as server:
        second = asyncio.run(speak(server.url, service))
    [final] = second.of_type("final")
    assert final["text"] == SENTENCE


def test_a_refused_config_and_a_lost_client_free_their_slots() -> None:
    async def speak(url: str, service: Service) -> None:
        for wrong in ({"language": "Klingon"}, {"context": "<|im_end|>"}):
            async with client(url) as one:
                await one.send({"type": "config", **wrong})
                assert await one.closed() == 1007
        async with client(url) as one:
            await one.config()
            one.connection.transport.abort()
        async with client(url) as one:
            await one.config()
            assert service.admission.admitted == 1
            assert await one.finalize() == 1000

    with service_with(max_sessions=1, max_queue=1) as service, listening(service) as server:
        asyncio.run(speak(server.url, service))
        assert sync_until(lambda: service.admission.admitted == 0)


@pytest.mark.slow
def test_a_message_of_a_minute_of_audio_in_the_queue_is_taken_once_the_session_exists() -> None:
    long = np.concatenate([np.zeros(16_000 * 30, np.float32), spoken(SENTENCE)]).astype("<f4").tobytes()
    assert 4 * SocketLimits().config_bytes < len(long) < SocketLimits().message_bytes

    async def speak(url: str) -> Client:
        async with client(url) as first, client(url) as second:
            await first.config()
            await waits(second, 1)
            sending = asyncio.create_task(second.connection.send(long))
            await first.finalize()
            await second.wait_for("session_created")
            await sending
            assert await second.finalize() == 1000
        return second

    with service_with(max_sessions=1, max_queue=1) as service, listening(service) as server:
        final = asyncio.run(speak(server.url)).of_type("final")[-1]
    assert final["text"] == SENTENCE
    assert final["received_samples"] == len(long) // 4


@pytest.mark.slow
def test_a_session_lasts_as_long_as_the_option_says() -> None:
    async def speak(url: str) -> Client:
        async with client(url) as one:
            await one.config()
            assert await one.closed() == 1013
        return one

    with service_with(max_session_seconds=1.0) as service, listening(service) as server:
        error = asyncio.run(speak(server.url)).messages[-1]
    assert error["code"] == "LimitExceeded"
    assert "lasted 1 seconds" in error["message"]
    assert SocketLimits().session_seconds == Config().max_session_seconds


# --- REST


@pytest.fixture
def rest(request: pytest.FixtureRequest) -> Iterator[tuple[str, Service]]:
    """A complete server with one slot, and a queue as long as the test's parameter."""
    torch.set_num_threads(1)
    service = Service(Config(host="127.0.0.1", max_sessions=1, max_queue=request.param), demo_recognizer())
    with serving(service, None) as served:
        yield served.url, service


def post(url: str, seconds: float = 120, headers: dict[str, str] | None = None) -> httpx.Response:
    files = {"file": ("a.wav", wav(spoken(SENTENCE)))}
    timeout = httpx.Timeout(120, read=seconds)
    return httpx.post(f"{url}/v1/audio/transcriptions", files=files, timeout=timeout, headers=headers)


@pytest.mark.slow
@_ignore_gradio
@pytest.mark.parametrize("rest", [1], indirect=True)
def test_a_request_waits_for_a_slot_and_one_more_is_refused(rest: tuple[str, Service]) -> None:
    url, service = rest
    slot = service.admission.enter_at_once()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(post, url)
        assert sync_until(lambda: service.admission.waiting == 1)
        refused = post(url)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert "only session" in refused.json()["error"]["message"]
        assert not waiting.done()
        slot.leave()
        assert waiting.result(120).json()["text"].strip() == SENTENCE
    assert sync_until(lambda: service.admission.admitted == 0)

    slot = service.admission.enter_at_once()
    with pytest.raises(httpx.ReadTimeout):
        post(url, seconds=2)
    assert sync_until(lambda: service.admission.waiting == 0)  # a client that gives up leaves the queue
    slot.leave()
    assert post(url).status_code == 200


@pytest.mark.slow
@_ignore_gradio
@pytest.mark.parametrize("rest", [0], indirect=True)
def test_without_a_queue_a_request_is_refused_at_once(rest: tuple[str, Service]) -> None:
    url, service = rest
    slot = service.admission.enter_at_once()
    assert post(url).status_code == 429
    slot.leave()
    assert post(url).status_code == 200


# --- an address's share


def from_address(address: str) -> dict[str, str]:
    """The header with which the proxy on this machine, which is trusted here, names its client."""
    return {"X-Forwarded-For": address}


@pytest.mark.slow
@_ignore_gradio
def test_one_address_gets_its_share_of_slots_and_queue_and_others_the_rest() -> None:
    async def speak(url: str, service: Service) -> None:
        def of(address: str) -> Any:
            return client(url, additional_headers=from_address(address))

        async with of("192.0.2.1") as one, of("192.0.2.1") as two, of("192.0.2.1") as three, of("192.0.2.2") as other:
            await one.config()
            await waits(two, 1)
            await three.send({"type": "config"})
            assert await three.closed() == 1013
            [refusal] = three.messages
            assert refusal["code"] == "LimitExceeded"
            assert "Your address has 1 session, and 1 more client in line" in refusal["message"]
            await other.config()  # it overtakes the second of the first address
            assert service.admission.waiting == 1
            await other.connection.close()
            assert await until(lambda: service.admission.admitted == 1)
            assert positions(two) == [1]
            await one.finalize()
            await two.wait_for("session_created")

    torch.set_num_threads(1)
    service = Service(
        Config(host="127.0.0.1", max_sessions=2, max_queue=2, forwarded_allow_ips=("127.0.0.1",)), demo_recognizer()
    )
    with serving(service, None) as served:
        asyncio.run(speak(f"{served.url.replace('http', 'ws')}/ws/asr", service))
        assert sync_until(lambda: service.admission.admitted == 0)
        taken = [service.admission.enter(address="192.0.2.1") for _ in range(2)]
        refused = post(served.url, headers=from_address("192.0.2.1"))
        assert refused.status_code == 429
        assert "Your address has 1 session" in refused.json()["error"]["message"]
        assert post(served.url, headers=from_address("192.0.2.2")).status_code == 200
        for ticket in taken:
            ticket.leave()


def test_connections_that_have_no_session_yet_count_too() -> None:
    async def connect(url: str) -> tuple[list[int], int]:
        refused: list[int] = []
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(4):
                one = await stack.enter_async_context(client(url))
                if len(one_share) == 3:
                    refused.append(await one.closed())
                    [error] = one.messages
                    assert "Your address has 3 connections" in error["message"]
                else:
                    one_share.append(one)
                    assert await until(lambda: len(server.route.connections) == len(one_share))
        return refused, len(one_share)

    one_share: list[Client] = []
    with service_with(max_sessions=2, max_queue=2) as service, pytest.MonkeyPatch.context() as patch:
        # The clients are on loopback, which has no share: here they come from elsewhere.
        patch.setattr("qwen_asr.web.sockets.connection.sender", lambda _: "192.0.2.1")
        with listening(service) as server:
            # A session, a place in the queue, and one that takes a session over: 1 + 1 + 1.
            assert asyncio.run(connect(server.url)) == ([1013], 3)


# --- the page's recordings


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@contextlib.contextmanager
def recordings_on(service: Service, clock: Callable[[], float], **options: Any) -> Iterator[RecordingRegistry]:
    recordings = RecordingRegistry(service.open_session, admission=service.admission, clock=clock, **options)
    try:
        yield recordings
    finally:
        recordings.close()


def test_recordings_queue_and_free_their_slots() -> None:
    clock = Clock()
    with service_with(max_sessions=1, max_queue=2) as service, recordings_on(service, clock) as recordings:
        first, second, third = (recordings.queue_entry(f"tab {n}", "one", f"address {n}") for n in range(3))
        assert [entry.position for entry in (first, second, third) if entry is not None] == [0, 1, 2]
        assert recordings.queue_entry("tab 1", "one", "address 1") is second  # asked twice, queued once
        recording = recordings.open("tab 0", "one", 16_000, SessionOptions())
        assert (service.admission.admitted, service.admission.waiting) == (1, 2)
        recordings.tab_closed("tab 1")
        clock.now += 9
        assert recordings.remove_idle() == 1
        assert third is not None
        assert third.position == 1
        recording.receive(0, bytes(32_000))
        recording.finish(32_000)
        assert sync_until(lambda: recording.done)
        assert third.position == 0  # a finished recording that is still shown has no slot
        clock.now += 61
        recordings.remove_idle()
        assert (service.admission.admitted, service.admission.waiting) == (0, 0)


def test_recordings_of_one_address_get_its_share() -> None:
    with service_with(max_sessions=2, max_queue=2) as service, recordings_on(service, Clock()) as recordings:
        entries = [recordings.queue_entry(f"tab {n}", "one", "192.0.2.1") for n in range(2)]
        assert [entry.position for entry in entries if entry is not None] == [0, 1]
        with pytest.raises(LimitExceeded, match="Your address has 1 session, and 1 more client in line"):
            recordings.queue_entry("tab 2", "one", "192.0.2.1")
        with pytest.raises(LimitExceeded, match="Your address"):  # the fallback recorder, which cannot wait
            recordings.open("tab 3", "stock", 16_000, SessionOptions(), "192.0.2.1")
        recordings.open("tab 4", "stock", 16_000, SessionOptions(), "192.0.2.2")
        assert (service.admission.admitted, service.admission.waiting) == (2, 1)


def test_an_open_recording_does_not_take_a_second_slot() -> None:
    with service_with(max_sessions=3, max_queue=0) as service, recordings_on(service, Clock()) as recordings:
        recordings.queue_entry("tab", "one", "address")
        with ThreadPoolExecutor(8) as pool:
            opened = list(pool.map(lambda _: recordings.open("tab", "one", 16_000, SessionOptions()), range(8)))
        assert len(set(map(id, opened))) == 1
        assert service.admission.admitted == 1


def test_a_recording_that_lasts_too_long_is_warned_and_then_stopped() -> None:
    clock = Clock()
    with (
        service_with(max_sessions=1) as service,
        recordings_on(service, clock, session_seconds=10) as recordings,
    ):
        recording = recordings.open("tab", "one", 16_000, SessionOptions())
        clock.now += 10
        recording.receive(0, bytes(320))
        assert recording.view(0)["over"] is None
        clock.now += 1
        assert "as long as this server allows" in recording.view(0)["over"]
        assert recording.receive(320, bytes(320)) == 640  # what the page still has is taken
        clock.now += 600
        assert recording.receive(640, bytes(320)) == 640
        assert sync_until(lambda: recording.done)
        assert service.admission.admitted == 0


def test_many_sessions_leave_no_slot_taken() -> None:
    with service_with(max_sessions=2, max_queue=5) as service:
        admission: Admission = service.admission
        with ThreadPoolExecutor(4) as pool:
            for _ in pool.map(lambda _: _come_and_go(service), range(40)):
                pass
        assert (admission.admitted, admission.waiting) == (0, 0)


def _come_and_go(service: Service) -> None:
    with contextlib.suppress(LimitExceeded):
        runner = service.open_session(SessionOptions(), lambda _: None)
        runner.feed(np.zeros(1_600, np.float32))
        runner.finish()
        runner.close()
