"""Reads a request with audio: a form with a file, the file alone, or JSON with the audio in base64. Sizes are limited.

A file goes to disk as it arrives, into a temporary file that never has a name, so nothing is left even if the process
is killed. Starlette's own form parser is not used because it cannot limit the size of a file.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import parse_qs

from anyio import to_thread
from pydantic import TypeAdapter, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from qwen_asr.config.limits import UploadLimits
from qwen_asr.errors import BadField, BadInput, StorageError, TooLarge
from qwen_asr.web.bodies import read_body

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks
    from starlette.datastructures import Headers
    from starlette.types import Scope

    from qwen_asr.service.shares import Shares
    from qwen_asr.web.early_answer import Body

T = TypeVar("T")
_OBJECT = TypeAdapter(dict[str, Any])
_MOST_FIELDS = 100
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_AUDIO = re.compile(rb"(audio|video)/.+|application/(octet-stream|ogg)|")
EXPECTED_BODIES = (
    "send the audio as `file` in a multipart/form-data body, or alone with a Content-Type such as audio/wav, or in "
    "base64 as `file` in a JSON object"
)


@dataclass(frozen=True)
class Upload:
    """A request with audio that is still to be read.

    `take` is called with the number of bytes of each piece that is stored on disk, and may raise. `held` counts the
    bytes that are in memory.
    """

    scope: Scope
    headers: Headers
    body: Body
    limits: UploadLimits
    address: str
    take: Callable[[int], None]
    held: Shares

    async def read_json(self, parse: Callable[[bytes], T]) -> T:
        """Reads the whole body and returns what `parse` makes of it, in a thread.

        Raises BadInput, TooLarge, TimedOut, LimitExceeded, ClientDisconnect and what `parse` raises.
        """
        limits = self.limits
        with self.held.opened(self.address) as hold:
            data = await read_body(self.scope, self.body, limits.json_bytes, limits.json_seconds, hold)
            return await to_thread.run_sync(partial(self._parse, parse, data))

    def _parse(self, parse: Callable[[bytes], T], data: bytes) -> T:
        # Counted first: base64 has none of these.
        if sum(data.count(mark) for mark in (b"[", b"{", b",")) > self.limits.json_items:
            raise TooLarge(f"The JSON has over {self.limits.json_items} values; send less besides the audio.")
        return parse(data)

    async def store(self, audio: bytes) -> BinaryIO:
        """A temporary file with `audio`, for the caller to close. Raises TooLarge, StorageError, LimitExceeded."""
        self.take(len(audio))
        file = _temporary_file()
        try:
            with _disk():
                await to_thread.run_sync(file.write, audio)
                await to_thread.run_sync(file.seek, 0)
        except BaseException:
            file.close()
            raise
        return file


def decoded_audio(text: str, param: str) -> bytes:
    """The bytes of audio that a client has written as base64 or as a `data:` URL. Raises BadField about `param`.

    An address is not fetched: the server may reach what the client may not (server-side request forgery).
    """
    if _ADDRESS.match(text):
        raise BadField(
            param,
            f"{param} is an address, and this server fetches none: send the audio itself, in base64 or as a URL that "
            "begins with data:audio/wav;base64,",
        )
    if text[:5].lower() == "data:":
        kind, comma, text = text.partition(",")
        if not comma or not kind.lower().endswith(";base64"):
            raise BadField(param, f"{param} is a data URL without base64; expected data:audio/wav;base64,AAAA…")
    try:
        if any(space in text for space in "\r\n\t "):  # some write lines
            text = "".join(text.split())
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadField(param, f"{param} is not valid base64; expected the bytes of an audio file in base64.") from None


@dataclass
class Form:
    """A received form. `fields` maps a name to its values in order; `file` is positioned at its beginning."""

    file: BinaryIO
    fields: dict[str, list[str]] = field(default_factory=dict)


@contextlib.asynccontextmanager
async def received_file(upload: Upload) -> AsyncIterator[Form]:
    """Reads a request with one file. The file is deleted at the end of the context.

    A file that is sent alone has its fields in the address. Raises what `received_form` and `Upload.read_json` raise.
    """
    kind, _ = parse_options_header(upload.headers.get("content-type"))
    if kind == b"application/json":
        fields, audio = await upload.read_json(parse_json_form)
        with contextlib.closing(await upload.store(audio)) as file:
            del audio
            yield Form(file, fields)
    elif kind == b"multipart/form-data":
        async with received_form(upload.headers, upload.body, upload.limits, take=upload.take) as form:
            yield form
    elif _AUDIO.fullmatch(kind):
        query = bytes(upload.scope.get("query_string", b"")).decode("latin-1")
        try:
            alone = _Alone(parse_qs(query, max_num_fields=_MOST_FIELDS), upload.limits)
        except ValueError:
            raise BadInput(f"The address has over {_MOST_FIELDS} fields; send those of the API only.") from None
        async with _stored_alone(alone, upload) as form:
            yield form
    else:
        raise BadInput(f"The request has the Content-Type {kind.decode(errors='replace')!r}; {EXPECTED_BODIES}.")


@contextlib.asynccontextmanager
async def received_body(upload: Upload) -> AsyncIterator[BinaryIO]:
    """Reads a request whose body is a file, whatever its Content-Type says. The file is deleted in the end.

    Raises TooLarge, StorageError, TimedOut and ClientDisconnect.
    """
    async with _stored_alone(_Alone({}, upload.limits), upload) as form:
        yield form.file


@contextlib.asynccontextmanager
async def _stored_alone(alone: _Alone, upload: Upload) -> AsyncIterator[Form]:
    _check_announced(upload.headers, upload.limits.file_bytes, upload.limits)
    async with _stored(alone, upload.body, upload.limits, upload.take) as form:
        yield form


def parse_json_form(data: bytes) -> tuple[dict[str, list[str]], bytes]:
    """The fields and the audio of a JSON object. Raises BadInput, BadField.

    The audio is `file`, `inputs` (huggingface_hub), `audio` or `input_audio`, each a string or an object with `data`.
    The fields are its other keys, and those in `parameters` (huggingface_hub).
    """
    try:
        values = _OBJECT.validate_json(data)
    except ValidationError:
        raise BadInput(f"The body is not a JSON object; {EXPECTED_BODIES}.") from None
    given = [(name, values.pop(name)) for name in ("file", "inputs", "audio", "input_audio") if values.get(name)]
    if len(given) != 1:
        raise BadField("file", f"The JSON object has {len(given)} audio files; {EXPECTED_BODIES}.")
    [(name, audio)] = given
    audio = audio.get("data") if isinstance(audio, dict) else audio
    if not isinstance(audio, str):
        raise BadField(name, f"{name} is no string; expected an audio file in base64.")
    parameters = values.pop("parameters", None)
    fields = {**values, **(parameters if isinstance(parameters, dict) else {})}
    return {key: _field_texts(value) for key, value in fields.items()}, decoded_audio(audio, name)


def _field_texts(value: object) -> list[str]:
    """A value of a JSON object as a form has it."""
    if isinstance(value, list):
        return [text for one in value for text in _field_texts(one)]
    if value is None:
        return [""]
    if isinstance(value, bool):
        return ["true" if value else "false"]
    return [value if isinstance(value, str) else json.dumps(value)]


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
    _check_announced(headers, limits.file_bytes + limits.form_bytes, limits)
    async with _stored(_Parts(boundary, name, limits), body, limits, take) as form:
        yield form


def _check_announced(headers: Headers, most: int, limits: UploadLimits) -> None:
    """Raises TooLarge before anything is received or stored."""
    if int(headers.get("content-length", 0)) > most:
        raise _too_large(limits.file_bytes)


@contextlib.asynccontextmanager
async def _stored(
    parts: _Parts | _Alone, body: Body, limits: UploadLimits, take: Callable[[int], None]
) -> AsyncIterator[Form]:
    """Reads the body into a file, as `parts` finds it there."""
    with contextlib.closing(_temporary_file()) as file:
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


class _Alone:
    """A body that is a file and nothing else. `fields` come from elsewhere."""

    def __init__(self, fields: dict[str, list[str]], limits: UploadLimits) -> None:
        self.fields = fields
        self.file_data = bytearray()
        self._limits = limits
        self._bytes = 0

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the body. Raises TooLarge."""
        self._bytes += len(data)
        if self._bytes > self._limits.file_bytes:
            raise _too_large(self._limits.file_bytes)
        self.file_data += data

    def take_file_data(self) -> bytes:
        """Returns the bytes that arrived since the last call."""
        taken, self.file_data = bytes(self.file_data), bytearray()
        return taken

    def check_complete(self) -> None:
        """Any file is complete, if empty."""


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
        raise BadInput(f"The request is not a form; {EXPECTED_BODIES}.")
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
