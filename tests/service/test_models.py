"""The models of a server: real checkpoints, which are loaded when they are asked for and go when memory is short."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from qwen_asr.config.config import Config
from qwen_asr.config.limits import RETRY_AFTER_SECONDS, Limits, ModelLimits
from qwen_asr.engine.decoder.kv_pool import PAGE
from qwen_asr.engine.device.memory import return_memory
from qwen_asr.engine.interface import Engine
from qwen_asr.errors import CheckpointNotFound, NotReady
from qwen_asr.fleet.watched_engine import WatchedEngine
from qwen_asr.live.events import Event, Final
from qwen_asr.service.models import Model
from qwen_asr.service.service import Service
from tests.support.checkpoints import Samples, random_processor, save_other_demo, spoken
from tests.support.faults import poisoned, whenever_poisoned
from tests.support.processes import until
from training.model import build_model

SAID = "Turn on the kitchen light."
OTHERWISE = "Turn on the bedroom light."
"""What the other checkpoint writes for it."""
TIMEOUT = 120.0
GB = 10**9


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_other_demo(tmp_path_factory.mktemp("models") / "other")


@dataclass
class Surroundings:
    """What a service sees of the machine: the free memory, and the time, which also moves by itself."""

    free: int = 100 * GB
    total: int = 100 * GB
    now: float = 1000.0
    loads: list[str] = field(default_factory=list)
    may_load: threading.Event = field(default_factory=threading.Event)

    def clock(self) -> float:
        self.now += 1e-6  # it never stands still
        return self.now

    def memory(self) -> tuple[int, int]:
        return self.free, self.total


@pytest.fixture
def around() -> Surroundings:
    surroundings = Surroundings()
    surroundings.may_load.set()
    return surroundings


class Counting(Service):
    """A service that notes what it loads, and waits before it does."""

    def __init__(self, around: Surroundings, *paths: str, **limits: Any) -> None:
        self._around = around
        super().__init__(
            Config(asr_model_path=paths, device="cpu", dtype="float32", quantize="none", chunk_size_sec=0.5),
            limits=Limits(models=ModelLimits(**limits)),
            clock=around.clock,
            memory=around.memory,
        )

    def _load(self, path: str, progress: Callable[[str], None]) -> Engine:
        self._around.loads.append(path)
        assert self._around.may_load.wait(TIMEOUT)
        return super()._load(path, progress)


@contextlib.contextmanager
def running(around: Surroundings, *paths: str, **limits: Any) -> Iterator[Counting]:
    """A service whose default model is loaded."""
    service = Counting(around, *paths, **limits)
    with contextlib.closing(service):
        service.start()
        assert service.wait(TIMEOUT) == "ready", service.text
        yield service


def load(service: Service, name: str) -> Model:
    """Loads a model for a moment."""
    use = service.use_model(name)
    if use.settled is not None:
        use.settled.result(TIMEOUT)
    use.model.loaded()
    use.leave()
    return use.model


class Talk:
    """A session of a model, and its texts."""

    def __init__(self, service: Service, model: str) -> None:
        self._events: list[Event] = []
        self._runner = service.open_session(service.session_options(model=model), self._events.extend)

    def speak(self, samples: Samples | None = None) -> None:
        self._runner.feed(spoken(SAID) if samples is None else samples)

    def close(self) -> None:
        self._runner.close()

    def end(self) -> list[str]:
        self._runner.finish().result(TIMEOUT)
        self._runner.close()
        return [event.text for event in self._events if isinstance(event, Final)]


def text_of(service: Service, model: str) -> list[str]:
    talk = Talk(service, model)
    talk.speak()
    return talk.end()


def states(service: Service) -> list[str]:
    return [model.state for model in service.models.all]


def test_a_session_has_the_model_that_it_names_which_is_loaded_at_the_first_use(
    other: Path, around: Surroundings
) -> None:
    with running(around, "demo", str(other)) as service:
        assert around.loads == ["demo"]
        assert states(service) == ["ready", "unloaded"]
        with pytest.raises(NotReady, match=r"Waiting to load other …|Loading other"):
            Talk(service, "other")
        assert service.admission.admitted == 0
        load(service, "OTHER")
        assert text_of(service, "models/Other") == [OTHERWISE]
        assert text_of(service, "whisper-1") == text_of(service, "") == [SAID]
        assert [service.model_name(name) for name in ("other", "demo", "nova-3", None)] == [
            "other", "demo", "demo", "demo",
        ]  # fmt: skip
        assert around.loads == ["demo", str(other)]
        assert service.busy_seconds > 0
        assert service.as_dict()["model"] == "Models: demo, other"


def test_what_depends_on_the_model_is_that_of_the_one_that_is_named(other: Path, around: Surroundings) -> None:
    with running(around, "demo", str(other)) as service:
        load(service, "other")
        assert (service.has_quick_words("demo"), service.has_quick_words("other")) == (True, False)
        assert service.why_no_words(model="demo") is None
        assert "has no aligner" in str(service.why_no_words(model="other"))


def test_many_requests_at_once_load_a_model_once(other: Path, around: Surroundings) -> None:
    with running(around, "demo", str(other)) as service:
        around.may_load.clear()
        uses = []
        threads = [threading.Thread(target=lambda: uses.append(service.use_model("other"))) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        around.may_load.set()
        for use in uses:
            assert use.settled is not None
            use.settled.result(TIMEOUT)
            assert use.model.loaded() is uses[0].model.loaded()
        assert around.loads == ["demo", str(other)]
        assert uses[0].model.uses == 16
        for use in uses:
            use.leave()
            use.leave()
        assert uses[0].model.uses == 0


def test_models_are_loaded_one_at_a_time(tmp_path: Path, around: Surroundings) -> None:
    folders = [save_other_demo(tmp_path / name) for name in ("one", "two")]
    with running(around, "demo", *map(str, folders)) as service:
        around.may_load.clear()
        uses = [service.use_model(name) for name in ("one", "two")]
        assert [use.model.state for use in uses] == ["loading", "loading"]
        around.may_load.set()
        for use in uses:
            assert use.settled is not None
            use.settled.result(TIMEOUT)
        assert states(service) == ["ready"] * 3


def test_a_model_that_cannot_be_loaded_is_an_error_of_its_own_and_is_tried_again_later(
    tmp_path: Path, around: Surroundings
) -> None:
    missing = tmp_path / "missing"
    with running(around, "demo", str(missing), retry_seconds=30.0) as service:
        talk = Talk(service, "demo")
        for _ in range(3):
            with pytest.raises(CheckpointNotFound, match="There is no folder"):
                load(service, "missing")
        with pytest.raises(CheckpointNotFound):
            Talk(service, "missing")
        assert states(service) == ["ready", "failed"]
        assert (service.state, service.readiness()[0], service.unhealthy_reason()) == ("ready", "ready", None)
        talk.speak()
        assert talk.end() == [SAID]
        save_other_demo(missing)
        with pytest.raises(CheckpointNotFound):
            load(service, "missing")
        around.now += 31
        assert load(service, "missing").state == "ready"
        assert text_of(service, "missing") == [OTHERWISE]


@pytest.mark.slow
def test_an_idle_model_goes_when_memory_is_short_and_comes_back(other: Path, around: Surroundings) -> None:
    with running(around, "demo", str(other), idle_seconds=300.0, short_share=0.1) as service:
        model = load(service, "other")
        assert text_of(service, "other") == [OTHERWISE]
        recognizer = weakref.ref(engine_of(model).recognizer)
        around.free = 11 * GB
        around.now += 1000
        service.models.relieve()
        assert states(service) == ["ready", "ready"]  # memory is not short
        load(service, "other")
        around.free = 9 * GB
        around.now += 299
        service.models.relieve()
        assert states(service) == ["ready", "ready"]  # it was used a moment ago
        busy = service.busy_seconds
        around.now += 2
        service.models.relieve()
        assert states(service) == ["ready", "unloaded"]  # and the default stays
        service.models.relieve()
        assert states(service) == ["ready", "unloaded"]
        assert recognizer() is None
        assert service.busy_seconds >= busy > 0
        assert text_of(service, "demo") == [SAID]
        around.free = 100 * GB
        load(service, "other")
        assert text_of(service, "other") == [OTHERWISE]


def engine_of(model: Model) -> WatchedEngine:
    assert isinstance(model.engine, WatchedEngine)
    return model.engine


@pytest.mark.slow
def test_a_model_with_a_session_stays_however_short_memory_is(other: Path, around: Surroundings) -> None:
    with running(around, "demo", str(other)) as service:
        model = load(service, "other")
        talk, waiting = Talk(service, "other"), service.use_model("other")
        talk.speak()
        around.free, around.now = 0, around.now + 10_000
        engine_of(model).out_of_memory()
        service.models.relieve()
        assert talk.end() == [OTHERWISE]
        service.models.relieve()
        assert states(service) == ["ready", "ready"]  # a connection that will open another session keeps it, too
        waiting.leave()
        around.now += 301
        service.models.relieve()
        assert states(service) == ["ready", "unloaded"]


@pytest.mark.slow
def test_all_idle_models_go_after_a_pass_has_run_out_of_memory(tmp_path: Path, around: Surroundings) -> None:
    folders = [save_other_demo(tmp_path / name) for name in ("one", "two", "three")]
    with running(around, "demo", *map(str, folders)) as service:
        for name in ("one", "two", "three"):
            load(service, name)
        talk = Talk(service, "two")
        engine_of(service.models.default).out_of_memory()
        service.models.relieve()
        assert states(service) == ["ready", "unloaded", "ready", "unloaded"]
        assert service.times_without_memory == 1
        around.now += 100
        talk.speak()
        assert talk.end() == [OTHERWISE]


@pytest.mark.slow
def test_the_one_that_was_idle_longest_makes_room_for_another(tmp_path: Path, around: Surroundings) -> None:
    folders = [save_other_demo(tmp_path / name) for name in ("one", "two", "three")]
    size = sum(file.stat().st_size for file in folders[0].glob("*.safetensors"))
    with running(around, "demo", *map(str, folders), memory_per_byte=2.0) as service:
        for name in ("two", "one"):
            load(service, name)
            around.now += 1
        # Free is what the other models leave of room for two of them, each of which needs twice its size.
        service.models._memory = lambda: (2 * size * (2 - states(service)[1:].count("ready")), 100 * size)
        load(service, "three")
        assert states(service) == ["ready", "ready", "unloaded", "ready"]
        load(service, "two")
        assert states(service) == ["ready", "unloaded", "ready", "ready"]


def test_a_model_for_which_there_is_no_room_is_refused_and_the_others_go_on(other: Path, around: Surroundings) -> None:
    with running(around, "demo", str(other)) as service:
        talk = Talk(service, "demo")
        around.free = 1000
        with pytest.raises(NotReady, match=r"There is not enough memory for other now: it needs about .* GB"):
            load(service, "other")
        assert around.loads == ["demo"]
        talk.speak()
        assert talk.end() == [SAID]
        around.free = 100 * GB
        around.now += RETRY_AFTER_SECONDS
        assert load(service, "other").state == "ready"


@pytest.mark.slow
def test_a_load_that_runs_out_of_memory_is_tried_again_without_the_idle_models(
    tmp_path: Path, around: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [save_other_demo(tmp_path / name) for name in ("one", "two")]
    with running(around, "demo", *map(str, folders)) as service:
        load(service, "one")
        original = Service._load

        def tight(self: Service, path: str, progress: Callable[[str], None]) -> Engine:
            if states(service).count("ready") > 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return original(self, path, progress)

        monkeypatch.setattr(Service, "_load", tight)
        load(service, "two")
        assert states(service) == ["ready", "unloaded", "ready"]
        talk = Talk(service, "two")
        with pytest.raises(NotReady, match="not enough memory for one now: loading it took more than is free"):
            load(service, "one")
        talk.speak()
        assert talk.end() == [OTHERWISE]


def test_a_model_that_is_being_loaded_when_the_server_stops_is_closed(other: Path, around: Surroundings) -> None:
    with running(around, "demo", str(other)) as service:
        around.may_load.clear()
        use = service.use_model("other")
        service.close()
        around.may_load.set()
        assert use.settled is not None
        use.settled.result(TIMEOUT)
        assert (use.model.engine, use.model.state) == (None, "unloaded")


def test_models_share_what_a_kv_pool_may_have(
    other: Path, around: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=100 * 10**6))
    with running(around, "demo") as alone:
        most = alone.models.default.loaded().info.positions
    with running(around, "demo", str(other)) as service:
        load(service, "other")
        for model in service.models.all:
            assert most // 2 - PAGE <= model.loaded().info.positions <= most // 2


@pytest.mark.slow
def test_a_model_that_hangs_leaves_the_others_alone(other: Path, around: Surroundings) -> None:
    hangs, let_go = threading.Event(), threading.Event()

    def hang() -> None:
        hangs.set()
        assert let_go.wait(TIMEOUT)

    with running(around, "demo", str(other)) as service:
        model = load(service, "other")
        with whenever_poisoned(engine_of(model).recognizer, hang):
            talk = Talk(service, "other")
            talk.speak(poisoned(spoken(SAID)))
            assert hangs.wait(TIMEOUT)
            around.now += 10 * 3600
            assert until(lambda: service.unhealthy_reason() is not None)
            assert service.readiness() == ("ready", "Ready")
            assert text_of(service, "demo") == [SAID]
            talk.close()
            around.free, around.now = 0, around.now + 10_000
            service.models.relieve()
            assert states(service) == ["ready", "ready"]  # it could not return its memory
            let_go.set()
            assert until(lambda: service.unhealthy_reason() is None)
        service.models.relieve()
        assert states(service) == ["ready", "unloaded"]


@pytest.mark.slow
def test_an_unloaded_model_is_gone_at_once_however_slow_its_threads_are(
    other: Path, around: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its memory would not be free for the model that needs it."""
    watch = WatchedEngine._watch

    def watch_and_linger(engine: WatchedEngine) -> None:
        watch(engine)
        time.sleep(1)

    monkeypatch.setattr(WatchedEngine, "_watch", watch_and_linger)
    with running(around, "demo", str(other)) as service:
        recognizer = weakref.ref(engine_of(load(service, "other")).recognizer)
        around.free, around.now = 0, around.now + 10_000
        service.models.relieve()
        assert recognizer() is None


