"""Resuming sessions of `/ws/asr` that have lost their connection, message by message."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.signal import resample_poly

from qwen_asr.config.config import Config
from qwen_asr.service.service import Service
from qwen_asr.web.sockets.asr.session import AsrSession
from tests.support.aligners import aligned_by, even_words
from tests.support.checkpoints import Samples, demo_recognizer, spoken
from tests.support.engine_double import AlignerDouble
from tests.support.sockets import PATIENT, Client, Listening, client, listening, silence, until

SENTENCES = ("Turn on the kitchen light.", "The meeting is on Monday the tenth of May.", "Wake me up at half past six.")
# Pauses between the sentences that end an utterance, and none after the last: `finalize` ends that, so its final counts
# all samples, however early the audio arrives.
SAID: Samples = np.concatenate(
    [silence(0.5), *[part for sentence in SENTENCES for part in (spoken(sentence), silence(1.5))][:-1]]
)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    torch.set_num_threads(1)
    with contextlib.closing(Service(Config(chunk_size_sec=0.5), demo_recognizer())) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def served(service: Service) -> Iterator[Listening]:
    with listening(service) as server:
        yield server


def results(messages: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What must not depend on how often the connection was lost."""
    finals = [one for one in messages if one["type"] == "final"]
    return [(one["utterance"], one["start"], one["end"], one["end_sample"], one["text"]) for one in finals]


@pytest.fixture(scope="module")
def uncut(served: Listening) -> list[tuple[Any, ...]]:
    """The results for SAID over one connection."""

    async def speak() -> list[dict[str, Any]]:
        async with client(served.url) as speaker:
            await speaker.config()
            await speaker.audio(SAID)
            assert await speaker.finalize() == 1000
        return speaker.messages

    found = results(asyncio.run(speak()))
    assert [text for *_, text in found] == list(SENTENCES)
    assert [end_sample for *_, end_sample, _ in found] == [round(end * 16_000) for _, _, end, *_ in found]
    return found


async def resume(speaker: Client, session: str, offset: int = 0, **settings: Any) -> dict[str, Any]:
    """Resumes the session; returns the answer."""
    await speaker.send({"type": "config", "resume": session, "offset": offset, **settings})
    assert await until(lambda: bool(speaker.messages))
    return speaker.messages[0]


def drop(speaker: Client) -> None:
    """Loses the connection, as when the network fails."""
    speaker.connection.transport.abort()


@pytest.mark.slow
def test_a_session_goes_on_where_it_stopped(served: Listening, uncut: list[tuple[Any, ...]]) -> None:
    async def speak() -> tuple[Client, dict[str, Any]]:
        async with client(served.url) as first:
            session = await first.config()
            await first.audio(SAID[:60_000])
            final = await first.wait_for("final")
            await first.connection.send(SAID[60_000:61_000].astype("<f4").tobytes()[:-3])  # cut within a sample
            drop(first)
        async with client(served.url) as second:
            answer = await resume(second, session, final["end_sample"])
            assert set(answer) == {"type", "session_id", "received_samples"}
            assert (answer["type"], answer["session_id"]) == ("session_resumed", session)
            assert 30_000 < answer["received_samples"] <= 60_999
            await second.audio(SAID[answer["received_samples"] :])
            assert await second.finalize() == 1000
        return second, final

    second, final = asyncio.run(speak())
    assert final["text"] == SENTENCES[0]
    assert results([final, *second.messages]) == uncut
    assert second.messages[-1]["received_samples"] == len(SAID)


@pytest.mark.slow
@pytest.mark.parametrize("is_quick", [True, False])
def test_a_resumed_session_keeps_its_words(served: Listening, is_quick: bool) -> None:
    async def speak() -> list[dict[str, Any]]:
        async with client(served.url) as first:
            session = await first.config(words=True)
            await first.audio(SAID[:60_000])
            await first.wait_for("final")
            drop(first)
        async with client(served.url) as second:
            answer = await resume(second, session, 0)
            await second.audio(SAID[answer["received_samples"] :])
            assert await second.finalize() == 1000
        return second.messages

    with aligned_by(demo_recognizer(), AlignerDouble(is_quick=is_quick)):
        messages = asyncio.run(speak())
    later = {one["utterance"]: one["words"] for one in messages if one["type"] == "words"}
    finals = [one for one in messages if one["type"] == "final"]
    assert [final["text"] for final in finals] == list(SENTENCES)
    assert finals[0]["repeated"] is True
    for final in finals:
        words = final["words"] or later[final["utterance"]]
        assert words == even_words(final["text"], final["start"], final["end"])
        assert is_quick <= bool(final["words"])


