"""One connection to `/v1/listen`: binary audio in, Deepgram's messages out.

`Finalize` ends the session under way and waits for its texts. The audio after it gets the next one, so all results come
in the order of the audio.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from qwen_asr import logs
from qwen_asr.audio.pcm import PcmStream
from qwen_asr.errors import BadInput, QwenASRError, TooLarge
from qwen_asr.service.admission import SharedSlot
from qwen_asr.web.sockets.connection import Connection
from qwen_asr.web.sockets.deepgram.messages import (
    CLOSE_STREAM,
    FINALIZE,
    Error,
    Metadata,
    ResultsMetadata,
    close_frame,
    message_type,
    seconds,
)
from qwen_asr.web.sockets.deepgram.segment import Pauses, Segment, confirmation
from qwen_asr.web.sockets.outbox import Outbox

if TYPE_CHECKING:
    import anyio
    import numpy as np
    from numpy.typing import NDArray
    from starlette.websockets import WebSocket

    from qwen_asr.config.limits import SocketLimits
    from qwen_asr.live.session_options import DetectorFactory, SessionOptions
    from qwen_asr.service.admission import QueueTicket
    from qwen_asr.service.service import Service
    from qwen_asr.web.sockets.deepgram.query import ListenQuery, LiveQuery

log = logging.getLogger(__name__)


class ListenConnection(Connection):
    """See `Connection`."""

    kind = "/v1/listen"
    _slot: QueueTicket

    def __init__(
        self,
        websocket: WebSocket,
        service: Service,
        limits: SocketLimits,
        threads: anyio.CapacityLimiter,
        query: LiveQuery,
    ) -> None:
        super().__init__(websocket, service, limits, threads)
        self.metadata = ResultsMetadata.of(service.model_name(query.model))
        self._query = query
        self._outbox = Outbox(limits.waiting_messages)
        self._created = datetime.now(UTC)
        self._hash = hashlib.sha256()
        # What follows is used by one worker thread at a time, because messages are handled one after the other.
        self._audio = self._new_audio()
        self._pauses = Pauses(query.pause_samples, self._outbox.put)
        self._segment: Segment | None = None
        self._position = 0  # samples at 16 kHz before the segment

    # --- the beginning and the end

    async def _begin(self) -> None:
        await self._use_model(self._query.model)
        self._slot = await self._wait_for_slot()
        logs.set_session(self.metadata.request_id)
        log.info("Listen session began.")

    async def _finish(self, error: QwenASRError | None) -> None:
        if (finished := await self._in_thread(self._end_segment)) is not None:
            await asyncio.wrap_future(finished)

    def _conclude(self, error: QwenASRError | None) -> None:
        if error is not None:
            self._close_code, self._close_reason = close_frame(error)
            self._outbox.put(Error.of(error))
            return
        length = seconds(self._position + (self._segment.runner.received if self._segment else 0))
        self._outbox.put(Metadata.of(self.metadata, self._created, self._hash.hexdigest(), length))

    def _detach(self) -> None:
        if self._segment is not None:
            self._segment.runner.close()
        self._slot.leave()
        log.info("Listen session ended.")

    def _error_message(self, error: QwenASRError) -> Error:
        return Error.of(error)

    def _queued_message(self, position: int) -> Error:
        return Error(
            variant="Queued", description=f"All sessions are taken; this one is number {position} in the queue."
        )

    def _loading_message(self, text: str) -> Error:
        return Error(variant="Loading", description=text)

    # --- messages

    async def _handle(self, message: str | bytes) -> bool:
        if isinstance(message, bytes):
            if len(message) > (allowed := self._limits.message_bytes):
                raise TooLarge(
                    f"A message has {len(message)} bytes; one of audio may have {allowed}: send smaller ones."
                )
            self._hash.update(message)
            await self._feed_audio(message)
            return True
        try:
            if len(message) > (allowed := self._limits.config_bytes):
                raise TooLarge(f"A text message has {len(message)} characters; one may have {allowed}.")
            kind = message_type(message)
        except BadInput as error:
            self._service.instruments.count(error)
            self._outbox.put(Error.of(error, "SchemaError"))
            return True
        if kind == FINALIZE:
            await self._finalize()
        await self._wait_while_ahead(await self._in_thread(self._is_ahead))
        return kind != CLOSE_STREAM

    async def _finalize(self) -> None:
        """Wait for all texts. What comes meanwhile stays with the client."""
        if (finished := await self._in_thread(self._end_segment, True)) is not None:
            await asyncio.wrap_future(finished)
        if (segment := self._segment) is None:
            self._outbox.put(confirmation(self._position, self.metadata))
            return
        segment.confirm()
        self._position = segment.end
        segment.runner.close()
        self._segment = None

    async def _is_busy(self) -> bool:
        return bool(len(self._outbox)) or (self._segment is not None and self._segment.runner.backlog > 0)

    # --- on worker threads, one at a time

    def _piece_bytes(self) -> int:
        return self._audio.bytes_per_second

    def _feed(self, audio: bytes) -> bool:
        self._feed_samples(self._audio.feed(audio))
        for warning in self._audio.take_warnings():
            self._outbox.put(Error(variant=warning.code, description=warning.message))
        return self._is_ahead()

    def _feed_samples(self, samples: NDArray[np.float32]) -> None:
        if not len(samples):
            return
        segment = self._open_segment()
        segment.runner.feed(samples)
        self._pauses.heard(segment.end)

    def _open_segment(self) -> Segment:
        """The segment under way; a new one if there is none. Raises as `Service.open_session`."""
        if self._segment is None:
            segment = Segment(self._query, self.metadata, self._outbox.put, self._pauses, self._position)
            segment.runner = self._service.open_session(
                session_options(self._service, self._query, segment.detector),
                segment.on_events,
                kind="deepgram",
                name=self.metadata.request_id,
                slot=SharedSlot(),
            )
            self._segment = segment
        return self._segment

    def _end_segment(self, finalizing: bool = False) -> Future[None] | None:
        """No more audio comes for the segment. The future is resolved after its last event; None without a segment."""
        self._feed_samples(self._audio.finish())
        self._audio = self._new_audio()
        if self._segment is None:
            return None
        self._segment.finalizing = finalizing
        return self._segment.runner.finish()

    def _new_audio(self) -> PcmStream:
        return PcmStream(self._query.pcm_encoding, self._query.rate)

    def _is_ahead(self) -> bool:
        backlog = self._segment.runner.backlog if self._segment else 0.0
        return self._outbox.full or backlog > self._limits.ahead_seconds


def session_options(service: Service, query: ListenQuery, detector: DetectorFactory | None = None) -> SessionOptions:
    """The options of a session for this query. Its finals have probabilities: results have a confidence.

    They have words only where these come at once: Deepgram has no message for words that come after their result.
    """
    options = service.session_options(
        context=query.context,
        language=query.language_option,
        detector=detector,
        words=service.has_quick_words(query.model),
        model=query.model,
    )
    return replace(options, scored=True)
