"""`POST /v1/chat/completions` with audio, as Qwen's examples and vLLM have it: reads the messages, writes the answer.

The content of the answer is what the model writes, `language English<asr_text>` and the text, which `parse_asr_output`
of Qwen's package takes apart.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError
from starlette.responses import JSONResponse, Response

from qwen_asr.errors import BadField
from qwen_asr.live.transcript import Transcript, join_texts
from qwen_asr.web.rest.answers import Answer, absent, token_counts
from qwen_asr.web.rest.form import MODEL
from qwen_asr.web.rest.transcriptions import Job
from qwen_asr.web.rest.upload import Upload, decoded_audio
from qwen_asr.web.validation import first_error

if TYPE_CHECKING:
    from qwen_asr.live.events import Final
    from qwen_asr.service.service import Service
    from qwen_asr.web.error_response import ErrorBody


class AudioUrl(BaseModel):
    """Audio as vLLM has it."""

    url: str = Field(description="The audio as data:audio/wav;base64,… No address is fetched.")


class InputAudio(BaseModel):
    """Audio as OpenAI has it."""

    data: str = Field(description="The audio file in base64.")


class Part(BaseModel):
    """A part of a message."""

    type: Literal["text", "input_audio", "audio_url", "audio"]
    text: str = ""
    input_audio: InputAudio | str | None = None
    audio_url: AudioUrl | str | None = None
    audio: InputAudio | str | None = Field(default=None, description="Like `input_audio`.")

    @property
    def encoded(self) -> str | None:
        """The audio as the client has written it."""
        if self.type == "text":
            return None
        given: InputAudio | AudioUrl | str | None = getattr(self, self.type)
        if isinstance(given, AudioUrl):
            return given.url
        return given.data if isinstance(given, InputAudio) else given or ""


def _parts(content: Any) -> Any:
    if content is None:
        return []
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class ChatMessage(BaseModel):
    """A message. The audio of the last one with audio is transcribed; system messages and its text are the context."""

    role: str
    content: Annotated[list[Part], BeforeValidator(_parts, json_schema_input_type=list[Part] | str | None)] = []


class StreamOptions(BaseModel):
    """Options of `stream`."""

    include_usage: bool | None = False


class AsrOptions(BaseModel):
    """Options of Alibaba's own service."""

    language: str | None = None


class ChatRequest(BaseModel):
    """The request. Other fields of OpenAI's API are ignored: decoding is greedy and ends by itself."""

    model: str | None = Field(default=None, description=MODEL)
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = Field(default=None, description="There is one answer.")
    language: str | None = Field(default=None, description="A name or code. Without it the language is detected.")
    asr_options: AsrOptions | None = None


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    audio: the files. with_usage: whether a stream ends with its usage. model: what the client calls the model.
    """

    audio: list[bytes]
    context: str
    language: str | None
    stream: bool
    with_usage: bool
    model: str | None


def parse_chat(data: bytes) -> Asked:
    """What a request asks for. Raises BadField."""
    try:
        request = ChatRequest.model_validate_json(data)
    except ValidationError as error:
        path, sentence = first_error(error)
        if not path:
            sentence = "The body is not a JSON object; expected one with `messages`, as OpenAI's API has it."
        raise BadField(path, sentence) from None
    spoken = [
        (number, message)
        for number, message in enumerate(request.messages)
        if message.role == "user" and any(part.encoded is not None for part in message.content)
    ]
    if not spoken:
        raise BadField(
            "messages",
            "No message of the user has audio; expected a part of the type audio_url or input_audio. This server "
            "transcribes, and does not chat.",
        )
    number, last = spoken[-1]
    system = [one for one in request.messages if one.role in ("system", "developer")]
    texts = [part.text.strip() for one in [*system, last] for part in one.content if part.type == "text"]
    return Asked(
        audio=[
            decoded_audio(part.encoded, f"messages[{number}].content[{index}]")
            for index, part in enumerate(last.content)
            if part.encoded is not None
        ],
        context="\n".join(filter(None, texts)),
        language=request.language or (request.asr_options.language if request.asr_options else None),
        stream=bool(request.stream),
        with_usage=bool(request.stream_options and request.stream_options.include_usage),
        model=request.model,
    )


class ChatUsage(Answer):
    """What an answer is measured by."""

    prompt_tokens: int = Field(description="Those that the model read, the audio included.")
    completion_tokens: int = Field(description="Those that it wrote, the name of the language included.")
    total_tokens: int


class AssistantMessage(Answer):
    """The answer's message."""

    role: Literal["assistant"] = "assistant"
    content: str = Field(description="`language English<asr_text>`, and the text.")
    refusal: None = None


