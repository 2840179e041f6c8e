"""`EngineProcesses`: one engine process for each GPU of this machine, for `--gpus`.

Each listens on a Unix socket in a private folder, so nobody else can use it and no port is taken. One that ends, or
that answers no probe, is started again. They end with this process, however it ends: their standard input ends with it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import httpx

from qwen_asr.config.engine_addresses import EngineAddress
from qwen_asr.config.limits import FleetLimits
from qwen_asr.errors import StartupError

log = logging.getLogger(__name__)
CPU = "cpu"


def choose_gpus(value: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The values of `CUDA_VISIBLE_DEVICES`, one for each engine, that `--gpus value` stands for; "cpu" for none.

    `all` is every GPU that `nvidia-smi` lists, or those that `CUDA_VISIBLE_DEVICES` allows. Raises StartupError for a
    GPU that is not there. torch is not asked: in this process it would take memory on each GPU.
    """
    if value.startswith(CPU):
        return tuple(value.split(","))
    present = _gpu_count()
    allowed = [part for part in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part]
    if value == "all":
        return tuple(allowed or map(str, range(present)))
    chosen = tuple(value.split(","))
    if missing := [number for number in chosen if int(number) >= present]:
        raise StartupError(
            f"--gpus was given {value}, but this machine has {present} GPUs, with the numbers 0 to {present - 1}: "
            f"leave out {', '.join(missing)}."
        )
    return chosen


@cache  # it is asked before the port is bound and when the engines start, and takes up to seconds
def _gpu_count() -> int:
    """How many GPUs `nvidia-smi` lists. Raises StartupError if there is none."""
    advice = "leave out --gpus to run without one, or give --gpus cpu,cpu to try out several engines"
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = "is not installed" if isinstance(error, FileNotFoundError) else "does not answer"
        raise StartupError(f"--gpus was given, but nvidia-smi, which lists the GPUs, {reason}: {advice}.") from None
    found = sum(line.startswith("GPU ") for line in done.stdout.splitlines())
    if not found:
        said = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
        raise StartupError(f"--gpus was given, but nvidia-smi lists no GPU (it says: {said[0]}): {advice}.")
    return found


class EngineProcesses:
    """Starts an engine for each of `gpus` and keeps them running until `close`. `options` are those of all engines."""

    def __init__(self, gpus: Sequence[str], options: Sequence[str], limits: FleetLimits | None = None) -> None:
        parent = tempfile.gettempdir()
        if len(parent) > 60:  # the path of a socket may have 103 bytes
            parent = "/tmp"  # noqa: S108 - the folder that is made there is only for this user
        self._folder = tempfile.TemporaryDirectory(prefix="qwen-asr-engines-", dir=parent)
        self._supervised = [
            _Supervised(index, gpu, len(gpus), Path(self._folder.name), options, limits or FleetLimits())
            for index, gpu in enumerate(gpus)
        ]

    @property
    def addresses(self) -> tuple[EngineAddress, ...]:
        """Where they listen, once they do."""
        return tuple(one.address for one in self._supervised)

    def start_error(self) -> str | None:
        """What an engine said that ended before it was ever ready, if no other one is; else None."""
        if any(one.was_ready for one in self._supervised):
            return None
        return next((one.start_error for one in self._supervised if one.start_error), None)

    def close(self) -> None:
        """Stops them."""
        for one in self._supervised:
            one.stop()
        for one in self._supervised:
            one.join()
        with contextlib.suppress(OSError):
            self._folder.cleanup()


