"""Admission: how many sessions run at once, and a queue with positions for the rest. No clock, no I/O, thread-safe.

A client enters directly if a slot is free, waits in line if the queue has room, and is refused otherwise. A ticket that
leaves frees its slot or its position, and everyone behind it moves up.

An address has a share of the slots and of the queue, so that one client cannot take them all. While it holds its share
of the slots, its tickets in the queue keep their positions, and those behind them are admitted first. As soon as one of
its own slots is free, its turn is again that of its position.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from qwen_asr.errors import LimitExceeded
from qwen_asr.network import is_loopback


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

    def __init__(self, admission: Admission, on_move: Callable[[], None], address: str) -> None:
        self._admission = admission
        self._on_move = on_move
        self._address = address
        self._position = 0

    @property
    def position(self) -> int:
        """0: admitted. Else one more than the tickets that wait and came earlier; it never grows. After `leave` the
        last position."""
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

    Of these an address may have `sessions_per_address` slots and half of the queue, rounded up. None: no shares.
    Loopback addresses and an empty address are exempt: tunnels, and proxies that are not declared, stand for many
    clients.

    A ticket's ``on_move`` is called whenever its position changes, on the thread of the ticket that left and without a
    lock held; it may call back. Read the ticket's `position` in it: calls may arrive in any order.
    """

    def __init__(self, max_sessions: int, max_queue: int, sessions_per_address: int | None = None) -> None:
        self.max_sessions = max_sessions
        self.max_queue = max_queue
        self._sessions_share = max_sessions if sessions_per_address is None else min(sessions_per_address, max_sessions)
        self._queue_share = max_queue if sessions_per_address is None else (max_queue + 1) // 2
        self._lock = threading.Lock()
        self._admitted: set[QueueTicket] = set()
        self._queue: list[QueueTicket] = []
        self._admitted_of = Counter[str]()  # by address
        self._waiting_of = Counter[str]()

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

    def sessions_of(self, address: str) -> int:
        """How many slots an address may have."""
        return self._sessions_share if counted(address) else self.max_sessions

    def capacity_of(self, address: str) -> int:
        """How many tickets an address may have, admitted and waiting."""
        return self._sessions_share + self._queue_share if counted(address) else self.capacity

    def is_wanted(self, address: str = "") -> bool:
        """Whether a slot would go to somebody who waits if a client of this address returned it."""
        address = counted(address)
        with self._lock:
            return any(
                not other._address
                or other._address == address
                or self._admitted_of[other._address] < self._sessions_share
                for other in self._queue
            )

    def check_room(self, address: str = "") -> None:
        """Raises LimitExceeded if `enter` would raise it now. Call it before expensive work."""
        address = counted(address)
        with self._lock:
            if not (self._may_hold(address) or self._may_wait(address)):
                raise self._refusal(address)

    def enter(self, on_move: Callable[[], None] = lambda: None, address: str = "") -> QueueTicket:
        """Returns a ticket, admitted or waiting.

        Raises LimitExceeded if the queue is full, or the address has its share of it.
        """
        address = counted(address)
        ticket = QueueTicket(self, on_move, address)
        with self._lock:
            if self._may_hold(address):
                self._admit(ticket)
            elif self._may_wait(address):
                self._queue.append(ticket)
                self._waiting_of[address] += 1
                ticket._position = len(self._queue)
            else:
                raise self._refusal(address)
        return ticket

    def enter_at_once(self, address: str = "") -> QueueTicket:
        """Returns an admitted ticket, for a client that cannot wait. Raises LimitExceeded if no slot is free for it."""
        address = counted(address)
        ticket = QueueTicket(self, lambda: None, address)
        with self._lock:
            if not self._may_hold(address):
                raise self._refusal(address)
            self._admit(ticket)
        return ticket

    def _may_hold(self, address: str) -> bool:
        """Whether a slot is free for this address. Then none of its tickets waits."""
        free = len(self._admitted) < self.max_sessions
        return free and (not address or self._admitted_of[address] < self._sessions_share)

    def _may_wait(self, address: str) -> bool:
        room = len(self._queue) < self.max_queue
        return room and (not address or self._waiting_of[address] < self._queue_share)

    def _admit(self, ticket: QueueTicket) -> None:
        self._admitted.add(ticket)
        self._admitted_of[ticket._address] += 1
        ticket._position = 0

    def _refusal(self, address: str) -> LimitExceeded:
        slots, queue = self.max_sessions, len(self._queue)
        all_taken = len(self._admitted) >= slots
        if address and not (all_taken and queue >= self.max_queue):
            own, waiting = self._admitted_of[address], self._waiting_of[address]
            if own >= self._sessions_share:
                held = f"Your address has {_count(own, 'session')}"
                held += f", and {_count(waiting, 'more client')} in line" if waiting else ""
                return LimitExceeded(
                    f"{held}, the most that this server gives to one address: end one of them, or ask the operator for "
                    "a higher --max-sessions-per-address."
                )
            if waiting >= self._queue_share:
                return LimitExceeded(
                    f"{_count(waiting, 'client')} of your address {'wait' if waiting != 1 else 'waits'} in line, the "
                    "most that this server lets wait from one address: try again later."
                )
        used = (
            f"All {slots} sessions of this server are in use"
            if slots > 1
            else "The only session of this server is in use"
        )
        in_line = f", and {queue} {'clients wait' if queue > 1 else 'client waits'} in line" if queue else ""
        return LimitExceeded(f"{used}{in_line}: try again later.")

    def _leave(self, ticket: QueueTicket) -> None:
        with self._lock:
            moved = self._remove(ticket)
        for other in moved:
            other._on_move()

    def _remove(self, ticket: QueueTicket) -> list[QueueTicket]:
        """Removes the ticket; returns those whose position has changed."""
        if ticket in self._admitted:
            self._admitted.remove(ticket)
            _decrement(self._admitted_of, ticket._address)
        elif ticket in self._queue:
            self._queue.remove(ticket)
            _decrement(self._waiting_of, ticket._address)
        else:
            return []
        moved = []
        # At most one is admitted. The first in line whose address has not got its share, if there is one.
        if (first := next((other for other in self._queue if self._may_hold(other._address)), None)) is not None:
            self._queue.remove(first)
            _decrement(self._waiting_of, first._address)
            self._admit(first)
            moved.append(first)
        for position, other in enumerate(self._queue, start=1):
            if other._position != position:
                other._position = position
                moved.append(other)
        return moved


def counted(address: str) -> str:
    """The address by which a client is limited; empty for loopback, behind which there may be many clients."""
    return "" if is_loopback(address) else address


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _decrement(counter: Counter[str], address: str) -> None:
    counter[address] -= 1
    if not counter[address]:
        del counter[address]
