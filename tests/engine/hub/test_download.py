"""Fetching from a hub on this machine with the real huggingface_hub. Each failure has a sentence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils.tqdm import enable_progress_bars

from qwen_asr.engine.checkpoint import load_recognizer
from qwen_asr.engine.hub.cache import cached_models
from qwen_asr.engine.hub.download import RESUMED_FROM_BYTES, Hub, download_bar, find_cached
from qwen_asr.errors import CheckpointNotFound
from tests.support.checkpoints import DEMO
from tests.support.hub import HubServer, environment
from tests.support.network import free_ports
from tests.support.processes import kill, until

pytestmark = pytest.mark.slow

NAME = "Qwen/Qwen3-ASR-0.6B"
FETCH = """
import sys
from qwen_asr.engine.hub.download import Hub, fetch
from qwen_asr.errors import QwenASRError

try:
    print("folder", fetch(sys.argv[1], lambda line: print(line, flush=True), Hub(*sys.argv[2:]), "--asr-model-path"))
except QwenASRError as error:
    print(f"{type(error).__name__}: {error}")
assert "torch" not in sys.modules
"""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    hub = HubServer()
    hub.add(NAME, DEMO)
    yield hub
    hub.close()


@pytest.fixture
def large(hub: HubServer) -> bytes:
    """The weights of `NAME`, which become those of a checkpoint with three blocks of what huggingface_hub writes."""
    size = 3 * RESUMED_FROM_BYTES
    header = json.dumps({"weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    content = len(header).to_bytes(8, "little") + header + np.random.default_rng(1).bytes(size)
    hub.repositories[NAME].files["model.safetensors"] = content
    return content


def start(hub: HubServer | None, folder: Path, *arguments: str, **environ: str) -> subprocess.Popen[str]:
    """`fetch` in a process of its own, with the cache in `folder`."""
    ours = environment(folder / "hub", hub) | {"HF_HUB_OFFLINE": ""}
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, *arguments], env=ours | environ, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def run(hub: HubServer | None, folder: Path, *arguments: str, **environ: str) -> list[str]:
    """The lines that `fetch` reports, and its result or its error as the last one."""
    output, _ = start(hub, folder, *arguments, **environ).communicate(timeout=120)
    assert "Traceback" not in output
    return output.splitlines()


def folder_of(lines: list[str]) -> Path:
    assert lines[-1].startswith("folder "), lines
    return Path(lines[-1].removeprefix("folder "))


def sizes_of_parts(folder: Path) -> list[int]:
    return [path.stat().st_size for path in folder.rglob("*.incomplete")]


def error_of(lines: list[str]) -> str:
    kind, _, sentence = lines[-1].partition(": ")
    assert kind == "CheckpointNotFound", lines
    assert sentence.endswith(".")
    return sentence


@pytest.mark.usefixtures("large")
def test_what_is_fetched_is_what_the_hub_has_and_is_fetched_once(hub: HubServer, tmp_path: Path) -> None:
    lines = run(hub, tmp_path, NAME, HF_TOKEN="hf_test")  # noqa: S106 - no real one
    folder = folder_of(lines)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == hub.repositories[NAME].files
    assert lines[0].startswith(f"Fetching {NAME} from the mirror 127.0.0.1:{hub.port} that HF_ENDPOINT names")
    assert f"Fetching {NAME}: 100 % of 0.0 GB" in lines
    # The token is for the hub alone, not for the host of large files.
    sent = {request.path.startswith("/large/"): request.headers.get("authorization") for request in hub.requests[1:]}
    assert sent == {False: "Bearer hf_test", True: None}

    hub.requests.clear()
    assert run(hub, tmp_path, NAME) == lines[-1:]
    assert hub.requests == []


def test_what_is_fetched_can_be_loaded(hub: HubServer, tmp_path: Path) -> None:
    assert load_recognizer(str(folder_of(run(hub, tmp_path, NAME))), "cpu", "float32").name


def test_a_connection_that_breaks_is_resumed(hub: HubServer, large: bytes, tmp_path: Path) -> None:
    hub.cuts = [RESUMED_FROM_BYTES + 5, RESUMED_FROM_BYTES + 7]
    folder = folder_of(run(hub, tmp_path, NAME))
    assert (folder / "model.safetensors").read_bytes() == large
    assert hub.ranges() == [f"bytes={RESUMED_FROM_BYTES}-", f"bytes={2 * RESUMED_FROM_BYTES}-"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_ended_is_resumed_by_the_next(
    hub: HubServer, large: bytes, tmp_path: Path, number: signal.Signals
) -> None:
    hub.stall_after = 2 * RESUMED_FROM_BYTES
    process = start(hub, tmp_path, NAME)
    try:
        assert process.stdout
        assert any(" 66 %" in line for line in process.stdout)
        assert until(lambda: sizes_of_parts(tmp_path) == [2 * RESUMED_FROM_BYTES])
        process.send_signal(number)
        process.wait(60)
    finally:
        kill(process)
    assert not hub.ranges()
    cache = Hub(cache_dir=tmp_path / "hub")
    [model] = cached_models(cache)
    assert model.missing == ("model.safetensors",)
    assert model.size > 2 * RESUMED_FROM_BYTES
    assert find_cached(NAME, cache) is None
    folder = folder_of(run(hub, tmp_path, NAME))
    assert hub.ranges() == [f"bytes={2 * RESUMED_FROM_BYTES}-"]
    assert (folder / "model.safetensors").read_bytes() == large
    assert sizes_of_parts(tmp_path) == []


@pytest.mark.parametrize(("more", "requests"), [(b"", 0), (b"?", 1)])
def test_what_is_whole_already_is_not_fetched_and_what_is_too_long_is_fetched_again(
    hub: HubServer, large: bytes, tmp_path: Path, more: bytes, requests: int
) -> None:
    blobs = tmp_path / "hub" / "models--Qwen--Qwen3-ASR-0.6B" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hub.repositories[NAME].etag('model.safetensors')}.incomplete").write_bytes(large + more)
    assert (folder_of(run(hub, tmp_path, NAME)) / "model.safetensors").read_bytes() == large
    assert (len(hub.bodies()), hub.ranges()) == (requests, [])


def test_without_links_the_content_is_kept_once(hub: HubServer, large: bytes, tmp_path: Path) -> None:
    folder = folder_of(run(hub, tmp_path, NAME, HF_HUB_DISABLE_SYMLINKS="1"))
    assert (folder / "model.safetensors").read_bytes() == large
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size == len(large)] == [
        folder / "model.safetensors"
    ]


def test_two_processes_fetch_a_large_file_once(hub: HubServer, large: bytes, tmp_path: Path) -> None:
    hub.stall_after = RESUMED_FROM_BYTES
    first = start(hub, tmp_path, NAME)
    second = None
    try:
        assert hub.stalled.wait(60)
        second = start(hub, tmp_path, NAME)
        heads = f"/{NAME}/resolve/{hub.repositories[NAME].commit}/model.safetensors"
        # The second has planned, and waits for the first.
        assert until(lambda: [request.path for request in hub.requests].count(heads) >= 4)
        hub.released.set()
        outputs = [process.communicate(timeout=120)[0] for process in (first, second)]
    finally:
        for process in (first, second):
            if process is not None:
                kill(process)
    folders = {folder_of(output.splitlines()) for output in outputs}
    assert [(folder / "model.safetensors").read_bytes() == large for folder in folders] == [True]
    # The broken answer to the first, and its resumption.
    assert (len(hub.bodies()), hub.ranges()) == (2, [f"bytes={RESUMED_FROM_BYTES}-"])


def test_content_that_arrives_damaged_is_not_kept(hub: HubServer, large: bytes, tmp_path: Path) -> None:
    hub.spoiled = {"model.safetensors"}
    assert "model.safetensors is damaged: its SHA-256" in error_of(run(hub, tmp_path, NAME))
    hub.spoiled = set()
    assert (folder_of(run(hub, tmp_path, NAME)) / "model.safetensors").read_bytes() == large
    assert hub.ranges() == []


def test_a_revision(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.repositories[NAME].commit
    assert folder_of(run(hub, tmp_path, NAME, str(tmp_path / "cache"), commit)) == (
        tmp_path / "cache" / "models--Qwen--Qwen3-ASR-0.6B" / "snapshots" / commit
    )
    assert f"{NAME} has no revision v9 on the mirror" in error_of(run(hub, tmp_path, NAME, str(tmp_path), "v9"))


@pytest.mark.parametrize("status", [401, 403])
def test_a_licence_that_was_not_accepted(hub: HubServer, tmp_path: Path, status: int) -> None:
    hub.repositories[NAME].gated = status
    assert f"{NAME} needs an accepted licence: accept it at https://" in error_of(run(hub, tmp_path, NAME))


def test_a_name_that_the_hub_does_not_know(hub: HubServer, tmp_path: Path) -> None:
    sentence = error_of(run(hub, tmp_path, "nobody/nothing"))
    assert sentence.startswith("There is neither a folder nor a checkpoint nobody/nothing")
    assert error_of(run(hub, tmp_path, "no--body/nothing")).startswith("There is neither a folder nor a checkpoint")


def test_a_token_that_is_refused(hub: HubServer, tmp_path: Path) -> None:
    hub.token = "hf_right"  # noqa: S105 - no real one
    sentence = error_of(run(hub, tmp_path, NAME, HF_TOKEN="hf_wrong"))  # noqa: S106 - no real one
    assert "refuses access (HTTP 401). Check HF_TOKEN" in sentence
    assert "hf_wrong" not in sentence


def test_a_hub_that_fails(hub: HubServer, tmp_path: Path) -> None:
    hub.status = 503
    assert f"from the mirror 127.0.0.1:{hub.port} that HF_ENDPOINT names (HTTP 503)" in error_of(
        run(hub, tmp_path, NAME)
    )


def test_a_mirror_that_cannot_be_reached_is_named_without_its_password(tmp_path: Path) -> None:
    [port] = free_ports(1)
    sentence = error_of(run(None, tmp_path, NAME, HF_ENDPOINT=f"http://me:secret@127.0.0.1:{port}"))
    assert f"the mirror 127.0.0.1:{port} that HF_ENDPOINT names" in sentence
    assert "Connection refused" in sentence
    assert "secret" not in sentence
    assert "Check the network and HF_ENDPOINT, or give a folder" in sentence


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_mode_is_named_and_the_hub_is_not_asked(hub: HubServer, tmp_path: Path, variable: str) -> None:
    [line] = run(hub, tmp_path, NAME, **{variable: "1"})
    assert f"{NAME} is not in the cache, and {variable} is set: unset that" in line
    assert hub.requests == []


def test_a_disk_without_enough_space_is_told_before_anything_is_fetched(hub: HubServer, tmp_path: Path) -> None:
    hub.repositories[NAME].sizes["model.safetensors"] = 10**17
    sentence = error_of(run(hub, tmp_path, NAME))
    assert f"{NAME} needs 100,000,000.0 GB of disk space, but {tmp_path / 'hub'} has only " in sentence
    assert hub.bodies() == []
    assert list(tmp_path.rglob("*.safetensors")) == []


FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))\n" + FETCH


def test_a_limit_that_is_reached_on_the_way(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "FETCH", FULL)
    assert f"{NAME} cannot be stored in {tmp_path / 'hub'}: the disk is full" in error_of(run(hub, tmp_path, NAME))


WITHOUT_ROOT = """
import ctypes
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
if ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0) == 0:
    import os, sys
    os.execv(sys.executable, [sys.executable, "-c", sys.argv[1], *sys.argv[2:]])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="drops a capability of root, which Linux has")
