"""Damage of each kind is found, and named with its file."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from qwen_asr.engine.hub.integrity import (
    INDEX,
    WEIGHTS,
    Damage,
    check,
    hash_problem,
    required_files,
    safetensors_problem,
    size_text,
)
from tests.support.checkpoints import DEMO, to_original_layout

SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO, tmp_path / "checkpoint"))


@pytest.fixture
def linked(copied: Path) -> Path:
    """The demo as huggingface_hub keeps it: links to files that are named after their hashes."""
    blobs = copied.parent / "blobs"
    blobs.mkdir()
    for file in list(copied.iterdir()):
        content = file.read_bytes()
        is_large = file.name == WEIGHTS
        git = hashlib.sha1(b"blob %d\0" % len(content) + content)  # noqa: S324 - as git's
        blob = blobs / (hashlib.sha256(content) if is_large else git).hexdigest()
        file.rename(blob)
        file.symlink_to(Path("..") / "blobs" / blob.name)
    return copied


def damages(folder: Path, **expected: int | None) -> tuple[Damage, ...]:
    return check(folder, dict.fromkeys(required_files(folder)) | expected, lambda name: None).damages


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def test_a_whole_checkpoint_has_no_damage(linked: Path) -> None:
    read: list[str] = []
    report = check(linked, {WEIGHTS: (linked / WEIGHTS).stat().st_size}, read.append)
    assert (report.files, report.hashed, report.damages) == (7, 7, ())
    assert read == sorted(path.name for path in linked.iterdir())


def test_a_whole_checkpoint_in_a_folder_has_no_damage(copied: Path) -> None:
    to_original_layout(copied)
    report = check(copied, dict.fromkeys(required_files(copied)), lambda name: None)
    assert (report.hashed, report.damages) == (0, ())


def test_one_bit_of_the_data_is_found_by_its_hash(linked: Path) -> None:
    flip(linked / WEIGHTS, -1)
    assert safetensors_problem(linked / WEIGHTS) is None
    assert damages(linked) == (Damage(WEIGHTS, "is damaged: its SHA-256 is not the one that the hub gave"),)


def test_one_bit_of_a_small_file_is_found_by_its_hash(linked: Path) -> None:
    flip(linked / "chat_template.jinja", 3)
    [damage] = damages(linked)
    assert damage == Damage("chat_template.jinja", "is damaged: its SHA-1 is not the one that the hub gave")


def test_content_that_is_gone_is_missing(linked: Path) -> None:
    (linked / WEIGHTS).resolve().unlink()
    (linked / "tokenizer.json").unlink()
    found = damages(linked, **{"tokenizer.json": 5})
    assert found == (Damage(WEIGHTS, "is missing"), Damage("tokenizer.json", "is missing"))
    assert all(damage.is_missing for damage in found)


def cut_data(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def append(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def cut_header(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def break_header(file: Path) -> None:
    flip(file, 8)  # the opening brace


def no_offsets(file: Path) -> None:
    header = json.dumps({"weight": {"dtype": "F32"}}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header)


def long_header(file: Path) -> None:
    file.write_bytes((2**63).to_bytes(8, "little") + b"{}")


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (cut_data, "has 3,523,911 bytes instead of 3,523,912"),
        (append, "has 3,523,913 bytes instead of 3,523,912"),
        (cut_header, "is no safetensors file, or is cut off in its header"),
        (empty, "is no safetensors file, or is cut off in its header"),
        (long_header, "is no safetensors file, or is cut off in its header"),
        (break_header, "has a damaged header"),
        (no_offsets, "has a damaged header"),
    ],
)
def test_weights_that_are_no_whole_safetensors_file(copied: Path, spoil: Callable[[Path], None], problem: str) -> None:
    spoil(copied / WEIGHTS)
    assert damages(copied) == (Damage(WEIGHTS, problem),)


def test_the_size_that_the_hub_gave_is_compared(copied: Path) -> None:
    assert damages(copied, **{"tokenizer.json": 5}) == (Damage("tokenizer.json", "has 30,383 bytes instead of 5"),)


def test_every_shard_of_the_index_is_needed(copied: Path) -> None:
    to_original_layout(copied)
    (copied / SHARD).unlink()
    assert damages(copied) == (Damage(SHARD, "is missing"),)


@pytest.mark.parametrize(
    ("text", "problem"), [("{", "is not valid JSON"), ("[]", "names no weights"), ('{"a": 1}', "names no weights")]
)
def test_a_damaged_index(copied: Path, text: str, problem: str) -> None:
    to_original_layout(copied)
    (copied / INDEX).write_text(text)
    assert damages(copied) == (Damage(INDEX, problem),)


def test_a_damaged_configuration(copied: Path) -> None:
    (copied / "config.json").write_bytes(b"\xff\xfe{")
    assert damages(copied) == (Damage("config.json", "is not valid JSON"),)


def test_a_file_that_cannot_be_read(copied: Path) -> None:
    (copied / "tokenizer.json").unlink()
    (copied / "tokenizer.json").symlink_to("/proc/self/mem")  # reading its beginning is an error of input and output
    [damage] = damages(copied)
    assert damage == Damage("tokenizer.json", "cannot be read (Input/output error)")


def test_what_is_no_hash_is_not_compared(copied: Path) -> None:
    assert hash_problem(copied / WEIGHTS, "W/abc") is None


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (3_557_958, "3.6 MB"),
        (1_880_000_000, "1.9 GB"),
        (10**16, "10,000,000.0 GB"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert size_text(size) == text