class _Supervised:
    """One engine's process. `was_ready`: whether it was ever ready. `start_error`: why it ended before that."""

    def __init__(
        self, index: int, gpu: str, count: int, folder: Path, options: Sequence[str], limits: FleetLimits
    ) -> None:
        self.name = f"CPU engine {index}" if gpu == CPU else f"GPU {gpu}"
        self.address = EngineAddress(socket=str(folder / f"{index}.sock"))
        self.was_ready = False
        self.start_error = ""
        self._gpu, self._count, self._limits = gpu, count, limits
        device = CPU if gpu == CPU else "cuda"
        fixed = ["--device", device, "--uds", self.address.socket, "--end-with-stdin", "--log-format", "json"]
        self._command = [sys.executable, "-m", "qwen_asr", "engine", *fixed, *options]
        self._stopping = threading.Event()
        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._keep_running, name=f"qwen-asr-{self.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Asks the process to end."""
        self._stopping.set()

    def join(self) -> None:
        """Waits until it has."""
        self._thread.join(3 * self._limits.stop_seconds)

    def _environment(self) -> dict[str, str]:
        # The options of the server, which the engine has too, are not for it; those that are stand in the command.
        environ = {name: value for name, value in os.environ.items() if not name.startswith("QWEN_ASR_")}
        if self._gpu == CPU:
            threads = max(1, (os.cpu_count() or 1) // self._count)
            return {"OMP_NUM_THREADS": str(threads)} | environ | {"CUDA_VISIBLE_DEVICES": ""}
        # `nvidia-smi` counts in the order of the bus, CUDA by default from the fastest.
        return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} | environ | {"CUDA_VISIBLE_DEVICES": self._gpu}

    def _keep_running(self) -> None:
        limits = self._limits
        wait = limits.restart_seconds
        while not self._stopping.is_set():
            began = time.monotonic()
            why = self._run()
            if self._stopping.is_set():
                return
            if time.monotonic() - began > 10 * limits.restart_most_seconds:
                wait = limits.restart_seconds
            log.error("%s: the engine %s; another is started in %.0f s.", self.name, why, wait)
            self._stopping.wait(wait)
            wait = min(2 * wait, limits.restart_most_seconds)

    def _run(self) -> str:
        """Runs one process to its end; returns why it ended, as the rest of a sentence."""
        process = subprocess.Popen(
            self._command,
            env=self._environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            process_group=0,  # Ctrl-C is for the server, whose sessions still need their engines
        )
        log.info("%s: an engine starts (process %d).", self.name, process.pid)
        reading = threading.Thread(target=self._log_lines, args=(process,), daemon=True)
        reading.start()
        is_ready = hung = False
        with httpx.Client(transport=httpx.HTTPTransport(uds=self.address.socket)) as client:
            failed = 0
            while process.poll() is None and not hung and not self._stopping.is_set():
                answer = self._probe(client)
                is_ready = is_ready or answer == 200
                self.was_ready = self.was_ready or is_ready
                # While it loads, an import may hold up its answers for longer.
                failed = 0 if answer is not None or not is_ready else failed + 1
                hung = failed >= self._limits.failed_probes
                self._wait_for(process, self._limits.probe_seconds if is_ready and not failed else 0.2)
        if process.poll() is None and not hung:
            process.terminate()
            self._wait_for(process, self._limits.stop_seconds, stopping=False)
        if process.poll() is None:
            process.kill()
        code = process.wait()
        reading.join(self._limits.stop_seconds)
        for pipe in (process.stdin, process.stderr):
            if pipe is not None:
                pipe.close()
        if not is_ready and code > 0:
            self.start_error = self._lines[-1] if self._lines else f"It ended with exit code {code}."
        if hung:
            return f"has not answered {self._limits.failed_probes} probes and was killed"
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def _wait_for(self, process: subprocess.Popen[str], seconds: float, *, stopping: bool = True) -> None:
        """Waits until the process ends or, with `stopping`, has to; at most so long."""
        end = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < end and not (stopping and self._stopping.is_set()):
            time.sleep(0.05)

    def _probe(self, client: httpx.Client) -> int | None:
        try:
            return client.get("http://localhost/readyz", timeout=self._limits.probe_seconds).status_code
        except httpx.HTTPError:
            return None

    def _log_lines(self, process: subprocess.Popen[str]) -> None:
        """Passes the engine's log on as our own, with the GPU before each message."""
        if process.stderr is None:
            return
        for line in process.stderr:
            text = line.rstrip()
            level, message = logging.WARNING, text
            with contextlib.suppress(ValueError, KeyError, TypeError):
                entry = json.loads(text)
                level, message = logging.getLevelNamesMapping()[entry["level"].upper()], entry["message"]
                message += f"\n{entry['error']}" if "error" in entry else ""
            if message:
                self._lines = [*self._lines[-20:], message.strip()]
                log.log(level, "%s: %s", self.name, message)
