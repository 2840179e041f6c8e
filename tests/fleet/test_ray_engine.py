"""Engines on Ray Serve: a real cluster with two replicas on the CPU. `scripts/test-ray` runs these tests."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import yaml

from qwen_asr.config.ray_config import RayConfig
from qwen_asr.engine.hypothesis import Hypothesis
from qwen_asr.engine.interface import EngineUtterance, LoadedModel
from qwen_asr.errors import BadConfig
from qwen_asr.fleet.calls import NoEngine
from qwen_asr.fleet.messages import Hello, HelloRequest
from qwen_asr.fleet.ray_calls import RayCalls
from qwen_asr.fleet.ray_engine import EngineReplica, app
from qwen_asr.fleet.scheduler import RemoteScheduler
from qwen_asr.fleet.watched_engine import WatchedEngine
from qwen_asr.service.instruments import Instruments
from tests.support.checkpoints import Samples, demo_recognizer, spoken
from tests.support.commands import SERVER, run
from tests.support.processes import ServerProcess, until
from tests.support.sockets import client
from training.grammar import sentence

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),  # Ray's own
]

SECONDS = 300.0  # to wait; a busy machine is slow, and no test is about speed
ADDRESS = "127.0.0.1:6379"


class Cluster:
    """A Ray cluster of one node with loopback alone, and an application on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run("ray", "start", "--head", "--num-cpus=4", f"--temp-dir={folder / 'ray'}", "--disable-usage-stats")

    def run(self, *command: str) -> str:
        """Runs a program of Ray's to its end; its output."""
        program = str(Path(sys.executable).with_name(command[0]))
        done = subprocess.run([program, *command[1:]], cwd=self.folder, capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def deploy(self, replicas: int) -> None:
        """As docs/deploy.md does it. Returns before the replicas are there."""
        application = {
            "name": "default",
            "route_prefix": None,
            "import_path": "qwen_asr.fleet.ray_engine:app",
            "args": {"asr_model_path": "demo", "device": "cpu"},
            "deployments": [{"name": "engine", "num_replicas": replicas}],
        }
        file = self.folder / "qwen-asr.yaml"
        file.write_text(yaml.safe_dump({"proxy_location": "Disabled", "applications": [application]}))
        self.run("serve", "deploy", str(file))

    def stop_application(self) -> None:
        """Stops Ray Serve, with all replicas."""
        self.run("serve", "shutdown", "--yes")

    def replicas(self) -> list[psutil.Process]:
        """The processes of the replicas."""
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if " ".join(process.info["cmdline"] or ()).startswith("ray::ServeReplica")
        ]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Cluster]:
    """A cluster without an application. It ends with the namespace of this process."""
    if set(psutil.net_if_addrs()) != {"lo"}:
        pytest.fail("Ray would listen on all interfaces of this machine: run scripts/test-ray.")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(repository))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setenv("RAY_ADDRESS", ADDRESS)
        yield Cluster(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="module")
def calls(cluster: Cluster) -> Iterator[RayCalls]:
    """Two engines are there when it is asked for first."""
    cluster.deploy(replicas=2)
    calls = RayCalls()
    assert until(lambda: calls.running == 2, SECONDS), calls.unavailable_reason()
    yield calls
    calls.close()


@pytest.fixture
def remote(calls: RayCalls, cluster: Cluster) -> RemoteScheduler:
    """Both engines, as one. It is not closed, since the calls are everybody's."""
    assert until(lambda: calls.running == 2 and len(cluster.replicas()) == 2, SECONDS)
    return RemoteScheduler(calls)


@pytest.fixture(scope="module")
def local() -> Iterator[WatchedEngine]:
    engine = WatchedEngine(demo_recognizer(), Instruments())
    yield engine
    engine.close()


def sentences(count: int) -> list[Samples]:
    """Different sentences, spoken."""
    rng = random.Random(13)
    return [spoken(sentence(rng), voice % 2) for voice in range(count)]


def begin(engine: LoadedModel, samples: Samples) -> EngineUtterance:
    """A new utterance with these samples."""
    utterance = engine.utterances(background=False, scored=False)(context="", language=None, max_new_tokens=100)
    utterance.append(samples)
    return utterance


