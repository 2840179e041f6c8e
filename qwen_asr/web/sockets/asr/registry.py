"""The sessions of `/ws/asr`, by their ids: who has a place, and who waits for a connection that was lost.

A session whose connection was lost goes on for `resume_seconds`, in its place. One that has said everything keeps, for
as long, only what it has said: the close that told the client so may have been lost too. All of it happens on the
event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from typing import TYPE_CHECKING

from qwen_asr.web.sockets.asr.session import AsrSession

if TYPE_CHECKING:
    from qwen_asr.config.limits import SocketLimits

log = logging.getLogger(__name__)


class Sessions:
    """All that can be resumed. Its length is the number of those that have a place; `most` can have one at a time."""

    def __init__(self, limits: SocketLimits, most: int) -> None:
        self._limits = limits
        self._most = most
        # By the digest of the id: how long a look-up takes tells nothing about ids that begin alike.
        self._known: dict[bytes, AsrSession] = {}
        self._placed: set[AsrSession] = set()
        self._timers: dict[AsrSession, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._placed)

    @property
    def waiting(self) -> int:
        """How many are kept without a connection."""
        return len(self._timers)

    def add(self, session: AsrSession) -> None:
        """A session that was opened in a place taken before, and has a connection."""
        self._known[_digest(session.id)] = session
        self._placed.add(session)

    def find(self, session_id: str, owner: bytes, offset: int) -> AsrSession | None:
        """The session with that id, where it is that owner's and can go on behind `offset`; None: it is unknown."""
        session = self._known.get(_digest(session_id))
        if session is None or session.problem is not None or not hmac.compare_digest(session.owner, owner):
            return None
        return session if session.has_finals_after(offset) else None

    def keep(self, session: AsrSession) -> None:
        """Its connection is lost: it goes on for a while, where there is anything to lose."""
        if not session.has_audio:
            self.forget(session)
            return
        self._forget_later(session)
        log.info("Session %s waits for its client for %g s.", session.name, self._limits.resume_seconds)

    def kept_for(self, session: AsrSession) -> None:
        """It has a connection again."""
        if (timer := self._timers.pop(session, None)) is not None:
            timer.cancel()

    def finish(self, session: AsrSession) -> None:
        """Everything was said, and sent as far as anybody knows: only the texts are kept, for a while."""
        self._free(session)
        self._forget_later(session)
        finished = [other for other in self._timers if other not in self._placed]
        for oldest in finished[: max(0, len(finished) - self._most)]:
            self.forget(oldest)

    def forget(self, session: AsrSession) -> None:
        """Nobody can resume it any more. May be said again."""
        self.kept_for(session)
        self._known.pop(_digest(session.id), None)
        self._free(session)

    def knows(self, session: AsrSession) -> bool:
        """Whether it can still be resumed."""
        return _digest(session.id) in self._known

    def _forget_later(self, session: AsrSession) -> None:
        self.kept_for(session)
        loop = asyncio.get_running_loop()
        self._timers[session] = loop.call_later(self._limits.resume_seconds, self._give_up, session)

    def _give_up(self, session: AsrSession) -> None:
        if session in self._placed:
            log.info("Session %s ended: its client did not come back.", session.name)
        self.forget(session)

    def _free(self, session: AsrSession) -> None:
        session.close()
        self._placed.discard(session)


def _digest(session_id: str) -> bytes:
    return hashlib.sha256(session_id.encode()).digest()
