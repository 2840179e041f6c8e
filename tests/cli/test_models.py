"""`qwen-asr models` as processes, with a hub on this machine and the real huggingface_hub."""

from __future__ import annotations

import json
import os
import pty
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from qwen_asr.engine.hub.checkpoints import ALIGNER, LARGE, SMALL
from tests.support.checkpoints import DEMO, save_aligner
from tests.support.commands import QWEN_ASR, error_of, run_in_terminal
from tests.support.hub import HubServer, environment, fetch_into
from tests.support.network import free_ports

pytestmark = pytest.mark.slow

Models = Callable[..., subprocess.CompletedProcess[str]]
DEMO_BYTES = sum(path.stat().st_size for path in DEMO.iterdir())


@pytest.fixture(scope="module")
def shared_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    hub = HubServer()
    save_aligner(folder := tmp_path_factory.mktemp("aligner"))
    hub.add(SMALL, DEMO)
    hub.add(ALIGNER, folder)
    yield hub
    hub.close()


@pytest.fixture
def hub(shared_hub: HubServer) -> HubServer:
    shared_hub.requests.clear()
    return shared_hub


@pytest.fixture(scope="module")
def fetched(shared_hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with `SMALL`. Copy it: tests change theirs."""
    cache = tmp_path_factory.mktemp("fetched") / "hub"
    fetch_into(cache, shared_hub, SMALL)
    return cache


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The folder of the cache, which is not there yet."""
    return tmp_path / "hub"


@pytest.fixture
def filled(fetched: Path, cache: Path) -> Path:
    """The snapshot of `SMALL` in the cache."""
    shutil.copytree(fetched, cache, symlinks=True)
    [snapshot] = cache.glob("models--*/snapshots/*")
    return snapshot


@pytest.fixture
def models(cache: Path, hub: HubServer) -> Models:
    """`models(arguments…)` runs `qwen-asr models`."""

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*QWEN_ASR, "models", *arguments], env=environment(cache, hub) | environ, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    return run


