"""Admission: how many sessions run at once, and a queue with positions for the rest. No clock, no I/O, thread-safe.

A client enters directly if a slot is free, waits in line if the queue has room, and is refused otherwise. A ticket that
leaves frees its slot or its position, and everyone behind it moves up.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from qwen_asr.errors import LimitExceeded


class Slot(Protocol):
    """What a session holds while it runs: a `QueueTicket` that has been admitted."""

    def leave(self) -> None:
        """Returns the slot. A second call does nothing."""


class SharedSlot:
    """A slot for one of several sessions that share the slot of their connection, which returns it."""

    def leave(self) -> None:
        """Does nothing."""


class QueueTicket:
    """A slot, or a position in the queue; from `Admission.enter`. Always call `leave` in the end."""

    def __init__(self, admission: Admission, on_move: Callable[[], None]) -> None:
        self._admission = admission
        self._on_move = on_move
        self._position = 0

    @property
    def position(self) -> int:
        """0: admitted. 1: the next in line, and so on. After `leave` the last position."""
        return self._position

    @property
    def is_admitted(self) -> bool:
        """Whether the ticket holds a slot, or held one before `leave`."""
        return self._position == 0

    def leave(self) -> None:
        """Returns the slot, or gives up the position in the queue. A second call does nothing."""
        self._admission._leave(self)


class Admission:
    """Admits at most `max_sessions` tickets at once; at most `max_queue` more wait.

    A ticket's ``on_move`` is called whenever its position changes, on the thread of the ticket that left and without a
    lock held; it may call back. Read the ticket's `position` in it: calls may arrive in any order.
    """

    def __init__(self, max_sessions: int, max_queue: int) -> None:
        self.max_sessions = max_sessions
        self.max_queue = max_queue
        self._lock = threading.Lock()
        self._admitted: set[QueueTicket] = set()
        self._queue: deque[QueueTicket] = deque()

    @property
    def admitted(self) -> int:
        """The number of slots in use."""
        return len(self._admitted)

    @property
    def waiting(self) -> int:
        """The number of tickets in the queue."""
        return len(self._queue)

    @property
    def capacity(self) -> int:
        """How many tickets there can be, admitted and waiting."""
        return self.max_sessions + self.max_queue

    def check_room(self) -> None:
        """Raises LimitExceeded if `enter` would raise it now. Call it before expensive work."""
        if len(self._admitted) + len(self._queue) >= self.capacity:
            raise self._refusal()

    def enter(self, on_move: Callable[[], None] = lambda: None) -> QueueTicket:
        """Returns a ticket, admitted or waiting. Raises LimitExceeded if the queue is full."""
        ticket = QueueTicket(self, on_move)
        with self._lock:
            if len(self._admitted) < self.max_sessions:
                self._admitted.add(ticket)
            elif len(self._queue) < self.max_queue:
                self._queue.append(ticket)
                ticket._position = len(self._queue)
            else:
                raise self._refusal()
        return ticket

    def enter_at_once(self) -> QueueTicket:
        """Returns an admitted ticket, for a client that cannot wait. Raises LimitExceeded if no slot is free."""
        ticket = self.enter()
        if not ticket.is_admitted:
            ticket.leave()
            raise self._refusal()
        return ticket

    def _refusal(self) -> LimitExceeded:
        slots, queue = self.max_sessions, self.max_queue
        used = (
            f"All {slots} sessions of this server are in use"
            if slots > 1
            else "The only session of this server is in use"
        )
        waiting = f", and {queue} {'clients wait' if queue > 1 else 'client waits'} in line" if queue else ""
        return LimitExceeded(f"{used}{waiting}: try again later.")

    def _leave(self, ticket: QueueTicket) -> None:
        with self._lock:
            moved = self._remove(ticket)
        for other in moved:
            other._on_move()

    def _remove(self, ticket: QueueTicket) -> list[QueueTicket]:
        """Removes the ticket; returns those whose position has changed."""
        if ticket in self._admitted:
            self._admitted.remove(ticket)
            first = 0
        elif ticket in self._queue:
            first = self._queue.index(ticket)
            del self._queue[first]
        else:
            return []
        behind = list(self._queue)[first:]
        for other in behind:
            other._position -= 1
        if self._queue and self._queue[0].is_admitted:
            self._admitted.add(self._queue.popleft())
        return behind