def test_a_cache_that_cannot_be_written(hub: HubServer, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o555)
    # Root may write everywhere, until it has lost that capability. Others never had it.
    script = [WITHOUT_ROOT, FETCH] if os.geteuid() == 0 else [FETCH]
    done = subprocess.run(
        [sys.executable, "-c", *script, NAME], capture_output=True, text=True, timeout=120, env=environment(cache, hub)
    )  # fmt: skip
    sentence = error_of(done.stdout.splitlines())
    assert f"{NAME} cannot be stored: {cache}" in sentence
    assert "cannot be written (Permission denied)" in sentence


def test_a_cache_that_is_a_file(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("")
    assert f"{NAME} cannot be stored: {tmp_path / 'hub'}" in error_of(run(hub, tmp_path, NAME))


def test_a_download_reports_its_progress_in_percent() -> None:
    enable_progress_bars()  # another test may have disabled them
    progress: list[str] = []
    with download_bar("Qwen/Qwen3-ASR-0.6B", progress.append)(total=2_000_000_000, unit="B", mininterval=0) as bar:
        for _ in range(4):
            bar.update(500_000_000)
    assert progress[-1] == "Fetching Qwen/Qwen3-ASR-0.6B: 100 % of 2.0 GB"
    assert "Fetching Qwen/Qwen3-ASR-0.6B: 50 % of 2.0 GB" in progress


def test_the_arguments_for_the_hub_reach_its_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def download(name: str, **arguments: Any) -> str | list[Any]:
        if arguments.get("dry_run"):
            return []  # nothing is left to fetch
        calls.append(arguments)
        if arguments.get("local_files_only"):
            raise LocalEntryNotFoundError("nothing is cached")
        return str(DEMO)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("qwen_asr.engine.hub.download.snapshot_download", download)
    hub = Hub(cache_dir=tmp_path, revision="v1", token="hf_…")  # noqa: S106 - no real one
    assert load_recognizer("owner/name", "cpu", hub=hub).name == "owner/name"
    cached, fetched = calls
    assert {cached["cache_dir"], fetched["cache_dir"]} == {tmp_path}
    assert {cached["revision"], fetched["revision"]} == {"v1"}
    assert fetched["token"] == hub.token
    assert "hf_…" not in repr(hub)

    calls.clear()
    with pytest.raises(CheckpointNotFound, match="not in the cache with the revision v1, and local_files_only is set"):
        load_recognizer("owner/name", "cpu", hub=Hub(revision="v1", local_files_only=True))
    assert [call["local_files_only"] for call in calls] == [True]

    calls.clear()
    load_recognizer("owner/name", "cpu", hub=Hub(force_download=True))
    assert [call["force_download"] for call in calls] == [True]
