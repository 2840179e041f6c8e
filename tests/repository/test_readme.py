"""Every command in the README is run: those in blocks exactly as they stand, in an environment without a hub."""

import os
import re
import shlex
import signal
import ssl
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.checkpoints import spoken
from tests.support.network import free_ports
from tests.support.processes import until

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines() if line]
INLINE = [
    " ".join(code.split())
    for code in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", README, flags=re.DOTALL))
    if re.match(r"(python|scripts/|qwen-asr|pip|\.ci/)\S* ?", code)
]
NOT_RUN = {
    "scripts/test": "it is what runs this test",
    ".ci/run": "it is what runs this test on a new machine",
    "scripts/run": "run with its option",
    "python app.py": "run with options, here and in tests/web",
    "python app.py --share": "tests/web/test_server.py runs the tunnel's part; a real link would be public",
    "qwen-asr": "run with its subcommand",
    "qwen-asr cert show": "tests/tls/test_commands.py runs it, as the others of `qwen-asr cert`",
    "qwen-asr stream": "run with its file",
    "qwen-asr-serve-websocket": "tests/test_cli.py holds that it is the same as app.py",
    "pip install .": "tests/repository/test_wheel.py installs the wheel",
}


def environment(port: int) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QWEN_ASR_")}
    return kept | {"QWEN_ASR_PORT": str(port), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def answers(url: str) -> bool:
    """Whether the page is there, under the certificate that was made (which may not be there yet)."""
    try:
        trusted = ssl.create_default_context(cafile=str(ROOT / "certs" / "qwen_asr_cert.pem"))
        return httpx.get(url, verify=trusted, timeout=5).status_code == 200
    except (OSError, httpx.HTTPError):
        return False


@contextmanager
def running(command: str, port: int) -> Iterator[subprocess.Popen[str]]:
    words = shlex.split(command)
    words[0] = sys.executable if words[0] == "python" else words[0]
    with subprocess.Popen(
        words, cwd=ROOT, env=environment(port), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_every_command_is_known_here() -> None:
    known = {*NOT_RUN, *(command for command, _ in SERVING), PROXIED, NAMED, TRANSCRIBE, STREAM, *MODULES}
    assert {*BLOCKS, *INLINE} == known


SERVING = [
    ("scripts/run --generate-self-signed-cert", "https"),
    ("python app.py --generate-self-signed-cert --asr-model-path demo", "https"),
    ("python app.py --generate-self-signed-cert", "https"),
]


@pytest.mark.parametrize("command", [command for command, _ in SERVING])
def test_it_serves_over_https_and_stops_when_told(command: str) -> None:
    [port] = free_ports(1)
    with running(command, port) as process:
        assert until(lambda: answers(f"https://localhost:{port}/") or process.poll() is not None, 200)
        assert process.poll() is None, process.stdout and process.stdout.read()
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert f"https://localhost:{port}" in output
    assert "Traceback" not in output


PROXIED = "python app.py --forwarded-allow-ips 127.0.0.1 --allowed-hosts speech.example.com --root-path /speech"


def test_it_serves_a_proxy() -> None:
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}/speech"
    said = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "speech.example.com"}

    def root() -> str | None:
        try:
            return str(httpx.get(f"{url}/config", headers=said, timeout=30).json()["root"])
        except httpx.HTTPError:
            return None

    with running(PROXIED, port):
        assert until(lambda: root() is not None, 200)
        assert root() == "https://speech.example.com/speech"


def test_the_openai_package_is_answered(tmp_path: Path) -> None:
    write_wave(tmp_path / "speech.wav")
    (tmp_path / "certs").symlink_to(ROOT / "certs")
    [port] = free_ports(1)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[2:4]
    said = []
    with running("python app.py --generate-self-signed-cert --asr-model-path demo", port):
        assert until(lambda: answers(f"https://localhost:{port}/readyz"), 200)
        for block in blocks:
            program = [sys.executable, "-c", block.replace("localhost:8000", f"localhost:{port}")]
            done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stderr
            said.append(done.stdout.splitlines())
    subtitles, realtime = said
    assert subtitles[2] == "Turn on the kitchen light."
    assert realtime == ["Turn on the kitchen light."]


STREAM = "qwen-asr stream --cafile certs/qwen_asr_cert.pem interview.m4a"


