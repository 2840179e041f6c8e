"""Runs `qwen-asr` and `app.py` like a user: as processes, with pipes, and on terminals."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVER = [sys.executable, str(ROOT / "app.py")]
QWEN_ASR = [sys.executable, "-m", "qwen_asr"]
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def run(*command: str, folder: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    environment = {**os.environ, **OFFLINE, **environ}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def run_with_input(audio: bytes, *command: str) -> subprocess.CompletedProcess[bytes]:
    """Runs a command to its end, with `audio` as standard input."""
    environment = {**os.environ, **OFFLINE}
    return subprocess.run(command, input=audio, env=environment, capture_output=True, timeout=120, check=False)


def run_in_terminal(command: list[str], interrupt_at: str = "", **environ: str) -> tuple[int, str]:
    """Runs a command in a new terminal; its exit code and output. Sends one Ctrl-C when the output has that text."""
    leader, follower = pty.openpty()
    fcntl.ioctl(leader, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {**os.environ, **OFFLINE, **environ}
    with subprocess.Popen(command, env=environment, stdin=follower, stdout=follower, stderr=follower) as process:
        os.close(follower)
        output = b""
        with suppress(OSError):  # the terminal closes with the program
            while data := os.read(leader, 4_096):
                output += data
                if interrupt_at and interrupt_at.encode() in output:
                    process.send_signal(signal.SIGINT)
                    interrupt_at = ""
        os.close(leader)
        return process.wait(60), output.decode()


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The single error message of a command that failed."""
    assert done.returncode not in (0, None)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    _, _, sentence = lines[0].partition(": error: ")
    assert sentence.endswith(".")
    return sentence