def output_of(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def damage(file: Path) -> None:
    """Changes one bit of the content that a link leads to."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.resolve().write_bytes(content)


# --- list


def test_the_list_of_an_empty_cache_has_the_demo(models: Models, cache: Path) -> None:
    lines = output_of(models("list")).splitlines()
    assert lines[0].split() == ["NAME", "KIND", "REVISION", "SIZE", "FILES", "LAST", "USED"]
    assert lines[1].split()[:5] == ["demo", "recognizer", "bundled", "3.6", "MB"]
    assert lines[2] == ""
    assert lines[3].endswith(f"Apple silicon, the server takes {LARGE}, which it fetches first.")
    assert lines[4].endswith(f"any other machine, the server takes {SMALL}, which it fetches first.")
    assert lines[5] == f"The cache is {cache}."


def test_the_list_of_what_was_fetched(models: Models, filled: Path) -> None:
    lines = output_of(models("list")).splitlines()
    assert lines[1].startswith(f"{SMALL}  recognizer  main ({filled.name[:7]})  3.6 MB  complete  20")
    assert f"{SMALL}." in lines[5]
    (filled / "tokenizer.json").unlink()
    assert "1 missing" in output_of(models("list")).splitlines()[1]


def test_the_list_for_programs(models: Models, filled: Path, cache: Path) -> None:
    (filled / "tokenizer.json").unlink()
    document = json.loads(output_of(models("list", "--json")))
    assert document["cache"] == str(cache)
    small, demo = document["models"]
    used = small.pop("last_used")
    assert used.startswith("20")
    assert used.endswith("+00:00")
    assert small == {
        "name": SMALL,
        "kind": "recognizer",
        "revision": filled.name,
        "refs": ["main"],
        "path": str(filled),
        "bytes": DEMO_BYTES - (DEMO / "tokenizer.json").stat().st_size,
        "complete": False,
        "missing": ["tokenizer.json"],
    }
    assert (demo["name"], demo["revision"], demo["complete"]) == ("demo", None, True)


@pytest.mark.parametrize("offline", ["", "1"])
@pytest.mark.parametrize("is_filled", [False, True])
def test_what_auto_would_choose(models: Models, request: pytest.FixtureRequest, offline: str, is_filled: bool) -> None:
    if is_filled:
        request.getfixturevalue("filled")
    chosen: dict[str, Any] = json.loads(output_of(models("list", "--json", HF_HUB_OFFLINE=offline)))["auto"]
    small = {"name": SMALL, "cached": is_filled}
    nothing = {"name": "demo", "cached": True}
    offline_choice = small if is_filled else nothing
    assert chosen["other"] == (offline_choice if offline else small)
    assert chosen["large_gpu"] == (offline_choice if offline else {"name": LARGE, "cached": False})


# --- download


def test_models_are_fetched_by_their_short_names(models: Models, hub: HubServer, cache: Path) -> None:
    done = models("download", "0.6b", "aligner", HF_TOKEN="hf_test")  # noqa: S106 - no real one
    first, second = output_of(done).splitlines()
    folder = cache / f"models--Qwen--Qwen3-ASR-0.6B/snapshots/{hub.repositories[SMALL].commit}"
    assert first == f"{SMALL} is in the cache: 3.6 MB in {folder}."
    assert second.startswith(f"{ALIGNER} is in the cache: ")
    assert {request.headers.get("authorization") for request in hub.requests if "/api/models/" in request.path} == {
        "Bearer hf_test"
    }
    lines = done.stderr.splitlines()
    assert f"Fetching {SMALL}: 100 % of 0.0 GB" in lines
    assert all(int(line.split(": ")[1].split(" %")[0]) % 10 == 0 for line in lines)
    kinds = {model["name"]: model["kind"] for model in json.loads(output_of(models("list", "--json")))["models"]}
    assert kinds == {SMALL: "recognizer", ALIGNER: "aligner", "demo": "recognizer"}
    assert output_of(models("verify")).count(" files are whole") == 3


def test_a_terminal_shows_the_progress_in_one_line(cache: Path, hub: HubServer) -> None:
    code, output = run_in_terminal([*QWEN_ASR, "models", "download", "0.6B"], **environment(cache, hub))
    assert code == 0
    progress, _, result = output.rpartition("\r\x1b[K")
    assert f"\r\x1b[KFetching {SMALL}: 100 % of 0.0 GB" in progress
    assert "\n" not in progress
    assert result.startswith(f"{SMALL} is in the cache")


def test_what_is_missing_is_fetched_and_nothing_else(models: Models, filled: Path, hub: HubServer) -> None:
    (filled / "tokenizer.json").resolve().unlink()
    output_of(models("download", SMALL))
    bodies = [request.path for request in hub.requests if request.method == "GET" and "/api/" not in request.path]
    assert [path.rpartition("/")[2] for path in bodies] == ["tokenizer.json"]
    output_of(models("verify", SMALL))


def test_the_model_of_another_program_is_not_fetched(
    models: Models, hub: HubServer, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "whisper"}')
    shutil.copy(DEMO / "model.safetensors", tmp_path / "other")
    hub.add("openai/whisper-tiny", tmp_path / "other")
    sentence = error_of(models("download", "openai/whisper-tiny"))
    assert sentence.startswith(
        "openai/whisper-tiny is neither a Qwen3-ASR nor a forced aligner (its config.json says w"
    )
    assert hub.bodies() == []
    assert not list(cache.rglob("*.safetensors"))


def test_what_was_fetched_before_an_error_stays(models: Models) -> None:
    done = models("download", "0.6B", "nobody/nothing")
    assert done.returncode == 1
    assert done.stdout.startswith(f"{SMALL} is in the cache")
    assert "neither a folder nor a checkpoint nobody/nothing" in done.stderr
    assert "Traceback" not in done.stderr


def test_offline_mode_is_named(models: Models, hub: HubServer, filled: Path) -> None:
    sentence = error_of(models("download", SMALL, HF_HUB_OFFLINE="1"))
    assert sentence == f"{SMALL} cannot be fetched while HF_HUB_OFFLINE is set: unset it, then try again."
    assert hub.requests == []
    assert filled.is_dir()


def test_a_mirror_that_cannot_be_reached_is_named(models: Models) -> None:
    [port] = free_ports(1)
    sentence = error_of(models("download", SMALL, HF_ENDPOINT=f"http://127.0.0.1:{port}"))
    assert sentence == (
        f"{SMALL} cannot be fetched from the mirror 127.0.0.1:{port} that HF_ENDPOINT names (Connection refused). "
        "Check the network and HF_ENDPOINT, then try again."
    )


def test_an_unknown_revision(models: Models) -> None:
    assert f"{SMALL} has no revision v9" in error_of(models("download", SMALL, "--revision", "v9"))


# --- verify


def test_damage_is_named_and_the_advice_repairs_it(models: Models, filled: Path) -> None:
    assert output_of(models("verify", SMALL)).endswith(": 7 files are whole, 7 of them by their hash.\n")
    damage(filled / "model.safetensors")
    (filled / "tokenizer.json").unlink()
    done = models("verify")
    assert done.returncode == 1
    title = f"{SMALL} main ({filled.name[:7]})"
    *found, advice, demo = done.stdout.splitlines()
    assert found == [
        f"{title}: model.safetensors is damaged: its SHA-256 is not the one that the hub gave.",
        f"{title}: tokenizer.json is missing.",
    ]
    assert demo.startswith("demo bundled: 7 files are whole")
    output_of(models(*shlex.split(advice.split("`")[1])[2:]))
    output_of(models("verify", SMALL))


def test_what_is_only_missing_is_repaired_without_force(models: Models, filled: Path, hub: HubServer) -> None:
    (filled / "model.safetensors").unlink()
    done = models("verify", "0.6B")
    assert done.returncode == 1
    advice = done.stdout.splitlines()[-1]
    assert advice.endswith(f"to fetch it again, run `qwen-asr models download {SMALL}`.")
    output_of(models(*shlex.split(advice.split("`")[1])[2:]))
    assert hub.bodies() == []  # its content was there
    output_of(models("verify", "0.6B"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["verify", "me/mine"], "There is no model me/mine in {cache}: see `qwen-asr models list`."),
        (
            ["verify", "0.6B", "--revision", "v9"],
            f"{SMALL} has no revision v9 in the cache. There is main ({{id}}).",
        ),
        (["verify", "--revision", "main"], "--revision needs the NAME of a model."),
        (["remove", "1.7B", "--yes"], f"There is no model {LARGE} in {{cache}}: see `qwen-asr models list`."),
        (["remove", "demo", "--yes"], "The demo belongs to the program and cannot be removed."),
    ],
)
def test_names_that_are_not_there(
    models: Models, filled: Path, cache: Path, arguments: list[str], sentence: str
) -> None:
    assert error_of(models(*arguments)) == sentence.format(cache=cache, id=filled.name[:7])


# --- remove


def test_a_model_is_removed(models: Models, filled: Path, cache: Path) -> None:
    (cache / "models--me--other" / "snapshots" / ("a" * 40)).mkdir(parents=True)
    title = f"{SMALL} main ({filled.name[:7]}) (3.6 MB)"
    assert output_of(models("remove", "0.6B", "--yes")) == f"{title} is removed.\n"
    assert [path.name for path in cache.glob("models--*")] == ["models--me--other"]


def test_only_the_revision_that_is_named_is_removed(models: Models, filled: Path) -> None:
    older = filled.with_name("b" * 40)
    older.mkdir()
    for name in ("config.json", "model.safetensors"):
        (older / name).symlink_to((filled / name).readlink())
    assert "(0 bytes) is removed" in output_of(models("remove", SMALL, "--revision", "b" * 7, "--yes"))
    assert not older.exists()
    output_of(models("verify", SMALL))


def test_what_an_interrupted_download_left_is_removed(models: Models, filled: Path, cache: Path) -> None:
    (filled / "model.safetensors").resolve().unlink()  # huggingface_hub takes the repository for damaged
    sentence = error_of(models("remove", SMALL, "--revision", "main", "--yes"))
    assert sentence.startswith(f"{SMALL} is damaged in the cache")
    assert f"`qwen-asr models download {SMALL}`" in sentence
    assert " is removed." in output_of(models("remove", SMALL, "--yes"))
    assert list(cache.glob("models--*")) == []


def test_nothing_is_removed_without_a_terminal_or_yes(models: Models, filled: Path) -> None:
    sentence = error_of(done := models("remove", SMALL))
    assert done.returncode == 2
    assert "Nothing is removed: to delete" in sentence
    assert "give --yes" in sentence
    assert filled.is_dir()


@pytest.mark.parametrize(("answer", "is_removed"), [("n\n", False), ("\n", False), ("y\n", True)])
def test_a_terminal_is_asked(filled: Path, cache: Path, answer: str, is_removed: bool) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*QWEN_ASR, "models", "remove", SMALL], env=environment(cache, None), stdin=follower, stdout=follower,
        stderr=follower,
    )  # fmt: skip
    os.close(follower)
    output = b""
    with suppress(OSError):  # the terminal closes with the program
        while data := os.read(leader, 4096):
            output += data
            if b"[y/N] " in output and answer:
                os.write(leader, answer.encode())
                answer = ""
    os.close(leader)
    assert process.wait(60) == (0 if is_removed else 1), output
    assert (b"(3.6 MB) is removed" in output) == is_removed
    assert (b"Nothing is removed" in output) != is_removed
    assert filled.exists() != is_removed


# ---


@pytest.mark.parametrize("arguments", [["list"], ["download", "0.6B"], ["verify"], ["remove", "0.6B", "--yes"]])
def test_torch_is_not_imported(arguments: list[str], filled: Path, cache: Path, hub: HubServer) -> None:
    script = (
        "import sys; from qwen_asr.cli.main import run_subcommand\n"
        "code = run_subcommand(['models', *sys.argv[1:]])\n"
        "sys.exit(', '.join({'torch', 'transformers', 'gradio'} & set(sys.modules)) or code)"
    )
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, env=environment(cache, hub), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
