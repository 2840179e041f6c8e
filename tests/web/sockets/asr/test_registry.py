"""The sessions that can be resumed: who may resume them, and when they expire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from qwen_asr.config.limits import SocketLimits
from qwen_asr.errors import AudioError
from qwen_asr.web.sockets.asr.registry import ResumableSessions
from qwen_asr.web.sockets.asr.session import AsrSession

LIMITS = replace(SocketLimits(), resume_seconds=3_600)


class FakeSession:
    """What the registry uses of a session."""

    def __init__(self, session_id: str, owner: bytes = b"me", has_audio: bool = True) -> None:
        self.id = self.name = session_id
        self.owner = owner
        self.has_audio = has_audio
        self.error: Exception | None = None
        self.first_offset = 100  # from which on it has every final
        self.closed = False

    def has_finals_after(self, offset: int) -> bool:
        return offset >= self.first_offset

    def close(self) -> None:
        self.closed = True


def fake(session_id: str, **options: Any) -> AsrSession:
    return cast(AsrSession, FakeSession(session_id, **options))


def on_loop(check: Callable[[ResumableSessions], None], max_active: int = 2) -> None:
    """Runs a check in an event loop, which the timers need, and cancels what they would do later."""

    async def run() -> None:
        sessions = ResumableSessions(LIMITS, max_active)
        check(sessions)
        for session in list(sessions._by_digest.values()):
            sessions.remove(session)
        assert sessions.waiting == 0

    asyncio.run(run())


def test_a_session_is_found_by_its_owner_if_it_can_go_on() -> None:
    def check(sessions: ResumableSessions) -> None:
        session = fake("one")
        sessions.add(session)
        assert sessions.find("one", b"me", 100) is session
        assert sessions.find("one", b"you", 100) is None
        assert sessions.find("other", b"me", 100) is None
        assert sessions.find("one", b"me", 99) is None
        session.error = AudioError("It has ended.")
        assert sessions.find("one", b"me", 100) is None

    on_loop(check)


def test_a_detached_session_keeps_its_slot_until_it_expires() -> None:
    def check(sessions: ResumableSessions) -> None:
        session = fake("one")
        sessions.add(session)
        sessions.detach(session)
        assert (sessions.waiting, sessions.active) == (1, {session})
        sessions.cancel_expiry(session)
        assert (sessions.waiting, sessions.contains(session)) == (0, True)
        sessions.detach(session)
        sessions._expire(session)
        assert (sessions.waiting, sessions.active, sessions.contains(session)) == (0, set(), False)
        assert cast(FakeSession, session).closed

    on_loop(check)


def test_a_detached_session_without_audio_is_removed_at_once() -> None:
    def check(sessions: ResumableSessions) -> None:
        session = fake("one", has_audio=False)
        sessions.add(session)
        sessions.detach(session)
        assert not sessions.contains(session)
        assert not sessions.active
        sessions.remove(session)  # again: nothing happens

    on_loop(check)


def test_finished_sessions_have_no_slot_and_only_the_newest_are_kept() -> None:
    def check(sessions: ResumableSessions) -> None:
        detached = fake("detached")
        sessions.add(detached)
        sessions.detach(detached)
        finished = [fake(f"finished {number}") for number in range(3)]
        for session in finished:
            sessions.add(session)
            sessions.finish(session)
        assert sessions.active == {detached}
        assert [sessions.contains(session) for session in finished] == [False, True, True]
        assert sessions.contains(detached)

    on_loop(check, max_active=2)
