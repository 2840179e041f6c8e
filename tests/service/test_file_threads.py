"""The threads of files, which yield to live speech."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator

import pytest

from qwen_asr.errors import StepFailed
from qwen_asr.service.file_threads import FileThreads


@pytest.fixture
def threads() -> Iterator[FileThreads]:
    """One thread for all files."""
    threads = FileThreads(1)
    yield threads
    threads.close()


def test_work_is_done_in_turn_in_the_context_of_its_caller(threads: FileThreads) -> None:
    name = contextvars.ContextVar("name", default="")
    done: list[tuple[str, int]] = []

    async def work(number: int) -> int:
        def note() -> int:
            done.append((name.get(), threading.get_ident()))
            return number

        name.set(str(number))
        return await threads.run(note)

    async def run() -> list[int]:
        return await asyncio.gather(*map(work, range(5)))

    assert asyncio.run(run()) == [0, 1, 2, 3, 4]
    assert [text for text, _ in done] == ["0", "1", "2", "3", "4"]
    assert len({ident for _, ident in done}) == 1


def test_an_error_reaches_the_caller(threads: FileThreads) -> None:
    with pytest.raises(ZeroDivisionError):
        asyncio.run(threads.run(lambda: 1 // 0))


def test_threads_that_were_ended_say_so(threads: FileThreads) -> None:
    threads.close()
    with pytest.raises(StepFailed, match="The recognizer was stopped"):
        asyncio.run(threads.run(threading.get_ident))


def test_cancelled_work_is_waited_for_if_it_has_begun_and_else_dropped(threads: FileThreads) -> None:
    begun, release, done = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        assert release.wait(60)
        done.append("first")

    async def run() -> None:
        first = asyncio.create_task(threads.run(work))
        second = asyncio.create_task(threads.run(lambda: done.append("second")))
        await asyncio.to_thread(begun.wait)
        second.cancel()
        await asyncio.wait([second])
        first.cancel()
        await asyncio.sleep(0)
        assert not first.done()
        release.set()
        await asyncio.wait([first])
        assert first.cancelled()

    asyncio.run(run())
    assert done == ["first"]
