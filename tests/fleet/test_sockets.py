"""Calls over the socket reach the right engine and fail at once with it; engines that differ stay out."""

from __future__ import annotations

import dataclasses
import logging
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from qwen_asr.config.engine_addresses import EngineAddress
from qwen_asr.config.limits import FleetLimits
from qwen_asr.engine.interface import Engine
from qwen_asr.errors import BadInput
from qwen_asr.fleet import messages
from qwen_asr.fleet.calls import EngineLost, NoEngine
from qwen_asr.fleet.host import EngineHost
from qwen_asr.fleet.messages import (
    CheckRequest,
    Done,
    Draining,
    Empty,
    Have,
    Hello,
    HelloRequest,
    Refused,
    Reply,
    Request,
    Settings,
    StepRequest,
)
from qwen_asr.fleet.sockets import SocketCalls
from qwen_asr.fleet.watched_engine import WatchedEngine
from qwen_asr.service.instruments import Instruments
from qwen_asr.tls.certificates import load_user_certificate
from tests.support.certificates import Chained
from tests.support.checkpoints import demo_recognizer, spoken
from tests.support.engines import Listening
from tests.support.network import free_ports
from tests.support.processes import until

LIMITS = FleetLimits(pong_seconds=60, connect_seconds=60, refused_seconds=0.5)
"""Patient: a busy machine is slow."""
KEYS = [f"utterance {number}" for number in range(32)]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = WatchedEngine(demo_recognizer(), Instruments())
    yield engine
    engine.close()


def calls_to(*addresses: EngineAddress, **options: object) -> SocketCalls:
    return SocketCalls(addresses, **{"limits": LIMITS, **options})  # type: ignore[arg-type]  # options by name


def owners(calls: SocketCalls, times: int = 1) -> dict[str, str]:
    """The engine that answers the calls of each key; `times` calls of all keys are under way at once."""
    asked = [(key, calls.call(HelloRequest(), key)) for _ in range(times) for key in KEYS]
    answers = Counter((key, hello_of(future).engine) for key, future in asked)
    assert len(answers) == len(KEYS), "one key was answered by two engines"
    assert set(answers.values()) == {times}
    return dict(answers.keys())


def hello_of(future: Future[Reply]) -> Hello:
    reply = future.result(60)
    assert isinstance(reply, Hello)
    return reply


