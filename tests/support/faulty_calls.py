"""Engines behind calls that are lost, late, doubled and out of order, and that die and forget. All in one process."""

from __future__ import annotations

import random
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import cast

from qwen_asr.engine.interface import LoadedModel
from qwen_asr.fleet.calls import EngineLost, NoEngine
from qwen_asr.fleet.host import EngineHost
from qwen_asr.fleet.messages import CloseRequest, Draining, Hello, Reply, Request, StepRequest, decode, encode

FAULTS = ("lost before", "lost after", "killed", "forgot", "late", "doubled", "draining", "none there", "moved")


class FaultyCalls:
    """`Calls` to `hosts` hosts on one engine. A share of the steps meets one of `faults`, chosen by `seed`.

    Every message is encoded and decoded. `happened` counts the faults, and `sent` the requests for steps: "whole" are
    those with all samples of the utterance, "rest" those with what is new.

    lost before, lost after: the request, or its answer. killed: the engine, with the calls that are under way there. An
    empty one replaces it. forgot: the engine has forgotten the utterance. late: the request, so that another one of the
    utterance may overtake it. doubled: the request comes once more a little later. moved: to another engine.
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
        self._hosts = [EngineHost(engine) for _ in range(hosts)]
        self._dead: set[EngineHost] = set()
        self.happened: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()

    @property
    def hello(self) -> Hello:
        return self._hosts[0].hello()

    def unavailable_reason(self) -> str | None:
        return None

    def close(self) -> None:
        for host in self._hosts:
            host.close()

    def call(self, request: Request, key: str, /) -> Future[Reply]:
        with self._lock:
            fault = ""
            if isinstance(request, StepRequest):
                self.sent["rest" if request.offset else "whole"] += 1
                if self._random.random() < self._share:
                    fault = self._random.choice(self._faults)
                    self.happened[fault] += 1
            delay = self._random.uniform(0.001, 0.03)
            index = (zlib.crc32(key.encode()) + (fault == "moved")) % len(self._hosts)
            host = self._hosts[index]
            if fault == "killed":
                self._hosts[index] = EngineHost(self._engine)
                self._dead.add(host)
        return self._meet(fault, host, cast("Request", decode(encode(request))), delay)

    def _meet(self, fault: str, host: EngineHost, request: Request, delay: float) -> Future[Reply]:
        answer: Future[Reply] = Future()
        if fault == "none there":
            raise NoEngine("No engine can be reached.")
        if fault == "lost before":
            answer.set_exception(EngineLost("The connection broke."))
        elif fault == "draining":
            answer.set_result(Draining())
        elif fault == "late":
            self._after(delay, lambda: self._pass_on(host, request, answer))
        else:
            if fault == "forgot" and isinstance(request, StepRequest):
                host.call(CloseRequest(request.uid))
            self._pass_on(host, request, answer, lost=fault == "lost after")
            if fault == "doubled":
                self._after(delay, lambda: host.call(request))
            if fault == "killed":
                host.close()
        return answer

    @staticmethod
    def _after(delay: float, action: Callable[[], object]) -> None:
        timer = threading.Timer(delay, action)
        timer.daemon = True
        timer.start()

    def _pass_on(self, host: EngineHost, request: Request, answer: Future[Reply], *, lost: bool = False) -> None:
        def done(reply: Future[Reply]) -> None:
            if lost or host in self._dead:
                answer.set_exception(EngineLost("The connection broke."))
            else:
                answer.set_result(cast("Reply", decode(encode(reply.result()))))

        host.call(request).add_done_callback(done)
