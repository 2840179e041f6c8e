"""A form with a file in it, read as it comes: the file to disk, never whole into memory, and within limits.

The file has no name on disk from the beginning, so nothing is left there however this ends, the process killed
included. Starlette's own form parser is not used because it knows no limit to a file.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from anyio import to_thread
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from qwen_asr.config.limits import MAX_FORM_BYTES
from qwen_asr.errors import BadField, BadInput, StorageError, TooLarge

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks
    from starlette.datastructures import Headers

    from qwen_asr.web.early_answer import Body

WRITE_BYTES = 1 << 20
"""How much of the file is gathered before a thread writes it: a hop for each network packet would cost more."""


@dataclass
class Form:
    """`fields`: name → values in order. `file`: the bytes of the field that was asked for, at their beginning."""

    file: BinaryIO
    fields: dict[str, list[str]] = field(default_factory=dict)


@contextlib.asynccontextmanager
async def received_form(headers: Headers, body: Body, max_file_bytes: int, name: str = "file") -> AsyncIterator[Form]:
    """The form in `body`; its file is gone at the end.

    Raises BadInput for what is no form, BadField where the file is missing or given twice, TooLarge for a file of more
    than `max_file_bytes` or fields of more than `MAX_FORM_BYTES`, StorageError where the disk does not take it,
    TimedOut, and ClientDisconnect.
    """
    boundary = _boundary(headers)
    if int(headers.get("content-length", 0)) > max_file_bytes + MAX_FORM_BYTES:
        raise _too_large(max_file_bytes)  # said before anything is sent or stored
    with contextlib.closing(_temporary_file()) as file:
        parts = _Parts(boundary, name, max_file_bytes)
        while not body.ended:
            parts.feed(await body.read())
            if len(parts.waiting) >= WRITE_BYTES or body.ended:
                with _disk():
                    await to_thread.run_sync(file.write, parts.take())
        parts.check_complete()
        with _disk():
            await to_thread.run_sync(file.seek, 0)
        yield Form(file, parts.fields)


class _Parts:
    """The parts of a form as its bytes come in: fields kept, the file handed on through `waiting`."""

    def __init__(self, boundary: bytes, file_name: str, max_file_bytes: int) -> None:
        self.fields: dict[str, list[str]] = {}
        self.waiting = bytearray()
        self._file_name = file_name
        self._max_file_bytes = max_file_bytes
        self._files = self._file_bytes = self._all_bytes = 0
        self._header, self._value = bytearray(), bytearray()
        self._disposition = b""
        self._name = ""
        self._data = bytearray()
        self._complete = False
        callbacks: MultipartCallbacks = {
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header_ends,
            "on_headers_finished": self._part_begins,
            "on_part_data": self._part_goes_on,
            "on_part_end": self._part_ends,
            "on_end": self._form_ends,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError:
            raise BadInput("The boundary of the form is longer than any client makes it.") from None

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the body. Raises as `received_form` says."""
        self._all_bytes += len(data)
        try:
            self._parser.write(data)
        except FormParserError:
            raise BadInput("The body is no multipart form that can be read; send it as multipart/form-data.") from None
        # What is neither file nor field counts too: headers, and whatever stands around the parts.
        if self._all_bytes - self._file_bytes > MAX_FORM_BYTES:
            raise TooLarge(f"The form holds over {MAX_FORM_BYTES} bytes beside its file; shorten its fields.")

    def take(self) -> bytes:
        """What came of the file since the last call."""
        taken, self.waiting = bytes(self.waiting), bytearray()
        return taken

    def check_complete(self) -> None:
        """To be called at the end of the body. Raises BadInput, or BadField where no file came."""
        if not self._complete:
            raise BadInput("The form ends in its midst; send it whole, as multipart/form-data.")
        if not self._files:
            raise BadField(self._file_name, f"The form has no field {self._file_name!r}; expected an audio file there.")

    def _header_ends(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _part_begins(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._disposition, self._data = b"", bytearray()
        self._name = options.get(b"name", b"").decode(errors="replace")
        if self._name == self._file_name:
            self._files += 1
            if self._files > 1:
                raise BadField(self._name, f"The form has two fields {self._name!r}; send one file a request.")

    def _part_goes_on(self, data: bytes, start: int, end: int) -> None:
        if self._name != self._file_name:
            self._data += data[start:end]
            return
        self._file_bytes += end - start
        if self._file_bytes > self._max_file_bytes:
            raise _too_large(self._max_file_bytes)
        self.waiting += data[start:end]

    def _part_ends(self) -> None:
        if self._name != self._file_name:
            self.fields.setdefault(self._name, []).append(self._data.decode(errors="replace"))

    def _form_ends(self) -> None:
        self._complete = True


def _boundary(headers: Headers) -> bytes:
    kind, options = parse_options_header(headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise BadInput("The request is no form; send the audio as `file` in a multipart/form-data body.")
    return options[b"boundary"]


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"The file is over {most} bytes, the most that this server takes; compress it or send it in parts.")


def _temporary_file() -> BinaryIO:
    with _disk():
        return tempfile.TemporaryFile()


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    """Raises StorageError for an OSError within."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"The server cannot store the upload ({error.strerror}); try again later, or tell who runs it."
        ) from error
