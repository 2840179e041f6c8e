"""`qwen-asr models`: lists, fetches, checks and removes the checkpoints in huggingface_hub's cache."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen_asr.cli.common import print_message
from qwen_asr.errors import BadConfig, CheckpointNotFound, StorageError

if TYPE_CHECKING:
    from qwen_asr.cli.progress import Progress
    from qwen_asr.engine.hub.cache import CachedModel
    from qwen_asr.engine.hub.download import Hub

HELP = "list, fetch, check and remove models"
EXAMPLES = """examples:
  qwen-asr models list
      the models on this machine, and which one the server would choose
  qwen-asr models download 0.6B aligner
      fetch Qwen/Qwen3-ASR-0.6B and Qwen/Qwen3-ForcedAligner-0.6B, or what is missing of them
  qwen-asr models verify
      read every file of every model, and compare it with its hash; exit code 1 if one is damaged
  qwen-asr models remove Qwen/Qwen3-ASR-1.7B --yes
      delete a model without asking

NAME is an id of the Hugging Face hub, or 0.6B, 1.7B or aligner for Qwen's own. The models are in the cache of
huggingface_hub, and its environment variables apply: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE.
"""
SHORT_COMMIT = 7


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommands list, download, verify and remove."""
    subparsers = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    verbs = {}
    for verb, help, names in (
        ("list", "the models on this machine, and what the server would choose", None),
        ("download", "fetch models, or what is missing of them", "+"),
        ("verify", "look for missing and damaged files; exit code 1 if there are any", "*"),
        ("remove", "delete a model from the cache", 1),
    ):
        verbs[verb] = subparsers.add_parser(verb, help=help, epilog=EXAMPLES)
        if names is not None:
            what = " (default: all, and the demo)" if names == "*" else ""
            verbs[verb].add_argument("names", nargs=names, metavar="NAME", help=f"hub id, 0.6B, 1.7B or aligner{what}")
    verbs["list"].add_argument("--json", action="store_true", help="print JSON, for programs")
    verbs["download"].add_argument("--force", action="store_true", help="fetch again what is in the cache")
    verbs["remove"].add_argument("--yes", action="store_true", help="do not ask")
    for verb in ("download", "verify", "remove"):
        verbs[verb].add_argument("--revision", help="branch, tag or commit")


def run(options: dict[str, Any]) -> int:
    """Runs the subcommand; returns the exit code. Raises CheckpointError, StorageError and BadConfig."""
    names = [_full_name(name) for name in options.get("names", ())]
    if options["verb"] == "list":
        return _list(as_json=options["json"])
    if options["verb"] == "download":
        return _download(names, options["revision"], force=options["force"])
    if options["verb"] == "verify":
        return _verify(names, options["revision"])
    return _remove(names[0], options["revision"], confirmed=options["yes"])


def _full_name(name: str) -> str:
    from qwen_asr.engine.hub.checkpoints import ALIGNER, LARGE, SMALL

    return {"0.6b": SMALL, "1.7b": LARGE, "aligner": ALIGNER}.get(name.lower(), name)


# --- list


def _list(*, as_json: bool) -> int:
    from qwen_asr.engine.hub.cache import bundled_demo, cached_models
    from qwen_asr.engine.hub.download import Hub

    models = [*cached_models(Hub()), bundled_demo()]
    chosen = {where: _chosen(fits_large) for where, fits_large in (("large_gpu", True), ("other", False))}
    if as_json:
        entries = [_entry(model) for model in models]
        document = {"cache": str(Hub().folder), "models": entries, "auto": chosen}
        _print(json.dumps(document, ensure_ascii=False, indent=2))
        return 0
    _print(_table(models))
    _print("")
    for where, devices in (
        ("large_gpu", "on a GPU with more than 6 GB of free memory, or on Apple silicon"),
        ("other", "on any other machine"),
    ):
        state = "" if chosen[where]["cached"] else ", which it fetches first"
        _print(f"With --asr-model-path auto, {devices}, the server takes {chosen[where]['name']}{state}.")
    _print(f"The cache is {Hub().folder}.")
    return 0