@pytest.mark.slow
def test_a_model_waits_for_the_memory_of_one_that_is_being_unloaded(
    other: Path, around: Surroundings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closes, may_close = threading.Event(), threading.Event()
    close = WatchedEngine.close

    def close_later(engine: WatchedEngine) -> None:
        closes.set()
        assert may_close.wait(TIMEOUT)
        close(engine)
        around.free = 100 * GB

    with running(around, "demo", str(other), str(save_other_demo(tmp_path / "third"))) as service:
        load(service, "other")
        with monkeypatch.context() as patch:
            patch.setattr(WatchedEngine, "close", close_later)
            around.free, around.now = 0, around.now + 10_000
            relieving = threading.Thread(target=service.models.relieve)
            relieving.start()
            assert closes.wait(TIMEOUT)
            use = service.use_model("third")
            assert use.settled is not None
            assert not until(use.settled.done, 1), "nothing is free yet, and there is nothing else to unload"
            may_close.set()
            use.settled.result(TIMEOUT)
            relieving.join()
        assert states(service) == ["ready", "unloaded", "ready"]
        use.leave()


@pytest.mark.slow
def test_an_unloaded_model_returns_its_memory_to_the_system(tmp_path: Path, around: Surroundings) -> None:
    """With 100 MB of weights, of which the allocator keeps none."""
    processor = random_processor()
    model: Any = build_model(processor, width=512, encoder_layers=2, decoder_layers=8, channels=8, seed=1)
    model.save_pretrained(tmp_path / "large")
    processor.save_pretrained(tmp_path / "large")
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    assert size > 50e6
    del model
    process = psutil.Process()
    with running(around, "demo", str(tmp_path / "large")) as service:
        for _ in range(2):  # the first time, what any model needs is allocated too
            return_memory()
            before = process.memory_info().rss
            large = load(service, "large")
            text_of(service, "large")
            recognizer = weakref.ref(engine_of(large).recognizer)
            loaded = process.memory_info().rss
            around.free, around.now = 0, around.now + 10_000
            service.models.relieve()
            around.free = 100 * GB
            assert recognizer() is None
        after = process.memory_info().rss
        assert loaded - before > 0.8 * size
        assert loaded - after > 0.8 * size
    gc.collect()
