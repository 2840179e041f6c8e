"""Files that pages upload through Gradio: each is deleted when it was read.

Gradio (6.31) itself takes any file that an event names: it fetches addresses, and on a mounted page it copies every
file that the server can read into its cache. `requests` lets only events through that name an upload of their sender.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from gradio.utils import get_upload_folder

from qwen_asr.errors import BadInput, TooLarge

NOT_UPLOADED = "The page named a file that was not uploaded; reload the page and try again."


@contextlib.contextmanager
def opened_upload(path: str, max_bytes: int) -> Iterator[BinaryIO | None]:
    """Opens an uploaded file, and deletes it at once: it has no name any more when it is read.

    None if it is gone: Gradio names a file by the hash of its content, so uploads that are equal, such as two blocks of
    digital silence, are one file. Raises BadInput for any other file, and TooLarge for more than `max_bytes`.
    """
    if not _is_upload(path):
        raise BadInput(NOT_UPLOADED)
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(Path(path).open("rb"))
        except FileNotFoundError:
            yield None
            return
        with contextlib.suppress(OSError):  # another tab's equal upload may still be in that folder
            Path(path).unlink()
            Path(path).parent.rmdir()
        if file.seek(0, 2) > max_bytes:
            raise TooLarge(f"The recorder sent a block of over {max_bytes} bytes; reload the page and record again.")
        file.seek(0)
        yield file


def _is_upload(path: str | Path) -> bool:
    """Whether `path` is a file of the upload folder, or was one; links count as what they point to."""
    try:
        resolved = Path(path).resolve()
        return resolved.is_relative_to(Path(get_upload_folder()).resolve()) and (
            resolved.is_file() or not resolved.exists()
        )
    except (OSError, ValueError):  # too long for a path, or with a zero byte
        return False
