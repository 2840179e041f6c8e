"""The three dialects of `/v1/realtime`, and the server's events that differ between them.

OpenAI's current API, its older shape, and DashScope's, which is Alibaba's realtime API for Qwen-ASR. Its events are
those of https://www.alibabacloud.com/help/en/model-studio/qwen-asr-realtime-server-events.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qwen_asr.web.rest.answers import Logprob
from qwen_asr.web.sockets.messages import ServerMessage, ServerModel
from qwen_asr.web.sockets.realtime.messages import ServerEvent
from qwen_asr.web.sockets.realtime.updates import LOGPROBS

if TYPE_CHECKING:
    from qwen_asr.web.sockets.realtime.settings import RealtimeSettings, SessionInfo

_G711_TYPES: dict[str, tuple[Literal["audio/pcmu", "audio/pcma"], Literal["g711_ulaw", "g711_alaw"]]] = {
    "mulaw": ("audio/pcmu", "g711_ulaw"),
    "alaw": ("audio/pcma", "g711_alaw"),
}

# --- the session


class PcmFormat(ServerModel):
    """16-bit PCM at `rate` Hz."""

    type: Literal["audio/pcm"] = "audio/pcm"
    rate: int


class G711Format(ServerModel):
    """The telephone's µ-law (`audio/pcmu`) or A-law."""

    type: Literal["audio/pcmu", "audio/pcma"]


class Transcription(ServerModel):
    """What the session was told about the speech. `languages` and `keywords` are None where the client gave none."""

    model: str
    language: str | None
    languages: tuple[str, ...] | None = None
    prompt: str
    keywords: tuple[str, ...] | None = None


class TurnDetection(ServerModel):
    """How turns are found by voice."""

    type: Literal["server_vad"] = "server_vad"
    threshold: float
    prefix_padding_ms: int
    silence_duration_ms: int


class Input(ServerModel):
    """The settings in the current shape. `turn_detection` is None if the client commits its turns itself."""

    format: PcmFormat | G711Format
    noise_reduction: None = None
    transcription: Transcription
    turn_detection: TurnDetection | None


class AudioSettings(ServerModel):
    """The `audio` object of a session in the current shape of the API."""

    input: Input


class SessionObject(ServerModel):
    """A session. `expires_at`: the Unix time, in seconds, at which it will be ended."""

    id: str
    object: Literal["realtime.transcription_session"] = "realtime.transcription_session"
    type: Literal["transcription"] = "transcription"
    audio: AudioSettings
    include: tuple[str, ...] | None
    expires_at: int


class OldSessionObject(ServerModel):
    """A session in the older shape. `sample_rate` is an addition: OpenAI's PCM has always 24000 Hz."""

    id: str
    object: Literal["realtime.transcription_session"] = "realtime.transcription_session"
    input_audio_format: Literal["pcm16", "g711_ulaw", "g711_alaw"]
    sample_rate: int
    input_audio_noise_reduction: None = None
    input_audio_transcription: Transcription
    turn_detection: TurnDetection | None
    include: tuple[str, ...] | None
    expires_at: int


class Corpus(ServerModel):
    """Names and terms."""

    text: str


class DashscopeTranscription(ServerModel):
    """What the session was told about the speech."""

    language: str | None
    corpus: Corpus


class DashscopeSessionObject(ServerModel):
    """A session in DashScope's dialect."""

    id: str
    object: Literal["realtime.session"] = "realtime.session"
    model: str
    modalities: tuple[Literal["text"]] = ("text",)
    input_audio_format: Literal["pcm", "g711_ulaw", "g711_alaw"]
    sample_rate: int
    input_audio_transcription: DashscopeTranscription
    turn_detection: TurnDetection | None


class SessionEvent(ServerEvent):
    """The settings of the session as they are now."""

    type: Literal[
        "session.created", "session.updated", "transcription_session.created", "transcription_session.updated"
    ]
    session: SessionObject | OldSessionObject | DashscopeSessionObject


class SessionFinished(ServerEvent):
    """The answer to `session.finish`: every text has been sent, and the close comes next."""

    type: Literal["session.finished"] = "session.finished"


# --- the items


class Content(ServerModel):
    """The content of an item. The transcript is not known yet when the item is announced."""

    type: Literal["input_audio"] = "input_audio"
    transcript: None = None


