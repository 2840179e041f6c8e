"""Endpointing: each sample is in one event, words are not cut, and results do not depend on the chunks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qwen_asr.audio import SAMPLE_RATE
from qwen_asr.audio.endpointing import (
    Ended,
    EndpointConfig,
    Skipped,
    Speech,
    Started,
    UtteranceDetector,
    cut_point,
    cut_span,
)
from qwen_asr.audio.resample import StreamingResampler
from qwen_asr.audio.vad import WINDOW, VoiceActivity
from qwen_asr.errors import BadConfig
from tests.support.engine_double import ScriptedVoiceActivity
from training.voices import HELD_OUT, Voice, speak

DEFAULT = EndpointConfig()


def run(samples, voice, config=DEFAULT, sizes=()):
    """Feed the samples in chunks of `sizes` and return all events."""
    detector, events, begin = UtteranceDetector(config, voice), [], 0
    for size in sizes:
        events += detector.feed(samples[begin : begin + size])
        begin = min(begin + size, len(samples))
        assert detector.position == begin
    events += detector.feed(samples[begin:])
    events += detector.finish()
    assert detector.position == len(samples)
    return events


def decisions(events):
    return [event for event in events if not isinstance(event, Speech)]


def utterances(events):
    return [event for event in events if isinstance(event, Ended)]


def check(events, samples, config=DEFAULT):
    """Check the invariants that hold for any input."""
    reached, count, current = 0, 0, None
    blocks: list[NDArray[np.float32]] = []
    for event in events:
        match event:
            case Started(utterance, start):
                assert current is None
                assert (utterance, start) == (count, reached)
                current, blocks = event, []
            case Speech(utterance, block):
                assert current is not None
                assert utterance == current.utterance
                assert len(block) > 0
                blocks.append(block)
            case Ended(utterance, start, end, reason):
                assert current is not None
                assert (utterance, start) == (current.utterance, current.start)
                assert start == reached < end
                spoken = np.concatenate(blocks)
                longest = round(config.longest_seconds * SAMPLE_RATE)
                assert end - start <= len(spoken) <= longest
                if reason != "length":
                    assert len(spoken) == end - start
                assert np.array_equal(spoken, samples[start : start + len(spoken)])
                reached, count, current = end, count + 1, None
            case Skipped(start, end):
                assert current is None
                assert start == reached < end
                reached = end
    assert current is None
    assert reached == len(samples)


configs = st.builds(
    EndpointConfig,
    threshold=st.sampled_from((0.05, 0.5, 0.9)),
    silence_seconds=st.floats(0.05, 1.0),
    min_speech_seconds=st.floats(0, 3.0),
    longest_seconds=st.floats(1.0, 4.0),
    pre_roll_seconds=st.floats(0, 0.5),
    hang_over_seconds=st.floats(0, 1.2),
)
# Runs of windows with one probability: speech, pauses and bursts of any length.
probability_runs = st.lists(
    st.tuples(st.sampled_from((0.0, 0.2, 0.4, 0.5, 1.0)), st.integers(1, 60)), min_size=1, max_size=12
).map(lambda runs: [probability for probability, length in runs for _ in range(length)])


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    config=configs,
    probabilities=probability_runs,
    tail=st.integers(0, WINDOW - 1),
    sizes=st.lists(st.one_of(st.integers(0, 3), st.integers(0, 20_000)), max_size=30),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_sample_is_in_one_event_for_any_chunks(config, probabilities, tail, sizes, seed):
    length = len(probabilities) * WINDOW + tail
    samples = np.random.default_rng(seed).uniform(-1, 1, length).astype(np.float32)
    at_once = run(samples, ScriptedVoiceActivity(probabilities), config)
    check(at_once, samples, config)
    in_pieces = run(samples, ScriptedVoiceActivity(probabilities), config, sizes)
    check(in_pieces, samples, config)
    assert decisions(in_pieces) == decisions(at_once)


def windows(*runs):
    return [float(probability) for probability, length in runs for _ in range(length)]


def sound(probabilities, extra=0):
    return np.random.default_rng(3).uniform(-1, 1, len(probabilities) * WINDOW + extra).astype(np.float32)


def test_pre_roll_and_hang_over_surround_the_voice():
    probabilities = windows((0, 50), (1, 20), (0, 60))
    [ended] = utterances(run(sound(probabilities), ScriptedVoiceActivity(probabilities)))
    assert ended == Ended(0, 50 * WINDOW - 4_800, 70 * WINDOW + 4_800, "silence")


def test_pre_roll_does_not_overlap_the_previous_utterance():
    probabilities = windows((1, 20), (0, 26), (1, 20), (0, 60))
    config = EndpointConfig(pre_roll_seconds=2.0)
    first, second = utterances(run(sound(probabilities), ScriptedVoiceActivity(probabilities), config))
    assert first.start == 0
    assert second.start == first.end == 20 * WINDOW + 4_800


def test_a_pause_shorter_than_silence_seconds_does_not_end_the_utterance():
    probabilities = windows((1, 20), (0, 24), (1, 20), (0, 60))
    samples = sound(probabilities)
    events = run(samples, ScriptedVoiceActivity(probabilities))
    check(events, samples)
    assert utterances(events) == [Ended(0, 0, 64 * WINDOW + 4_800, "silence")]
    split = windows((1, 20), (0, 25), (1, 20), (0, 60))
    assert len(utterances(run(sound(split), ScriptedVoiceActivity(split)))) == 2


def test_a_short_burst_is_skipped_but_a_word_is_not():
    burst = windows((0, 30), (1, 4), (0, 60))
    assert utterances(run(sound(burst), ScriptedVoiceActivity(burst))) == []
    word = windows((0, 30), (1, 5), (0, 60))
    assert len(utterances(run(sound(word), ScriptedVoiceActivity(word)))) == 1


def test_parts_of_a_word_are_counted_together():
    probabilities = windows((0, 30), (1, 3), (0, 4), (1, 3), (0, 60))
    [ended] = utterances(run(sound(probabilities), ScriptedVoiceActivity(probabilities)))
    assert ended.start == 30 * WINDOW - 4_800


def test_voice_ends_at_a_lower_threshold_than_it_starts():
    kept = windows((0, 30), (0.6, 10), (0.36, 40), (0, 60))
    [ended] = utterances(run(sound(kept), ScriptedVoiceActivity(kept)))
    assert ended.end == 80 * WINDOW + 4_800
    never = windows((0, 30), (0.49, 60), (0, 30))
    assert utterances(run(sound(never), ScriptedVoiceActivity(never))) == []
    # After the voice has ended, it does not restart at the lower threshold.
    fallen = windows((0.6, 10), (0.3, 1), (0.45, 60))
    [ended] = utterances(run(sound(fallen), ScriptedVoiceActivity(fallen)))
    assert ended == Ended(0, 0, 10 * WINDOW + 4_800, "silence")


def test_samples_are_emitted_as_they_arrive():
    detector = UtteranceDetector(DEFAULT, ScriptedVoiceActivity([1.0]))
    emitted = 0
    for fed in range(100, 20_000, 100):
        for event in detector.feed(np.zeros(100, np.float32)):
            emitted += len(event.samples) if isinstance(event, Speech) else 0
        assert emitted == (fed if fed >= 5 * WINDOW else 0)


def test_silence_after_the_hang_over_is_held_back_until_speech_resumes():
    probabilities = windows((1, 10), (0, 20), (1, 1), (0, 60))
    detector, emitted = UtteranceDetector(DEFAULT, ScriptedVoiceActivity(probabilities)), 0
    for window in range(1, 32):
        for event in detector.feed(np.zeros(WINDOW, np.float32)):
            emitted += len(event.samples) if isinstance(event, Speech) else 0
        if 20 <= window <= 30:
            assert emitted == 10 * WINDOW + 4_800
    assert emitted == 31 * WINDOW


def test_silence_is_skipped_continuously():
    detector, skipped = UtteranceDetector(DEFAULT, ScriptedVoiceActivity([0.0])), 0
    for window in range(1, 200):
        for event in detector.feed(np.zeros(WINDOW, np.float32)):
            assert isinstance(event, Skipped)
            skipped = event.end
        assert skipped == max(0, window * WINDOW - 4_800)


def test_a_long_utterance_is_cut_at_its_quietest_point():
    probabilities = [1.0] * 1_300  # 41.6 s
    samples = sound(probabilities)
    quiet = round(28.6 * SAMPLE_RATE)
    samples[quiet - 2_000 : quiet + 2_000] *= 0.01
    events = run(samples, ScriptedVoiceActivity(probabilities))
    check(events, samples)
    first, second = utterances(events)
    assert first.reason == "length"
    assert abs(first.end - quiet) <= 400
    assert second == Ended(1, first.end, len(samples), "finish")


def test_a_cut_in_the_final_silence_does_not_start_an_empty_utterance():
    config = EndpointConfig(longest_seconds=2.0, silence_seconds=1.0)
    probabilities = windows((1, 40), (0, 80))
    samples = sound(probabilities)
    samples[40 * WINDOW :] = 0
    events = run(samples, ScriptedVoiceActivity(probabilities), config)
    check(events, samples, config)
    [ended] = utterances(events)
    assert ended == Ended(0, 0, 40 * WINDOW + 4_800, "length")


def test_sparse_voice_is_emitted_when_the_limit_is_reached():
    config = EndpointConfig(longest_seconds=2.0, min_speech_seconds=10.0, silence_seconds=1.0)
    probabilities = windows(*[(1, 1), (0, 20)] * 20)
    samples = sound(probabilities)
    events = run(samples, ScriptedVoiceActivity(probabilities), config)
    check(events, samples, config)
    assert utterances(events)


@pytest.mark.parametrize("length", [0, 1, 511, 512, 513, 4_000])
def test_a_stream_of_silence_is_skipped(length):
    samples = np.zeros(length, np.float32)
    events = run(samples, ScriptedVoiceActivity([0.0]))
    check(events, samples)
    assert not utterances(events)


def test_finish_within_a_word_keeps_the_word():
    probabilities = windows((0, 20), (1, 2))
    samples = sound(probabilities, extra=100)
    [ended] = utterances(run(samples, ScriptedVoiceActivity(probabilities)))
    assert ended == Ended(0, 20 * WINDOW - 4_800, len(samples), "finish")


def test_finish_in_the_silence_after_a_word_ends_it_at_the_hang_over():
    probabilities = windows((1, 20), (0, 15))
    [ended] = utterances(run(sound(probabilities), ScriptedVoiceActivity(probabilities)))
    assert ended == Ended(0, 0, 20 * WINDOW + 4_800, "finish")


def test_a_second_finish_returns_nothing_and_a_later_feed_raises():
    detector = UtteranceDetector(DEFAULT, ScriptedVoiceActivity([1.0]))
    detector.feed(np.zeros(9_999, np.float32))
    assert detector.finish()
    assert detector.finish() == []
    with pytest.raises(RuntimeError, match="finished"):
        detector.feed(np.zeros(1, np.float32))


def test_memory_is_bounded_in_a_long_stream():
    for probability in (0.0, 1.0):
        detector = UtteranceDetector(DEFAULT, ScriptedVoiceActivity([probability]))
        for _ in range(100):
            detector.feed(np.zeros(SAMPLE_RATE, np.float32))
            assert len(detector._buffer._samples) <= 4 * SAMPLE_RATE


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 0.0},
        {"threshold": float("nan")},
        {"silence_seconds": 0.0},
        {"min_speech_seconds": -1.0},
        {"longest_seconds": 0.5},
        {"pre_roll_seconds": 20.0},
        {"hang_over_seconds": -0.1},
    ],
)
def test_an_invalid_setting_raises_with_its_name(wrong):
    with pytest.raises(BadConfig, match=next(iter(wrong))):
        EndpointConfig(**wrong)


def test_a_cut_is_the_middle_of_the_last_of_equally_quiet_points():
    samples = np.ones(48_000, np.float32)
    samples[5_000:15_000] = 0
    samples[25_000:35_000] = 0
    limit = 30 * SAMPLE_RATE
    assert abs(cut_point(samples, limit) - (limit - 48_000 + 30_000)) <= 240


def test_a_cut_does_not_depend_on_earlier_samples():
    samples = np.random.default_rng(0).uniform(-1, 1, 7 * SAMPLE_RATE).astype(np.float32)
    cut = cut_point(samples, len(samples))
    assert len(samples) - 3 * SAMPLE_RATE <= cut <= len(samples)
    for begin in (1, SAMPLE_RATE, len(samples) - cut_span(len(samples))):
        assert cut_point(samples[begin:], len(samples)) == cut
    samples[SAMPLE_RATE : 2 * SAMPLE_RATE] = 0  # quieter, but before the searched span
    assert cut_point(samples, len(samples)) == cut


def test_at_most_half_of_an_utterance_is_searched_for_a_cut():
    assert cut_span(30 * SAMPLE_RATE) == 3 * SAMPLE_RATE
    assert cut_span(SAMPLE_RATE) == SAMPLE_RATE // 2
    assert cut_point(np.zeros(200, np.float32), 200) == 200


# ---- with the Silero network


@pytest.fixture(scope="session")
def synthesize(require_program):
    require_program("espeak-ng")
    return lambda text, voice=HELD_OUT[0]: speak(text, voice)


def silence(seconds, noise=0.0, seed=0):
    length = round(seconds * SAMPLE_RATE)
    return (np.random.default_rng(seed).normal(0, 1, length) * noise).astype(np.float32)


def audible(clip, level=0.01):
    """The range of samples, from the first to the last that is audible."""
    found = np.flatnonzero(np.abs(clip) > level * np.abs(clip).max())
    return int(found[0]), int(found[-1]) + 1


@pytest.mark.slow
@pytest.mark.parametrize("voice", HELD_OUT[::3], ids=lambda voice: voice.name)
@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_the_first_and_last_words_are_not_cut(silero, synthesize, voice, noise):
    clip = synthesize("Stop the music in the kitchen. What is the time in Paris?", voice)
    before = 2 * SAMPLE_RATE
    samples = np.concatenate((silence(2), clip, silence(2))) + silence(4 + len(clip) / SAMPLE_RATE, noise)
    events = run(samples, VoiceActivity(silero))
    check(events, samples)
    found = utterances(events)
    begin, end = (before + edge for edge in audible(clip))
    assert found[0].start <= begin
    assert found[-1].end >= end
    assert found[0].start >= begin - SAMPLE_RATE // 2
    assert found[-1].end <= end + SAMPLE_RATE // 2


@pytest.mark.slow
@pytest.mark.parametrize("word", ["Yes.", "No.", "Go.", "Stop.", "On.", "Hi.", "Up.", "Two."])
@pytest.mark.parametrize("name", ["en-us+m5", "en-gb+f3", "en-us+robert"])
def test_a_short_word_is_kept_whole(silero, synthesize, word, name):
    clip = synthesize(word, Voice("espeak", name))
    samples = np.concatenate((silence(1), clip, silence(1.5)))
    [ended] = utterances(run(samples, VoiceActivity(silero)))
    begin, end = (SAMPLE_RATE + edge for edge in audible(clip))
    assert ended.start <= begin
    assert ended.end >= end


def test_clicks_noise_and_hum_are_not_speech(silero):
    clicks = silence(3)
    clicks[[8_000, 20_000, 20_700, 33_000]] = 0.9
    hum = (0.1 * np.sin(2 * np.pi * 50 * np.arange(48_000) / SAMPLE_RATE)).astype(np.float32)
    samples = np.concatenate((clicks, silence(3, 0.05), hum, silence(1)))
    events = run(samples, VoiceActivity(silero))
    check(events, samples)
    assert not utterances(events)


def at_level(clip, level):
    """The clip at that root mean square, in dBFS."""
    return (clip * 10 ** (level / 20) / np.sqrt(np.mean(clip**2))).astype(np.float32)


QUIET = ("Turn on the light.", "Yes.", "The meeting is on Monday.", "Good morning, Anna.", "What is the time in Paris?")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("levels", "noise"),
    [((-45,), None), ((-45,), -65), ((-65,), None), ((-65,), -75), ((-70,), -85), ((-26, -60), -80)],
    ids=["-45", "-45 in noise", "-65", "-65 in noise", "-70", "loud and quiet"],
)
def test_quiet_sentences_are_found_whole(silero, synthesize, levels, noise):
    clips = [synthesize(text, voice) for text in QUIET for voice in HELD_OUT[:4]]
    clips = [at_level(clip, levels[number % len(levels)]) for number, clip in enumerate(clips)]
    samples = np.concatenate([part for clip in clips for part in (silence(1.5), clip)] + [silence(1.5)])
    if noise is not None:
        samples += silence(len(samples) / SAMPLE_RATE, 10 ** (noise / 20))
    samples = (np.round(samples * 32_768) / 32_768).astype(np.float32)  # as a microphone gives it
    events = run(samples, VoiceActivity(silero))
    check(events, samples)
    found = utterances(events)
    assert len(found) == len(clips)
    position = 0
    for clip, ended in zip(clips, found, strict=True):
        position += round(1.5 * SAMPLE_RATE)
        begin, end = (position + edge for edge in audible(clip))
        assert ended.start <= begin < end <= ended.end
        position += len(clip)


@pytest.mark.slow
@pytest.mark.parametrize("level", [-26, -45, -60, -75])
def test_nothing_is_found_in_noise_at_any_level(silero, level):
    rng = np.random.default_rng(level + 100)
    white = rng.standard_normal(20 * SAMPLE_RATE)
    frequencies = np.maximum(np.fft.rfftfreq(len(white), 1 / SAMPLE_RATE), 20)
    brown = np.fft.irfft(np.fft.rfft(white) / frequencies, len(white))
    clicks = np.where(rng.uniform(0, 1, len(white)) < 2e-4, 30 * white, 0.1 * white)
    samples = np.concatenate([at_level(sound, level) for sound in (white, brown, clicks)] + [silence(1)])
    assert not utterances(run(samples, VoiceActivity(silero)))


@pytest.mark.slow
def test_a_click_does_not_hide_the_quiet_sentence_after_it(silero, synthesize):
    clip = at_level(synthesize("Good morning, Anna."), -65)
    samples = np.concatenate((silence(2), clip, silence(1.5)))
    samples[2 * SAMPLE_RATE - 800 : 2 * SAMPLE_RATE - 600] = 0.9
    [ended] = utterances(run(samples, VoiceActivity(silero)))
    begin, end = (2 * SAMPLE_RATE + edge for edge in audible(clip))
    assert ended.start <= begin < end <= ended.end


def test_sentences_with_pauses_are_separate_utterances(silero, synthesize):
    clips = [synthesize(text) for text in ("Turn on the light.", "The meeting is on Monday.", "Good morning, Anna.")]
    samples = np.concatenate([part for clip in clips for part in (silence(1.5), clip)] + [silence(1.5)])
    events = run(samples, VoiceActivity(silero))
    check(events, samples)
    found = utterances(events)
    assert [ended.reason for ended in found] == ["silence"] * 3
    position = 0
    for clip, ended in zip(clips, found, strict=True):
        position += round(1.5 * SAMPLE_RATE)
        begin, end = (position + edge for edge in audible(clip))
        assert ended.start <= begin < end <= ended.end
        position += len(clip)


def test_a_long_speech_is_cut_between_words(silero, synthesize):
    clip = synthesize(" ".join(["The kitchen light is on and the door is open, and the blue lamp is off."] * 10))
    samples = np.tile(clip, 2)[: 70 * SAMPLE_RATE]
    config = EndpointConfig(longest_seconds=12.0)
    events = run(samples, VoiceActivity(silero), config)
    check(events, samples, config)
    cuts = [ended.end for ended in utterances(events) if ended.reason == "length"]
    assert cuts
    loud = np.sqrt(np.mean(samples**2))
    for cut in cuts:
        assert np.sqrt(np.mean(samples[cut - 400 : cut + 400] ** 2)) < 0.5 * loud


parts = st.lists(
    st.one_of(
        st.tuples(st.just("silence"), st.floats(0.01, 1.5)),
        st.tuples(st.just("noise"), st.floats(0.01, 1.0)),
        st.tuples(st.just("burst"), st.floats(0.01, 0.3)),
        st.tuples(st.just("speech"), st.floats(0.05, 2.5)),
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    parts=parts,
    rate=st.sampled_from((8_000, 16_000, 22_050, 44_100, 48_000)),
    sizes=st.lists(st.one_of(st.integers(0, 3), st.integers(0, 30_000)), max_size=15),
)
def test_every_input_sample_is_accounted_for_at_any_rate(one_window, synthesize, parts, rate, sizes):
    words = synthesize("Turn on the kitchen light. Yes. The meeting is on Monday.")
    pieces = {
        "silence": lambda n: np.zeros(n, np.float32),
        "noise": lambda n: np.random.default_rng(n).normal(0, 0.05, (n,)).astype(np.float32),
        "burst": lambda n: np.random.default_rng(n).uniform(-0.9, 0.9, (n,)).astype(np.float32),
        "speech": lambda n: words[5_000 : 5_000 + n],
    }
    recorded = np.concatenate([pieces[kind](round(seconds * rate)) for kind, seconds in parts])
    resampler = StreamingResampler(rate)
    whole = np.concatenate((resampler.feed(recorded), resampler.finish()))
    config = EndpointConfig(longest_seconds=3.0)
    expected = run(whole, VoiceActivity(one_window), config)
    check(expected, whole, config)

    resampler, detector, events, begin = StreamingResampler(rate), None, [], 0
    detector = UtteranceDetector(config, VoiceActivity(one_window))
    for size in [*sizes, len(recorded)]:
        events += detector.feed(resampler.feed(recorded[begin : begin + size]))
        begin += size
    events += detector.feed(resampler.finish())
    events += detector.finish()
    check(events, whole, config)
    assert decisions(events) == decisions(expected)
    counted = sum(event.end - event.start for event in events if isinstance(event, Ended | Skipped))
    assert counted == len(whole) == (2 * len(recorded) * SAMPLE_RATE + rate) // (2 * rate)


def test_another_silence_holds_from_the_next_utterance_on():
    probabilities = windows((1, 10), (0, 20), (1, 10), (0, 20), (1, 10), (0, 60))
    samples = sound(probabilities)
    config = EndpointConfig(silence_seconds=0.5, hang_over_seconds=0.3)

    def run_with(*changes):
        detector, events = UtteranceDetector(config, ScriptedVoiceActivity(probabilities)), []
        for index, block in enumerate(np.array_split(samples, len(samples) // WINDOW)):
            for at, seconds in changes:
                if index == at:
                    detector.set_silence(seconds)
            events += detector.feed(block)
        events += detector.finish()
        return utterances(events)

    assert len(run_with()) == 3  # the pauses are 0.64 s long
    first, *rest = run_with((15, 1.0))  # during the first pause: it ends the utterance as before
    assert first == run_with()[0]
    assert len(rest) == 1  # and the second pause does not
    assert len(run_with((0, 1.0))) == 1
    assert run_with((0, 1.0), (1, 0.5)) == run_with()
    with pytest.raises(BadConfig, match="silence_seconds"):
        UtteranceDetector(config, ScriptedVoiceActivity([0.0])).set_silence(0.0)
