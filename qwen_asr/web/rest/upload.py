"""Reads a multipart form with a file: the file goes to disk as it arrives, and sizes are limited.

The temporary file never has a name, so nothing is left on disk even if the process is killed. Starlette's own form
parser is not used because it cannot limit the size of a file.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from anyio import to_thread
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from qwen_asr.config.limits import UploadLimits
from qwen_asr.errors import BadField, BadInput, StorageError, TooLarge

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks
    from starlette.datastructures import Headers

    from qwen_asr.web.early_answer import Body


@dataclass
class Form:
    """A received form. `fields` maps a name to its values in order; `file` is positioned at its beginning."""

    file: BinaryIO
    fields: dict[str, list[str]] = field(default_factory=dict)


@contextlib.asynccontextmanager
async def received_form(
    headers: Headers,
    body: Body,
    limits: UploadLimits,
    name: str = "file",
    take: Callable[[int], None] = lambda _: None,
) -> AsyncIterator[Form]:
    """Reads the form in `body`. Its file, from the field `name`, is deleted at the end of the context.

    `take` is called with the number of bytes of each piece before it is stored, and may raise.

    Raises:
        BadInput: the body is not a form.
        BadField: the file is missing, or there are two.
        TooLarge: the file has more than `limits.file_bytes`, or the rest of the form more than `limits.form_bytes`.
        StorageError: the file cannot be written to disk.
        TimedOut, ClientDisconnect: see `Body.read`.
    """
    boundary = _boundary(headers)
    if int(headers.get("content-length", 0)) > limits.file_bytes + limits.form_bytes:
        raise _too_large(limits.file_bytes)  # before anything is received or stored
    with contextlib.closing(_temporary_file()) as file:
        parts = _Parts(boundary, name, limits)
        while not body.ended:
            piece = await body.read()
            take(len(piece))
            parts.feed(piece)
            if len(parts.file_data) >= limits.write_bytes or body.ended:
                with _disk():
                    await to_thread.run_sync(file.write, parts.take_file_data())
        parts.check_complete()
        with _disk():
            await to_thread.run_sync(file.seek, 0)
        yield Form(file, parts.fields)


class _Parts:
    """An incremental parser of one form. It keeps the fields; the file's bytes are taken out as they arrive."""

    def __init__(self, boundary: bytes, file_name: str, limits: UploadLimits) -> None:
        self.fields: dict[str, list[str]] = {}
        self.file_data = bytearray()
        self._file_name = file_name
        self._limits = limits
        self._files = self._file_bytes = self._all_bytes = 0
        self._header, self._value = bytearray(), bytearray()
        self._disposition = b""
        self._name = ""
        self._data = bytearray()
        self._complete = False
        callbacks: MultipartCallbacks = {
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_part_begin,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError:
            raise BadInput(
                "The boundary of the form is too long; expected at most 70 characters (RFC 2046, section 5.1.1)."
            ) from None

    def feed(self, data: bytes) -> None:
        """Parses the next bytes of the body. Raises BadInput, BadField and TooLarge, as `received_form` does."""
        self._all_bytes += len(data)
        try:
            self._parser.write(data)
        except FormParserError:
            raise BadInput("The body is not a valid multipart form; send it as multipart/form-data.") from None
        # Part headers and anything between the parts count as well as the fields.
        if self._all_bytes - self._file_bytes > self._limits.form_bytes:
            raise TooLarge(f"The form has over {self._limits.form_bytes} bytes besides its file; shorten its fields.")

    def take_file_data(self) -> bytes:
        """Returns the bytes of the file that arrived since the last call."""
        taken, self.file_data = bytes(self.file_data), bytearray()
        return taken

    def check_complete(self) -> None:
        """Call this at the end of the body. Raises BadInput for an incomplete form, BadField for one without a file."""
        if not self._complete:
            raise BadInput("The form is incomplete; send all of it, as multipart/form-data.")
        if not self._files:
            raise BadField(self._file_name, f"The form has no field {self._file_name!r}; expected an audio file there.")

    def _on_header_end(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _on_part_begin(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._disposition, self._data = b"", bytearray()
        self._name = options.get(b"name", b"").decode(errors="replace")
        if self._name == self._file_name:
            self._files += 1
            if self._files > 1:
                raise BadField(self._name, f"The form has two fields {self._name!r}; send one file per request.")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name != self._file_name:
            self._data += data[start:end]
            return
        self._file_bytes += end - start
        if self._file_bytes > self._limits.file_bytes:
            raise _too_large(self._limits.file_bytes)
        self.file_data += data[start:end]

    def _on_part_end(self) -> None:
        if self._name != self._file_name:
            self.fields.setdefault(self._name, []).append(self._data.decode(errors="replace"))

    def _on_end(self) -> None:
        self._complete = True


def _boundary(headers: Headers) -> bytes:
    kind, options = parse_options_header(headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise BadInput("The request is not a form; send the audio as `file` in a multipart/form-data body.")
    return options[b"boundary"]


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"The file has over {max_bytes} bytes, the most that this server takes; compress it or split it.")


def _temporary_file() -> BinaryIO:
    with _disk():
        return tempfile.TemporaryFile()


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    """Turns an OSError into a StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"The server cannot store the upload ({error.strerror}); try again later, or contact its operator."
        ) from error