class ItemObject(ServerModel):
    """An item of the conversation."""

    id: str
    object: Literal["realtime.item"] = "realtime.item"
    type: Literal["message"] = "message"
    status: Literal["completed"] = "completed"
    role: Literal["user"] = "user"
    content: tuple[Content, ...] = (Content(),)


class ItemEvent(ServerEvent):
    """There is a new item. `created` is the event of the older shape and of DashScope."""

    type: Literal["conversation.item.added", "conversation.item.done", "conversation.item.created"]
    previous_item_id: str | None
    item: ItemObject


class TranscriptionDelta(ServerEvent):
    """More of the item's text has settled."""

    type: Literal["conversation.item.input_audio_transcription.delta"] = (
        "conversation.item.input_audio_transcription.delta"
    )
    item_id: str
    content_index: int = 0
    delta: str


class TranscriptionText(ServerEvent):
    """All of the item's text so far: `text` has settled, `stash` is the tentative rest. DashScope's."""

    type: Literal["conversation.item.input_audio_transcription.text"] = (
        "conversation.item.input_audio_transcription.text"
    )
    item_id: str
    content_index: int = 0
    language: str | None
    text: str
    stash: str

    def replaces(self, waiting: ServerMessage) -> bool:
        """See `ServerMessage`."""
        return isinstance(waiting, TranscriptionText) and waiting.item_id == self.item_id


class Usage(ServerModel):
    """The length of the item's audio."""

    type: Literal["duration"] = "duration"
    seconds: float


class Span(ServerModel):
    """A part of an item's audio, in milliseconds since its beginning."""

    start_ms: int
    end_ms: int


class DetectedLanguage(ServerModel):
    """A language that was spoken, such as `de`."""

    code: str


class TranscriptionCompleted(ServerEvent):
    """The item's whole text. `languages` are those that it was spoken in; empty if there was no speech.

    `logprobs` are its tokens, if the client wanted them. `recognized`: the parts of its audio that the model heard, in
    order; not of OpenAI.
    """

    type: Literal["conversation.item.input_audio_transcription.completed"] = (
        "conversation.item.input_audio_transcription.completed"
    )
    item_id: str
    content_index: int = 0
    transcript: str
    usage: Usage
    languages: tuple[DetectedLanguage, ...]
    logprobs: tuple[Logprob, ...] | None
    recognized: tuple[Span, ...]


class DashscopeCompleted(ServerEvent):
    """The same in DashScope's dialect, which has one language."""

    type: Literal["conversation.item.input_audio_transcription.completed"] = (
        "conversation.item.input_audio_transcription.completed"
    )
    item_id: str
    content_index: int = 0
    language: str | None
    transcript: str
    usage: Usage


# --- the dialects


@dataclass(frozen=True)
class ItemText:
    """All that is known about an item at its end.

    `seconds`: the length of its audio. `languages`: the codes of those in which it was spoken. `recognized`: see
    `TranscriptionCompleted`. `logprobs`: its tokens; None if the client does not want them.
    """

    transcript: str
    seconds: float
    languages: tuple[str, ...] = ()
    recognized: tuple[Span, ...] = ()
    logprobs: tuple[Logprob, ...] | None = None


class Dialect(ABC):
    """Makes the events of one dialect."""

    @abstractmethod
    def session(self, info: SessionInfo, settings: RealtimeSettings, created: bool = False) -> SessionEvent:
        """The event for the settings: the session has them now, or was `created` with them."""

    @abstractmethod
    def announce(self, item_id: str, previous: str | None) -> list[ItemEvent]:
        """The events for a new item after the `previous` one."""

    def progress(
        self, item_id: str, sent: str, settled: str, tentative: str, language: str | None
    ) -> TranscriptionDelta | TranscriptionText | None:
        """The event for a text under way, if there is one. `sent`: the settled text that the client knows."""
        return TranscriptionDelta(item_id=item_id, delta=settled[len(sent) :]) if settled != sent else None

    def completed(self, item_id: str, whole: ItemText) -> TranscriptionCompleted | DashscopeCompleted:
        """The event for the whole text."""
        return TranscriptionCompleted(
            item_id=item_id,
            transcript=whole.transcript,
            usage=Usage(seconds=whole.seconds),
            languages=tuple(DetectedLanguage(code=code) for code in whole.languages),
            logprobs=whole.logprobs,
            recognized=whole.recognized,
        )