def test_the_client_streams(tmp_path: Path, program: Callable[[str], str]) -> None:
    samples = write_wave(tmp_path / "interview.wav")
    convert = [program("ffmpeg"), "-loglevel", "error", "-i", "interview.wav", "interview.m4a"]
    subprocess.run(convert, cwd=tmp_path, check=True)
    np.save(tmp_path / "samples.npy", samples)
    (tmp_path / "certs").symlink_to(ROOT / "certs")
    [port] = free_ports(1)
    script = "import sys; from qwen_asr.cli.main import run_subcommand; sys.exit(run_subcommand())"
    command = [sys.executable, "-c", script, *shlex.split(STREAM)[1:], "--url", f"wss://localhost:{port}/ws/asr"]
    block = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[4].replace("localhost:8000", f"localhost:{port}")
    block = "import numpy\nblocks = numpy.array_split(numpy.load('samples.npy'), 20)\n" + block
    with running("python app.py --generate-self-signed-cert --asr-model-path demo", port):
        assert until(lambda: answers(f"https://localhost:{port}/readyz"), 200)
        paths: dict[str, Any] = {"cwd": tmp_path, "env": environment(0) | {"PYTHONPATH": str(ROOT)}}
        typed = subprocess.run(command, **paths, capture_output=True, text=True)
        written = subprocess.run([sys.executable, "-c", block], **paths, capture_output=True, text=True)
    assert (typed.returncode, typed.stdout) == (0, "Turn on the kitchen light.\n"), typed.stderr
    assert written.returncode == 0, written.stderr
    assert written.stdout.endswith(" s: Turn on the kitchen light.\n")


NAMED = "python app.py --generate-self-signed-cert --asr-model-path Qwen/Qwen3-ASR-0.6B"


def test_a_named_checkpoint_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with running(NAMED, *free_ports(1)) as process:
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Qwen/Qwen3-ASR-0.6B is not in the cache" in output
    assert "Traceback" not in output


TRANSCRIBE = "qwen-asr transcribe interview.m4a"


def test_transcribe(tmp_path: Path, program: Callable[[str], str]) -> None:
    write_wave(tmp_path / "interview.wav")
    convert = [program("ffmpeg"), "-loglevel", "error", "-i", "interview.wav", "interview.m4a"]
    subprocess.run(convert, cwd=tmp_path, check=True)
    script = "import sys; from qwen_asr.cli.main import run_subcommand; sys.exit(run_subcommand())"
    done = subprocess.run(
        [sys.executable, "-c", script, *shlex.split(TRANSCRIBE)[1:]],
        cwd=tmp_path,
        env=environment(0) | {"PYTHONPATH": str(ROOT), "QWEN_ASR_MODEL_PATH": "demo"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "Turn on the kitchen light."


MODULES = {
    "python -m benchmarks.steps": "--seconds 10 --repeats 1",
    "python -m benchmarks.accuracy": "--clips 4",
    "python -m benchmarks.exactness": "--clips 1 --seconds 4",
    "python -m benchmarks.sessions": "--levels 2 --seconds 4",
    "python -m benchmarks.soak": "--sessions 2 --hours 0.02 --rounds 3",
    "python -m training.corpus build/corpus": "--sentences 40",
    "python -m training.train build/corpus build/demo --minutes 100": "--minutes 0.02",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands are run, one after another: the training needs the corpus."""
    return tmp_path_factory.mktemp("built")


@pytest.mark.parametrize("command", MODULES)
def test_benchmarks_and_training_run(command: str, built: Path) -> None:
    words = [sys.executable, *shlex.split(command)[1:], *shlex.split(MODULES[command])]
    done = subprocess.run(
        words, cwd=built, env=environment(0) | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    if "training.train" in command:
        assert (built / "build" / "demo" / "model.safetensors").stat().st_size < 8_000_000


def write_wave(path: Path) -> np.ndarray:
    samples = (spoken("Turn on the kitchen light.") * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.tobytes())
    return samples


def test_the_python_in_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    samples = write_wave(tmp_path / "speech.wav")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"blocks": [samples[start : start + 3_200] for start in range(0, len(samples), 3_200)]}
    first, second, *_ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(first, names)  # noqa: S102 - our own README
    assert capsys.readouterr().out.splitlines()[0] == "Turn on the kitchen light."
    assert names["state"].text == "Turn on the kitchen light."
    exec(second, names)  # noqa: S102 - our own README
    assert capsys.readouterr().out.endswith("Turn on the kitchen light.\n")
