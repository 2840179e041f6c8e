"""Admission: slots and the queue, compared with a model that is a list, and from many threads."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from qwen_asr.config.config import Config
from qwen_asr.errors import LimitExceeded
from qwen_asr.network import client_prefix
from qwen_asr.service.admission import Admission, QueueTicket
from qwen_asr.service.service import Service


@pytest.mark.parametrize("queue", [0, 1, 3])
def test_as_many_are_admitted_and_wait_as_configured(queue: int) -> None:
    admission = Admission(2, queue)
    tickets = [admission.enter() for _ in range(2 + queue)]
    assert [ticket.position for ticket in tickets] == [0, 0, *range(1, queue + 1)]
    with pytest.raises(LimitExceeded, match="All 2 sessions of this server are in use"):
        admission.enter()
    with pytest.raises(LimitExceeded):
        admission.check_room()
    tickets[0].leave()
    admission.check_room()
    assert admission.enter().position == queue


def test_a_client_that_cannot_wait_does_not_stay_in_the_queue() -> None:
    admission = Admission(1, 1)
    first = admission.enter_at_once()
    with pytest.raises(LimitExceeded):
        admission.enter_at_once()
    assert (admission.admitted, admission.waiting) == (1, 0)
    first.leave()
    assert admission.enter_at_once().is_admitted


def test_a_ticket_may_call_back() -> None:
    admission = Admission(1, 2)
    first = admission.enter()
    positions: list[int] = []

    def called() -> None:
        positions.append(second.position)
        second.leave()

    second = admission.enter(called)
    third = admission.enter(lambda: positions.append(third.position))
    first.leave()
    assert third.is_admitted
    assert positions[0] == 0
    assert (admission.admitted, admission.waiting) == (1, 0)


A, B = "192.0.2.1", "192.0.2.2"


def test_an_address_may_have_its_share_of_the_slots_and_not_one_more() -> None:
    admission = Admission(4, 4, sessions_per_address=2)
    assert [admission.enter(address=A).position for _ in range(4)] == [0, 0, 1, 2]
    with pytest.raises(
        LimitExceeded, match=r"Your address has 2 sessions, and 2 more clients in line.*--max-sessions-per-address"
    ):
        admission.enter(address=A)
    with pytest.raises(LimitExceeded):
        admission.check_room(A)
    with pytest.raises(LimitExceeded):
        admission.enter_at_once(A)
    admission.check_room(B)
    assert [admission.enter(address=B).position for _ in range(4)] == [0, 0, 3, 4]


def test_an_address_may_have_half_of_the_queue_rounded_up() -> None:
    admission = Admission(1, 3, sessions_per_address=1)
    first = admission.enter(address=A)
    assert [admission.enter(address=B).position for _ in range(2)] == [1, 2]
    with pytest.raises(LimitExceeded, match="2 clients of your address wait in line"):
        admission.enter(address=B)
    assert admission.enter(address=A).position == 3
    with pytest.raises(LimitExceeded, match="The only session of this server is in use, and 3 clients wait in line"):
        admission.enter(address="192.0.2.3")
    first.leave()
    assert (admission.admitted, admission.waiting) == (1, 2)


def test_others_overtake_an_address_that_has_its_share_until_one_of_its_slots_is_free() -> None:
    admission = Admission(2, 4, sessions_per_address=1)
    own, other = admission.enter(address=A), admission.enter(address=B)
    waiting = admission.enter(address=A)
    later = admission.enter(address="192.0.2.3")
    assert [ticket.position for ticket in (waiting, later)] == [1, 2]
    other.leave()
    assert [ticket.position for ticket in (waiting, later)] == [1, 0]
    last = admission.enter(address=B)
    assert last.position == 2
    own.leave()
    assert [ticket.position for ticket in (waiting, last)] == [0, 1]


@pytest.mark.parametrize("address", ["", "127.0.0.1", "127.0.0.2", "::1", client_prefix("::1")])
def test_loopback_and_unknown_addresses_have_no_share(address: str) -> None:
    admission = Admission(2, 2, sessions_per_address=1)
    assert [admission.enter(address=address).position for _ in range(4)] == [0, 0, 1, 2]
    assert admission.capacity_of(address) == admission.capacity == 4


def test_a_server_gives_one_address_half_of_its_slots_by_default() -> None:
    for sessions, share in ((1, 1), (2, 1), (3, 2), (64, 32)):
        config = Config(max_sessions=sessions)
        assert config.max_sessions_per_address == share
        assert Service(config).admission.sessions_of(A) == share
    assert Service(Config(max_sessions=3, max_sessions_per_address=9)).admission.sessions_of(A) == 3


class Queue(RuleBasedStateMachine):
    """Tickets of several addresses that come and go; what must hold at any time is stated without how it is done."""

    @initialize(slots=st.integers(1, 4), queue=st.integers(0, 4), share=st.none() | st.integers(1, 4))
    def begin(self, slots: int, queue: int, share: int | None) -> None:
        self.slots, self.queue = slots, queue
        self.share = min(share or slots, slots)
        self.queue_share = queue if share is None else (queue + 1) // 2
        self.admission = Admission(slots, queue, share)
        self.present: list[QueueTicket] = []  # in the order in which they came
        self.address: dict[QueueTicket, str] = {}
        self.left: list[QueueTicket] = []
        self.seen: dict[QueueTicket, int] = {}  # the last position that each has read

    def held(self, address: str) -> int:
        return sum(ticket.is_admitted and self.address[ticket] == address for ticket in self.present)

    def waiting(self) -> list[QueueTicket]:
        return [ticket for ticket in self.present if not ticket.is_admitted]

    def has_its_share(self, address: str) -> bool:
        return address != "" and self.held(address) >= self.share

    @rule(address=st.sampled_from(["", A, B]))
    def enter(self, address: str) -> None:
        holder: list[QueueTicket] = []

        def moved() -> None:
            assert holder[0].position < self.seen[holder[0]]  # positions only ever fall
            self.seen[holder[0]] = holder[0].position

        queued = self.waiting()
        own = sum(self.address[ticket] == address for ticket in queued)
        free = len(self.present) - len(queued) < self.slots and not self.has_its_share(address)
        room = len(queued) < self.queue and (address == "" or own < self.queue_share)
        if not free:
            with pytest.raises(LimitExceeded):
                self.admission.enter_at_once(address)
        if not free and not room:
            with pytest.raises(LimitExceeded):
                self.admission.check_room(address)
            with pytest.raises(LimitExceeded):
                self.admission.enter(moved, address)
            return
        self.admission.check_room(address)
        ticket = self.admission.enter(moved, address)
        assert ticket.is_admitted == free
        holder.append(ticket)
        self.present.append(ticket)
        self.address[ticket] = address
        self.seen[ticket] = ticket.position

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        ticket = self.present.pop(data.draw(st.integers(0, len(self.present) - 1)))
        before = self.waiting()
        is_wanted = ticket.is_admitted and self.admission.is_wanted(self.address[ticket])
        ticket.leave()
        self.left.append(ticket)
        admitted = [other for other in before if other.is_admitted]
        assert len(admitted) == is_wanted
        for other in admitted:  # whom it overtook has its share
            assert all(self.has_its_share(self.address[passed]) for passed in before[: before.index(other)])

    @precondition(lambda self: self.left)
    @rule(data=st.data())
    def leave_again(self, data: Any) -> None:
        data.draw(st.sampled_from(self.left)).leave()

    @invariant()
    def nobody_has_more_than_the_limits(self) -> None:
        queued = self.waiting()
        assert self.admission.admitted == len(self.present) - len(queued) <= self.slots
        assert self.admission.waiting == len(queued) <= self.queue
        for address in (A, B):
            assert self.held(address) <= self.share
            assert sum(self.address[ticket] == address for ticket in queued) <= self.queue_share

    @invariant()
    def those_who_wait_know_their_positions(self) -> None:
        queued = self.waiting()
        assert [ticket.position for ticket in queued] == list(range(1, len(queued) + 1))
        assert all(self.seen[ticket] == ticket.position for ticket in self.present)

    @invariant()
    def no_slot_is_free_for_one_who_waits(self) -> None:
        if self.admission.admitted < self.slots:
            assert all(self.has_its_share(self.address[ticket]) for ticket in self.waiting())


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_many_threads_never_exceed_the_number_of_slots() -> None:
    admission, most, lock = Admission(3, 20), [0, 0], threading.Lock()

    def come_and_go() -> None:
        for _ in range(50):
            moved = threading.Event()
            ticket = admission.enter(moved.set)
            while not ticket.is_admitted:
                assert moved.wait(30)
                moved.clear()
            with lock:
                most[0] += 1
                most[1] = max(most)
            with lock:
                most[0] -= 1
            ticket.leave()

    threads = [threading.Thread(target=come_and_go) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert 1 <= most[1] <= 3
    assert (admission.admitted, admission.waiting) == (0, 0)
