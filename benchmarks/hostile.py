"""What large bodies of brackets from a client without a login cost the others.

    python -m benchmarks.hostile [--seconds 20]

A client sends 2.7 MB of `[[],[],…]` to every route, one after the other, on a server with a login and a key. Beside it
a speaker talks in real time, and a probe asks for `/healthz` every 50 ms. All of it is first measured
without the client.
"""

import argparse
import asyncio
import contextlib
import time
from dataclasses import dataclass, field

import httpx

from benchmarks.arguments import positive
from benchmarks.load import RunningServer, quantile, server, stream_clip
from benchmarks.speech import conversation

BODY = b"[" + b"[]," * 899_999 + b"[]]"
ROUTES = (
    *("/", "/login", "/logout", "/gradio_api/component_server/", "/gradio_api/queue/join", "/gradio_api/upload"),
    *("/gradio_api/stream/x", "/gradio_api/stream/x/close", "/gradio_api/cancel", "/gradio_api/reset"),
    *("/gradio_api/run/predict", "/gradio_api/call/predict", "/v1/audio/transcriptions", "/v1/models", "/metrics"),
    *("/healthz", "/openapi.json", "/theme.css", "/nothing"),
)


@dataclass
class Phase:
    """What was measured in one phase; times in seconds, memory in MiB."""

    lags: list[float] = field(default_factory=list)
    probes: list[float] = field(default_factory=list)
    refusals: dict[str, list[float]] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    memory: float = 0.0


async def measure(running: RunningServer, seconds: float, *, attacked: bool, seed: int) -> Phase:
    """Speaks for `seconds`, with the hostile client or without it."""
    phase = Phase()
    async with httpx.AsyncClient(base_url=running.base, timeout=60) as http:
        tasks = [asyncio.create_task(_probe(http, running, phase))]
        tasks += [asyncio.create_task(_attack(running.base, phase))] if attacked else []
        url = running.url + "?api_key=KEY"
        phase.lags = (await stream_clip(url, conversation(seconds, seed), realtime=True)).lags
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    return phase


async def _probe(http: httpx.AsyncClient, running: RunningServer, phase: Phase) -> None:
    while True:
        began = time.monotonic()
        await http.get("/healthz")
        phase.probes.append(time.monotonic() - began)
        phase.memory = max(phase.memory, running.megabytes)
        await asyncio.sleep(0.05)


async def _attack(base: str, phase: Phase) -> None:
    while True:
        for path in ROUTES:
            seconds, status = await _refusal(base, path)
            phase.refusals.setdefault(path, []).append(seconds)
            phase.statuses[path] = status


async def _refusal(base: str, path: str) -> tuple[float, int]:
    """The time until the first line of the answer has come, while the body is still being sent; and the status."""
    host, _, port = base.rpartition("//")[2].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    began = time.monotonic()
    writer.write(f"{head}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY)
    line = await reader.readline()
    seconds = time.monotonic() - began
    writer.transport.abort()
    return seconds, int(line.split()[1])


def main() -> None:
    """Prints both phases side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=positive, default=20.0, metavar="SECONDS", help="length of each phase")
    seconds = parser.parse_args().seconds
    with server("--asr-model-path", "demo", "--auth", "ada:secret", "--api-key", "KEY") as running:
        asyncio.run(measure(running, min(seconds, 5.0), attacked=False, seed=0))  # everything is loaded
        quiet = asyncio.run(measure(running, seconds, attacked=False, seed=1))
        attacked = asyncio.run(measure(running, seconds, attacked=True, seed=1))
    for name, phase in (("quiet", quiet), ("attacked", attacked)):
        print(
            f"{name:9} lag p50 {quantile(phase.lags, 0.5):.2f} s, p95 {quantile(phase.lags, 0.95):.2f} s; "
            f"/healthz p50 {1000 * quantile(phase.probes, 0.5):.0f} ms, most {1000 * max(phase.probes):.0f} ms; "
            f"memory {phase.memory:.0f} MB"
        )
    print(f"memory: {attacked.memory / quiet.memory - 1:+.1%}")
    for path, times in attacked.refusals.items():
        most = 1000 * max(times)
        print(f"{attacked.statuses[path]} {path:32} p50 {1000 * quantile(times, 0.5):4.0f} ms, most {most:4.0f} ms")


if __name__ == "__main__":
    main()
