"""The way out to a client: in order, bounded, and never in the way of whoever puts something in."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from qwen_asr.web.sockets.outbox import Outbox


def message(kind: str, utterance: int, text: str = "") -> dict[str, Any]:
    return {"type": kind, "utterance": utterance, "text": text}


async def drain(outbox: Outbox) -> list[dict[str, Any]]:
    outbox.end()
    taken = []
    while (one := await outbox.take()) is not None:
        taken.append(one)
    return taken


def test_of_an_utterance_only_the_newest_partial_waits() -> None:
    outbox = Outbox(3)
    for utterance in range(3):
        for step in range(50):
            outbox.put(message("partial", utterance, str(step)))
        outbox.put(message("final", utterance))
    assert len(outbox) == 6
    taken = asyncio.run(drain(outbox))
    assert [(one["type"], one["utterance"]) for one in taken] == [
        (kind, utterance) for utterance in range(3) for kind in ("partial", "final")
    ]
    assert {one["text"] for one in taken} == {"49", ""}


def test_everything_else_is_kept_and_it_says_when_it_is_full() -> None:
    outbox = Outbox(3)
    for utterance in range(4):
        assert not outbox.full
        outbox.put(message("final", utterance))
    assert outbox.full
    for utterance in range(4, 100):
        outbox.put(message("error" if utterance % 2 else "final", utterance))
    assert [one["utterance"] for one in asyncio.run(drain(outbox))] == list(range(100))


def test_threads_put_and_the_loop_takes_in_order() -> None:
    outbox = Outbox(10)

    def speak() -> None:
        for utterance in range(2_000):
            outbox.put(message("final", utterance))
        outbox.end()

    async def listen() -> list[int]:
        thread = threading.Thread(target=speak)
        thread.start()
        heard = []
        while (one := await outbox.take()) is not None:
            heard.append(one["utterance"])
        thread.join()
        return heard

    assert asyncio.run(asyncio.wait_for(listen(), 60)) == list(range(2_000))