class Choice(Answer):
    """The one answer."""

    index: Literal[0] = 0
    message: AssistantMessage
    logprobs: None = None
    finish_reason: Literal["stop"] = "stop"


class ChatCompletion(Answer):
    """The answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="As Unix time.")
    model: str
    choices: list[Choice] = Field(min_length=1, max_length=1)
    usage: ChatUsage


class Delta(Answer):
    """What a chunk adds to the message."""

    role: Literal["assistant"] | None = absent("In the first chunk.")
    content: str | None = absent("Not in the last chunk.")


class ChunkChoice(Answer):
    """The one answer, or a part of it."""

    index: Literal[0] = 0
    delta: Delta
    logprobs: None = None
    finish_reason: Literal["stop"] | None = None


class ChatChunk(Answer):
    """One event of a stream. After the last one comes `[DONE]`."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int = Field(description="As Unix time.")
    model: str
    choices: list[ChunkChoice]
    usage: ChatUsage | None = absent("In the last chunk with stream_options.include_usage, which has no choice.")


class ChatAnswer:
    """Makes the answer to one request, whole or in chunks."""

    def __init__(self, model: str, with_usage: bool) -> None:
        self._with_usage = with_usage
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model,
        }  # fmt: skip
        self._finals: list[Final] = []
        self._text = ""

    def whole(self, finals: Sequence[Final], seconds: float) -> Response:
        """The answer at once."""
        content = raw_content(Transcript(finals).language, join_texts(final.text for final in finals))
        choice = Choice(message=AssistantMessage(content=content))
        return JSONResponse(ChatCompletion(**self._head, choices=[choice], usage=usage(finals)).model_dump())

    def begin(self) -> bytes:
        """The chunk that says who answers."""
        return self._chunk(Delta(role="assistant", content=""))

    def add(self, final: Final) -> bytes:
        """The chunk with the text of the next final. The first one has the language too."""
        self._finals.append(final)
        if not final.text:
            return b""
        whole = join_texts([self._text, final.text])
        added = whole[len(self._text) :] if self._text else raw_content(final.language, whole)
        self._text = whole
        return self._chunk(Delta(content=added))

    def end(self) -> bytes:
        """The last chunks."""
        data = b"" if self._text else self._chunk(Delta(content=raw_content(None, "")))
        data += self._chunk(Delta(), "stop")
        if self._with_usage:
            data += _event(ChatChunk(**self._head, choices=[], usage=usage(self._finals)))
        return data + b"data: [DONE]\n\n"

    def failure(self, error: ErrorBody) -> bytes:
        """The event for an error, which is then the last."""
        return _event(error)

    def _chunk(self, delta: Delta, finish_reason: Literal["stop"] | None = None) -> bytes:
        return _event(ChatChunk(**self._head, choices=[ChunkChoice(delta=delta, finish_reason=finish_reason)]))


def raw_content(language: str | None, text: str) -> str:
    """What the model writes for this text, with "None" where nobody speaks."""
    return f"language {language or 'None'}<asr_text>{text}"


def usage(finals: Iterable[Final]) -> ChatUsage:
    """The tokens of all utterances."""
    read, wrote = token_counts(finals)
    return ChatUsage(prompt_tokens=read, completion_tokens=wrote, total_tokens=read + wrote)


@contextlib.asynccontextmanager
async def chat_job(service: Service, upload: Upload) -> AsyncIterator[Job]:
    """Reads a request."""
    asked = await upload.read_json(parse_chat)
    answer = ChatAnswer(service.model_name(asked.model), asked.with_usage)
    with contextlib.ExitStack() as files:
        yield Job(
            # None is kept in memory while its transcription waits for its turn.
            files=[files.enter_context(await upload.store(asked.audio.pop(0))) for _ in range(len(asked.audio))],
            language=asked.language,
            context=asked.context,
            context_field="messages",
            scored=False,
            events=answer if asked.stream else None,
            whole=answer.whole,
            model=asked.model,
        )


def _event(data: BaseModel) -> bytes:
    return f"data: {json.dumps(data.model_dump())}\n\n".encode("ascii")
