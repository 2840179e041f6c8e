"""Files that appear at once, whole, and never readable by more people than they are meant for."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from qwen_asr.errors import CertificateError


def write_files(folder: Path, files: dict[str, tuple[bytes, int]]) -> None:
    """Writes name → (content, mode) into `folder`, made where it is missing, in this order, by `atomic_write`.

    Raises CertificateError where that cannot be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, (content, mode) in files.items():
            atomic_write(folder / name, content, mode=mode)
    except FileExistsError:  # a link into nowhere
        raise no_folder(folder) from None
    except OSError as error:
        raise CertificateError(
            f"The certificate cannot be written to {folder}: {error.strerror}. Start the server from a folder that "
            "you may write to, or make that one writable."
        ) from error


def no_folder(path: Path) -> CertificateError:
    """What to say of something else that has the name of the folder."""
    return CertificateError(
        f"{path} is no folder, but the certificate is kept in a folder of that name: move it away or rename it."
    )


def atomic_write(path: Path, content: bytes, *, mode: int) -> None:
    """Puts `content` in the place of `path` at once, in a file that has at most `mode` from its birth.

    It is created under another name with that mode, and only there: a umask can take from it, never add.
    """
    with _fresh_file(path, mode) as (temporary, descriptor):
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if os.name == "posix":
                os.fchmod(file.fileno(), mode)  # a umask of 0777 would leave a file that we cannot read again
            os.fsync(file.fileno())
        temporary.replace(path)


@contextlib.contextmanager
def _fresh_file(path: Path, mode: int) -> Iterator[tuple[Path, int]]:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        yield temporary, descriptor
    finally:
        temporary.unlink(missing_ok=True)  # gone already where it took its place
