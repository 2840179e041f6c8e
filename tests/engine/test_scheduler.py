"""Batched steps equal single steps, and a failure in one session does not affect others."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextvars import ContextVar, copy_context
from typing import Any

import numpy as np
import pytest
import torch

from qwen_asr.engine.decoder.kv_pool import PAGE, PoolFull
from qwen_asr.engine.hypothesis import Hypothesis
from qwen_asr.engine.observer import Observer, PassSize
from qwen_asr.engine.recognizer import Align, Encode, Pass, Predict, Recognizer, Transform
from qwen_asr.engine.scheduler import Scheduler
from qwen_asr.engine.streaming import MAX_WINDOWS, Utterance, run_steps
from qwen_asr.engine.words import Clip
from qwen_asr.errors import BadInput, StepFailed
from tests.support.checkpoints import (
    Samples,
    check_generated,
    demo_recognizer,
    long_speech,
    random_parts,
    random_recognizer,
    small_pool,
)
from tests.support.engine_double import AlignerDouble, words_of
from tests.support.faults import before_each_decoding


@pytest.fixture(params=["random", "demo"])
def scheduler(request: pytest.FixtureRequest) -> Iterator[Scheduler]:
    recognizer = random_recognizer() if request.param == "random" else demo_recognizer()
    with Scheduler(recognizer) as running:
        yield running


@pytest.mark.slow
def test_many_sessions_at_once_equal_generate(scheduler: Scheduler) -> None:
    rng = np.random.default_rng(11)
    clips = [long_speech(rng, rng.uniform(0.2, 12)) for _ in range(8)]
    utterances = [Utterance(scheduler.recognizer, max_new_tokens=40) for _ in clips]
    for start in range(0, max(map(len, clips)), 24_000):
        active = [(u, clip) for u, clip in zip(utterances, clips, strict=True) if start < len(clip)]
        for utterance, clip in active:
            utterance.append(clip[start : start + 24_000])
        for future in [scheduler.submit(utterance) for utterance, _ in active]:
            future.result(60)
    name = scheduler.recognizer.name
    for utterance, clip in zip(utterances, clips, strict=True):
        check_generated(name, clip, utterance.hypothesis.tokens, max_new_tokens=40)


@pytest.mark.slow
def test_steps_run_together_equal_steps_run_alone() -> None:
    recognizer = random_recognizer()
    rng = np.random.default_rng(12)
    clips = [long_speech(rng, seconds) for seconds in (0.3, 4.0, 9.5)]
    utterances = [Utterance(recognizer, max_new_tokens=30) for _ in clips]
    for utterance, clip in zip(utterances, clips, strict=True):
        utterance.append(clip)
    together = run_steps(recognizer, utterances)
    for clip, hypothesis in zip(clips, together, strict=True):
        check_generated("random", clip, hypothesis.tokens, max_new_tokens=30)
        check_generated("random", clip, Utterance(recognizer, max_new_tokens=30).feed(clip).tokens, max_new_tokens=30)


@pytest.mark.slow
def test_steps_run_together_wait_for_each_other_where_the_pool_is_small() -> None:
    recognizer = Recognizer(*random_parts(), name="random")
    recognizer.decoder.pool = small_pool(recognizer, 4 * PAGE)
    pairs = [speaking(recognizer, seed, 5.0) for seed in range(70, 75)]
    for (_, clip), hypothesis in zip(pairs, run_steps(recognizer, [one for one, _ in pairs]), strict=True):
        check_generated("random", clip, hypothesis.tokens, max_new_tokens=20)
    recognizer.decoder.pool = small_pool(recognizer, PAGE)
    with pytest.raises(PoolFull):
        speaking(recognizer, 76, 9.0)[0].finish()


def test_a_step_without_audio_completes_immediately(scheduler: Scheduler) -> None:
    assert scheduler.submit(Utterance(scheduler.recognizer)).result(60).text == ""


class Poisoned(Recognizer):
    """A recognizer whose device fails on any pass with a window of exactly 77 frames."""

    def run(self, passes: list[Pass]) -> list[Any]:
        for wanted in passes:
            if isinstance(wanted, Encode) and any(window.frames.shape[1] == 77 for window in wanted.windows):
                raise RuntimeError("device fault")
        return super().run(passes)


def test_a_failing_step_does_not_affect_others() -> None:
    recognizer = Poisoned(*random_parts(), name="random")
    clip = long_speech(np.random.default_rng(13), 3.0)
    healthy, failing = (Utterance(recognizer, max_new_tokens=20) for _ in range(2))
    healthy.append(clip)
    failing.append(clip[: 77 * 160])
    with Scheduler(recognizer) as scheduler:
        futures = scheduler.submit(healthy), scheduler.submit(failing)
        check_generated("random", clip, futures[0].result(60).tokens, max_new_tokens=20)
        with pytest.raises(StepFailed, match="The next one goes on"):
            futures[1].result(60)
        failing.append(clip[77 * 160 :])
        check_generated("random", clip, scheduler.submit(failing).result(60).tokens, max_new_tokens=20)


def test_a_closed_scheduler_rejects_steps() -> None:
    scheduler = Scheduler(random_recognizer())
    scheduler.close()
    with pytest.raises(StepFailed, match="stopped"):
        scheduler.submit(Utterance(scheduler.recognizer)).result(60)


def speaking(
    recognizer: Recognizer, seed: int, seconds: float, context: str = "", *, background: bool = False
) -> tuple[Utterance, Samples]:
    """An utterance with the audio of a clip, and the clip."""
    clip = long_speech(np.random.default_rng(seed), seconds)
    utterance = Utterance(recognizer, context=context, max_new_tokens=20, background=background)
    utterance.append(clip)
    return utterance, clip


@pytest.mark.slow
def test_steps_that_run_out_of_memory_together_are_run_separately() -> None:
    recognizer = random_recognizer()
    pairs = [speaking(recognizer, seed, 3.0) for seed in range(20, 25)]
    tried: list[int] = []

    def allocate(rows: int) -> None:
        tried.append(rows)
        if rows > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with before_each_decoding(recognizer, allocate), Scheduler(recognizer) as scheduler:
        for future, (_, clip) in zip([scheduler.submit(utterance) for utterance, _ in pairs], pairs, strict=True):
            check_generated("random", clip, future.result(60).tokens, max_new_tokens=20)
    assert max(tried) > 2


class RecordingObserver(Observer):
    """Records the calls of the scheduler."""

    def __init__(self) -> None:
        self.started: list[object] = []
        self.ended: list[tuple[object, bool]] = []
        self.passes: list[PassSize] = []
        self.without_memory = 0

    def step_started(self, step: object) -> None:
        self.started.append(step)

    def step_ended(self, step: object, failed: bool) -> None:
        self.ended.append((step, failed))

    def pass_started(self, size: PassSize) -> None:
        self.passes.append(size)

    def out_of_memory(self) -> None:
        self.without_memory += 1


def test_a_step_that_runs_out_of_memory_alone_waits_for_another_to_end() -> None:
    recognizer = random_recognizer()
    (small, short), (large, long) = speaking(recognizer, 31, 1.0), speaking(recognizer, 32, 7.0)
    observer = RecordingObserver()
    runs: list[list[bool]] = []  # for each pass of a run, whether it is the large step's

    def is_large(one: Pass) -> bool:
        if isinstance(one, Predict):
            return one.row.cache is large._cache
        assert isinstance(one, Transform | Encode)
        return (one.segment.frames if isinstance(one, Transform) else one.windows[0].frames.shape[1]) > 500

    def fail(passes: list[Pass]) -> None:
        runs.append([is_large(one) for one in passes])
        if any(runs[-1]) and observer.without_memory < 2:
            raise MemoryError

    with WatchRuns(recognizer, fail), Scheduler(recognizer, observer) as scheduler:
        with scheduler._changed:  # both start in the same iteration
            first, second = scheduler.submit(small), scheduler.submit(large)
        check_generated("random", short, first.result(60).tokens, max_new_tokens=20)
        check_generated("random", long, second.result(60).tokens, max_new_tokens=20)
    assert observer.without_memory == 2  # once together and once alone
    assert runs[:3] == [[False, True], [False], [True]]
    assert runs[3:] == sorted(runs[3:])  # the large step starts again when the small one has ended
    assert {len(run) for run in runs[3:]} == {1}
    assert {failed for _, failed in observer.ended} == {False}
    assert {step for step, _ in observer.ended} == set(observer.started)


def test_a_step_that_always_runs_out_of_memory_fails() -> None:
    recognizer = random_recognizer()
    utterance, clip = speaking(recognizer, 33, 1.0)

    def fail(_: list[Pass]) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")

    with Scheduler(recognizer) as scheduler:
        with WatchRuns(recognizer, fail), pytest.raises(StepFailed, match="ran out of memory"):
            scheduler.submit(utterance).result(60)
        check_generated("random", clip, scheduler.submit(utterance).result(60).tokens, max_new_tokens=20)


def test_a_step_covers_what_arrives_before_it_starts() -> None:
    recognizer = random_recognizer()
    clip = long_speech(np.random.default_rng(34), 2.0)
    late = Utterance(recognizer, max_new_tokens=20)
    late.append(clip[:16_000])
    with Scheduler(recognizer) as scheduler:
        future = scheduler.submit(late, lambda: late.append(clip[16_000:]))
        assert future.result(60).samples == len(clip)
        check_generated("random", clip, future.result(60).tokens, max_new_tokens=20)


def test_a_step_fails_with_what_its_start_raises() -> None:
    recognizer = random_recognizer()
    (failing, _), (healthy, clip) = speaking(recognizer, 35, 1.0), speaking(recognizer, 36, 1.0)

    def fail() -> None:
        raise ValueError("secret detail")

    with Scheduler(recognizer) as scheduler:
        future = scheduler.submit(failing, fail)
        check_generated("random", clip, scheduler.submit(healthy).result(60).tokens, max_new_tokens=20)
        with pytest.raises(StepFailed, match="ValueError"):
            future.result(60)


def test_callbacks_run_outside_the_models_thread_in_order_and_in_the_context_of_their_submitter() -> None:
    recognizer = random_recognizer()
    name: ContextVar[str] = ContextVar("name")
    busy, go_on, called = threading.Event(), threading.Event(), []

    def wait(_: Future[Hypothesis]) -> None:
        called.append((name.get(), threading.current_thread().name))
        busy.set()
        assert go_on.wait(60)

    def submit(running: Scheduler, session: str, done: Callable[[Future[Hypothesis]], None]) -> Future[Hypothesis]:
        name.set(session)
        future = running.submit(speaking(recognizer, 37, 0.5)[0], lambda: called.append((name.get(), "start")))
        future.add_done_callback(done)
        return future

    with Scheduler(recognizer) as scheduler:
        copy_context().run(submit, scheduler, "first", wait)
        assert busy.wait(60)
        second = copy_context().run(
            submit, scheduler, "second", lambda _: called.append((name.get(), threading.current_thread().name))
        )
        while ("second", "start") not in called or scheduler._worker.active:
            time.sleep(0.001)  # until the model has run the second step, although the first callback still waits
        assert not second.done()
        go_on.set()
        second.result(60)
    results = "recognizer-results"
    assert called == [("first", "start"), ("first", results), ("second", "start"), ("second", results)]


def test_under_load_steps_start_in_their_order_and_urgent_ones_at_once() -> None:
    """On every device, as on a CPU: 2 steps start in an iteration, and those that are urgent."""
    recognizer = random_recognizer()
    started: list[str] = []
    starts_of: list[int] = []  # of each iteration

    class Count(Observer):
        def iteration_started(self) -> None:
            starts_of.append(-len(started))

        def pass_started(self, size: PassSize) -> None:
            if starts_of[-1] <= 0:
                starts_of[-1] += len(started)

    with Scheduler(recognizer, Count()) as scheduler, pytest.MonkeyPatch.context() as patch:
        patch.setattr("qwen_asr.engine.scheduler._STARTS", {recognizer.device.type: 2})

        def submit(name: str, is_urgent: Callable[[], bool]) -> Future[Hypothesis]:
            return scheduler.submit(speaking(recognizer, 40, 0.5)[0], lambda: started.append(name), is_urgent)

        def turns_urgent() -> bool:
            return len(started) >= 5

        with scheduler._changed:  # all wait for the same iteration
            futures = [submit(f"partial {number}", lambda: False) for number in range(6)]
            futures.append(submit("ends while it waits", turns_urgent))
            futures.append(submit("final", lambda: True))
            cancelled = submit("cancelled", lambda: False)
            assert cancelled.cancel()
        texts = {future.result(60).tokens for future in futures}
    assert len(texts) == 1
    assert started == [
        "partial 0", "partial 1", "final", "partial 2", "partial 3",
        "partial 4", "partial 5", "ends while it waits",
    ]  # fmt: skip
    assert [count for count in starts_of if count > 0] == [3, 2, 3]


@pytest.mark.parametrize("gives_way", [True, False])
def test_steps_in_the_background_give_way_on_a_cpu(gives_way: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts iterations, not time."""
    recognizer = random_recognizer()
    monkeypatch.setattr("qwen_asr.engine.scheduler._STARTS", {recognizer.device.type: 2} if gives_way else {})
    files = [speaking(recognizer, seed, 9.0, background=True) for seed in range(60, 66)]
    live, clip = speaking(recognizer, 66, 9.0)
    iterations: list[list[Pass]] = []

    class Count(Observer):
        def iteration_started(self) -> None:
            iterations.append([])

    def watch(passes: list[Pass]) -> None:
        iterations[-1].extend(passes)

    def of(utterance: Utterance, iteration: list[Pass]) -> bool:
        return any(isinstance(one, Predict) and one.row.cache is utterance._cache for one in iteration)

    with WatchRuns(recognizer, watch), Scheduler(recognizer, Count()) as scheduler:
        scheduler.submit(speaking(recognizer, 66, 9.0)[0]).result(60)
        alone = len(iterations)
        iterations.clear()
        with scheduler._changed:  # all wait for the same iteration, the files first
            futures = [scheduler.submit(utterance) for utterance, _ in files]
            text = scheduler.submit(live)
        check_generated("random", clip, text.result(60).tokens, max_new_tokens=20)
        for (_, recording), future in zip(files, futures, strict=True):
            check_generated("random", recording, future.result(60).tokens, max_new_tokens=20)
    beside = iterations[:alone]
    assert all(of(live, one) for one in beside[1:])  # it takes as many iterations as alone
    assert not of(live, iterations[alone])
    shared = [sum(of(utterance, one) for utterance, _ in files) for one in beside]
    if gives_way:
        assert max(shared) == 1
        assert all(sum(shared[start : start + 4]) <= 1 for start in range(len(shared)))
        assert any(shared)  # but they are not stopped
        assert max(sum(of(utterance, one) for utterance, _ in files) for one in iterations[alone:]) > 1
    else:
        assert max(shared) == len(files)