@pytest.mark.slow
def test_finals_are_repeated_and_marked(served: Listening, uncut: list[tuple[Any, ...]]) -> None:
    async def speak(offset: int) -> list[dict[str, Any]]:
        async with client(served.url) as first:
            session = await first.config()
            await first.audio(SAID)
            await first.wait_for("final", 2)
            drop(first)
        async with client(served.url) as second:
            answer = await resume(second, session, offset)
            await second.audio(SAID[answer["received_samples"] :])
            assert await second.finalize() == 1000
        return second.messages

    for offset, missed in ((0, 3), (uncut[0][3], 2), (uncut[0][3] - 1, 3)):
        messages = asyncio.run(speak(offset))
        assert results(messages) == uncut[-missed:]
        finals = [one for one in messages if one["type"] == "final"]
        marks = [one.get("repeated", False) for one in finals]
        assert all(marks[: missed - 1])  # two existed when the connection was lost, and maybe the third


@pytest.mark.slow
def test_a_connection_lost_after_the_finalize_loses_no_final(served: Listening, uncut: list[tuple[Any, ...]]) -> None:
    async def speak() -> list[dict[str, Any]]:
        async with client(served.url) as first:
            session = await first.config()
            await first.audio(SAID)
            await first.send({"type": "finalize"})
            assert await until(lambda: any(one.finalized and one.id == session for one in known()))
            drop(first)
        for _ in range(2):  # the second time everything was delivered, but the close may have been lost
            async with client(served.url) as second:
                await resume(second, session, uncut[0][3])
                assert second.messages[0]["received_samples"] == len(SAID)
                assert await second.closed() == 1000  # it need not finalize again
        return second.messages

    def known() -> list[AsrSession]:
        return list(served.route.sessions._by_digest.values())

    messages = asyncio.run(speak())
    assert results(messages) == uncut[1:]
    assert all(one["repeated"] for one in messages[1:])


@pytest.mark.slow
def test_an_unknown_session_starts_at_the_offset(served: Listening, uncut: list[tuple[Any, ...]]) -> None:
    at = uncut[0][3]

    async def speak(unknown: str) -> list[dict[str, Any]]:
        async with client(served.url) as speaker:
            answer = await resume(speaker, unknown, at)
            assert answer["type"] == "session_created"
            assert answer["received_samples"] == at
            assert answer["session_id"] != unknown
            await speaker.audio(SAID[at:])
            assert await speaker.finalize() == 1000
        return speaker.messages

    for unknown in ("t5Vq0Yx3dC9mXo2b1JrW8w", "ä" * 1_000):
        messages = asyncio.run(speak(unknown))
        found = results(messages)
        assert [text for *_, text in found] == [text for *_, text in uncut[1:]]
        for (number, start, end, end_sample, _), (other, old_start, old_end, *_) in zip(found, uncut[1:], strict=True):
            assert number == other - 1
            assert abs(start - old_start) < 0.1
            assert abs(end - old_end) < 0.1
            assert end_sample == round(end * 16_000)
        assert messages[-1]["received_samples"] == len(SAID)
        assert not any("repeated" in one for one in messages)


@pytest.mark.slow
def test_samples_are_counted_at_the_clients_rate(served: Listening) -> None:
    at_48 = resample_poly(np.concatenate([silence(1.0), SAID]), 3, 1).clip(-1, 1)
    settings = {"sample_rate": 48_000, "encoding": "s16le"}

    async def speak() -> list[dict[str, Any]]:
        data = (at_48 * 32_767).astype("<i2")
        async with client(served.url) as first:
            answer = await resume(first, "unknown", 48_000, **settings)
            session = answer["session_id"]
            await first.connection.send(data[48_000:250_000].tobytes()[:-1])
            final = await first.wait_for("final")
            drop(first)
        async with client(served.url) as second:
            answer = await resume(second, session, final["end_sample"])  # without settings, the session keeps its own
            await second.connection.send(data[answer["received_samples"] :].tobytes())
            assert await second.finalize() == 1000
        return [final, *second.messages]

    messages = asyncio.run(speak())
    assert [text for *_, text in results(messages)] == list(SENTENCES)
    assert all(abs(end_sample - end * 48_000) <= 1 for _, _, end, end_sample, _ in results(messages))
    assert messages[-1]["received_samples"] == len(at_48)