def _chosen(fits_large: bool) -> dict[str, Any]:
    """What `checkpoint.find` takes for "auto", if the hub can be reached unless the environment forbids it."""
    from qwen_asr.engine.hub.checkpoints import automatic_names
    from qwen_asr.engine.hub.download import Hub, find_cached, offline_variable

    for name in automatic_names(fits_large):
        is_cached = find_cached(name, Hub()) is not None
        if is_cached or offline_variable() is None:
            return {"name": name, "cached": is_cached}
    return {"name": "demo", "cached": True}


def _entry(model: CachedModel) -> dict[str, Any]:
    used = None if model.last_used is None else datetime.fromtimestamp(model.last_used, UTC)
    return {
        "name": model.name,
        "kind": model.kind,
        "revision": model.revision or None,
        "refs": list(model.refs),
        "path": str(model.folder),
        "bytes": model.size,
        "complete": not model.missing,
        "missing": list(model.missing),
        "last_used": used and used.isoformat(timespec="seconds"),
    }


def _table(models: Iterable[CachedModel]) -> str:
    from qwen_asr.engine.hub.integrity import size_text

    rows = [("NAME", "KIND", "REVISION", "SIZE", "FILES", "LAST USED")]
    for model in models:
        used = "" if model.last_used is None else datetime.fromtimestamp(model.last_used).strftime("%Y-%m-%d")
        state = f"{len(model.missing)} missing" if model.missing else "complete"
        rows.append((model.name, model.kind, _revision_text(model), size_text(model.size), state, used))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _revision_text(model: CachedModel) -> str:
    commit = model.revision[:SHORT_COMMIT]
    return f"{', '.join(model.refs)} ({commit})" if model.refs else commit or "bundled"


# --- download


def _download(names: Sequence[str], revision: str | None, *, force: bool) -> int:
    from huggingface_hub.utils.logging import set_verbosity_error

    from qwen_asr.cli.progress import Progress
    from qwen_asr.engine.hub.download import Hub, download
    from qwen_asr.engine.hub.integrity import size_text

    # Its warnings tell of each new attempt, with the long address of the file.
    set_verbosity_error()  # type: ignore[no-untyped-call]  # it has no types
    for name in names:
        with Progress(()) as progress:
            report = progress.show_status if sys.stderr.isatty() else _tenths(print_message)
            folder = download(name, report, Hub(revision=revision, force_download=force), check_kind=True)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        _print(f"{name} is in the cache: {size_text(size)} in {folder}.")
    return 0


def _tenths(write: Callable[[str], None]) -> Callable[[str], None]:
    """Leaves out all percentages but every tenth, for the log of a program without a terminal."""

    def report(line: str) -> None:
        percent = line.rpartition(": ")[2].partition(" % of ")[0]
        if not percent.isdigit() or int(percent) % 10 == 0:
            write(line)

    return report


# --- verify


def _verify(names: Sequence[str], revision: str | None) -> int:
    from qwen_asr.cli.progress import Progress
    from qwen_asr.engine.hub.cache import bundled_demo, cached_models
    from qwen_asr.engine.hub.download import Hub
    from qwen_asr.engine.hub.integrity import check

    if names:
        models = [model for name in names for model in _find(name, revision, Hub())]
    elif revision is not None:
        raise BadConfig("--revision needs the NAME of a model.")
    else:
        models = [*cached_models(Hub()), bundled_demo()]
    exit_code = 0
    for model in models:
        title = f"{model.name} {_revision_text(model)}"
        with Progress(()) as progress:
            result = check(model.folder, model.expected, partial(_show_reading, progress, title))
        if not result.damages:
            _print(f"{title}: {result.files} files are whole, {result.hashed} of them by their hash.")
            continue
        exit_code = 1
        for damage in result.damages:
            _print(f"{title}: {damage.file} {damage.problem}.")
        _print(f"{title}: {_remedy(model, only_missing=all(damage.is_missing for damage in result.damages))}")
    return exit_code


