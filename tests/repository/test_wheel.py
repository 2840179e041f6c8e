"""The wheel, as users install it: what is in it, and that it runs in environments that hold nothing of the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from scipy.io import wavfile

from qwen_asr import __version__
from tests.repository.layout import ROOT, tracked
from tests.support.checkpoints import spoken
from tests.support.network import free_ports
from tests.support.processes import kill, until

pytestmark = pytest.mark.slow

OTHER = "qwen-asr==0.0.6"
"""Qwen's own package, whose files are in a folder `qwen_asr` too."""
SENTENCE = "Turn on the kitchen light."


class Environment:
    """A virtual environment without packages. With `dependencies`, those of this interpreter can be imported too."""

    def __init__(self, folder: Path, *, dependencies: bool) -> None:
        venv.create(folder, with_pip=False)
        self.folder = folder
        self.python = folder / "bin" / "python"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.packages = folder / "lib" / version / "site-packages"
        if dependencies:
            shared = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
            (self.packages / "dependencies.pth").write_text("".join(f"{path}\n" for path in shared), encoding="utf-8")

    def pip(self, *arguments: str | Path) -> None:
        """Runs pip in it."""
        command = [sys.executable, "-m", "pip", "--python", self.python, "--quiet", *arguments]
        done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def command(self, name: str, *arguments: str | Path) -> list[str]:
        """A program in it, with its arguments."""
        return [str(self.folder / "bin" / name), *map(str, arguments)]

    def run(self, name: str, *arguments: str | Path, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Runs a program of it, in a folder that is not the checkout."""
        return subprocess.run(
            self.command(name, *arguments),
            cwd=folder or self.folder,
            env=clean_environment(),
            capture_output=True,
            text=True,
        )

    def complaint(self, name: str, *arguments: str | Path) -> str:
        """The sentence with which a program of it fails."""
        done = self.run(name, *arguments)
        assert (done.returncode, done.stdout) == (1, ""), done
        [line] = done.stderr.splitlines()
        prefix, _, sentence = line.partition(": error: ")
        assert prefix == name
        return sentence


def clean_environment() -> dict[str, str]:
    """The environment of this process without what would lead to the checkout or to a hub."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "QWEN_ASR_", "COV"))}
    return kept | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the tracked files alone: setuptools leaves files in the folder that it builds."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for path in tracked():
        copy = source / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    options: list[str | Path] = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", built]
    command = [sys.executable, "-m", "pip", "wheel", *options, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [path] = built.iterdir()
    return path


@pytest.fixture(scope="module")
def other_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of Qwen's own package. Without a registry the test skips; where CI is set it fails."""
    folder = tmp_path_factory.mktemp("other")
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        folder,
        OTHER,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        reason = f"{OTHER} cannot be fetched from a package registry: {done.stderr.strip()[-300:]}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    [path] = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def server(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of the installed server."""
    environment = Environment(tmp_path_factory.mktemp("server") / "venv", dependencies=True)
    environment.pip("install", "--no-deps", wheel)
    shown = environment.run("python", "-c", "import qwen_asr, qwen_asr_live; print(qwen_asr, qwen_asr_live)")
    assert shown.stdout.count(str(environment.packages)) == 2, shown
    [port] = free_ports(1)
    command = environment.command("qwen-asr-serve-websocket", "--asr-model-path", "demo", "--port", str(port))
    log = environment.folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=environment.folder, env=clean_environment(), stdout=file, stderr=file, text=True
        )
        try:
            assert until(lambda: answers(port) or process.poll() is not None, 200), log.read_text()
            assert process.poll() is None, log.read_text()
            yield port
        finally:
            kill(process)


def answers(port: int) -> bool:
    """Whether the server is ready, with its checkpoint loaded."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    information = f"qwen_asr_live-{__version__}.dist-info"
    assert wheel.name == f"qwen_asr_live-{__version__}-py3-none-any.whl"
    assert {name.split("/")[0] for name in names} == {"qwen_asr", "qwen_asr_live.py", information}
    packaged = {str(path.relative_to(ROOT)) for path in tracked() if path.is_relative_to(ROOT / "qwen_asr")}
    assert {name for name in names if name.startswith("qwen_asr/")} == packaged
    assert "qwen_asr/py.typed" in packaged
    assert "qwen_asr/demo/checkpoint/model.safetensors" in packaged
    assert {Path(name).suffix for name in packaged} >= {".js", ".css", ".html"}


def test_the_installed_server_serves_its_page(server: int) -> None:
    page = httpx.get(f"http://127.0.0.1:{server}/", timeout=60)
    assert page.status_code == 200
    assert "transcript" in page.text
    models = httpx.get(f"http://127.0.0.1:{server}/v1/models", timeout=60).json()
    assert models["object"] == "list"


def test_the_base_is_a_client_without_torch(wheel: Path, other_wheel: Path, server: int, tmp_path: Path) -> None:
    del other_wheel  # it was fetched, so there is a registry to install the dependencies from
    environment = Environment(tmp_path / "venv", dependencies=False)
    environment.pip("install", wheel)
    listed = environment.run("python", "-c", "import importlib.util as u; print(u.find_spec('torch'))")
    assert listed.stdout == "None\n"
    imported = environment.run("python", "-c", "import qwen_asr.client; print(qwen_asr.client.__file__)")
    assert imported.stdout.startswith(str(environment.packages)), imported.stderr
    usage = environment.run("qwen-asr", "stream", "--help")
    assert usage.returncode == 0, usage.stderr
    assert "usage: qwen-asr stream" in usage.stdout

    wavfile.write(tmp_path / "speech.wav", 16_000, (spoken(SENTENCE) * 32_767).astype(np.int16))
    url = f"ws://127.0.0.1:{server}"
    streamed = environment.run("qwen-asr", "stream", "--url", url, tmp_path / "speech.wav")
    assert (streamed.returncode, streamed.stdout) == (0, f"{SENTENCE}\n"), streamed.stderr


def test_without_the_extra_the_server_says_what_to_install(wheel: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "venv", dependencies=False)
    environment.pip("install", "--no-deps", wheel)
    expected = 'pip install ".[server]"'
    assert expected in environment.complaint("qwen-asr-serve-websocket", "--asr-model-path", "demo")
    assert expected in environment.complaint("qwen-asr-demo", "--asr-checkpoint", "demo")
    assert expected in environment.complaint("qwen-asr-demo-streaming", "--asr-model-path", "demo")
    assert expected in environment.complaint("qwen-asr-serve", "demo")
    assert expected in environment.complaint("qwen-asr", "serve", "--asr-model-path", "demo")
    assert expected in environment.complaint("qwen-asr", "transcribe", "speech.wav")
    assert expected in environment.complaint("qwen-asr", "cert", "show")
    imported = environment.run("python", "-c", "from qwen_asr import Qwen3ASRModel")
    assert expected in imported.stderr.splitlines()[-1]


@pytest.mark.parametrize("ours_first", [True, False])
def test_the_other_package_in_the_same_folder_is_reported(
    wheel: Path, other_wheel: Path, tmp_path: Path, ours_first: bool
) -> None:
    environment = Environment(tmp_path / "venv", dependencies=False)
    for path in (wheel, other_wheel) if ours_first else (other_wheel, wheel):
        environment.pip("install", "--no-deps", path)
    for name in ("qwen-asr", "qwen-asr-serve-websocket"):
        sentence = environment.complaint(name, "--version")
        assert "qwen-asr and qwen-asr-live are both installed" in sentence
        assert "pip uninstall qwen-asr qwen-asr-live, then pip install" in sentence

    environment.pip("uninstall", "--yes", "qwen-asr")  # takes qwen_asr/__init__.py with it
    assert "qwen_asr/__init__.py is missing" in environment.complaint("qwen-asr", "--version")

    environment.pip("uninstall", "--yes", "qwen-asr-live")
    environment.pip("install", "--no-deps", wheel)
    assert environment.run("qwen-asr", "--version").stdout == f"qwen-asr-live {__version__}\n"


def test_a_checkout_is_not_disturbed_by_the_other_package(other_wheel: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "venv", dependencies=False)
    environment.pip("install", "--no-deps", other_wheel)
    started = environment.run("python", "app.py", "--version", folder=ROOT)
    assert (started.returncode, started.stdout) == (0, f"qwen-asr-live {__version__}\n"), started.stderr
    code = "import qwen_asr_live; print(qwen_asr_live.conflict())"
    assert environment.run("python", "-c", code, folder=ROOT).stdout == "None\n"
