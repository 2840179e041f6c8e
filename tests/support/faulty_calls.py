"""Engines behind calls that are lost, late, doubled and out of order, and that die and forget. All in one process."""

from __future__ import annotations

import random
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future

from qwen_asr.engine.interface import LoadedModel
from qwen_asr.fleet.calls import EngineLost, NoEngine
from qwen_asr.fleet.host import EngineHost
from qwen_asr.fleet.messages import Draining, Hello, Reply, Request, StepRequest, decode, encode

FAULTS = ("lost before", "lost after", "killed", "forgot", "late", "doubled", "draining", "none there")


class FaultyCalls:
    """`Calls` to `hosts` hosts on one engine. A share of the calls meets one of `faults`, chosen by `seed`.

    Every message is encoded and decoded. `happened` counts the faults. Some calls move to another host.
    """

    def __init__(
        self,
        engine: LoadedModel,
        *,
        hosts: int = 2,
        share: float = 0.3,
        seed: int = 0,
        faults: tuple[str, ...] = FAULTS,
    ) -> None:
        self._engine, self._share, self._faults = engine, share, faults
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self.hosts = [EngineHost(engine) for _ in range(hosts)]
        self.happened: Counter[str] = Counter()
        self.calls = 0

    @property
    def hello(self) -> Hello:
        return self.hosts[0].hello()

    def unavailable_reason(self) -> str | None:
        return None

    def close(self) -> None:
        for host in self.hosts:
            host.close()

    def call(self, request: Request, key: str, /) -> Future[Reply]:
        with self._lock:
            self.calls += 1
            moved = self._random.random() < 0.1 * bool(self._share)
            index = (zlib.crc32(key.encode()) + moved) % len(self.hosts)
            fault = ""
            if isinstance(request, StepRequest) and self._random.random() < self._share:
                fault = self._random.choice(self._faults)
                self.happened[fault] += 1
            delay = self._random.uniform(0.001, 0.05)
            if fault == "killed":
                self.hosts[index].close()
            if fault in ("killed", "forgot"):
                self.hosts[index] = EngineHost(self._engine)
            host = self.hosts[index]
        return self._meet(fault, host, decode(encode(request)), delay)

    def _meet(self, fault: str, host: EngineHost, request: Request | Reply, delay: float) -> Future[Reply]:
        answer: Future[Reply] = Future()
        if fault == "none there":
            raise NoEngine("No engine can be reached.")
        if fault == "lost before":
            answer.set_exception(EngineLost("The connection broke."))
        elif fault == "draining":
            answer.set_result(Draining())
        elif fault == "late":
            self._after(delay, lambda: self._pass_on(host, request, answer, lost=False))
        else:
            if fault == "doubled":
                self._after(delay, lambda: host.call(request))  # type: ignore[arg-type]  # it was a request
            self._pass_on(host, request, answer, lost=fault == "lost after")
        return answer

    @staticmethod
    def _after(delay: float, action: Callable[[], object]) -> None:
        timer = threading.Timer(delay, action)
        timer.daemon = True
        timer.start()

    @staticmethod
    def _pass_on(host: EngineHost, request: Request | Reply, answer: Future[Reply], *, lost: bool) -> None:
        def done(reply: Future[Reply]) -> None:
            if lost:
                answer.set_exception(EngineLost("The connection broke."))
            else:
                answer.set_result(decode(encode(reply.result())))  # type: ignore[arg-type]  # it was a reply

        host.call(request).add_done_callback(done)  # type: ignore[arg-type]  # it was a request
