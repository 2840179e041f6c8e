"""Result files of `qwen-asr transcribe`: their names, and how they grow, survive an interruption and are resumed.

While a file is transcribed, `NAME.EXT.part` holds what is known so far, for people to read, and `NAME.EXT.resume` the
same as JSON lines, for the program: first what the result depends on, then the final of each utterance. Both are
written utterance by utterance. The same command later takes the finals from there. At the end the first file gets its
name, and the second goes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast
from urllib.parse import unquote

from pydantic import TypeAdapter, ValidationError

from qwen_asr.errors import BadConfig, OtherResult, StorageError
from qwen_asr.live.events import Final
from qwen_asr.network import split_url

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # it stands for a missing module

log = logging.getLogger(__name__)

_FINAL = TypeAdapter(Final)
_MAX_NAME = 200
"""Bytes of a name that is made of a URL. File systems allow 255, with all endings."""


# --- names


def result_paths(inputs: Sequence[str], folder: Path, extension: str) -> dict[str, Path]:
    """The result file of each input, in order; an input that is given twice is there once.

    The name is that of the input with another extension: `talk.mp3` gives `talk.srt`. Where several would have the
    same, they keep their extension (`talk.mp3.srt`), and then as many folders as it takes (`monday/talk.mp3.srt`).
    Standard input is `stdin`, a URL the last part of its path. Raises `BadConfig` if a result would replace an input,
    or if names remain the same.
    """
    longer = {name: _candidates(name) for name in dict.fromkeys(inputs)}
    chosen = {name: next(candidates) for name, candidates in longer.items()}
    while same := _same(chosen):
        advanced = {name: following for name in same if (following := next(longer[name], None)) is not None}
        if not advanced:
            raise BadConfig(
                f"{' and '.join(same)} would have the same result file {chosen[same[0]]}.{extension}: give them to two "
                "commands with different folders."
            )
        chosen |= advanced
    paths = {name: folder / f"{relative}.{extension}" for name, relative in chosen.items()}
    for path in paths.values():
        for name in paths:
            if _is_same_file(path, name):
                raise BadConfig(f"The result file {path} would replace the input {name}: give another --output-dir.")
    return paths


def _is_same_file(path: Path, name: str) -> bool:
    try:
        return path.samefile(name)
    except (OSError, ValueError):  # one of them does not exist, or is a URL
        return False


def _same(chosen: dict[str, str]) -> list[str]:
    """The first group of inputs whose names differ at most in case, which some file systems ignore."""
    groups: dict[str, list[str]] = {}
    for name, relative in chosen.items():
        groups.setdefault(relative.casefold(), []).append(name)
    return next((group for group in groups.values() if len(group) > 1), [])


def _candidates(name: str) -> Iterator[str]:
    """Ever longer names for the result of an input, without the extension of the format."""
    from qwen_asr.audio.decode import is_address  # imports av

    if name == "-":
        yield "stdin"
        return
    if is_address(name):
        address = split_url(name)
        parts = [_safe(part) for part in (address.netloc, *unquote(address.path).split("/")) if part] or [_safe(name)]
        unique = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    else:
        # Not resolve(): a link's own name is the one that its user knows.
        parts = list(Path(os.path.abspath(name)).parts[1:]) or ["audio"]  # noqa: PTH100 - see above
        unique = ""
    yield Path(parts[-1]).stem
    for count in range(1, len(parts) + 1):
        yield "/".join(parts[-count:])
    if unique:
        yield f"{parts[-1]}-{unique}"


def _safe(part: str) -> str:
    """A part of a URL as the name of a file."""
    safe = re.sub(r"[^\w.-]+", "_", part).lstrip(".").encode()[:_MAX_NAME].decode(errors="ignore")
    return safe or "_"


# --- files


def make_folder(folder: Path) -> None:
    """Creates a folder for results. Raises `BadConfig` if it is a file, and `StorageError`."""
    if folder.is_file():
        raise BadConfig(f"{folder} is a file, not a folder: give another --output-dir.")
    with _storing(folder):
        folder.mkdir(parents=True, exist_ok=True)


class ResultFile:
    """The result of one input. As a context manager it leaves what is known so far, until `finish`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = path.with_name(f"{path.name}.part")
        self.journal_path = path.with_name(f"{path.name}.resume")
        self._known: list[Final] = []
        self._ends: list[int] = []  # of the known finals' lines in the journal
        self._journal: BinaryIO | None = None
        self._out: BinaryIO | None = None
        self._waiting: list[str] = []  # pieces of known finals: they are in the part already
        self._is_new = False  # whether a final came that was not known

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._out, self._journal):
            if file is not None:
                with contextlib.suppress(OSError):  # all was flushed, or its failure is on its way
                    file.close()
        if self._journal is not None and not self._ends and not self._is_new:
            with contextlib.suppress(OSError):
                self.journal_path.unlink(missing_ok=True)  # it has no final

    def resume(self, conditions: dict[str, Any], *, overwrite: bool = False) -> list[Final]:
        """The finals of an interrupted run with the same `conditions` (what the result depends on, ready for JSON).

        Call it once, before `record`. An interrupted run with other conditions is dropped with `overwrite`; without it
        `OtherResult` is raised. Raises `StorageError`, also if another process writes this result.
        """
        header = json.dumps(conditions, ensure_ascii=True, sort_keys=True).encode() + b"\n"
        make_folder(self.path.parent)
        with _storing(self.journal_path):
            self._journal = _locked(self.journal_path, self.path)
            before = self._journal.read()
            if before.startswith(header):
                self._read(before, len(header))
            elif before.count(b"\n") > 1 and not overwrite:  # it has at least one final
                self._ends.append(len(before))  # so that it is kept
                raise OtherResult(
                    f"{self.part} is of other options, another model or version, or a file that has changed since: "
                    "give the options that it was begun with to go on, or --overwrite to begin again."
                )
            else:
                self._cut(0)
                self._journal.write(header)
                self._journal.flush()
        return list(self._known)

    def _read(self, content: bytes, begin: int) -> None:
        """Reads the finals behind the header, and removes a line that was not written to its end."""
        end = begin
        for line in content[begin:].splitlines(keepends=True):
            try:
                final = _FINAL.validate_json(line)
            except ValidationError:
                break
            if not line.endswith(b"\n"):
                break
            end += len(line)
            self._known.append(final)
            self._ends.append(end)
        self._cut(end)

    def record(self, finals: Iterable[Final]) -> Iterator[Final]:
        """Passes the finals on, and writes those to the journal that `resume` has not returned."""
        for index, final in enumerate(finals):
            if not (index < len(self._known) and final is self._known[index]):
                self._add(index, final)
            yield final

    def _add(self, index: int, final: Final) -> None:
        journal = self._opened_journal()
        with _storing(self.journal_path):
            if not self._is_new and index < len(self._ends):  # the audio was heard in another way this time
                self._cut(self._ends[index - 1] if index else len(self._header()))
            self._is_new = True
            journal.write(_FINAL.dump_json(final) + b"\n")
            journal.flush()

    def _header(self) -> bytes:
        journal = self._opened_journal()
        journal.seek(0)
        return journal.readline()

    def write(self, piece: str) -> None:
        """Writes the next piece of the result. Raises `StorageError`."""
        self._waiting.append(piece)
        if self._is_new:
            self._write_waiting()

    def _write_waiting(self) -> None:
        with _storing(self.part):
            if self._out is None:
                self._out = self.part.open("wb")
            self._out.write("".join(self._waiting).encode())
            self._out.flush()
            self._waiting.clear()

    def finish(self) -> None:
        """Gives the result its name. Raises `StorageError`."""
        self._write_waiting()
        with _storing(self.path):
            if self._out is not None:
                os.fsync(self._out.fileno())
                self._out.close()
            self.part.replace(self.path)
            self._opened_journal().close()  # Windows removes no open file
            self.journal_path.unlink(missing_ok=True)

    def _cut(self, end: int) -> None:
        journal = self._opened_journal()
        journal.seek(end)
        journal.truncate()

    def _opened_journal(self) -> BinaryIO:
        if self._journal is None:
            raise RuntimeError("resume() was not called.")
        return self._journal


