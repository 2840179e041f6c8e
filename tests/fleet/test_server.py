"""The port of an engine answers probes, asks for keys, and bounds what one peer may take."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from qwen_asr.config.limits import FleetLimits
from qwen_asr.engine.interface import Engine
from qwen_asr.fleet.frames import PART_BYTES, frames
from qwen_asr.fleet.host import EngineHost
from qwen_asr.fleet.messages import Empty, HelloRequest, Refused, Reply, Request, decode, encode
from qwen_asr.fleet.watched_engine import WatchedEngine
from qwen_asr.service.engine_process.metrics import engine_exposition
from qwen_asr.service.instruments import Instruments
from tests.support.checkpoints import demo_recognizer
from tests.support.engines import Listening
from tests.support.processes import until

LIMITS = FleetLimits(connect_seconds=60)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = WatchedEngine(demo_recognizer(), Instruments())
    yield engine
    engine.close()


def test_probes_tell_whether_it_loads_works_hangs_or_stops(engine: Engine) -> None:
    hangs: list[str] = []
    with Listening(None, limits=LIMITS, unhealthy_reason=lambda: hangs[0] if hangs else None) as listening:
        listening.server.loading = "Loading demo …"
        ready, health = f"{listening.http}/readyz", f"{listening.http}/healthz"
        answer = httpx.get(ready)
        assert (answer.status_code, answer.json()) == (503, {"status": "loading", "text": "Loading demo …"})
        assert answer.headers["retry-after"]
        assert httpx.get(health).json() == {"status": "ok"}
        listening.server.host = EngineHost(engine)
        assert (httpx.get(ready).status_code, httpx.get(ready).json()["status"]) == (200, "ready")
        hangs.append("It hangs.")
        assert (httpx.get(health).status_code, httpx.get(health).json()["text"]) == (503, "It hangs.")
        assert httpx.get(ready).json() == {"status": "failed", "text": "It hangs."}
        hangs.clear()
        assert listening.drain()
        assert (httpx.get(ready).status_code, httpx.get(ready).json()["status"]) == (503, "stopping")
        assert httpx.get(health).status_code == 200
        with pytest.raises(InvalidStatus) as caught:
            asyncio.run(hello(listening))
        assert caught.value.response.status_code == 503
        assert httpx.get(f"{listening.http}/").status_code == 404


async def hello(listening: Listening, **options: object) -> Reply:
    async with connect(listening.address.url, **options) as connection:  # type: ignore[arg-type]  # options by name
        for frame in frames(7, encode(HelloRequest())):
            await connection.send(frame)
        answer = await connection.recv(decode=False)
    assert answer[:9] == b"\0\0\0\0\0\0\0\7\1"
    return decode(answer[9:])  # type: ignore[return-value]  # an engine sends replies


def test_probes_need_no_key_and_everything_else_does(engine: Engine) -> None:
    host = EngineHost(engine)
    metrics = engine_exposition(Instruments(), lambda: engine)
    with Listening(host, limits=LIMITS, allows=lambda key: key == "right", metrics=metrics) as listening:
        assert httpx.get(f"{listening.http}/readyz").status_code == 200
        assert httpx.get(f"{listening.http}/healthz").status_code == 200
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic right"}):
            answer = httpx.get(f"{listening.http}/metrics", headers=given)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            with pytest.raises(InvalidStatus) as caught:
                asyncio.run(hello(listening, additional_headers=given))
            assert caught.value.response.status_code == 401
        right = {"Authorization": "Bearer right"}
        text = httpx.get(f"{listening.http}/metrics", headers=right).text
        for name in ("busy_seconds_total", "kv_cache_used_ratio", "step_seconds_count", "healthy 1.0", "ready 1.0"):
            assert f"qwen_asr_{name}" in text
        assert asyncio.run(hello(listening, additional_headers=right)) == host.hello()


def test_the_number_of_connections_is_bounded(engine: Engine) -> None:
    async def run(listening: Listening) -> None:
        async with connect(listening.address.url), connect(listening.address.url):
            with pytest.raises(InvalidStatus) as caught:
                await hello(listening)
            assert b"has 2 connections" in caught.value.response.body
        async with asyncio.timeout(60):
            while True:
                try:
                    await hello(listening)
                    return
                except InvalidStatus:  # until it knows that they are closed
                    await asyncio.sleep(0.05)

    with Listening(EngineHost(engine), limits=dataclasses.replace(LIMITS, connections=2)) as listening:
        asyncio.run(run(listening))


class Counting(EngineHost):
    """A host that answers nothing before `release`."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.release = threading.Event()
        self.under_way: list[Future[Reply]] = []

    def call(self, request: Request) -> Future[Reply]:
        """Answers later."""
        future: Future[Reply] = Future()
        if self.release.is_set():
            future.set_result(Empty())
        self.under_way.append(future)
        return future


def test_calls_above_the_limit_wait_in_the_socket(engine: Engine) -> None:
    async def run(host: Counting, listening: Listening) -> None:
        async with connect(listening.address.url) as connection:
            for call in range(1, 21):
                await connection.send(next(frames(call, encode(HelloRequest()))))
            assert await asyncio.to_thread(until, lambda: len(host.under_way) == 5)
            assert not await asyncio.to_thread(until, lambda: len(host.under_way) > 5, 0.5)
            host.release.set()
            for future in host.under_way[:5]:
                future.set_result(Empty())
            numbers = {int.from_bytes((await connection.recv(decode=False))[:8], "big") for _ in range(20)}
            assert numbers == set(range(1, 21))

    host = Counting(engine)
    with Listening(host, limits=dataclasses.replace(LIMITS, calls=5)) as listening:
        asyncio.run(run(host, listening))


@pytest.mark.parametrize(
    ("sent", "code"),
    [("text", 1007), (b"short", 1007), (bytes(PART_BYTES + 100), 1009), (b"\0" * 9 + bytes(PART_BYTES), 1009)],
    ids=["text", "no header", "frame too long", "message too long"],
)
def test_what_is_no_frame_ends_the_connection(engine: Engine, sent: str | bytes, code: int) -> None:
    async def run(listening: Listening) -> None:
        async with connect(listening.address.url) as connection:
            for _ in range(3):
                await connection.send(sent)
            with pytest.raises(ConnectionClosedError) as caught:
                await connection.recv()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == code
        assert await hello(listening) == host.hello(), "others do not notice"

    host = EngineHost(engine)
    with Listening(host, limits=LIMITS, message_bytes=PART_BYTES) as listening:
        asyncio.run(run(listening))


def test_what_is_no_request_is_refused_and_the_connection_lives(engine: Engine) -> None:
    async def run(listening: Listening) -> None:
        async with connect(listening.address.url) as connection:
            for call, message in enumerate((b"\xc1", encode(Empty()), encode(HelloRequest(version=99))), 1):
                await connection.send(next(frames(call, message)))
                answer = decode((await connection.recv(decode=False))[9:])
                assert isinstance(answer, Refused)
                assert answer.kind == "BadInput"

    with Listening(EngineHost(engine), limits=LIMITS) as listening:
        asyncio.run(run(listening))
