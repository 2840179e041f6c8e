"""Admission: slots and the queue, compared with a model that is a list, and from many threads."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from qwen_asr.errors import LimitExceeded
from qwen_asr.service.admission import Admission, QueueTicket


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


class Queue(RuleBasedStateMachine):
    """Admission against a list: its first `slots` tickets are admitted, the others wait."""

    @initialize(slots=st.integers(1, 4), queue=st.integers(0, 4))
    def begin(self, slots: int, queue: int) -> None:
        self.slots, self.queue = slots, queue
        self.admission = Admission(slots, queue)
        self.present: list[QueueTicket] = []
        self.left: list[QueueTicket] = []
        self.seen: dict[QueueTicket, int] = {}  # the last position that each has read

    @rule()
    def enter(self) -> None:
        holder: list[QueueTicket] = []

        def moved() -> None:
            self.seen[holder[0]] = holder[0].position

        if len(self.present) == self.slots + self.queue:
            with pytest.raises(LimitExceeded):
                self.admission.enter(moved)
            return
        self.admission.check_room()
        holder.append(self.admission.enter(moved))
        self.present.append(holder[0])
        self.seen[holder[0]] = holder[0].position

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        ticket = self.present.pop(data.draw(st.integers(0, len(self.present) - 1)))
        ticket.leave()
        self.left.append(ticket)

    @precondition(lambda self: self.left)
    @rule(data=st.data())
    def leave_again(self, data: Any) -> None:
        data.draw(st.sampled_from(self.left)).leave()

    @invariant()
    def tickets_are_admitted_in_order_and_know_their_positions(self) -> None:
        expected = [max(0, index - self.slots + 1) for index in range(len(self.present))]
        assert [ticket.position for ticket in self.present] == expected
        assert [self.seen[ticket] for ticket in self.present] == expected
        assert self.admission.admitted == min(len(self.present), self.slots)
        assert self.admission.waiting == max(0, len(self.present) - self.slots)


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


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
