"""Files that pages upload through Gradio: only these reach a component, and each is deleted when it was read.

Gradio (6.31) takes any file that an event names: it fetches addresses, and on a mounted page, where it does not check
whether a file was uploaded, it copies every file that the server can read into its cache. That happens to every input
of every event, before a component or a handler sees it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import gradio as gr
from gradio.blocks import Block
from gradio.utils import get_upload_folder

from qwen_asr.errors import BadInput, TooLarge

NOT_UPLOADED = "The page named a file that was not uploaded; reload the page and try again."


def accept_uploads_only() -> None:
    """From now on Gradio refuses an event that names an address, or a file outside of its upload folder."""
    original = Block.async_move_resource_to_block_cache
    if getattr(original, "accepts_uploads_only", False):
        return

    async def move(self: Block, url_or_file_path: Any) -> str | None:
        if url_or_file_path is not None and not _is_upload(url_or_file_path):
            raise gr.Error(NOT_UPLOADED, duration=None, print_exception=False)
        return await original(self, url_or_file_path)

    move.accepts_uploads_only = True  # type: ignore[attr-defined]  # a function's own attribute
    Block.async_move_resource_to_block_cache = move  # type: ignore[method-assign]  # Gradio has no setting for it


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
