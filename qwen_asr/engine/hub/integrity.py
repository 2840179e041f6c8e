"""Finds missing and damaged files of a checkpoint, without loading it."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
HEADER_LENGTH_BYTES = 8
LONGEST_HEADER = 100_000_000
"""What the safetensors library accepts: https://github.com/huggingface/safetensors#format."""


@dataclass(frozen=True)
class Damage:
    """A file of a checkpoint, by its path in the folder, and what is wrong with it, as the end of a sentence."""

    file: str
    problem: str

    @property
    def is_missing(self) -> bool:
        """Whether it is not there, so that fetching what is missing is enough."""
        return self.problem == MISSING


@dataclass(frozen=True)
class Report:
    """How many files were read, how many of them have the hash that the hub gave, and what is wrong."""

    files: int
    hashed: int
    damages: tuple[Damage, ...]


MISSING = "is missing"


def required_files(folder: Path) -> set[str]:
    """The files that any checkpoint needs: its configuration, and the weights or the shards that their index names."""
    return {"config.json"} | ({INDEX, *_shards(folder / INDEX)} if (folder / INDEX).exists() else {WEIGHTS})


def check(folder: Path, expected: Mapping[str, int | None], report: Callable[[str], None]) -> Report:
    """Reads all files of a checkpoint.

    expected: the files that it should have, with their sizes in bytes where these are known. In huggingface_hub's cache
    the content of a file is named after its hash, which is compared. report: called with the name of each file.
    """
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    damages, hashed = [], 0
    for name in sorted(names | set(expected)):
        report(name)
        file = folder / name
        try:
            problem, has_hash = _problem(file, expected.get(name))
        except OSError as error:
            problem, has_hash = f"cannot be read ({error.strerror or error})", False
        hashed += has_hash
        if problem:
            damages.append(Damage(name, problem))
    return Report(len(names | set(expected)), hashed, tuple(damages))


def _problem(file: Path, size: int | None) -> tuple[str | None, bool]:
    """What is wrong with the file, and whether its hash was compared."""
    if not file.exists():  # or it is a link to content that is not there
        return MISSING, False
    actual = file.stat().st_size
    if size is not None and actual != size:
        return f"has {actual:,} bytes instead of {size:,}", False
    problem = None
    if file.suffix == ".safetensors":
        problem = safetensors_problem(file)
    elif file.suffix == ".json":
        problem = _json_problem(file)
    expected = file.readlink().name if file.is_symlink() else ""
    if problem is None and _hash_name(expected):
        return hash_problem(file, expected), True
    return problem, False


def safetensors_problem(file: Path) -> str | None:
    """What is wrong with the header and the length of a safetensors file; None if nothing is.

    The format: 8 bytes with the length of the header, the header as JSON, and the data that its offsets point into.
    """
    actual = file.stat().st_size
    with file.open("rb") as content:
        length = int.from_bytes(content.read(HEADER_LENGTH_BYTES), "little")
        if not 2 <= length <= min(LONGEST_HEADER, actual - HEADER_LENGTH_BYTES):
            return "is no safetensors file, or is cut off in its header"
        try:
            header = json.loads(content.read(length))
            ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            return "has a damaged header"
    wanted = HEADER_LENGTH_BYTES + length + max(ends, default=0)
    return None if actual == wanted else f"has {actual:,} bytes instead of {wanted:,}"


def hash_problem(file: Path, expected: str) -> str | None:
    """What is wrong with the content: its hash is not the `expected` one. None if it is, or if that is no hash.

    The hub names large files after their SHA-256, and others after the SHA-1 of git's object.
    """
    kind = _hash_name(expected)
    if kind is None:
        return None
    digest: Any = hashlib.sha256() if kind == "SHA-256" else hashlib.sha1(usedforsecurity=False)
    if kind == "SHA-1":
        digest.update(f"blob {file.stat().st_size}\0".encode())
    with file.open("rb") as content:
        while block := content.read(2**20):
            digest.update(block)
    return None if digest.hexdigest() == expected else f"is damaged: its {kind} is not the one that the hub gave"


def _hash_name(expected: str) -> str | None:
    if re.fullmatch(r"[0-9a-f]+", expected):
        return {64: "SHA-256", 40: "SHA-1"}.get(len(expected))
    return None


def _json_problem(file: Path) -> str | None:
    try:
        value = json.loads(file.read_bytes())
    except ValueError:
        return "is not valid JSON"
    if file.name == INDEX and not _weight_map(value):
        return "names no weights"
    return None


def _shards(index: Path) -> set[str]:
    try:
        return {str(name) for name in _weight_map(json.loads(index.read_bytes())).values()}
    except (OSError, ValueError):
        return set()  # `check` says what is wrong with it


def _weight_map(index: Any) -> dict[str, Any]:
    weights = index.get("weight_map") if isinstance(index, dict) else None
    return weights if isinstance(weights, dict) else {}


def size_text(size: float) -> str:
    """A number of bytes for people: "1.9 GB"."""
    if size < 1000:
        return f"{size:.0f} bytes"
    for unit in ("kB", "MB"):
        size /= 1000
        if size < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:,.1f} GB"