def test_a_pass_in_the_background_encodes_one_window() -> None:
    recognizer = random_recognizer()
    encodes: list[Encode] = []
    with WatchRuns(recognizer, lambda passes: encodes.extend(one for one in passes if isinstance(one, Encode))):
        utterance, clip = speaking(recognizer, 67, 20.0, background=True)
        check_generated("random", clip, utterance.finish().tokens, max_new_tokens=20)
    assert [len(one.windows) for one in encodes] == [1, 1, 1]


def test_a_step_that_becomes_urgent_starts_again_over_all_audio_and_keeps_its_tokens() -> None:
    recognizer = random_recognizer()
    utterance, clip = speaking(recognizer, 44, 3.0)
    starts: list[int] = []
    predicted: list[Predict] = []
    utterance.truncate(len(clip) // 2)

    def start() -> None:
        if starts:  # as a session does it: what arrived meanwhile is appended
            utterance.append(clip[utterance.length :])
        starts.append(utterance.length)

    def watch(passes: list[Pass]) -> None:
        predicted.extend(one for one in passes if isinstance(one, Predict))

    with WatchRuns(recognizer, watch), Scheduler(recognizer) as scheduler:
        hypothesis = scheduler.submit(utterance, start, lambda: len(predicted) >= 6).result(60)
    assert starts == [len(clip) // 2, len(clip)]
    assert hypothesis.samples == len(clip)
    check_generated("random", clip, hypothesis.tokens, max_new_tokens=20)
    assert utterance.work.drafted >= 5  # what was decoded before it started again


def test_an_iteration_takes_a_step_from_its_samples_to_its_first_tokens() -> None:
    recognizer = random_recognizer()
    iterations: list[list[type]] = []

    class Count(Observer):
        def iteration_started(self) -> None:
            iterations.append([])

    def watch(passes: list[Pass]) -> None:
        iterations[-1] += [type(one) for one in passes]

    with WatchRuns(recognizer, watch), Scheduler(recognizer, Count()) as scheduler:
        scheduler.submit(speaking(recognizer, 45, 1.0)[0]).result(60)
    assert iterations[0] == [Transform, Encode, Predict]
    assert all(kinds == [Predict] for kinds in iterations[1:])


def clips(*texts: str) -> list[Clip]:
    return [Clip(np.zeros(16_000 * (index + 1), np.float32), text, "English") for index, text in enumerate(texts)]


def test_alignments_run_last_and_together_and_a_poisoned_one_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    recognizer, aligner, observer = random_recognizer(), AlignerDouble(is_quick=True, poison="bad"), RecordingObserver()
    monkeypatch.setattr(recognizer, "aligner", aligner)
    wanted = clips("one", "two words", "bad", "", "five")
    utterance, speech = speaking(recognizer, 47, 1.0)
    kinds: list[list[type]] = []
    with (
        WatchRuns(recognizer, lambda passes: kinds.append([type(one) for one in passes])),
        Scheduler(recognizer, observer) as scheduler,
    ):
        with scheduler._changed:  # all start in the same iteration
            futures = [scheduler.align(clip) for clip in wanted]
            text = scheduler.submit(utterance)
        check_generated("random", speech, text.result(60).tokens, max_new_tokens=20)
        for clip, future in zip(wanted, futures, strict=True):
            if clip.text == "bad":
                with pytest.raises(StepFailed, match="RuntimeError"):
                    future.result(60)
            else:
                assert future.result(60) == words_of(clip.text, 0, len(clip.samples))
    assert kinds[:4] == [[Transform], [Encode], [Predict], [Align] * 5]
    assert aligner.batches[0] == wanted
    frames = observer.passes[3].frames
    assert frames == sum(100 * seconds for seconds in range(1, 6))  # so that the watchdog knows what it waits for
    assert observer.passes[3].rows == 5
    assert observer.passes[3].positions > frames // 10


@pytest.mark.parametrize("every", [64, 6])
def test_a_slow_aligner_takes_one_clip_at_a_time_and_gives_way(every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    recognizer = random_recognizer()
    monkeypatch.setattr("qwen_asr.engine.scheduler._SLOW_EVERY", every)
    monkeypatch.setattr("qwen_asr.engine.scheduler._STARTS", {recognizer.device.type: 2})
    monkeypatch.setattr(recognizer, "aligner", AlignerDouble(is_quick=False))
    live, speech = speaking(recognizer, 48, 9.0)
    runs: list[list[type]] = []

    with (
        WatchRuns(recognizer, lambda passes: runs.append([type(one) for one in passes])),
        Scheduler(recognizer) as scheduler,
    ):
        with scheduler._changed:
            futures = [scheduler.align(clip) for clip in clips(*"abcdef")]
            text = scheduler.submit(live)
        check_generated("random", speech, text.result(60).tokens, max_new_tokens=20)
        assert [[word.text for word in future.result(60)] for future in futures] == [[text] for text in "abcdef"]
    aligned = [index for index, run in enumerate(runs) if Align in run]
    predicted = [index for index, run in enumerate(runs) if Predict in run]
    assert all(run == [Align] for run in runs if Align in run)
    assert len(aligned) == 6
    beside = sum(index < predicted[-1] for index in aligned)
    assert beside <= len(predicted) / every
    assert (beside > 0) == (every < len(predicted))  # it waits for live speech, but not for ever


def test_an_alignment_can_be_cancelled_and_ends_with_the_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    recognizer, entered, let_go = random_recognizer(), threading.Event(), threading.Event()

    class Hangs(AlignerDouble):
        def align_words(self, clips: Any) -> Any:
            entered.set()
            assert let_go.wait(60)
            return super().align_words(clips)

    monkeypatch.setattr(recognizer, "aligner", Hangs(is_quick=True))
    with Scheduler(recognizer) as scheduler:
        first = scheduler.align(clips("a")[0])
        assert entered.wait(60)
        second, third = scheduler.align(clips("b")[0]), scheduler.align(clips("c")[0])
        assert second.cancel()
        assert not first.cancel()
        [thread] = scheduler.abandon("It hung.", replace=True)
        with pytest.raises(StepFailed, match="It hung"):
            first.result(60)
        let_go.set()
        thread.join(60)
        assert [word.text for word in third.result(60)] == ["c"]
    with pytest.raises(StepFailed, match="stopped"):
        scheduler.align(clips("d")[0]).result(60)
    monkeypatch.setattr(recognizer, "aligner", None)
    with pytest.raises(RuntimeError, match="no aligner"):
        scheduler.align(clips("e")[0])


def test_what_an_aligner_refuses_is_told_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuses(AlignerDouble):
        def align_words(self, clips: Any) -> Any:
            raise BadInput("The audio is too long: cut it.")

    recognizer = random_recognizer()
    monkeypatch.setattr(recognizer, "aligner", Refuses(is_quick=True))
    with Scheduler(recognizer) as scheduler, pytest.raises(StepFailed, match="too long: cut it"):
        scheduler.align(clips("a")[0]).result(60)


def test_a_callback_that_hangs_is_left_behind() -> None:
    recognizer = random_recognizer()
    hung, let_go, called = threading.Event(), threading.Event(), []

    def hang(_: Future[Hypothesis]) -> None:
        hung.set()
        assert let_go.wait(60)
        called.append("first")

    with Scheduler(recognizer) as scheduler:
        assert scheduler.replace_results() == []  # nothing is delivered
        scheduler.submit(speaking(recognizer, 37, 0.5)[0]).add_done_callback(hang)
        assert hung.wait(60)
        utterance, clip = speaking(recognizer, 38, 0.5)
        second = scheduler.submit(utterance)
        second.add_done_callback(lambda _: called.append("second"))
        [thread] = scheduler.replace_results()
        check_generated("random", clip, second.result(60).tokens, max_new_tokens=20)
        assert scheduler.alive
        assert thread.is_alive()
        let_go.set()
        thread.join(60)
        assert not thread.is_alive()  # it left the rest to the other thread
        third = scheduler.submit(speaking(recognizer, 39, 0.5)[0])
        third.add_done_callback(lambda _: called.append(threading.current_thread().name))
        third.result(60)
    assert called == ["second", "first", "recognizer-results"]


def test_what_has_ended_is_delivered_before_a_scheduler_is_closed() -> None:
    recognizer = random_recognizer()
    scheduler = Scheduler(recognizer)
    utterance, clip = speaking(recognizer, 38, 0.5)
    delivered: list[Hypothesis] = []
    go_on = threading.Event()

    def take(done: Future[Hypothesis]) -> None:
        assert go_on.wait(60)
        delivered.append(done.result())

    future = scheduler.submit(utterance)
    future.add_done_callback(take)
    future.result(60)
    threading.Timer(0.05, go_on.set).start()
    scheduler.close()
    check_generated("random", clip, delivered[0].tokens, max_new_tokens=20)
    assert not scheduler.alive


@pytest.mark.slow
def test_a_full_pool_makes_steps_wait_and_fails_none() -> None:
    recognizer = Recognizer(*random_parts(), name="random")
    recognizer.decoder.pool = small_pool(recognizer, 4 * PAGE)  # one or two of these utterances fit
    pairs = [speaking(recognizer, seed, 4.0) for seed in range(60, 68)]
    observer = RecordingObserver()
    with Scheduler(recognizer, observer) as scheduler:
        for part in range(2):
            with scheduler._changed:  # all start in the same iteration
                futures = [scheduler.submit(utterance) for utterance, _ in pairs]
            for future, (utterance, clip) in zip(futures, pairs, strict=True):
                expected = np.concatenate([clip] * (part + 1))
                check_generated("random", expected, future.result(60).tokens, max_new_tokens=20)
                utterance.append(clip)
    assert max(size.rows for size in observer.passes) > 2  # they ran together as far as they fitted
    assert observer.without_memory == 0  # so new sessions are still let in


class WatchRuns:
    """Within the block, calls `callback` with the passes of each run of a recognizer, on its thread."""

    def __init__(self, recognizer: Recognizer, callback: Callable[[list[Pass]], None]) -> None:
        self._recognizer = recognizer
        self._callback = callback

    def __enter__(self) -> None:
        run = self._recognizer.run

        def run_and_report(passes: list[Pass]) -> list[Any]:
            self._callback(passes)
            return run(passes)

        self._recognizer.run = run_and_report  # type: ignore[method-assign]  # restored in __exit__

    def __exit__(self, *_: object) -> None:
        del self._recognizer.run


@pytest.mark.parametrize("replace", [True, False])
def test_a_hanging_thread_is_abandoned(replace: bool) -> None:
    recognizer = random_recognizer()
    (hanging, clip), (waiting, other) = speaking(recognizer, 41, 2.0), speaking(recognizer, 42, 1.0)
    hung, release = threading.Event(), threading.Event()

    def hang(_: list[Pass]) -> None:
        if not hung.is_set():
            hung.set()
            assert release.wait(60)

    scheduler = Scheduler(recognizer)
    with WatchRuns(recognizer, hang):
        stalled = scheduler.submit(hanging)
        assert hung.wait(60)
        queued = scheduler.submit(waiting)
        [thread] = scheduler.abandon("It hung.", replace=replace)
        with pytest.raises(StepFailed, match="It hung"):
            stalled.result(60)
        if replace:
            check_generated("random", other, queued.result(60).tokens, max_new_tokens=20)
        else:
            with pytest.raises(StepFailed, match="It hung"):
                queued.result(60)
            with pytest.raises(StepFailed, match="It hung"):
                scheduler.submit(waiting).result(60)
        assert scheduler.alive == replace
        release.set()
        thread.join(60)
        assert not thread.is_alive()  # it returned, changed nothing, and ended
    if replace:
        fresh = Utterance(recognizer, max_new_tokens=20)
        fresh.append(hanging.samples)
        check_generated("random", clip, scheduler.submit(fresh).result(60).tokens, max_new_tokens=20)
    scheduler.close()


def test_closing_does_not_wait_for_a_hanging_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen_asr.engine.scheduler._JOIN_SECONDS", 0.1)
    recognizer = random_recognizer()
    hung, release = threading.Event(), threading.Event()

    def hang(_: list[Pass]) -> None:
        hung.set()
        assert release.wait(60)

    scheduler = Scheduler(recognizer)
    with WatchRuns(recognizer, hang):
        future = scheduler.submit(speaking(recognizer, 43, 1.0)[0])
        assert hung.wait(60)
        scheduler.close()
        with pytest.raises(StepFailed, match="was stopped"):
            future.result(60)
        release.set()


LONG_CONTEXT = " ".join(f"Anna{number}" for number in range(700))
"""Some 5,000 tokens of the random model's vocabulary."""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["a long file", "a long prompt"])
def test_long_work_does_not_delay_live_sessions(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts passes of the decoder, one an iteration, not time. A live step takes part in each from its start to its
    end, and the work that it shares its passes with is bounded, however long the file or the prompt is."""
    recognizer = random_recognizer()
    monkeypatch.setattr(recognizer, "longest_prompt", 10_000)
    context = LONG_CONTEXT if what == "a long prompt" else ""
    runs: list[list[Pass]] = []
    encodes: list[Encode] = []
    # The file is one utterance of twelve windows, far above the maximum length.
    file, recording = speaking(recognizer, 51, 5.0 if context else 90.0, context)
    live = [speaking(recognizer, seed, 4.0)[0] for seed in (52, 53, 54)]

    def takes_part(utterance: Utterance, run: list[Pass]) -> bool:
        return any(isinstance(one, Predict) and one.row.cache is utterance._cache for one in run)

    def watch(passes: list[Pass]) -> None:
        encodes.extend(one for one in passes if isinstance(one, Encode))
        if isinstance(passes[0], Predict):
            runs.append(passes)

    with WatchRuns(recognizer, watch), Scheduler(recognizer) as scheduler:
        alone = []
        for utterance in live:
            scheduler.submit(utterance).result(60)
            alone.append(len(runs))
            runs.clear()
        encodes.clear()
        again = [speaking(recognizer, seed, 4.0)[0] for seed in (52, 53, 54)]
        with scheduler._changed:  # all start in the same iteration, the file first
            whole = scheduler.submit(file)
            futures = [scheduler.submit(utterance) for utterance in again]
        for future in futures:
            future.result(60)
        check_generated("random", recording, whole.result(120).tokens, context=context, max_new_tokens=20)
    last_run = [max(number for number, run in enumerate(runs, 1) if takes_part(utterance, run)) for utterance in again]
    # A live step takes exactly as many as alone, although the file has many left.
    assert sorted(last_run) == sorted(alone)
    assert sum(takes_part(file, run) for run in runs) > max(last_run) / 2
    assert all(len(one.windows) <= MAX_WINDOWS for one in encodes)
    for run in runs:
        assert all(one.row.positions <= 2 * recognizer.prefill_positions for one in run if isinstance(one, Predict))
    if not context:
        assert len(encodes) > 1 + len(live)  # the file takes several
