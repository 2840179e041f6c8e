"""Fetches checkpoints from the Hugging Face hub or a mirror into huggingface_hub's cache.

It is the one place that does, for loading and for `qwen-asr models`, and has the one list of what can go wrong.
"""

import contextlib
import errno
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import DryRunFileInfo, are_symlinks_supported, http_get, repo_folder_name
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but not marked as exported
    WeakFileLock,
    build_hf_headers,
)
from huggingface_hub.utils.tqdm import tqdm

from qwen_asr.engine.hub.checkpoints import SMALL, kind_of, read_config
from qwen_asr.engine.hub.integrity import hash_problem, size_text
from qwen_asr.errors import CheckpointNotFound, QwenASRError, WrongArchitecture

NEEDED_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
RESUMED_FROM_BYTES = constants.DOWNLOAD_CHUNK_SIZE
"""From this size on a file is fetched so that the next attempt can resume it. huggingface_hub writes blocks of it."""
PUBLIC_HUB = "https://huggingface.co"

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Hub:
    """How a checkpoint is fetched from the Hugging Face hub, as the arguments of its `snapshot_download` have it.

    cache_dir: where downloads are kept. revision: a branch, tag or commit. token: a hub token; None takes that of
    `hf auth login`, and False none. local_files_only: whether only the cache is used. force_download: whether files in
    the cache are fetched again.
    """

    cache_dir: str | Path | None = None
    revision: str | None = None
    token: str | bool | None = field(default=None, repr=False)
    local_files_only: bool = False
    force_download: bool = False

    @property
    def folder(self) -> Path:
        """The cache."""
        return Path(constants.HF_HUB_CACHE if self.cache_dir is None else self.cache_dir).expanduser().resolve()


def fetch(name: str, report: Progress, hub: Hub, option: str) -> Path:
    """The hub's snapshot of `name`: from the cache if it is complete, else downloaded.

    option: the option of the command line that takes a folder instead, for messages. Raises `CheckpointNotFound`.
    """
    if not hub.force_download or hub.local_files_only:
        if folder := find_cached(name, hub):
            return folder
        if hub.local_files_only:
            revision = f" with the revision {hub.revision}" if hub.revision else ""
            raise CheckpointNotFound(
                f"{name} is not in the cache{revision}, and local_files_only is set: leave that out once to fetch "
                "it, or give a folder with the weights."
            )
    _check_online(name, hub, option)
    report(f"Fetching {name} from {_hub_name()} (several GB the first time)")
    return download(name, report, hub, option)


def find_cached(name: str, hub: Hub) -> Path | None:
    """The complete snapshot of `name` in the cache; None if there is none."""
    try:
        return Path(snapshot_download(name, **_where(hub), local_files_only=True))
    except (OSError, ValueError):
        return None


def download(name: str, report: Progress, hub: Hub, option: str = "", *, check_kind: bool = False) -> Path:
    """Fetches what the cache lacks of the hub's snapshot of `name`; returns its folder.

    Large files are resumed: huggingface_hub resumes within one process only, and deletes what an earlier one has left.
    check_kind: whether config.json is fetched and checked first. option: see `fetch`.

    Raises `CheckpointNotFound`, and `WrongArchitecture` for another model.
    """
    _check_online(name, hub, option)
    with _explained(name, hub, option):
        plan: Any = snapshot_download(name, **_where(hub), **_how(hub), dry_run=True, tqdm_class=_bar(lambda *_: None))
        if check_kind:
            _check_kind(name, plan, hub)
        files = [file for file in plan if file.will_download]
        large = [file for file in files if (file.file_size or 0) >= RESUMED_FROM_BYTES]
        if hub.force_download or (large and not are_symlinks_supported(hub.folder)):
            large = []  # huggingface_hub would not take what is there, or would copy it
        total = sum(file.file_size or 0 for file in files)
        done = total - sum(file.file_size or 0 for file in large)
        _check_space(name, total, hub)

        def fetch_others(*ignored: str) -> Path:
            bar = download_bar(name, report, total)
            how = _how(hub) | {"ignore_patterns": ignored, "tqdm_class": bar}
            return Path(snapshot_download(name, **_where(hub), **how))

        # The small files first: with them huggingface_hub notes which files there are, so that the snapshot is known to
        # be incomplete.
        folder = fetch_others(*(file.filename for file in large))
        for file in large:
            _fetch_file(name, file, hub, download_bar(name, report, total, done))
            done += file.file_size or 0
        return fetch_others() if large else folder