class Held(EngineHost):
    """The host of an engine that answers no step before `release`."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.release = threading.Event()
        self.asked = 0

    def call(self, request: Request) -> Future[Reply]:
        """As `EngineHost`, later."""
        reply = super().call(request)
        if not isinstance(request, StepRequest):
            return reply
        self.asked += 1
        later: Future[Reply] = Future()
        threading.Thread(target=self._answer_later, args=(reply, later)).start()
        return later

    def _answer_later(self, reply: Future[Reply], later: Future[Reply]) -> None:
        self.release.wait(60)
        if later.set_running_or_notify_cancel():
            later.set_result(reply.result(60))

    def wait_idle(self, seconds: float) -> bool:
        """As `EngineHost`, later."""
        return self.release.wait(seconds) and super().wait_idle(seconds)


def step(uid: str = "u", seconds: float = 1.0) -> StepRequest:
    samples = np.resize(spoken("Turn on the kitchen light."), round(seconds * 16_000))
    return StepRequest(uid, 1, "", 0, samples, 64, True, Settings("", None, scored=False, background=False))


def test_a_step_is_what_it_is_without_a_socket(engine: Engine) -> None:
    host = EngineHost(engine)
    with Listening(host) as listening, closing(calls_to(listening.address)) as calls:
        assert calls.wait(60)
        assert calls.hello == host.hello()
        reply = calls.call(step("remote"), "remote").result(60)
        expected = EngineHost(engine).call(step("local")).result(60)
        assert isinstance(reply, Done)
        assert isinstance(expected, Done)
        assert reply.hypothesis == expected.hypothesis
        assert reply.hypothesis.text
        assert reply.engine == host.engine_id
        # Nobody has the samples before the offset.
        rest = dataclasses.replace(step("other"), offset=100, settings=None)
        assert calls.call(rest, "other").result(60) == Have(host.engine_id, 0)
        refused = calls.call(CheckRequest(1e6, 512, "", None), "other").result(60)
        assert isinstance(refused, Refused)
        assert calls.call(CheckRequest(5, 64, "", None), "other").result(60) == Empty()


class closing:
    def __init__(self, calls: SocketCalls) -> None:
        self.calls = calls

    def __enter__(self) -> SocketCalls:
        return self.calls

    def __exit__(self, *_: object) -> None:
        self.calls.close()


@pytest.mark.slow
def test_long_messages_do_not_hold_up_short_ones_and_arrive_whole(engine: Engine) -> None:
    """300 s of samples of several utterances at once, which is 19 MB each."""
    host = EngineHost(engine)
    taken: list[int] = []
    real = host.call

    def call(request: Request) -> Future[Reply]:
        if isinstance(request, StepRequest):
            taken.append(len(request.samples))
            reply: Future[Reply] = Future()
            reply.set_result(Have(host.engine_id, int(np.flatnonzero(request.samples)[0])))
            return reply
        return real(request)

    host.call = call  # type: ignore[method-assign]  # the model has no part in this test
    with Listening(host) as listening, closing(calls_to(listening.address)) as calls:
        assert calls.wait(60)
        asked = []
        for number in range(6):
            samples = np.zeros(300 * 16_000, np.float32)
            samples[number] = 1
            asked.append(calls.call(dataclasses.replace(step(), samples=samples), "u"))
        short = calls.call(CheckRequest(5, 64, "", None), "u")
        short.add_done_callback(lambda _: taken.append(0))
        assert [future.result(120) for future in asked] == [Have(host.engine_id, number) for number in range(6)]
        assert short.result(60) == Empty()
        assert taken.index(0) < 6, "the short call waited for all long ones"
        assert len(calls.joined) == 1


def test_a_message_above_the_limit_ends_the_connection_and_the_call(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        Listening(EngineHost(engine), message_bytes=200_000) as listening,
        closing(calls_to(listening.address)) as calls,
    ):
        assert calls.wait(60)
        with pytest.raises(EngineLost, match="more than 200000 bytes"):
            calls.call(step(seconds=10), "u").result(60)
        assert until(lambda: calls.joined)  # it is back
        assert isinstance(calls.call(step(), "u").result(60), Done)


@pytest.mark.slow
def test_a_key_stays_with_its_engine_and_one_that_joins_or_leaves_moves_its_share(engine: Engine) -> None:
    with (
        Listening(EngineHost(engine)) as one,
        Listening(EngineHost(engine)) as two,
        Listening(None) as three,
        closing(calls_to(one.address, two.address, three.address)) as calls,
    ):
        assert until(lambda: len(calls.joined) == 2)
        first = owners(calls, times=10)
        assert set(Counter(first.values())) == {one.server.host.engine_id, two.server.host.engine_id}  # type: ignore[union-attr]  # both have one
        with ThreadPoolExecutor(10) as pool:  # any thread may call
            for found in pool.map(lambda _: owners(calls), range(10)):
                assert found == first
        three.server.host = EngineHost(engine)
        assert until(lambda: len(calls.joined) == 3)
        second = owners(calls, times=10)
        moved = [key for key in KEYS if second[key] != first[key]]
        assert {second[key] for key in moved} == {three.server.host.engine_id}
        assert 0 < len(moved) < len(KEYS) * 2 / 3
        three.stop()
        assert until(lambda: len(calls.joined) == 2)
        assert owners(calls, times=10) == first


def test_calls_under_way_fail_at_once_when_the_connection_breaks(engine: Engine) -> None:
    host = Held(engine)
    with Listening(host) as listening, closing(calls_to(listening.address)) as calls:
        assert calls.wait(60)
        asked = [calls.call(step(key), key) for key in KEYS]
        assert until(lambda: host.asked == len(KEYS))
        listening.stop()
        for future in asked:
            with pytest.raises(EngineLost, match=r"ws://127\.0\.0\.1:\d+ is lost: "):
                future.result(60)
        host.release.set()
        assert calls.unavailable_reason()
        with pytest.raises(NoEngine, match=r"Waiting for an engine at ws://127\.0\.0\.1:\d+ \("):
            calls.call(HelloRequest(), "u").result(60)
        assert calls.lost == 1
        with Listening(EngineHost(engine), port=listening.port):
            assert until(lambda: calls.joined)
            assert calls.unavailable_reason() is None


def test_an_engine_that_drains_answers_what_is_under_way_and_gets_nothing_more(engine: Engine) -> None:
    host = Held(engine)
    with (
        Listening(host) as listening,
        Listening(EngineHost(engine)) as other,
        closing(calls_to(listening.address, other.address)) as calls,
    ):
        assert until(lambda: len(calls.joined) == 2)
        mine = [key for key in KEYS if calls.engine_for(key) == str(listening.address)]
        asked = [calls.call(step(key), key) for key in mine]
        assert mine
        assert until(lambda: host.asked == len(mine))
        draining = ThreadPoolExecutor(1).submit(listening.drain)
        assert until(lambda: calls.joined == (str(other.address),))
        assert isinstance(calls.call(step(mine[0]), mine[0]).result(60), Done)
        host.release.set()
        assert draining.result(60)
        assert {type(future.result(60)) for future in asked} == {Done}
        assert listening.server.readiness()[0] == "stopping"
        assert calls.lost == 0
        # The notice may cross a call; such a one is told.
        assert host.call(step("late")).result(60) == Draining()


def with_another_checkpoint(engine: Engine) -> EngineHost:
    other = EngineHost(engine)
    info = dataclasses.replace(engine.info, name="Qwen3-ASR-1.7B", digest="another")
    other.hello = lambda: Hello(other.engine_id, info, None)  # type: ignore[method-assign]  # there is no second model here
    return other


@pytest.mark.slow
def test_an_engine_with_another_checkpoint_than_its_sibling_is_refused_by_name(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    other = with_another_checkpoint(engine)
    info = other.hello().info
    with Listening(EngineHost(engine)) as one, Listening(other) as two:
        with closing(calls_to(one.address)) as calls:
            assert calls.wait(60)
        with caplog.at_level(logging.ERROR), closing(calls_to(one.address, two.address)) as calls:
            assert until(lambda: caplog.records)
            # Whichever came first stays.
            assert len(calls.joined) == 1
            names = [info.name, engine.info.name] if calls.hello.info != info else [engine.info.name, info.name]
            assert f"it has the checkpoint {names[0]} in" in caplog.text
            assert f"has {names[1]} in" in caplog.text
            asked = owners(calls)
            assert len(set(asked.values())) == 1
            count = len(caplog.records)
            assert not until(lambda: len(caplog.records) > count, 2), "it is logged once"


def test_an_engine_that_was_refused_joins_once_its_siblings_are_gone(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """All engines were replaced. It does not wait for its next attempt."""
    limits = dataclasses.replace(LIMITS, refused_seconds=3600)
    with (
        Listening(EngineHost(engine)) as one,
        Listening(with_another_checkpoint(engine)) as two,
        closing(calls_to(one.address, two.address, limits=limits)) as calls,
    ):
        assert until(lambda: "it has the checkpoint" in caplog.text)
        joined, refused = (one, two) if calls.joined == (str(one.address),) else (two, one)
        joined.stop()
        assert until(lambda: calls.joined == (str(refused.address),))


def test_another_version_of_the_messages_is_refused(
    engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = EngineHost(engine)
    hello = dataclasses.replace(host.hello(), version=messages.VERSION + 1)
    host.hello = lambda: hello  # type: ignore[method-assign]  # as a later version would answer
    with Listening(host) as listening, closing(calls_to(listening.address)) as calls:
        assert until(lambda: "it speaks version 2 of the messages, and this server 1" in caplog.text)
        assert calls.joined == ()
        assert "version 2" in str(calls.unavailable_reason())


@pytest.mark.parametrize("key", [None, "wrong"])
def test_a_wrong_key_is_said_clearly(engine: Engine, caplog: pytest.LogCaptureFixture, key: str | None) -> None:
    with Listening(EngineHost(engine), allows=lambda given: given == "right") as listening:
        with closing(calls_to(listening.address, api_key=key)) as calls:
            assert until(lambda: "it refuses the API key: give its --api-key here as --engine-api-key" in caplog.text)
            assert "refuses the API key" in str(calls.unavailable_reason())
        assert "wrong" not in caplog.text
        with closing(calls_to(listening.address, api_key="right")) as calls:
            assert calls.wait(60)


def test_what_is_no_engine_is_said(caplog: pytest.LogCaptureFixture) -> None:
    [port] = free_ports(1)
    with closing(calls_to(EngineAddress("127.0.0.1", port))) as calls:
        assert until(lambda: calls.unavailable_reason() and "connect" in caplog.text)
        with socket.create_server(("127.0.0.1", port)) as server:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n")
            assert until(lambda: "it does not answer as an engine does" in caplog.text)


def test_wss_with_a_private_authority(engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chained = Chained()
    certfile, keyfile = tmp_path / "cert.pem", tmp_path / "key.pem"
    certfile.write_bytes(chained.leaf.pem + chained.middle.pem)
    keyfile.write_bytes(chained.leaf.key_pem())
    keyfile.chmod(0o600)
    (tmp_path / "ca.pem").write_bytes(chained.root.pem)
    context = load_user_certificate(certfile, keyfile).context
    trust = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    with Listening(EngineHost(engine), context=context) as listening:
        address = EngineAddress("localhost", listening.port, tls=True)
        with closing(calls_to(address, context=trust)) as calls:
            assert calls.wait(60)
            assert isinstance(calls.call(step(), "u").result(60), Done)
        with closing(calls_to(address)) as calls:
            assert until(lambda: "its certificate is not trusted" in caplog.text)
            assert "--engine-ca-certs" in str(calls.unavailable_reason())
            assert calls.joined == ()
        caplog.clear()
        with closing(calls_to(EngineAddress("localhost", listening.port))) as calls:
            assert until(lambda: "whether it is ws or wss" in caplog.text)


def test_a_name_with_several_addresses_is_as_many_engines(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the name of a headless service of Kubernetes, whose addresses change."""
    two = Listening(EngineHost(engine), interface="127.0.0.2")
    one = Listening(EngineHost(engine), port=two.port)
    pods = ["127.0.0.1"]

    def resolve(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        assert host == "engines.test"
        answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (pod, port)) for pod in pods]
        # The same engines by IPv6, which would be twice as many.
        return [*answers, (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0))]

    limits = dataclasses.replace(LIMITS, resolve_seconds=0.05)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with two, one, closing(calls_to(EngineAddress("engines.test", one.port), limits=limits)) as calls:
        assert until(lambda: calls.joined == (f"ws://127.0.0.1:{one.port}",))
        pods.append("127.0.0.2")
        assert until(lambda: len(calls.joined) == 2)
        assert len(set(owners(calls, times=10).values())) == 2
        pods.remove("127.0.0.1")
        one.stop()
        assert until(lambda: calls.joined == (f"ws://127.0.0.2:{two.port}",))
        assert until(lambda: len(calls._links) == 1), "nobody asks an address any more that is not listed"


def test_close_fails_what_is_under_way(engine: Engine) -> None:
    host = Held(engine)
    with Listening(host) as listening:
        calls = calls_to(listening.address)
        assert calls.wait(60)
        future = calls.call(step(), "u")
        assert until(lambda: host.asked)
        calls.close()
        with pytest.raises(EngineLost):
            future.result(60)
        with pytest.raises((EngineLost, NoEngine)):
            calls.call(HelloRequest(), "u").result(60)
        host.release.set()


def test_an_answer_that_is_no_message_fails_its_call(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with Listening(EngineHost(engine)) as listening, closing(calls_to(listening.address)) as calls:
        assert calls.wait(60)
        monkeypatch.setattr("qwen_asr.fleet.server.encode", lambda _: b"\xc1")
        with pytest.raises(BadInput, match="no message"):
            calls.call(HelloRequest(), "u").result(60)
