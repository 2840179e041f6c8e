"""Hostile files through every way in: the form of the REST API, and the events of the simple recorder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from gradio.utils import get_upload_folder

from qwen_asr.config.limits import PageLimits
from qwen_asr.service.service import Service
from tests.support import bombs
from tests.support.browser import Served, serving, small_config
from tests.support.checkpoints import random_recognizer
from tests.support.gradio_events import RecorderClient, file_data
from tests.support.network import Canary
from tests.support.processes import ServerProcess, peak_bytes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Gradio's own: an option of pandas that is going away
]

MEMORY_BYTES = 50 << 20
KINDS = ("audio/wav", "application/vnd.apple.mpegurl", "application/sdp")
BLOCK = bombs.wav_header(0xFFFFFFFB - 36, rate=48_000) + (
    np.random.default_rng(1).integers(-2000, 2000, 24_000, dtype=np.int16).tobytes()
)
"""Half a second, as the recorder sends it."""


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(Service(small_config(), random_recognizer()), None) as server:
        yield server


@pytest.fixture
def http(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=30) as client:
        yield client


@pytest.fixture
def recorder(http: httpx.Client) -> RecorderClient:
    return RecorderClient(http)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the server that nobody uploaded."""
    path = tmp_path / "secret.wav"
    path.write_bytes(BLOCK)
    return path


def uploads() -> set[Path]:
    """The files in Gradio's folder for uploads."""
    return {path for path in Path(get_upload_folder()).rglob("*") if path.is_file()}


def was_refused(message: dict[str, Any]) -> bool:
    """Whether an event failed with a message for people."""
    return not message["success"] and bool(message["output"]["error"])


def test_a_block_is_heard_and_deleted(served: Served, recorder: RecorderClient) -> None:
    before = uploads()
    assert recorder.send_uploaded(BLOCK)["success"]
    assert recorder.send_uploaded(BLOCK)["success"]  # equal blocks are one file, which was deleted
    [recording] = served.recordings.all()
    assert (recording.rate, recording.received) == (48_000, 4 * 24_000)
    assert uploads() == before
    for key in served.recordings.ids():
        served.recordings.remove(*key)


@pytest.mark.parametrize("name", bombs.naming(Path("x"), "http://127.0.0.1:9"))
def test_a_block_that_names_a_file_or_an_address(
    name: str, served: Served, recorder: RecorderClient, secret: Path, canary: Canary
) -> None:
    before = uploads()
    content = bombs.naming(secret, canary.url)[name]
    for kind in KINDS:
        assert was_refused(recorder.send_uploaded(content, name, kind))
    assert served.recordings.all() == []
    assert canary.visits == 0
    assert uploads() == before  # deleted where decoding fails, too


@pytest.mark.parametrize("where", ["recorder", "language", "context"])
def test_an_event_that_names_a_file_or_an_address(
    where: str,
    served: Served,
    recorder: RecorderClient,
    secret: Path,
    canary: Canary,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # Gradio itself refuses private addresses; the canary stands for a public one.
    monkeypatch.setattr("gradio.processing_utils.is_public_ip", lambda _: True)
    before = uploads()
    folder = get_upload_folder()
    for path in (
        *(str(secret), f"file:{secret}", f"{folder}/../{secret.name}", f"{folder}/x\0y", folder, "/dev/zero", "."),
        *(f"{canary.url}/a.wav", f"concat:{secret}|{secret}", f"subfile,,start,0,end,0,,:{secret}", "data:audio/wav,x"),
    ):
        for more in ({}, {"url": f"{canary.url}/b.wav"}, {"is_stream": True}, {"orig_name": "a.m3u8"}):
            event = {"file": None, where if where != "recorder" else "file": file_data(path, **more)}
            message = recorder.send(**event)
            if where == "recorder":
                assert was_refused(message)
    assert served.recordings.all() == []
    assert canary.visits == 0
    assert uploads() == before
    if where == "recorder":
        assert "Traceback" not in capfd.readouterr().err


def test_a_link_in_the_upload_folder(recorder: RecorderClient, secret: Path) -> None:
    link = Path(get_upload_folder()) / "link.wav"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(secret)
    try:
        assert was_refused(recorder.send(file_data(str(link))))
    finally:
        link.unlink()
    assert secret.exists()


def test_only_a_recorders_format_is_heard(recorder: RecorderClient) -> None:
    assert was_refused(recorder.send_uploaded(bombs.silent_flac(1), "audio.flac"))


def test_the_size_of_an_upload_is_exact(recorder: RecorderClient) -> None:
    limits = PageLimits()
    most = limits.upload_bytes - 44
    assert recorder.upload(bombs.wav_header(most) + bytes(most)).status_code == 200
    assert recorder.upload(bombs.wav_header(most) + bytes(most + 1)).status_code == 413


@pytest.mark.parametrize("name", bombs.naming(Path("x"), "http://127.0.0.1:9"))
def test_a_form_that_names_a_file_or_an_address(name: str, http: httpx.Client, secret: Path, canary: Canary) -> None:
    content = bombs.naming(secret, canary.url)[name]
    for file_name in (name, str(secret), f"{canary.url}/a.m3u8"):
        for kind in KINDS:
            answer = http.post("/v1/audio/transcriptions", files={"file": (file_name, content, kind)})
            assert answer.json()["error"]["code"] == "audio_error", answer.text
    assert canary.visits == 0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is measured with Linux's /proc")
def test_bombs_take_little_memory(tmp_path: Path, repository: Path) -> None:
    server = ServerProcess(tmp_path, repository, "--port", "0", "--asr-model-path", "demo", "--device", "cpu")
    try:
        url = server.line_with("http://").strip()
        server.line_with("Ready.")
        with httpx.Client(base_url=url, timeout=300) as http:
            recorder = RecorderClient(http)
            recorder.send_uploaded(BLOCK)
            http.post("/v1/audio/transcriptions", files={"file": ("a.wav", BLOCK)}).raise_for_status()
            (proc := Path(f"/proc/{server.process.pid}") / "clear_refs").write_text("5")
            before = peak_bytes(server.process.pid)
            for name, content in {
                "hour.flac": bombs.silent_flac(),
                "header.wav": bombs.wav_header(0xFFFFFFFF, channels=64, rate=384_000, bits=32) + bytes(1 << 20),
                "long.wav": bombs.wav_header(2 << 20, rate=4_000, bits=8) + bytes(2 << 20),
                "index.mp4": bombs.mp4_index(),
                "header.mp4": bombs.mp4_compressed_header(256 << 20),
                "cover.mp3": bombs.mp3_compressed_cover(),
                "chunk.avi": bombs.avi_of_one_chunk(bytes(10 << 20)),
                "a.zip": bombs.zipped_zeros(256 << 20),
            }.items():
                if len(content) <= PageLimits.upload_bytes:
                    recorder.send_uploaded(content, name)
                else:
                    assert recorder.upload(content, name).status_code == 413
                http.post("/v1/audio/transcriptions", files={"file": (name, content)})
                assert peak_bytes(server.process.pid) - before < MEMORY_BYTES, name
                proc.write_text("5")
    finally:
        server.kill()
