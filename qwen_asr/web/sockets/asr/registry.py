"""The sessions of `/ws/asr` that can be resumed, by their ids, and when they expire.

A session whose connection was lost goes on for `resume_seconds` and keeps its slot. A finished session keeps only its
messages for as long, because the close may not have reached the client. Everything here runs on the event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qwen_asr.config.limits import SocketLimits
    from qwen_asr.web.sockets.asr.session import AsrSession

log = logging.getLogger(__name__)


class ResumableSessions:
    """All sessions that can be resumed. `active` are those with a slot, at most `max_active` of them."""

    def __init__(self, limits: SocketLimits, max_active: int) -> None:
        self.active: set[AsrSession] = set()
        self._limits = limits
        self._max_active = max_active
        # By a digest of the id: the time that a look-up takes then reveals nothing about ids with the same beginning.
        self._by_digest: dict[bytes, AsrSession] = {}
        self._expiries: dict[AsrSession, asyncio.TimerHandle] = {}

    @property
    def waiting(self) -> int:
        """How many have no connection."""
        return len(self._expiries)

    def add(self, session: AsrSession) -> None:
        """Add a new session, which has a slot and a connection."""
        self._by_digest[_digest(session.id)] = session
        self.active.add(session)

    def find(self, session_id: str, owner: bytes, offset: int) -> AsrSession | None:
        """The session with that id, if it belongs to `owner` and can go on after `offset`; else None."""
        session = self._by_digest.get(_digest(session_id))
        if session is None or session.error is not None or not hmac.compare_digest(session.owner, owner):
            return None
        return session if session.has_finals_after(offset) else None

    def contains(self, session: AsrSession) -> bool:
        """Whether it can still be resumed."""
        return _digest(session.id) in self._by_digest

    def detach(self, session: AsrSession) -> None:
        """Its connection was lost: keep it for a while, unless it has received nothing."""
        if not session.has_audio:
            self.remove(session)
            return
        self._schedule_expiry(session)
        log.info("Session %s waits %g s for its client to resume it.", session.name, self._limits.resume_seconds)

    def cancel_expiry(self, session: AsrSession) -> None:
        """It has a connection again."""
        if (timer := self._expiries.pop(session, None)) is not None:
            timer.cancel()

    def finish(self, session: AsrSession) -> None:
        """It has delivered everything, as far as is known: free its slot, and keep its messages for a while."""
        self._free_slot(session)
        self._schedule_expiry(session)
        finished = [other for other in self._expiries if other not in self.active]
        for oldest in finished[: max(0, len(finished) - self._max_active)]:
            self.remove(oldest)

    def remove(self, session: AsrSession) -> None:
        """It can no longer be resumed. A second call does nothing."""
        self.cancel_expiry(session)
        self._by_digest.pop(_digest(session.id), None)
        self._free_slot(session)

    def _schedule_expiry(self, session: AsrSession) -> None:
        self.cancel_expiry(session)
        loop = asyncio.get_running_loop()
        self._expiries[session] = loop.call_later(self._limits.resume_seconds, self._expire, session)

    def _expire(self, session: AsrSession) -> None:
        if session in self.active:
            log.info("Session %s ended: its client did not come back.", session.name)
        self.remove(session)

    def _free_slot(self, session: AsrSession) -> None:
        session.close()
        self.active.discard(session)


def _digest(session_id: str) -> bytes:
    return hashlib.sha256(session_id.encode()).digest()
