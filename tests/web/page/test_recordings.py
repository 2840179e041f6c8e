"""Recordings on the server: bytes count once in any order and size, and the page gets each change once."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qwen_asr.audio.resample import StreamingResampler
from qwen_asr.audio.validation import to_mono
from qwen_asr.config.limits import PageLimits
from qwen_asr.engine.words import Word
from qwen_asr.errors import AudioError, ServerStopping
from qwen_asr.live.events import Aligned, Event, Failed, Final, Partial
from qwen_asr.live.session_options import SessionOptions
from qwen_asr.service.admission import Admission
from qwen_asr.web.page.recordings import Recording, RecordingRegistry


class Collector:
    """A sink that keeps its audio, and delivers the events that a test gives to `deliver`."""

    def __init__(self, deliver: Callable[[list[Event]], None]) -> None:
        self.deliver = deliver
        self.blocks: list[NDArray[np.float32]] = []
        self.finished: Future[None] = Future()
        self.closed = False
        self.lag = 0.0
        self.idle = True
        self.changes: list[SessionOptions] = []

    def unavailable_reason(self) -> None: ...

    def feed(self, samples: NDArray[np.float32]) -> None:
        self.blocks.append(samples)

    def finish(self) -> Future[None]:
        self.finished.set_result(None)
        return self.finished

    def change(self, options: SessionOptions) -> int:
        self.changes.append(options)
        return len(self.changes)

    def close(self) -> None:
        self.closed = True


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def open_recording(rate: int = 48_000) -> tuple[Recording, Collector]:
    sinks: list[Collector] = []

    def start(_: SessionOptions, deliver: Callable[[list[Event]], None]) -> Collector:
        sinks.append(Collector(deliver))
        return sinks[0]

    return Recording(rate, SessionOptions(), start), sinks[0]


def sound(samples: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).integers(-9000, 9000, samples).astype("<i2").tobytes()


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(data=st.data(), rate=st.sampled_from([16_000, 44_100, 48_000]), samples=st.integers(0, 6_000))
def test_any_blocks_in_any_order_give_the_same_bytes_and_samples(data: st.DataObject, rate: int, samples: int) -> None:
    audio = sound(samples)
    recording, sink = open_recording(rate)
    while recording.received < len(audio):
        # A network: the next block, an old one again, one that overlaps, one that comes too early.
        offset = data.draw(st.integers(0, len(audio) // 2)) * 2
        size = data.draw(st.integers(0, 4_000))
        if data.draw(st.booleans()):
            offset = max(0, recording.received - data.draw(st.integers(0, 500)) * 2)
        before = recording.received
        after = recording.receive(offset, audio[offset : offset + size])
        assert after == recording.received >= before
        if offset > before:
            assert after == before  # a gap is refused whole
        if size < 4:
            recording.receive(recording.received, audio[recording.received :][:2_000])  # so that the test ends
    recording.finish(len(audio))
    assert recording.sha256 == hashlib.sha256(audio).hexdigest()
    whole = StreamingResampler(rate)
    mono = to_mono(np.frombuffer(audio, "<i2"))
    expected = np.concatenate([whole.feed(mono), whole.finish()])
    np.testing.assert_array_equal(np.concatenate(sink.blocks), expected)


def test_the_end_waits_for_the_last_byte() -> None:
    audio = sound(1_000)
    recording, _ = open_recording()
    recording.receive(0, audio[:1_000])
    recording.finish(len(audio))
    assert not recording.finished
    recording.receive(1_000, audio[1_000:])
    recording.finish(len(audio))
    assert recording.finished
    assert recording.done
    assert recording.receive(len(audio), b"xx") == len(audio)  # nothing comes after the end
    assert recording.view(0)["sha256"] == hashlib.sha256(audio).hexdigest()


def test_half_a_sample_is_left_for_the_next_block() -> None:
    recording, _ = open_recording()
    assert recording.receive(0, b"abc") == 2
    assert recording.receive(2, b"cd") == 4
    assert recording.sha256 == hashlib.sha256(b"abcd").hexdigest()


def test_blocks_from_several_threads_at_once_count_once() -> None:
    audio = sound(20_000)
    recording, sink = open_recording(16_000)

    def send() -> None:
        while recording.received < len(audio):
            offset = recording.received
            recording.receive(offset, audio[offset : offset + 1_500])

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert recording.sha256 == hashlib.sha256(audio).hexdigest()
    assert sum(len(block) for block in sink.blocks) == 20_000


def test_the_page_gets_only_what_has_changed() -> None:
    recording, sink = open_recording()
    sink.deliver([Partial(0, 0, 16_000, "English", "Turn on the", 4, 0.5)])
    first = recording.view(0)
    assert first["utterances"][0]["settled"] == "Turn"
    assert first["utterances"][0]["tentative"] == " on the"
    assert not first["utterances"][0]["final"]
    sink.deliver([Final(0, 0, 24_000, "English", "Turn on the light.", 0.0), Failed(1, 24_000, 32_000, "No.", 0.0)])
    sink.deliver([Partial(2, 40_000, 48_000, None, "And", 0, 0.2)])
    assert [line["number"] for line in recording.view(first["revision"])["utterances"]] == [0, 1, 2]
    newest = recording.view(0)["revision"]
    assert recording.view(newest)["utterances"] == []
    sink.deliver([Partial(2, 40_000, 52_000, None, "And now", 3, 0.2)])
    [line] = recording.view(newest)["utterances"]
    assert (line["number"], line["settled"], line["tentative"], line["start"]) == (2, "And", " now", 2.5)


def test_the_page_may_drop_more_and_more_but_nothing_whose_text_is_not_final() -> None:
    recording, sink = open_recording(48_000)
    second = 48_000 * 2
    recording.receive(0, sound(48_000 * 10))
    sink.lag, sink.idle = 2.0, False
    assert recording.view(0)["safe"] == 0  # speech waits, and where it began is not known yet
    sink.lag, sink.idle = 0.0, True
    sink.deliver([Partial(0, 16_000 * 3, 16_000 * 9, None, "a", 0, 0.0)])
    assert recording.view(0)["safe"] == 3 * second
    sink.deliver([Final(0, 16_000 * 3, 16_000 * 9 + 8_000, None, "a", 0.0)])
    assert recording.view(0)["safe"] == 9.5 * second
    sink.deliver([Partial(1, 16_000 * 9 + 8_000, 16_000 * 10, None, "b", 0, 0.0)])
    assert recording.view(0)["safe"] == 9.5 * second


def test_the_page_keeps_speech_whose_text_is_not_delivered_yet() -> None:
    recording, sink = open_recording(48_000)
    sink.idle = False
    recording.receive(0, sound(48_000 * 10))
    assert sink.lag == 0
    assert recording.view(0)["safe"] == 0
    sink.deliver([Partial(0, 16_000 * 3, 16_000 * 9, None, "a", 0, 0.0)])
    sink.idle = True
    assert recording.view(0)["safe"] == 3 * 48_000 * 2


def test_the_page_keeps_a_block_that_the_sink_is_taking(monkeypatch: pytest.MonkeyPatch) -> None:
    recording, sink = open_recording(48_000)
    safe: list[int] = []
    monkeypatch.setattr(sink, "feed", lambda _: safe.append(recording.view(0)["safe"]))
    recording.receive(0, sound(48_000 * 10))
    assert safe == [0]
    assert recording.view(0)["safe"] == 9 * 48_000 * 2  # it was silence


def test_a_sink_that_fails_ends_the_recording_with_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    recording, sink = open_recording()

    def broken(_: NDArray[np.float32]) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(sink, "feed", broken)
    assert recording.receive(0, sound(100)) == 200
    view = recording.view(0)
    assert view["done"]
    assert "press Record" in view["error"]
    assert "secret" not in view["error"]


def test_recordings_belong_to_their_tab_and_are_closed_when_idle() -> None:
    clock = Clock()
    opened: list[Collector] = []

    def start(_: SessionOptions, deliver: Callable[[list[Event]], None]) -> Collector:
        opened.append(Collector(deliver))
        return opened[-1]

    recordings = RecordingRegistry(start, limits=PageLimits(idle_seconds=60, reconnect_seconds=8), clock=clock)
    first = recordings.open("tab", "one", 48_000, SessionOptions())
    assert recordings.open("tab", "one", 48_000, SessionOptions()) is first  # asked twice, opened once
    assert recordings.get("other", "one") is None
    recordings.open("other", "two", 48_000, SessionOptions())

    clock.now += 50
    first.receive(0, b"")
    clock.now += 20
    assert recordings.remove_idle() == 1  # the other was idle for 70 s
    assert recordings.ids() == [("tab", "one")]

    recordings.tab_closed("tab")
    clock.now += 7
    assert recordings.get("tab", "one") is first  # it came back
    clock.now += 7
    assert recordings.remove_idle() == 0
    recordings.tab_closed("tab")
    clock.now += 9
    assert recordings.remove_idle() == 1
    assert len(recordings) == 0
    assert all(sink.closed for sink in opened)
    recordings.close()


def test_a_new_recording_replaces_a_finished_one() -> None:
    recordings = RecordingRegistry(lambda _, deliver: Collector(deliver))
    recordings.open("tab", "one", 48_000, SessionOptions()).finish(0)
    recordings.open("tab", "two", 48_000, SessionOptions())
    assert recordings.ids() == [("tab", "two")]
    recordings.close()


class SlowStart:
    """Opens sinks, each only when the test lets it."""

    def __init__(self) -> None:
        self.sinks: list[Collector] = []
        self.begun, self.may_end = threading.Event(), threading.Event()

    def __call__(self, _: SessionOptions, deliver: Callable[[list[Event]], None], slot: object = None) -> Collector:
        self.begun.set()
        assert self.may_end.wait(60)
        self.sinks.append(Collector(deliver))
        return self.sinks[-1]


def test_a_recording_that_is_being_opened_blocks_no_other() -> None:
    """The event loop asks for recordings too: it must not wait for a resampler's filter, or for a long prompt."""
    start = SlowStart()
    recordings = RecordingRegistry(start, admission=Admission(2, 0))
    with ThreadPoolExecutor(3) as threads:
        try:
            first = threads.submit(recordings.open, "tab", "one", 383_999, SessionOptions())
            assert start.begun.wait(60)
            again = threads.submit(recordings.open, "tab", "one", 383_999, SessionOptions())
            assert threads.submit(recordings.get, "tab", "one").result(60) is None
            assert threads.submit(recordings.queue_entry, "other", "two", "127.0.0.1").result(60) is not None
            assert not first.done()
            assert not again.done()
        finally:
            start.may_end.set()
        assert first.result(60) is again.result(60) is recordings.get("tab", "one")
    assert len(start.sinks) == 1  # asked twice, opened once
    recordings.close()
    assert start.sinks[0].closed


