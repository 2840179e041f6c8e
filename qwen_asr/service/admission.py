"""How many sessions run at once, and who waits for a place: a queue with positions. No clock, no I/O, any thread.

Whoever comes is in while there is a place, else waits in order of arrival, else is refused. Leaving frees the place, or
the place in the queue, and moves everybody behind it up.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from qwen_asr.errors import LimitExceeded


class Slot(Protocol):
    """What a session holds as long as it lasts: a `QueueTicket` that is in."""

    def leave(self) -> None:
        """Gives it back. Again: nothing happens."""


class Borrowed:
    """A place for one of several sessions in the place of somebody else, who gives that back."""

    def leave(self) -> None:
        """Nothing to give back."""


class QueueTicket:
    """What `Admission.enter` gives: a place, or a position in the queue. `leave` it, whatever happens."""

    def __init__(self, admission: Admission, on_move: Callable[[], None]) -> None:
        self._admission = admission
        self._on_move = on_move
        self._position = 0

    @property
    def position(self) -> int:
        """0: it is in. 1: the next to come in, and so on. What it was last, once it has left."""
        return self._position

    @property
    def is_in(self) -> bool:
        """Whether it has a place (or had one, once it has left)."""
        return self._position == 0

    def leave(self) -> None:
        """Gives the place back, or the position in the queue. Again: nothing happens."""
        self._admission._leave(self)


class Admission:
    """At most `max_sessions` tickets are in, at most `max_queue` wait.

    ``on_move`` of a ticket is called whenever its position has changed, on the thread of whoever left and with no lock
    held; it may call back. It carries no number, so that two calls that overtake each other tell nothing wrong.
    """

    def __init__(self, max_sessions: int, max_queue: int) -> None:
        self.max_sessions = max_sessions
        self.max_queue = max_queue
        self._lock = threading.Lock()
        self._inside: set[QueueTicket] = set()
        self._queue: deque[QueueTicket] = deque()

    @property
    def inside(self) -> int:
        """How many are in."""
        return len(self._inside)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queue)

    @property
    def capacity(self) -> int:
        """How many can be in or waiting, together."""
        return self.max_sessions + self.max_queue

    def check_room(self) -> None:
        """Raises LimitExceeded where `enter` would, at this moment: before work that would be for nothing."""
        if len(self._inside) + len(self._queue) >= self.capacity:
            raise self._refusal()

    def enter(self, on_move: Callable[[], None] = lambda: None) -> QueueTicket:
        """A ticket that is in, or waits. Raises LimitExceeded where no more may wait."""
        ticket = QueueTicket(self, on_move)
        with self._lock:
            if len(self._inside) < self.max_sessions:
                self._inside.add(ticket)
            elif len(self._queue) < self.max_queue:
                self._queue.append(ticket)
                ticket._position = len(self._queue)
            else:
                raise self._refusal()
        return ticket

    def enter_at_once(self) -> QueueTicket:
        """A ticket that is in, for who cannot wait. Raises LimitExceeded where there is no place."""
        ticket = self.enter()
        if not ticket.is_in:
            ticket.leave()
            raise self._refusal()
        return ticket

    def _refusal(self) -> LimitExceeded:
        most, queue = self.max_sessions, self.max_queue
        taken = f"All {most} places of this server are taken" if most > 1 else "The only place of this server is taken"
        waiting = f", and {queue} {'wait' if queue > 1 else 'waits'} already" if queue else ""
        return LimitExceeded(f"{taken}{waiting}: try again later.")

    def _leave(self, ticket: QueueTicket) -> None:
        with self._lock:
            moved = self._remove(ticket)
        for other in moved:
            other._on_move()

    def _remove(self, ticket: QueueTicket) -> list[QueueTicket]:
        """Takes it out; returns those whose position is another one now."""
        if ticket in self._inside:
            self._inside.remove(ticket)
            first = 0
        elif ticket in self._queue:
            first = self._queue.index(ticket)
            del self._queue[first]
        else:
            return []
        behind = list(self._queue)[first:]
        for other in behind:
            other._position -= 1
        if self._queue and self._queue[0].is_in:
            self._inside.add(self._queue.popleft())
        return behind
