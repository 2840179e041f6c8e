"""Two checkpoints in one server: each protocol chooses by name, idle models go, and nobody's session breaks."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from qwen_asr.config.config import Config
from qwen_asr.config.limits import Limits, ModelLimits
from qwen_asr.engine.interface import Engine
from qwen_asr.service.service import Service
from tests.support.browser import Served, serving
from tests.support.checkpoints import save_other_demo, spoken
from tests.support.rest_client import wav
from tests.support.sockets import Client, client_of, silence, until

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # of pandas, in Gradio

SAID = "Turn on the kitchen light."
OTHERWISE = "Turn on the bedroom light."
"""What the other checkpoint writes for it."""
TIMEOUT = 120.0


class Gated(Service):
    """A service that loads the models beside the default one only while the gate is open, and counts what it loads."""

    def __init__(self, *paths: str, wait_seconds: float = TIMEOUT) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.loads: list[str] = []
        self.free = 1.0  # the share of the memory
        config = Config(
            host="127.0.0.1", asr_model_path=paths, device="cpu", dtype="float32", quantize="none", chunk_size_sec=0.5
        )
        models = ModelLimits(idle_seconds=0.0, wait_seconds=wait_seconds)
        super().__init__(config, limits=Limits(models=models), memory=lambda: (round(self.free * 1e15), 10**15))

    def _load(self, path: str, progress: Callable[[str], None]) -> Engine:
        self.loads.append(Path(path).name)
        assert path == "demo" or self.gate.wait(TIMEOUT)
        return super()._load(path, progress)

    def states(self) -> list[str]:
        return [model.state for model in self.models.all]

    async def unload(self) -> None:
        """Memory becomes short, until the models beside the default one are gone."""
        self.free = 0.01
        assert await until(lambda: self.states()[1] == "unloaded")
        self.free = 1.0


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_other_demo(tmp_path_factory.mktemp("models") / "other"))


@contextlib.contextmanager
def running(*paths: str, **options: Any) -> Iterator[tuple[Gated, Served]]:
    service = Gated(*paths, **options)
    service.start()
    assert service.wait(TIMEOUT) == "ready", service.text
    with serving(service, None) as served:
        try:
            yield service, served
        finally:
            service.gate.set()
            assert asyncio.run(until(lambda: "loading" not in service.states()))  # transformers loads one at a time


@pytest.fixture
def both(other: str) -> Iterator[tuple[Gated, Served]]:
    """The demo and the other checkpoint, of which the other is not loaded."""
    with running("demo", other) as pair:
        yield pair


def post(served: Served, model: str, path: str = "/v1/audio/transcriptions", **options: Any) -> httpx.Response:
    options = options or {"files": {"file": ("a.wav", wav(spoken(SAID)))}, "data": {"model": model}}
    return httpx.post(served.url + path, timeout=TIMEOUT, **options)


def test_a_file_is_transcribed_by_the_model_that_it_names(both: tuple[Gated, Served]) -> None:
    service, served = both
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:

        def text(model: str) -> str:
            return client.audio.transcriptions.create(file=("a.wav", wav(spoken(SAID))), model=model).text

        assert [model.id for model in client.models.list()] == ["demo", "other"]
        assert text("whisper-1") == SAID
        assert service.loads == ["demo"]
        assert [text(name) for name in ("other", "Other", "me/other", "demo", "gpt-4o-transcribe")] == [
            OTHERWISE, OTHERWISE, OTHERWISE, SAID, SAID,
        ]  # fmt: skip
        assert service.loads == ["demo", "other"]
        states = {model.id: model.state for model in client.models.list()}  # type: ignore[attr-defined]  # ours
        assert states == {"demo": "ready", "other": "ready"}
        assert client.models.retrieve("OTHER").id == "other"
        with pytest.raises(openai.NotFoundError, match="'demo' and 'other' are, and the first answers under any other"):
            client.models.retrieve("whisper-1")


def test_answers_say_which_model_gave_them(both: tuple[Gated, Served]) -> None:
    _, served = both
    audio = {"type": "input_audio", "input_audio": {"data": base64.b64encode(wav(spoken(SAID))).decode()}}
    for name, answers, text in (("OTHER", "other", OTHERWISE), ("qwen3-asr-flash", "demo", SAID)):
        body = {"model": name, "messages": [{"role": "user", "content": [audio]}]}
        answer = post(served, name, "/v1/chat/completions", json=body).json()
        assert (answer["model"], answer["choices"][0]["message"]["content"].endswith(text)) == (answers, True)
        answer = post(served, name, f"/v1/listen?model={name}", content=wav(spoken(SAID))).json()
        assert [one["name"] for one in answer["metadata"]["model_info"].values()] == [answers]
        assert answer["results"]["channels"][0]["alternatives"][0]["transcript"] == text


def test_the_files_of_the_page_have_the_model_that_is_chosen_there(both: tuple[Gated, Served]) -> None:
    _, served = both
    files = {"file": ("a.wav", wav(spoken(SAID)))}
    for model, text in (("other", OTHERWISE), ("", SAID), ("gone", SAID)):
        answer = post(served, model, "/page/transcribe", files=files, data={"model": model})
        assert text in answer.text


def test_many_requests_at_once_load_a_model_once(both: tuple[Gated, Served]) -> None:
    service, served = both
    service.gate.clear()
    with ThreadPoolExecutor(9) as pool:
        answers = [pool.submit(post, served, "other") for _ in range(8)]
        default = pool.submit(post, served, "demo")
        assert default.result().json()["text"] == SAID  # it need not wait for the others
        service.gate.set()
        assert [answer.result().json()["text"] for answer in answers] == [OTHERWISE] * 8
    assert service.loads == ["demo", "other"]
    assert service.models.all[1].uses == 0


def test_a_request_waits_for_its_model_so_long_and_not_longer(other: str) -> None:
    with running("demo", other, wait_seconds=0.2) as (service, served):
        service.gate.clear()
        answer = post(served, "other")
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert answer.json()["error"]["code"] == "not_ready"
        assert "load" in answer.json()["error"]["message"].lower()
        service.gate.set()
        assert asyncio.run(until(lambda: service.states() == ["ready", "ready"]))
        assert post(served, "other").json()["text"] == OTHERWISE
        assert service.loads == ["demo", "other"]


def test_a_model_that_cannot_be_loaded_is_an_error_for_those_who_want_it(tmp_path: Path) -> None:
    async def sockets(served: Served) -> None:
        async with speaking(served, "/ws/asr") as speaker:
            await speaker.send({"type": "config", "model": "missing"})
            error = await speaker.wait_for("error")
            assert error["code"] == "CheckpointNotFound"
            assert await speaker.closed() == 1011
        async with speaking(served, "/v1/realtime?model=demo") as speaker:
            await speaker.wait_for("session.created")
            await speaker.choose("missing")
            assert "There is no folder" in (await speaker.wait_for("error"))["error"]["message"]
            assert await speaker.turn() == SAID  # it goes on with the model that it has

    with running("demo", str(tmp_path / "missing")) as (_, served):
        answer = post(served, "missing")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "checkpoint_not_found")
        asyncio.run(sockets(served))
        assert post(served, "demo").json()["text"] == SAID
        assert httpx.get(served.url + "/readyz").status_code == 200
        assert [model["state"] for model in httpx.get(served.url + "/v1/models").json()["data"]] == ["ready", "failed"]


class Speaker(Client):
    """A client of any of the sockets."""

    turns = 0

    async def choose(self, model: str) -> None:
        """Chooses a model in a realtime session."""
        session = {"type": "transcription", "audio": {"input": {"transcription": {"model": model}}}}
        await self.send({"type": "session.update", "session": session})

    async def turn(self) -> str:
        """Says the sentence in a realtime session; returns its text."""
        pcm = (np.concatenate([spoken(SAID), silence(0.3)]) * 32_767).astype("<i2").tobytes()
        update = {"input_audio_format": "pcm16", "sample_rate": 16_000, "turn_detection": None}
        await self.send({"type": "session.update", "session": update})
        await self.send({"type": "input_audio_buffer.append", "audio": base64.b64encode(pcm).decode()})
        await self.send({"type": "input_audio_buffer.commit"})
        self.turns += 1
        return str((await self.wait_for(COMPLETED, self.turns))["transcript"])

    async def models(self) -> list[str]:
        """What the realtime session has said of its model."""
        sessions = [one["session"] for one in self.messages if one["type"].startswith("session.") and "session" in one]
        return [one["audio"]["input"]["transcription"]["model"] for one in sessions]


COMPLETED = "conversation.item.input_audio_transcription.completed"


@contextlib.asynccontextmanager
async def speaking(served: Served, path: str, **options: Any) -> AsyncIterator[Speaker]:
    async with client_of(Speaker, served.url.replace("http", "ws", 1) + path, **options) as speaker:
        yield speaker


async def finals(speaker: Speaker) -> list[str]:
    assert await speaker.finalize() == 1000
    return [final["text"] for final in speaker.of_type("final")]


def test_a_session_of_our_protocol_waits_for_its_model_and_loses_nothing(both: tuple[Gated, Served]) -> None:
    service, served = both

    async def speak() -> None:
        service.gate.clear()
        async with speaking(served, "/ws/asr") as speaker, speaking(served, "/ws/asr") as usual:
            await speaker.send({"type": "config", "model": "Other"})
            assert "oad" in (await speaker.wait_for("loading"))["message"]
            await speaker.audio(spoken(SAID))
            assert service.admission.admitted == 0  # it needs no slot yet
            await usual.send({"type": "config", "model": "nova-3"})
            assert (await usual.wait_for("session_created"))["model"] == "demo"
            await usual.audio(spoken(SAID))
            assert await finals(usual) == [SAID]
            service.gate.set()
            assert (await speaker.wait_for("session_created"))["model"] == "other"
            assert await finals(speaker) == [OTHERWISE]
        async with speaking(served, "/ws/asr") as quiet:
            await quiet.config()
            assert "model" not in quiet.messages[0]  # only a client that names one is told
            await quiet.finalize()

    asyncio.run(speak())


def test_a_client_that_leaves_while_its_model_is_loaded_holds_it_no_longer(both: tuple[Gated, Served]) -> None:
    service, served = both

    async def speak() -> None:
        service.gate.clear()
        async with speaking(served, "/ws/asr") as speaker:
            await speaker.send({"type": "config", "model": "other"})
            await speaker.wait_for("loading")
            assert service.models.all[1].uses == 1
        assert await until(lambda: service.models.all[1].uses == 0)
        service.gate.set()
        assert await until(lambda: service.states() == ["ready", "ready"])
        await service.unload()

    asyncio.run(speak())


@pytest.mark.parametrize("path", ["/v1/realtime", "/api-ws/v1/realtime"])
def test_a_realtime_session_chooses_its_model_and_changes_it(both: tuple[Gated, Served], path: str) -> None:
    service, served = both

    async def speak() -> None:
        async with speaking(served, f"{path}?model=other") as speaker:
            assert await speaker.turn() == OTHERWISE
            await speaker.send({"type": "input_audio_buffer.clear"})
            await speaker.wait_for("input_audio_buffer.cleared")
            # Between two turns it has no session on the model: only the connection keeps it.
            assert await until(lambda: service.models.all[1].uses == 1)
            await service_stays(service)
            assert await speaker.turn() == OTHERWISE
            await speaker.choose("whisper-1")  # chooses nothing
            assert await speaker.turn() == OTHERWISE
            await speaker.choose("DEMO")
            assert await speaker.turn() == SAID
            await service.unload()
            service.gate.clear()
            await speaker.choose("other")
            turn = asyncio.create_task(speaker.turn())
            assert "oad" in (await speaker.wait_for("session.loading"))["message"]
            service.gate.set()
            assert await turn == OTHERWISE
            if path == "/v1/realtime":
                assert {*await speaker.models()} == {"other", "demo"}
                assert (await speaker.models())[-1] == "other"
            else:
                assert speaker.of_type("session.created")[0]["session"]["model"] == "other"

    asyncio.run(speak())


async def service_stays(service: Gated) -> None:
    """Memory is short for some rounds of the thread that looks after it, and the other model stays."""
    service.free = 0.01
    for _ in range(20):
        service.models.relieve()
        await asyncio.sleep(0.01)
    assert service.states() == ["ready", "ready"]
    service.free = 1.0


def test_a_client_secret_has_the_model_of_its_session(both: tuple[Gated, Served]) -> None:
    _, served = both
    session = {"type": "transcription", "audio": {"input": {"transcription": {"model": "other"}}}}
    answer = post(served, "", "/v1/realtime/client_secrets", json={"session": session}).json()
    assert answer["session"]["audio"]["input"]["transcription"]["model"] == "other"

    async def speak() -> None:
        headers = {"Authorization": f"Bearer {answer['value']}"}
        async with speaking(served, "/v1/realtime", additional_headers=headers) as speaker:
            assert await speaker.turn() == OTHERWISE

    asyncio.run(speak())


def test_a_live_stream_in_deepgrams_protocol_has_its_model(both: tuple[Gated, Served]) -> None:
    service, served = both

    async def speak() -> None:
        service.gate.clear()
        query = "/v1/listen?encoding=linear32&sample_rate=16000&model="
        async with speaking(served, query + "other") as speaker, speaking(served, query + "nova-3") as usual:
            await speaker.wait_for("Error")
            assert speaker.messages[0]["variant"] == "Loading"
            for client in (speaker, usual):
                await client.audio(spoken(SAID))
            service.gate.set()
            for client, name, text in ((speaker, "other", OTHERWISE), (usual, "demo", SAID)):
                await client.send({"type": "CloseStream"})
                assert await client.closed() == 1000
                results = client.of_type("Results")
                assert "".join(one["channel"]["alternatives"][0]["transcript"] for one in results) == text
                assert results[0]["metadata"]["model_info"]["name"] == name
                await service_settles(service)

    asyncio.run(speak())


async def service_settles(service: Gated) -> None:
    assert await until(lambda: "loading" not in service.states())


def test_a_session_that_is_resumed_has_its_model_however_short_memory_was(both: tuple[Gated, Served]) -> None:
    service, served = both
    half = len(spoken(SAID)) // 2

    async def speak() -> None:
        async with speaking(served, "/ws/asr") as speaker:
            session = await speaker.config(model="other")
            await speaker.audio(spoken(SAID)[:half])
            speaker.connection.transport.abort()
            await speaker.closed()
        await service_stays(service)
        async with speaking(served, "/ws/asr") as speaker:
            await speaker.send({"type": "config", "resume": session, "offset": 0, "model": "demo"})
            resumed = await speaker.wait_for("session_resumed")
            assert "model differ" in resumed["warning"]  # the session's stays
            await speaker.audio(spoken(SAID)[resumed["received_samples"] :])
            assert await finals(speaker) == [OTHERWISE]
        await service.unload()
        # Nobody knows the session any more: its successor has the model loaded again.
        async with speaking(served, "/ws/asr") as speaker:
            await speaker.config(resume="gone", offset=0, model="other")
            await speaker.audio(spoken(SAID))
            assert await finals(speaker) == [OTHERWISE]
        assert service.loads == ["demo", "other", "other"]

    asyncio.run(speak())


def test_idle_models_come_and_go_while_sessions_of_the_others_run(other: str, tmp_path: Path) -> None:
    """Two models are loaded and unloaded again and again beside sessions of the default one and of a third."""
    names = ("one", "two")
    folders = [str(save_other_demo(tmp_path / name)) for name in names]
    sentence = np.concatenate([spoken(SAID), silence(1.2)])
    rounds = 3

    async def talk(served: Served, model: str, over: asyncio.Event) -> list[str]:
        async with speaking(served, "/ws/asr") as speaker:
            await speaker.config(model=model)
            while not over.is_set():
                await speaker.audio(sentence)
                await asyncio.sleep(0.05)
            return await finals(speaker)

    async def run(service: Gated, served: Served) -> None:
        over = asyncio.Event()
        talks = [asyncio.create_task(talk(served, model, over)) for model in ("demo", "other", "demo", "other")]
        for _ in range(rounds):
            answers = await asyncio.gather(*(asyncio.to_thread(post, served, name) for name in names))
            assert [answer.json()["text"] for answer in answers] == [OTHERWISE] * 2
            service.free = 0.01
            assert await until(lambda: service.states()[2:] == ["unloaded"] * 2)
            service.free = 1.0
        over.set()
        texts = await asyncio.gather(*talks)
        assert all(texts)
        assert [{*said} for said in texts] == [{SAID}, {OTHERWISE}] * 2
        assert service.loads.count("other") == 1
        assert [service.loads.count(name) for name in names] == [rounds, rounds]
        assert service.sessions.outcomes()["failed"] == 0

    with running("demo", other, *folders) as (service, served):
        asyncio.run(run(service, served))


def test_the_metrics_say_which_models_are_loaded(both: tuple[Gated, Served]) -> None:
    _, served = both
    text = httpx.get(served.url + "/metrics").text
    assert 'qwen_asr_model_loaded{model="demo"} 1.0' in text
    assert 'qwen_asr_model_loaded{model="other"} 0.0' in text