class _Current(Dialect):
    def session(self, info: SessionInfo, settings: RealtimeSettings, created: bool = False) -> SessionEvent:
        g711_types = _G711_TYPES.get(settings.format.encoding)
        audio = G711Format(type=g711_types[0]) if g711_types else PcmFormat(rate=settings.format.rate)
        inputs = Input(
            format=audio, transcription=_transcription(info, settings), turn_detection=_turn_detection(settings)
        )
        return SessionEvent(
            type="session.created" if created else "session.updated",
            session=SessionObject(
                id=info.id,
                audio=AudioSettings(input=inputs),
                include=_include(settings),
                expires_at=info.expires_at,
            ),
        )

    def announce(self, item_id: str, previous: str | None) -> list[ItemEvent]:
        item = ItemObject(id=item_id)
        return [
            ItemEvent(type="conversation.item.added", previous_item_id=previous, item=item),
            ItemEvent(type="conversation.item.done", previous_item_id=previous, item=item),
        ]


class _Older(Dialect):
    def session(self, info: SessionInfo, settings: RealtimeSettings, created: bool = False) -> SessionEvent:
        g711_types = _G711_TYPES.get(settings.format.encoding)
        return SessionEvent(
            type="transcription_session.created" if created else "transcription_session.updated",
            session=OldSessionObject(
                id=info.id,
                input_audio_format=g711_types[1] if g711_types else "pcm16",
                sample_rate=settings.format.rate,
                input_audio_transcription=_transcription(info, settings),
                turn_detection=_turn_detection(settings),
                include=_include(settings),
                expires_at=info.expires_at,
            ),
        )

    def announce(self, item_id: str, previous: str | None) -> list[ItemEvent]:
        item = ItemObject(id=item_id)
        return [ItemEvent(type="conversation.item.created", previous_item_id=previous, item=item)]


class _Dashscope(_Older):
    def session(self, info: SessionInfo, settings: RealtimeSettings, created: bool = False) -> SessionEvent:
        g711_types = _G711_TYPES.get(settings.format.encoding)
        detection = _turn_detection(settings)
        if detection is not None:  # on its own scale, see `TurnDetectionUpdate`
            detection = detection.model_copy(update={"threshold": round(2 * detection.threshold - 1, 6)})
        return SessionEvent(
            type="session.created" if created else "session.updated",
            session=DashscopeSessionObject(
                id=info.id,
                model=info.model,
                input_audio_format=g711_types[1] if g711_types else "pcm",
                sample_rate=settings.format.rate,
                input_audio_transcription=DashscopeTranscription(
                    language=settings.language, corpus=Corpus(text=settings.prompt)
                ),
                turn_detection=detection,
            ),
        )

    def progress(
        self, item_id: str, sent: str, settled: str, tentative: str, language: str | None
    ) -> TranscriptionDelta | TranscriptionText | None:
        return TranscriptionText(item_id=item_id, language=language, text=settled, stash=tentative)

    def completed(self, item_id: str, whole: ItemText) -> TranscriptionCompleted | DashscopeCompleted:
        return DashscopeCompleted(
            item_id=item_id,
            language=next(iter(whole.languages), None),
            transcript=whole.transcript,
            usage=Usage(seconds=whole.seconds),
        )


OPENAI: Dialect = _Current()
OLD_OPENAI: Dialect = _Older()
DASHSCOPE: Dialect = _Dashscope()


def _transcription(info: SessionInfo, settings: RealtimeSettings) -> Transcription:
    return Transcription(
        model=info.model,
        language=settings.language,
        languages=settings.languages or None,
        prompt=settings.prompt,
        keywords=settings.keywords or None,
    )


def _include(settings: RealtimeSettings) -> tuple[str, ...] | None:
    return (LOGPROBS,) if settings.logprobs else None


def _turn_detection(settings: RealtimeSettings) -> TurnDetection | None:
    if (vad := settings.vad) is None:
        return None
    return TurnDetection(
        threshold=vad.threshold,
        prefix_padding_ms=round(vad.prefix_padding_ms),
        silence_duration_ms=round(vad.silence_duration_ms),
    )
