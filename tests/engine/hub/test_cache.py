"""What the cache holds, as huggingface_hub itself has laid it out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from qwen_asr.engine.hub.cache import bundled_demo, cached_models
from qwen_asr.engine.hub.checkpoints import ALIGNER, LARGE, SMALL
from qwen_asr.engine.hub.download import Hub
from qwen_asr.errors import CheckpointNotFound
from tests.support.checkpoints import DEMO
from tests.support.hub import HubServer, fetch_into

WHISPER = json.dumps({"model_type": "whisper"})


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(cache_dir=tmp_path / "hub")


def lay(hub: Hub, name: str, files: dict[str, str], commit: str = "a" * 40, ref: str | None = "main") -> Path:
    """A snapshot as versions of huggingface_hub before 1.0 have left it: without a list of the hub's files."""
    repository = hub.folder / f"models--{name.replace('/', '--')}"
    folder = repository / "snapshots" / commit
    folder.mkdir(parents=True)
    for path, text in files.items():
        (folder / path).write_text(text)
    if ref:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / ref).write_text(commit)
    return folder


def test_a_cache_that_does_not_exist_is_empty(hub: Hub) -> None:
    assert cached_models(hub) == []


@pytest.mark.slow
def test_what_huggingface_hub_has_fetched(hub: Hub) -> None:
    server = HubServer()
    try:
        server.add(SMALL, DEMO)
        folder = fetch_into(hub.folder, server, SMALL)
    finally:
        server.close()
    [model] = cached_models(hub)
    commit = server.repositories[SMALL].commit
    assert (model.name, model.kind, model.revision, model.refs) == (SMALL, "recognizer", commit, ("main",))
    assert (model.folder, model.missing) == (folder, ())
    assert model.expected == {path.name: path.stat().st_size for path in DEMO.iterdir()}
    assert model.size == sum(path.stat().st_size for path in DEMO.iterdir())
    os.utime(folder / "model.safetensors", (1_000_000_000, 1_100_000_000))
    assert cached_models(hub)[0].last_used == 1_000_000_000

    (folder / "tokenizer.json").resolve().unlink()
    (folder / "config.json").unlink()  # the kind is then known by the name
    [model] = cached_models(hub)
    assert model.missing == ("config.json", "tokenizer.json")


def test_only_what_this_program_can_use_is_listed(hub: Hub) -> None:
    config = (DEMO / "config.json").read_text()
    aligner = json.dumps({"thinker_config": {"classify_num": 5}})
    lay(hub, "me/my-asr", {"config.json": config, "model.safetensors": "x"})
    lay(hub, "me/my-aligner", {"config.json": aligner, "model.safetensors": "x"})
    lay(hub, "openai/whisper-tiny", {"config.json": WHISPER, "model.safetensors": "x"})
    lay(hub, "someone/damaged", {"config.json": "{"})
    lay(hub, "someone/without", {"model.bin": "x"})
    (hub.folder / "datasets--me--my-asr" / "snapshots").mkdir(parents=True)
    (hub.folder / ".locks").mkdir()
    (hub.folder / "models--a-file").write_text("")
    found = cached_models(hub)
    assert [(model.name, model.kind) for model in found] == [("me/my-aligner", "aligner"), ("me/my-asr", "recognizer")]
    assert all(not model.missing for model in found)


def test_without_a_list_of_the_hub_the_index_says_what_is_missing(hub: Hub) -> None:
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
    files = {"config.json": (DEMO / "config.json").read_text(), "model.safetensors.index.json": index}
    lay(hub, LARGE, files | {"model-2.safetensors": "x"})
    assert cached_models(hub)[0].missing == ("model-1.safetensors",)


def test_several_revisions(hub: Hub) -> None:
    files = {"config.json": (DEMO / "config.json").read_text(), "model.safetensors": "x"}
    lay(hub, SMALL, files, "a" * 40, ref=None)
    lay(hub, SMALL, files, "b" * 40, ref="main")
    (hub.folder / "models--Qwen--Qwen3-ASR-0.6B" / "refs" / "v1").write_text("b" * 40)
    assert [(model.revision[0], model.refs) for model in cached_models(hub)] == [("a", ()), ("b", ("main", "v1"))]


def test_a_download_that_has_only_begun(hub: Hub) -> None:
    repository = hub.folder / "models--Qwen--Qwen3-ForcedAligner-0.6B"
    for folder in ("refs", "blobs"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "main").write_text("c" * 40)
    (repository / "blobs" / f"{'d' * 64}.incomplete").write_bytes(bytes(1000))
    [model] = cached_models(hub)
    assert (model.name, model.kind, model.size, model.last_used) == (ALIGNER, "aligner", 1000, None)
    assert model.missing == ("config.json", "model.safetensors")


def test_a_cache_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("")
    with pytest.raises(CheckpointNotFound, match=r"cannot be read: Not a directory .* check HF_HUB_CACHE and HF_HOME"):
        cached_models(Hub(cache_dir=tmp_path / "hub"))


def test_the_demo() -> None:
    demo: Any = bundled_demo()
    assert (demo.name, demo.kind, demo.folder, demo.missing) == ("demo", "recognizer", DEMO, ())