def test_a_recording_that_cannot_be_opened_is_answered_to_all_and_gives_its_slot_back() -> None:
    admission = Admission(1, 0)
    recordings = RecordingRegistry(SlowStart(), admission=admission)
    assert recordings.queue_entry("tab", "one", "127.0.0.1") is not None
    assert admission.admitted == 1
    with pytest.raises(AudioError, match="384001"):
        recordings.open("tab", "one", 384_001, SessionOptions())
    assert admission.admitted == 0
    assert recordings.ids() == []
    recordings.close()


def test_a_recording_that_is_being_opened_when_everything_closes_is_closed() -> None:
    start = SlowStart()
    recordings = RecordingRegistry(start)
    with ThreadPoolExecutor(1) as threads:
        opened = threads.submit(recordings.open, "tab", "one", 48_000, SessionOptions())
        assert start.begun.wait(60)
        recordings.close()
        start.may_end.set()
        with pytest.raises(ServerStopping):
            opened.result(60)
    assert start.sinks[0].closed
    assert recordings.ids() == []


def test_words_and_corrections_are_told_also_when_they_come_later() -> None:
    recording, sink = open_recording()
    words = (Word("Turn", 8160, 11840), Word("on.", 11840, 16000))
    sink.deliver([Partial(0, 8000, 16000, "English", "Turn", 4, 0.1)])
    sink.deliver([Final(0, 8000, 16000, "English", "Turn on.", 0.0, corrected=True)])
    sink.deliver([Final(1, 24000, 32000, "English", "Now.", 0.0, words=(Word("Now.", 24000, 32000),))])
    view = recording.view(0)
    first, second = view["utterances"]
    assert (first["words"], first["corrected"]) == ([], True)
    assert (second["words"], second["corrected"]) == ([["Now.", 1.5, 2.0]], False)
    sink.deliver([Aligned(0, words)])
    assert recording.has_changed(view["revision"])
    [line] = recording.view(view["revision"])["utterances"]
    assert line == first | {"words": [["Turn", 0.51, 0.74], ["on.", 0.74, 1.0]]}
    safe = recording.view(0)["safe"]
    sink.deliver([Aligned(7, words), Failed(2, 40000, 48000, "It failed.", 0.0)])  # of no line: nothing happens
    lines = recording.view(0)["utterances"]
    assert [(line["number"], line["words"] != []) for line in lines] == [(0, True), (1, True), (2, False)]
    assert recording.view(0)["safe"] >= safe