def _locked(journal: Path, result: Path) -> BinaryIO:
    """Opens the journal, and locks it as long as it is open. Raises `StorageError` if another process has it."""
    file = os.fdopen(os.open(journal, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise StorageError(f"{result} is being written by another command: wait for it, or end it.") from None
        except OSError as error:
            log.info("%s cannot be locked: %s", journal, error)  # some network file systems have no locks
    return file


@contextlib.contextmanager
def _storing(path: Path) -> Iterator[None]:
    """Turns an OSError into StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written ({error.strerror or error}): make room, or give another --output-dir. The same "
            "command goes on where this one stopped."
        ) from error


# --- what a result depends on


def identified(source: Path | BinaryIO, name: str) -> tuple[Path | BinaryIO, dict[str, Any]]:
    """The source to read instead of `source`, and what tells its content from another: size and time, or a hash.

    A stream that cannot seek is read to its end. `name` is its name in messages. Raises `AudioError` if that fails.
    """
    from qwen_asr.audio.decode import spooled

    if isinstance(source, Path):
        try:
            status = source.stat()
            if stat.S_ISREG(status.st_mode):
                return source, {"bytes": status.st_size, "modified": status.st_mtime_ns}
            source = source.open("rb")
        except (OSError, ValueError):
            return source, {}  # reading it tells what is wrong
    if not source.seekable():
        source = spooled(source, name)
    digest = hashlib.file_digest(cast(Any, source), "sha256").hexdigest()  # its protocol wants more than BinaryIO has
    source.seek(0)
    return source, {"sha256": digest}
