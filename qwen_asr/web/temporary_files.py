"""The server's temporary files: one private folder for each process. It goes with the process, even if that is killed.

The folder has what pages upload and Python's own temporary files, and is locked. A server that starts removes the
folders that nobody has locked any more. While it runs, it removes what a broken connection has left.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from qwen_asr.config.limits import PageLimits

try:
    import fcntl
except ImportError:  # Windows: a folder is removed at the end of its process only
    fcntl = None  # type: ignore[assignment]  # it stands for a missing module

log = logging.getLogger(__name__)

PREFIX = "qwen-asr-server-"
NAME = re.compile(rf"{PREFIX}[a-z0-9_]{{8}}")
"""The names that `mkdtemp` makes."""
UPLOADS = "uploads"
VARIABLE = "GRADIO_TEMP_DIR"


@contextlib.contextmanager
def private_folder(limits: PageLimits | None = None) -> Iterator[Path]:
    """Puts this process's temporary files, those of Gradio too, in a new folder that only its user may enter.

    The folder lies in GRADIO_TEMP_DIR if that is set, else in the system's folder for temporary files.
    """
    limits = limits or PageLimits()
    before, python_before = os.environ.get(VARIABLE), tempfile.tempdir
    parent = Path(before or tempfile.gettempdir()).resolve()
    parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(parent)
    folder, lock = _create(parent)
    (folder / UPLOADS).mkdir(mode=0o700)
    ending = threading.Event()
    sweeping = threading.Thread(target=_sweep_repeatedly, args=(folder, limits, ending), name="qwen-asr-sweep")
    sweeping.daemon = True
    sweeping.start()
    os.environ[VARIABLE] = str(folder / UPLOADS)
    tempfile.tempdir = str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = python_before
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before
        ending.set()
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def remove_abandoned(parent: Path) -> None:
    """Removes the folders in `parent` whose processes are gone. Those of other users are left alone."""
    for folder in parent.iterdir():
        if fcntl is None or not NAME.fullmatch(folder.name):
            continue
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # of another user, or not a folder, or gone meanwhile
            continue
        try:
            found = os.fstat(lock)
            if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == stat.S_IRWXU:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass  # its process runs
        finally:
            os.close(lock)


def sweep(folder: Path, seconds: float, now: float | None = None) -> int:
    """Removes files of broken-off uploads: those that nothing was written to for `seconds`. Returns how many.

    These are all files of pages, and Python's named temporary files; others of this process stay. Emptied folders go.
    """
    now = time.time() if now is None else now
    removed = 0
    for path in [*folder.glob("tmp*"), *sorted((folder / UPLOADS).rglob("*"), reverse=True)]:
        with contextlib.suppress(OSError):  # gone meanwhile, or a folder that is not empty
            found = path.lstat()
            if now - found.st_mtime < seconds:
                continue
            if not stat.S_ISDIR(found.st_mode):
                path.unlink()
                removed += 1
            elif path.parent != folder:
                path.rmdir()
    return removed


def _create(parent: Path) -> tuple[Path, int]:
    """A new folder, and its lock, which is a file descriptor."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        if fcntl is None:
            return folder, os.open(os.devnull, os.O_RDONLY)
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            # systemd-tmpfiles leaves folders alone that are locked like this.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():  # another server that starts now may have removed it before it was locked
                return folder, lock
            os.close(lock)


def _sweep_repeatedly(folder: Path, limits: PageLimits, ending: threading.Event) -> None:
    while not ending.wait(min(15.0, limits.abandoned_seconds / 4)):
        try:
            sweep(folder, limits.abandoned_seconds)
        except Exception:
            log.exception("The files of broken-off uploads could not be removed.")
