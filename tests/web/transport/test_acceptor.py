"""Which pending connections are closed when there are too many."""

from __future__ import annotations

import asyncio

from qwen_asr.web.transport.acceptor import PendingConnections


def test_above_a_limit_the_oldest_of_the_most_frequent_address_is_cancelled() -> None:
    async def run() -> None:
        pending = PendingConnections(max_total=6, max_per_prefix=4)
        tasks: dict[str, asyncio.Task[None]] = {}

        def connect(name: str) -> None:
            tasks[name] = asyncio.create_task(asyncio.sleep(3600))
            pending.add(name[0], tasks[name])

        async def cancelled() -> set[str]:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return {name for name, task in tasks.items() if task.cancelled()}

        for number in range(5):
            connect(f"a{number}")
        assert await cancelled() == {"a0"}
        connect("b0")
        connect("c0")
        assert await cancelled() == {"a0"}
        connect("d0")
        assert await cancelled() == {"a0", "a1"}
        tasks["a2"].cancel()
        assert await cancelled() == {"a0", "a1", "a2"}
        connect("d1")
        assert await cancelled() == {"a0", "a1", "a2"}
        assert len(pending.tasks()) == 6
        pending.cancel()
        await cancelled()
        assert pending.tasks() == []

    asyncio.run(run())