def test_a_resumed_session_keeps_its_settings(served: Listening) -> None:
    async def speak() -> None:
        async with client(served.url) as first:
            session = await first.config(context="May")
            await first.audio(SAID[:1_600])
            await first.connection.ping()
            assert await until(lambda: any(one.has_audio for one in served.route.sessions.active))
            drop(first)
        async with client(served.url) as second:
            answer = await resume(second, session, encoding="s16le")
            assert answer["code"] == "BadConfig"
            assert "f32le" in answer["message"]
            assert await second.closed() == 1008
        async with client(served.url) as third:
            answer = await resume(third, session, context="June", encoding="f32le")
            assert answer["type"] == "session_resumed"
            assert answer["warning"].startswith("resume: context differ")

    asyncio.run(speak())


@pytest.mark.parametrize(
    "wrong",
    [{"offset": 1}, {"resume": 1}, {"resume": "x", "offset": -1}, {"resume": "x", "offset": 0.5},
     {"resume": "x", "offset": 2**54}, {"resume": "x", "offset": "0"}, {"resume": "x", "offset": True}],
)  # fmt: skip
def test_a_wrong_offset_is_answered(served: Listening, wrong: dict[str, Any]) -> None:
    async def speak() -> dict[str, Any]:
        async with client(served.url) as speaker:
            await speaker.send({"type": "config", **wrong})
            assert await speaker.closed() == 1008
        return speaker.messages[0]

    assert asyncio.run(speak())["code"] == "BadConfig"


@pytest.mark.slow
def test_a_half_open_connection_is_taken_over(served: Listening, uncut: list[tuple[Any, ...]]) -> None:
    async def speak() -> list[dict[str, Any]]:
        async with client(served.url) as first, client(served.url) as second:
            session = await first.config()
            await first.audio(SAID[:60_000])
            final = await first.wait_for("final")
            answer = await resume(second, session, final["end_sample"])
            assert answer["type"] == "session_resumed"
            assert await first.closed() == 4001
            await second.audio(SAID[answer["received_samples"] :])
            assert await second.finalize() == 1000
        return [final, *second.messages]

    assert results(asyncio.run(speak())) == uncut


def test_of_many_connections_that_resume_one_gets_the_session(served: Listening) -> None:
    async def speak() -> list[int | None]:
        async with contextlib.AsyncExitStack() as stack:
            first = await stack.enter_async_context(client(served.url))
            session = await first.config()
            await first.audio(SAID[:16_000])
            # A session without audio would not be kept.
            assert await until(lambda: any(one.id == session and one.has_audio for one in served.route.sessions.active))
            others = [await stack.enter_async_context(client(served.url)) for _ in range(5)]
            await asyncio.gather(*(resume(other, session) for other in others))
            assert await until(lambda: sum(one.connection.close_code == 4001 for one in [first, *others]) == 5)
            [alive] = [one for one in others if one.connection.close_code is None]
            assert await alive.finalize() == 1000
            return [one.connection.close_code for one in others]

    assert sorted(map(str, asyncio.run(speak()))) == ["1000", *["4001"] * 4]


def test_a_session_of_another_client_is_unknown(served: Listening) -> None:
    async def speak() -> None:
        async with client(served.url, additional_headers={"Authorization": "Bearer one"}) as first:
            session = await first.config()
            await first.audio(SAID[:16_000])
            await (await first.connection.ping())
            for header in ({}, {"Authorization": "Bearer two"}, {"X-API-Key": "two"}):
                async with client(served.url, additional_headers=header) as thief:
                    assert (await resume(thief, session))["type"] == "session_created"
            drop(first)
        async with client(f"{served.url}?api_key=one") as second:  # the same key, sent in another way
            assert (await resume(second, session))["type"] == "session_resumed"

    asyncio.run(speak())