def _show_reading(progress: Progress, title: str, file: str) -> None:
    progress.show_status(f"Reading {title}: {file}")


def _remedy(model: CachedModel, *, only_missing: bool) -> str:
    if not model.revision:
        return "install qwen-asr-live again."
    if len(model.refs) == 1:
        revision = "" if model.refs == ("main",) else f" --revision {model.refs[0]}"
    else:
        revision = f" --revision {model.revision}"
    again = "" if only_missing else " --force"
    return f"to fetch it again, run `qwen-asr models download {model.name}{revision}{again}`."


# --- remove


def _remove(name: str, revision: str | None, *, confirmed: bool) -> int:
    from huggingface_hub import DeleteCacheStrategy, scan_cache_dir

    from qwen_asr.engine.hub.download import Hub
    from qwen_asr.engine.hub.integrity import size_text

    if name == "demo":
        raise BadConfig("The demo belongs to the program and cannot be removed.")
    models = _find(name, revision, Hub())
    repository = models[0].folder.parents[1]
    cache = scan_cache_dir(Hub().folder)
    commits = [model.revision for model in models]
    known = {found.commit_hash for repo in cache.repos if repo.repo_path == repository for found in repo.revisions}
    if known.issuperset(commits):
        strategy = cache.delete_revisions(*commits)
    elif revision is None:  # damaged, or interrupted early: huggingface_hub leaves such a repository out
        freed = sum(file.stat().st_size for file in repository.rglob("*") if file.is_file() and not file.is_symlink())
        none: frozenset[Path] = frozenset()
        strategy = DeleteCacheStrategy(
            freed, blobs=none, refs=none, repos=frozenset({repository}), snapshots=none, cache_dir=Hub().folder
        )
    else:
        raise CheckpointNotFound(
            f"{name} is damaged in the cache, so that huggingface_hub cannot tell what belongs to {revision} alone. "
            f"Fetch what is missing with `qwen-asr models download {name}`, or remove all without --revision."
        )
    what = f"{name} {', '.join(map(_revision_text, models))} ({size_text(strategy.expected_freed_size)})"
    if not confirmed:
        if not sys.stdin.isatty():
            raise BadConfig(f"Nothing is removed: to delete {what}, give --yes, for there is no terminal to ask on.")
        if input(f"Delete {what} from {Hub().folder}? [y/N] ").strip().lower() not in ("y", "yes"):
            print_message("Nothing is removed.")
            return 1
    strategy.execute()
    if kept := [path for path in (*strategy.repos, *strategy.snapshots, *strategy.blobs) if path.exists()]:
        raise StorageError(f"{name} cannot be removed: {kept[0]} is still there. Correct its permissions.")
    _print(f"{what} is removed.")
    return 0


def _find(name: str, revision: str | None, hub: Hub) -> list[CachedModel]:
    """The revisions of a model in the cache: all, or the one with that commit, branch or tag.

    Raises CheckpointNotFound.
    """
    from qwen_asr.engine.hub.cache import bundled_demo, cached_models

    models = [model for model in [*cached_models(hub), bundled_demo()] if model.name == name]
    if not models:
        raise CheckpointNotFound(f"There is no model {name} in {hub.folder}: see `qwen-asr models list`.")
    if revision is None:
        return models
    found = [
        model
        for model in models
        if revision in model.refs or (len(revision) >= SHORT_COMMIT and model.revision.startswith(revision))
    ]
    if not found:
        there = ", ".join(map(_revision_text, models))
        raise CheckpointNotFound(f"{name} has no revision {revision} in the cache. There is {there}.")
    return found


def _print(text: str) -> None:
    print(text)  # noqa: T201 - it is the output