def offline_variable() -> str | None:
    """The variable of the environment that forbids to ask the hub; None if none does."""
    if not constants.is_offline_mode():
        return None
    only_of_transformers = "TRANSFORMERS_OFFLINE" in os.environ and not os.environ.get("HF_HUB_OFFLINE")
    return "TRANSFORMERS_OFFLINE" if only_of_transformers else "HF_HUB_OFFLINE"


def download_bar(name: str, report: Progress, total: int | None = None, before: int = 0) -> type[tqdm]:
    """A progress bar for huggingface_hub that reports each whole percent as a line instead of drawing.

    total: the bytes of all files; by default those that the bar itself knows of. before: those fetched before it began.
    """
    last_percent = -1

    def show(done: float, known: float) -> None:
        nonlocal last_percent
        whole = total or known
        percent = int(100 * min(1, (before + done) / whole))
        if percent > last_percent:  # two bars count the same bytes
            last_percent = percent
            report(f"Fetching {name}: {percent} % of {whole / 1e9:.1f} GB")

    return _bar(show)


def _bar(show: Callable[[float, float], None]) -> type[tqdm]:
    """A bar that draws nothing, and calls `show` with the bytes done and the total."""

    class Bar(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            # Enabled without a terminal too, and at each step. What tqdm writes beside `display` goes nowhere.
            ours = {"disable": False, "mininterval": 0, "miniters": 1, "file": io.StringIO()}
            super().__init__(*arguments, **options | ours)  # type: ignore[no-untyped-call]  # it has no types

        def display(self, *_: Any, **__: Any) -> None:
            if self.unit == "B" and self.total:  # the other bar counts files
                show(self.n, self.total)

    return Bar


def _where(hub: Hub) -> dict[str, Any]:
    return {"allow_patterns": NEEDED_FILES, "cache_dir": hub.cache_dir, "revision": hub.revision}


def _how(hub: Hub) -> dict[str, Any]:
    seconds = constants.HF_HUB_ETAG_TIMEOUT  # for the answer to a question about a file
    return {"token": hub.token, "force_download": hub.force_download, "etag_timeout": seconds}


def _check_online(name: str, hub: Hub, option: str) -> None:
    variable = offline_variable()
    if variable is None:
        return
    if not option:
        raise CheckpointNotFound(f"{name} cannot be fetched while {variable} is set: unset it, then try again.")
    revision = f" with the revision {hub.revision}" if hub.revision else ""
    lacks = "cannot be fetched again" if hub.force_download else f"is not in the cache{revision}"
    raise CheckpointNotFound(
        f"{name} {lacks}, and {variable} is set: unset that once to fetch it, or give a folder with the weights "
        f"({option} on the command line)."
    )


def _check_kind(name: str, plan: list[DryRunFileInfo], hub: Hub) -> None:
    """Raises `WrongArchitecture` if this program cannot use the checkpoint."""
    config: dict[str, Any] = {}
    if any(file.filename == "config.json" for file in plan):
        # Not into the cache: a snapshot with this file alone could be taken for a complete one.
        with tempfile.TemporaryDirectory() as folder:
            commit = plan[0].commit_hash
            hf_hub_download(
                name,
                "config.json",
                revision=commit,
                local_dir=folder,
                token=hub.token,
                tqdm_class=_bar(lambda *_: None),
            )
            config = read_config(Path(folder))
    if kind_of(config) is None:
        found = config.get("model_type") or "no type that is known here"
        raise WrongArchitecture(
            f"{name} is neither a Qwen3-ASR nor a forced aligner (its config.json says {found}). Give a checkpoint "
            f"such as {SMALL}."
        )


def _check_space(name: str, total: int, hub: Hub) -> None:
    """Raises `CheckpointNotFound` if the disk has no room for `total` bytes, less those of interrupted downloads."""
    partial = sum(file.stat().st_size for file in _blobs(name, hub).glob("*.incomplete") if _is_ours(file))
    needed = total - min(total, partial)
    existing = next(folder for folder in (hub.folder, *hub.folder.parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise CheckpointNotFound(
            f"{name} needs {size_text(needed)} of disk space, but {hub.folder} has only {size_text(free)} free. Make "
            "room, for example with `qwen-asr models remove`, or set HF_HUB_CACHE to a folder on another disk."
        )


def _fetch_file(name: str, file: DryRunFileInfo, hub: Hub, bar: type[tqdm]) -> None:
    """Fetches one file to where huggingface_hub keeps its content, and goes on where an earlier attempt ended.

    The content of a file is in `blobs`, named after its hash. Raises what huggingface_hub raises, and OSError.
    """
    url = hf_hub_url(name, file.filename, revision=file.commit_hash)
    metadata = get_hf_file_metadata(url, token=hub.token)
    etag = metadata.etag or ""
    if metadata.size is None or not re.fullmatch(r"[\w-]+", etag):
        return  # a mirror that does not name the content by a hash: huggingface_hub fetches it as a whole
    headers = build_hf_headers(token=hub.token)
    if urlsplit(metadata.location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # the token is for the hub, not for the network that delivers its files
    blob = _blobs(name, hub) / etag
    part = blob.with_name(f"{etag}.incomplete")
    lock = hub.folder / ".locks" / blob.parent.parent.name / f"{etag}.lock"  # as huggingface_hub names it
    for folder in (blob.parent, lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.exists():
            return
        with part.open("ab") as content:
            if content.tell() > metadata.size:
                content.seek(0)
                content.truncate()
            http_get(
                metadata.location, content, resume_size=content.tell(), headers=headers,
                expected_size=metadata.size, displayed_filename=file.filename, tqdm_class=bar,
            )  # fmt: skip
        if problem := hash_problem(part, etag):
            part.unlink()
            raise OSError(f"{file.filename} {problem}, so what was fetched is deleted")
        part.replace(blob)


def _blobs(name: str, hub: Hub) -> Path:
    return hub.folder / repo_folder_name(repo_id=name, repo_type="model") / "blobs"


def _is_ours(file: Path) -> bool:
    """Whether `_fetch_file` will resume this file. Those of huggingface_hub have a part more in their names."""
    return re.fullmatch(r"[^.]+\.incomplete", file.name) is not None


# --- what can go wrong


def _hub_name() -> str:
    """The hub, or the mirror that the environment names, without its password."""
    if constants.ENDPOINT == PUBLIC_HUB:
        return "the Hugging Face hub"
    host = urlsplit(constants.ENDPOINT).netloc.rpartition("@")[2] or constants.ENDPOINT
    return f"the mirror {host} that HF_ENDPOINT names"


@contextlib.contextmanager
def _explained(name: str, hub: Hub, option: str) -> Iterator[None]:
    """Raises `CheckpointNotFound` with a sentence for what huggingface_hub raises in the block."""
    try:
        yield
    except QwenASRError:
        raise
    except Exception as error:  # any failure of a network, from a time-out to a proxy's error page
        raise CheckpointNotFound(_explain(error, name, hub, option)) from error


def _explain(error: Exception, name: str, hub: Hub, option: str) -> str:
    causes = list(_causes(error))
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return (
            f"{name} needs an accepted licence: accept it at {PUBLIC_HUB}/{name}, run `hf auth login` or set HF_TOKEN, "
            "then try again."
        )
    if any(isinstance(cause, RevisionNotFoundError) for cause in causes):
        return f"{name} has no revision {hub.revision} on {_hub_name()}. Check its spelling."
    if any(isinstance(cause, RepositoryNotFoundError | HFValidationError) for cause in causes):
        return (
            f"There is neither a folder nor a checkpoint {name} on {_hub_name()}. Check its spelling. A private one "
            "needs a token: run `hf auth login`, or set HF_TOKEN."
        )
    answer = next((cause for cause in causes if isinstance(cause, HfHubHTTPError)), None)
    if answer is not None and answer.response.status_code in (401, 403):
        return (
            f"{name} cannot be fetched: {_hub_name()} refuses access (HTTP {answer.response.status_code}). Check "
            "HF_TOKEN, or run `hf auth login`."
        )
    if isinstance(error, OSError) and error.errno is not None and answer is None:
        return _explain_disk(error, name, hub)
    lacks = "is not in the cache and cannot" if option else "cannot"
    where = " and HF_ENDPOINT" if constants.ENDPOINT != PUBLIC_HUB else ""
    folder = f", or give a folder with the weights ({option} on the command line)" if option else ", then try again"
    reason = f"HTTP {answer.response.status_code}" if answer is not None else _reason(causes)
    return f"{name} {lacks} be fetched from {_hub_name()} ({reason}). Check the network{where}{folder}."


def _explain_disk(error: OSError, name: str, hub: Hub) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return (
            f"{name} cannot be stored in {hub.folder}: the disk is full, or a limit is reached ({error.strerror}). "
            "Make room, then try again: what was fetched is kept."
        )
    return (
        f"{name} cannot be stored: {error.filename or hub.folder} cannot be written ({error.strerror}). Correct its "
        "permissions, or set HF_HUB_CACHE to a folder that can be written."
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _reason(causes: list[BaseException]) -> str:
    """The first of the causes, as a few words: "Connection refused"."""
    cause = causes[-1]
    first = next(iter(str(cause).strip().splitlines()), "").rstrip(".")
    return re.sub(r"^\[Errno -?\d+\] ", "", first) or type(cause).__name__