@pytest.mark.slow
def test_a_session_keeps_its_slot_while_it_waits_to_be_resumed(service: Service) -> None:
    async def speak(server: Listening) -> None:
        async with client(server.url) as first:
            session = await first.config()
            await first.audio(SAID[:16_000])
            await (await first.connection.ping())
            drop(first)
        assert await until(lambda: server.route.sessions.waiting == 1)
        async with client(server.url) as other:
            await other.send({"type": "config"})
            assert await other.closed() == 1013
        async with client(server.url) as second:  # it resumes the session that has the only slot
            assert (await resume(second, session))["type"] == "session_resumed"
            assert server.route.sessions.waiting == 0

    config = replace(service.config, max_sessions=1, max_queue=0)
    with contextlib.closing(Service(config, demo_recognizer())) as full, listening(full) as server:
        asyncio.run(speak(server))


@pytest.mark.slow
def test_a_session_that_is_not_resumed_in_time_frees_its_slot(service: Service) -> None:
    async def speak(server: Listening) -> None:
        async with client(server.url) as first:
            session = await first.config()
            await first.audio(SAID[:16_000])
            await (await first.connection.ping())
            drop(first)
        assert await until(lambda: not server.route.sessions.active)
        assert server.route.sessions.waiting == 0
        assert not server.route.sessions._by_digest
        async with client(server.url) as second:
            assert (await resume(second, session))["type"] == "session_created"

    config = replace(service.config, max_sessions=1, max_queue=0)
    limits = replace(PATIENT, resume_seconds=0.1)
    with contextlib.closing(Service(config, demo_recognizer())) as full, listening(full, limits) as server:
        asyncio.run(speak(server))


def test_a_client_that_closes_leaves_no_session(served: Listening) -> None:
    async def speak() -> str:
        async with client(served.url) as first:
            session = await first.config()
            await first.audio(SAID[:16_000])
        assert await until(session_is_gone)
        async with client(served.url) as second:
            return str((await resume(second, session))["type"])

    before = len(served.route.sessions.active)

    def session_is_gone() -> bool:
        return len(served.route.sessions.active) == before

    assert asyncio.run(speak()) == "session_created"


@pytest.mark.slow
def test_a_session_that_an_error_ended_is_unknown(served: Listening) -> None:
    async def speak() -> str:
        async with client(served.url) as first:
            session = await first.config()
            await first.audio(SAID[:16_000])
            await first.send({"type": "config"})
            assert await first.closed() == 1007
        async with client(served.url) as second:
            return str((await resume(second, session))["type"])

    assert asyncio.run(speak()) == "session_created"


@pytest.mark.slow
def test_a_session_with_more_finals_than_it_keeps_is_unknown(service: Service) -> None:
    async def speak(server: Listening, missed: int) -> str:
        async with client(server.url) as first:
            session = await first.config()
            await first.audio(SAID)
            finals = [await first.wait_for("final", number + 1) for number in range(2)]
            await first.audio(silence(1.0))
            finals.append(await first.wait_for("final", 3))
            drop(first)
        async with client(server.url) as second:
            return str((await resume(second, session, finals[2 - missed]["end_sample"] if missed < 3 else 0))["type"])

    with listening(service, replace(PATIENT, kept_finals=1)) as server:
        assert [asyncio.run(speak(server, missed)) for missed in (0, 1, 2, 3)] == [
            "session_resumed", "session_resumed", "session_created", "session_created"
        ]  # fmt: skip


@pytest.mark.slow
def test_the_log_shows_too_little_of_the_id_to_resume(served: Listening, caplog: pytest.LogCaptureFixture) -> None:
    async def speak() -> str:
        async with client(served.url) as first:
            session = await first.config()
            await first.audio(SAID[:16_000])
            await (await first.connection.ping())
            drop(first)
        async with client(served.url) as second:
            await resume(second, session)
        return session

    with caplog.at_level(logging.INFO, "qwen_asr"):
        session = asyncio.run(speak())
    assert session[:8] in caplog.text
    assert session[:9] not in caplog.text
