"""The outbox: in order, bounded, and never blocking the thread that puts a message in."""

from __future__ import annotations

import asyncio
import threading

from qwen_asr.live.events import Failed, Final, Partial
from qwen_asr.web.sockets.asr.messages import FinalMessage, PartialMessage, UtteranceErrorMessage, event_message
from qwen_asr.web.sockets.messages import ServerMessage
from qwen_asr.web.sockets.outbox import Outbox


def partial(utterance: int, text: str = "") -> ServerMessage:
    return event_message(Partial(utterance, 0, 1, None, text, 0, 0.0), 1, 0.0)


def final(utterance: int) -> ServerMessage:
    return event_message(Final(utterance, 0, 1, None, "final", 0.0), 1, 0.0)


def failed(utterance: int) -> ServerMessage:
    return event_message(Failed(utterance, 0, 1, "It failed.", 0.0), 1, 0.0)


def utterance_of(message: ServerMessage) -> int:
    assert isinstance(message, PartialMessage | FinalMessage | UtteranceErrorMessage)
    return message.utterance


async def drain(outbox: Outbox) -> list[ServerMessage]:
    outbox.end()
    taken = []
    while (message := await outbox.take()) is not None:
        taken.append(message)
    return taken


def test_only_the_newest_partial_of_an_utterance_waits() -> None:
    outbox = Outbox(3)
    for utterance in range(3):
        for step in range(50):
            outbox.put(partial(utterance, str(step)))
        outbox.put(final(utterance))
    assert len(outbox) == 6
    taken = asyncio.run(drain(outbox))
    assert [(message.type, utterance_of(message)) for message in taken] == [
        (kind, utterance) for utterance in range(3) for kind in ("partial", "final")
    ]
    assert {message.as_dict()["text"] for message in taken} == {"49", "final"}


def test_every_other_message_is_kept_and_full_reports_too_many() -> None:
    outbox = Outbox(3)
    for utterance in range(4):
        assert not outbox.full
        outbox.put(final(utterance))
    assert outbox.full
    for utterance in range(4, 100):
        outbox.put(failed(utterance) if utterance % 2 else final(utterance))
    assert [utterance_of(message) for message in asyncio.run(drain(outbox))] == list(range(100))


def test_threads_put_and_the_event_loop_takes_in_order() -> None:
    outbox = Outbox(10)

    def put_all() -> None:
        for utterance in range(2_000):
            outbox.put(final(utterance))
        outbox.end()

    async def take_all() -> list[int]:
        thread = threading.Thread(target=put_all)
        thread.start()
        taken = []
        while (message := await outbox.take()) is not None:
            taken.append(utterance_of(message))
        thread.join()
        return taken

    assert asyncio.run(asyncio.wait_for(take_all(), 120)) == list(range(2_000))