def in_two_steps(engine: LoadedModel, samples: Samples) -> tuple[Hypothesis, Hypothesis]:
    """Of half of the utterance, and of all of it."""
    utterance = begin(engine, samples[: len(samples) // 2])
    first = engine.submit(utterance).result(SECONDS)
    utterance.append(samples[len(samples) // 2 :])
    whole = engine.submit(utterance).result(SECONDS)
    utterance.close()
    return first, whole


def test_without_a_cluster_the_server_does_not_start(tmp_path: Path) -> None:
    """It comes first, before there is a cluster on this machine."""
    # Elsewhere the address of an earlier cluster may be left.
    done = run(*SERVER, "--engine", "ray", "--port", "0", folder=tmp_path, RAY_TMPDIR=str(tmp_path))
    assert done.returncode == 1
    assert "error: --engine ray found no Ray cluster on this machine: join one with" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_an_application_there_is_no_engine(cluster: Cluster) -> None:
    calls = RayCalls("other")
    try:
        assert until(lambda: "no application “other”" in (calls.unavailable_reason() or ""))
        with pytest.raises(NoEngine, match="serve run qwen_asr"):
            calls.call(HelloRequest(), "key").result(SECONDS)
        assert not calls.wait(0)
    finally:
        calls.close()


def test_tokens_are_those_of_a_local_engine(remote: RemoteScheduler, local: WatchedEngine) -> None:
    audio = sentences(50)
    with ThreadPoolExecutor(16) as pool:
        elsewhere = list(pool.map(lambda samples: in_two_steps(remote, samples), audio))
    here = [in_two_steps(local, samples) for samples in audio]
    assert [[step.tokens for step in steps] for steps in elsewhere] == [
        [step.tokens for step in steps] for steps in here
    ]
    assert all(whole.text for _, whole in here)


def test_a_key_stays_with_its_engine(calls: RayCalls, remote: RemoteScheduler) -> None:
    asked = [(key, calls.call(HelloRequest(), f"key {key}")) for _ in range(10) for key in range(32)]
    engines: dict[int, set[str]] = {}
    for key, future in asked:
        hello = future.result(SECONDS)
        assert isinstance(hello, Hello)
        engines.setdefault(key, set()).add(hello.engine)
    assert [len(found) for found in engines.values()] == [1] * 32
    assert len(set.union(*engines.values())) == 2


class Talking:
    """So many speakers, each with utterance after utterance without a pause, until `stop`, and then one more."""

    def __init__(self, engine: LoadedModel, count: int) -> None:
        self._engine, self._audio = engine, sentences(count)
        self._stopped, self._rounds = threading.Event(), [0] * count
        self._pool = ThreadPoolExecutor(count)
        self._found = [self._pool.submit(self._speak, index) for index in range(count)]
        assert until(lambda: min(self._rounds) > 0, SECONDS)

    def _speak(self, index: int) -> list[tuple[Hypothesis, Hypothesis]]:
        found = []
        is_last = False
        while not is_last:
            is_last = self._stopped.is_set()
            found.append(in_two_steps(self._engine, self._audio[index]))
            self._rounds[index] += 1
        return found

    def __enter__(self) -> Talking:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._pool.shutdown()

    def check(self, local: LoadedModel) -> None:
        """All that they got is what the local engine gives."""
        for samples, found in zip(self._audio, self._found, strict=True):
            expected = [step.tokens for step in in_two_steps(local, samples)]
            assert all([step.tokens for step in steps] == expected for steps in found.result())


def test_an_engine_that_is_killed_costs_no_text(
    cluster: Cluster, calls: RayCalls, remote: RemoteScheduler, local: WatchedEngine
) -> None:
    lost = calls.lost
    with Talking(remote, 16) as talking:
        cluster.replicas()[0].kill()
        assert until(lambda: calls.lost > lost, SECONDS)  # steps were under way in it
    talking.check(local)
    assert calls.lost == lost + 1


def test_fewer_engines_lose_no_call(
    cluster: Cluster, calls: RayCalls, remote: RemoteScheduler, local: WatchedEngine
) -> None:
    before, lost = cluster.replicas(), calls.lost
    with Talking(remote, 8) as talking:
        cluster.deploy(replicas=1)
        assert until(lambda: len(cluster.replicas()) == 1, SECONDS)
        assert until(lambda: calls.running == 1, SECONDS)
    talking.check(local)
    assert calls.lost == lost  # no call was even repeated
    assert cluster.replicas()[0] in before  # the one that is left was not restarted


def test_a_server_speaks_through_the_cluster_and_says_when_no_engine_is_left(
    cluster: Cluster, calls: RayCalls, local: WatchedEngine, repository: Path, tmp_path: Path
) -> None:
    [samples] = sentences(1)
    server = ServerProcess(tmp_path, repository, "--engine", "ray", "--port", "0", RAY_ADDRESS=ADDRESS)
    try:
        url = server.line_with("http://").strip().rstrip("/")

        def readiness() -> tuple[int, str]:
            answer = httpx.get(f"{url}/readyz", timeout=SECONDS)
            return answer.status_code, json.dumps(answer.json(), ensure_ascii=False)

        async def speak() -> str:
            async with client(url.replace("http", "ws") + "/ws/asr") as speaker:
                await speaker.config()
                await speaker.audio(np.concatenate([samples, np.zeros(8_000, np.float32)]))
                assert await speaker.finalize() == 1000
                return " ".join(final["text"] for final in speaker.of_type("final"))

        assert until(lambda: readiness()[0] == 200, SECONDS), readiness()
        assert asyncio.run(speak()) == in_two_steps(local, samples)[1].text
        libraries = Path(f"/proc/{server.process.pid}/maps").read_text(encoding="utf-8")
        assert "libtorch" not in libraries
        cluster.stop_application()
        assert until(lambda: readiness()[0] == 503, SECONDS)
        assert "Waiting for an engine" in readiness()[1]
        cluster.deploy(replicas=1)
        assert until(lambda: readiness()[0] == 200, SECONDS), readiness()
        assert asyncio.run(speak()) == in_two_steps(local, samples)[1].text
        assert server.end(signal.SIGTERM)[0] == 0  # Ray's own handler would have ended it at once
    finally:
        server.kill()


def test_a_replica_whose_recognizer_has_ended_is_not_well() -> None:
    replica = EngineReplica(RayConfig(asr_model_path="demo", device="cpu"))
    replica.check_health()
    replica._engine.scheduler.close()
    assert until(lambda: not replica._engine.scheduler.alive)
    with pytest.raises(RuntimeError, match="thread has ended"):
        replica.check_health()


def test_the_application_has_the_options_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN_ASR_DTYPE", "float32")
    built = app({"replicas": "2", "max_replicas": 8, "target_steps": 10})._bound_deployment
    assert built.ray_actor_options["num_gpus"] == 1
    scaling = built._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (2, 8, 10)
    assert built.init_args == (RayConfig(dtype="float32", replicas=2, max_replicas=8, target_steps=10.0),)
    assert app({"device": "cpu"})._bound_deployment.ray_actor_options["num_gpus"] == 0
    with pytest.raises(BadConfig, match="port is not an option"):
        app({"port": 1})
