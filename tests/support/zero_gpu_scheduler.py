"""The scheduler of ZeroGPU, as far as the client in the package `spaces` (0.51) asks it: over HTTP on this machine."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class Scheduler:
    """What it answers, which a test changes, and what it was asked.

    `left`: seconds of GPU time that the visitor has left, and `wait`: seconds until there are more; negative where a
    call asks for more than any may have. `status`: that of a refusal in place of a GPU. `in_queue`: the visitor waits
    in line, and after that gets the event "succeeded" or "failed". `takes_back`: the GPU process is killed soon
    after it has its GPU, as when its time is over.
    """

    url: str = ""
    left: int = 120
    wait: int = 600
    status: int = 200
    in_queue: str | None = None
    takes_back: bool = False
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """The path and the parameters of each request."""
    processes: set[int] = field(default_factory=set)
    """The GPU processes that were allowed to use the GPU."""

    def reset(self) -> None:
        """Forgets what it was asked and what a test has changed."""
        vars(self).update(vars(Scheduler(url=self.url, processes=self.processes)))

    def paths(self) -> list[str]:
        """The paths of all requests so far."""
        return [path for path, _ in self.asked]

    def answer(self, path: str, given: dict[str, str]) -> tuple[int, str, str]:
        """The status, the type and the body."""
        self.asked.append((path, given))
        if path == "/allow":
            self.processes.add(int(given["pid"]))
            if self.takes_back:
                threading.Timer(0.2, os.kill, (int(given["pid"]), signal.SIGKILL)).start()
        if path != "/schedule":
            return 200, "application/json", "null"
        if self.status != 200:
            return self.status, "application/json", "{}"
        if int(given["durationSeconds"]) > self.left:
            return 429, "application/json", json.dumps({"left": self.left, "wait": self.wait})
        # Not idle: each call gets a process of its own, as when another Space had the GPU meanwhile.
        lent = json.dumps({"idle": False, "nvidiaIndex": 0, "nvidiaUUID": "GPU-0", "allowToken": "token"})
        if self.in_queue is not None:
            return 200, "text/event-stream", f"event: {self.in_queue}\ndata: {lent}\n\n"
        return 200, "application/json", lent


@contextmanager
def zero_gpu_scheduler() -> Iterator[Scheduler]:
    """Runs one on a free port."""
    scheduler = Scheduler()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            url = urlsplit(self.path)
            given = {name: values[-1] for name, values in parse_qs(url.query).items()}
            status, kind, body = scheduler.answer(url.path, given)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            """Nothing: `asked` has it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    scheduler.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield scheduler
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
