"""Places and the queue for them: against a model that is a list, and from many threads."""

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
def test_so_many_places_so_many_waiting_and_no_more(queue: int) -> None:
    admission = Admission(2, queue)
    tickets = [admission.enter() for _ in range(2 + queue)]
    assert [ticket.position for ticket in tickets] == [0, 0, *range(1, queue + 1)]
    with pytest.raises(LimitExceeded, match="All 2 places of this server are taken"):
        admission.enter()
    with pytest.raises(LimitExceeded):
        admission.check_room()
    tickets[0].leave()
    admission.check_room()
    assert admission.enter().position == queue


def test_who_cannot_wait_leaves_no_trace_in_the_queue() -> None:
    admission = Admission(1, 1)
    first = admission.enter_at_once()
    with pytest.raises(LimitExceeded):
        admission.enter_at_once()
    assert (admission.inside, admission.waiting) == (1, 0)
    first.leave()
    assert admission.enter_at_once().is_in


def test_a_ticket_may_call_back() -> None:
    admission = Admission(1, 2)
    first = admission.enter()
    told: list[int] = []

    def called() -> None:
        told.append(second.position)
        second.leave()

    second = admission.enter(called)
    third = admission.enter(lambda: told.append(third.position))
    first.leave()
    assert third.is_in
    assert told[0] == 0
    assert (admission.inside, admission.waiting) == (1, 0)


class Queue(RuleBasedStateMachine):
    """Admission against a list: the first `places` of it are in, the others wait."""

    @initialize(places=st.integers(1, 4), queue=st.integers(0, 4))
    def begin(self, places: int, queue: int) -> None:
        self.places, self.queue = places, queue
        self.admission = Admission(places, queue)
        self.came: list[QueueTicket] = []
        self.gone: list[QueueTicket] = []
        self.seen: dict[QueueTicket, int] = {}  # what each was told last

    @rule()
    def enter(self) -> None:
        holder: list[QueueTicket] = []

        def moved() -> None:
            self.seen[holder[0]] = holder[0].position

        if len(self.came) == self.places + self.queue:
            with pytest.raises(LimitExceeded):
                self.admission.enter(moved)
            return
        self.admission.check_room()
        holder.append(self.admission.enter(moved))
        self.came.append(holder[0])
        self.seen[holder[0]] = holder[0].position

    @precondition(lambda self: self.came)
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        ticket = self.came.pop(data.draw(st.integers(0, len(self.came) - 1)))
        ticket.leave()
        self.gone.append(ticket)

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def leave_again(self, data: Any) -> None:
        data.draw(st.sampled_from(self.gone)).leave()

    @invariant()
    def who_came_first_is_in_and_all_know_their_position(self) -> None:
        expected = [max(0, index - self.places + 1) for index in range(len(self.came))]
        assert [ticket.position for ticket in self.came] == expected
        assert [self.seen[ticket] for ticket in self.came] == expected
        assert self.admission.inside == min(len(self.came), self.places)
        assert self.admission.waiting == max(0, len(self.came) - self.places)


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_from_many_threads_never_more_are_in_than_there_are_places() -> None:
    admission, most, lock = Admission(3, 20), [0, 0], threading.Lock()

    def come_and_go() -> None:
        for _ in range(50):
            come_in = threading.Event()
            ticket = admission.enter(come_in.set)
            while not ticket.is_in:
                assert come_in.wait(30)
                come_in.clear()
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
    assert (admission.inside, admission.waiting) == (0, 0)
