"""What of huggingface_hub's cache this program can use."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import get_cached_repo_tree
from huggingface_hub.errors import CachedRepoTreeNotFoundError, HFValidationError
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]  # public, but not marked as exported

from qwen_asr.engine.hub.checkpoints import DEMO_FOLDER, KINDS, Kind, kind_of, read_config
from qwen_asr.engine.hub.download import NEEDED_FILES, Hub
from qwen_asr.engine.hub.integrity import required_files
from qwen_asr.errors import CheckpointError, CheckpointNotFound

PREFIX = "models--"


@dataclass(frozen=True)
class CachedModel:
    """One revision of a checkpoint on disk.

    revision: its commit, "" for the demo. refs: the branches and tags that led to it. folder: its snapshot. expected:
    the files that it should have, with their sizes in bytes where the hub's list of them is cached. missing: those of
    them that are not there. size: bytes on disk, with what an interrupted download has left. last_used: when its
    weights were last read, in seconds since 1970 and as precisely as the file system keeps it, or None.
    """

    name: str
    kind: Kind
    revision: str
    refs: tuple[str, ...]
    folder: Path
    expected: dict[str, int | None]
    missing: tuple[str, ...]
    size: int
    last_used: float | None


def cached_models(hub: Hub) -> list[CachedModel]:
    """The Qwen3-ASR recognizers and forced aligners in the cache, by name. Other models are left out.

    Raises `CheckpointNotFound` where the cache cannot be read.
    """
    if not hub.folder.exists():
        return []  # nothing has been fetched yet
    try:
        repositories = sorted(path for path in hub.folder.iterdir() if path.name.startswith(PREFIX))
        return [model for path in repositories if path.is_dir() for model in _revisions(path, hub)]
    except OSError as error:
        raise CheckpointNotFound(
            f"The cache {hub.folder} cannot be read: {error.strerror} ({error.filename}). Correct its permissions, or "
            "check HF_HUB_CACHE and HF_HOME."
        ) from error


def bundled_demo() -> CachedModel:
    """The demo, which belongs to this package."""
    return _model("demo", "recognizer", "", (), DEMO_FOLDER, dict.fromkeys(required_files(DEMO_FOLDER)))


def _revisions(repository: Path, hub: Hub) -> Iterator[CachedModel]:
    name = repository.name.removeprefix(PREFIX).replace("--", "/")
    refs: dict[str, list[str]] = {}
    for file in sorted((repository / "refs").rglob("*")):
        if file.is_file():
            refs.setdefault(file.read_text(encoding="utf-8").strip(), []).append(
                file.relative_to(repository / "refs").as_posix()
            )
    partial = sum(file.stat().st_size for file in (repository / "blobs").glob("*.incomplete"))
    snapshots = repository / "snapshots"
    commits = {path.name for path in snapshots.iterdir() if path.is_dir()} if snapshots.is_dir() else set()
    for commit in sorted(commits | (set(refs) - {""})):  # a download that was interrupted early has no snapshot
        folder = snapshots / commit
        kind = KINDS.get(name)
        with contextlib.suppress(CheckpointError):
            kind = kind_of(read_config(folder))
        if kind is not None:
            expected = _expected(name, commit, folder, hub)
            yield _model(name, kind, commit, tuple(refs.get(commit, ())), folder, expected, partial)


def _expected(name: str, commit: str, folder: Path, hub: Hub) -> dict[str, int | None]:
    try:
        files = get_cached_repo_tree(name, revision=commit, cache_dir=hub.folder)
    except (CachedRepoTreeNotFoundError, HFValidationError):  # older versions of huggingface_hub kept no list
        return dict.fromkeys(required_files(folder))
    sizes: dict[str, int | None] = {file.path: file.size for file in files}
    return {path: sizes[path] for path in filter_repo_objects(sizes, allow_patterns=NEEDED_FILES)}


def _model(
    name: str,
    kind: Kind,
    revision: str,
    refs: tuple[str, ...],
    folder: Path,
    expected: dict[str, int | None],
    partial: int = 0,
) -> CachedModel:
    missing = tuple(sorted(path for path in expected if not (folder / path).is_file()))
    files = {path.resolve() for path in folder.rglob("*") if path.is_file()}  # several paths may have the same content
    read = [path.stat().st_atime for path in folder.rglob("*.safetensors") if path.is_file()]
    size = sum(path.stat().st_size for path in files) + (partial if missing else 0)
    return CachedModel(name, kind, revision, refs, folder, expected, missing, size, max(read, default=None))
