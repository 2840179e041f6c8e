"""Exactness: after every step the hypothesis equals `generate` on the audio so far, token for token, in float32."""

import numpy as np
import pytest
import torch

from qwen_asr.engine.decoder.drafts import LANGUAGE_TOKENS, Beginning
from qwen_asr.engine.decoder.kv_pool import PAGE
from qwen_asr.engine.recognizer import Recognizer
from qwen_asr.engine.scheduler import Scheduler
from qwen_asr.engine.streaming import Utterance
from qwen_asr.errors import BadInput
from tests.support.checkpoints import (
    DEVICE,
    Samples,
    check_generated,
    demo_recognizer,
    generate,
    long_speech,
    random_parts,
    random_recognizer,
    random_sizes,
    reference_parts,
    small_pool,
    spoken,
)

RECOGNIZERS = {"random": random_recognizer, "demo": demo_recognizer}


@pytest.fixture(params=["random", "demo"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def recognizer(name: str) -> Recognizer:
    return RECOGNIZERS[name]()


CONTEXT = " ".join(f"Anna{number}" for number in range(120))
"""A context of several pages of the KV pool."""


@pytest.fixture
def recognizer_of_its_own() -> Recognizer:
    """A recognizer whose pool no other test uses."""
    return Recognizer(*random_parts(), name="random")


def check_every_step(name: str, samples: Samples, sizes: list[int], max_new_tokens: int, stride: int = 1) -> Utterance:
    """Feed chunks of `sizes`; compare with `generate` after every `stride`-th step and the last."""
    utterance = Utterance(RECOGNIZERS[name](), max_new_tokens=max_new_tokens)
    position = 0
    for step, size in enumerate(sizes):
        hypothesis = utterance.feed(samples[position : position + size])
        position += size
        assert hypothesis.samples == position
        if step % stride == 0 or position == len(samples):
            check_generated(name, samples[:position], hypothesis.tokens, max_new_tokens=max_new_tokens)
    check_generated(name, samples, utterance.finish().tokens, max_new_tokens=max_new_tokens)
    return utterance


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_each_hypothesis_equals_generate_on_the_audio_so_far(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = long_speech(rng, rng.uniform(2, 14))
    check_every_step(name, samples, random_sizes(rng, len(samples)), 48)


@pytest.mark.slow
def test_sessions_that_join_and_leave_at_random_equal_generate(recognizer_of_its_own: Recognizer) -> None:
    """Random chunks, jumps of level, cuts, contexts, and a pool too small for all: every hypothesis is exact."""
    recognizer = recognizer_of_its_own
    recognizer.decoder.pool = small_pool(recognizer, 12 * PAGE)
    rng = np.random.default_rng(77)
    live: list[tuple[Utterance, Samples, str]] = []
    compared, beginning = 0, Beginning()
    with Scheduler(recognizer) as scheduler:
        for _ in range(14):
            while not live or (len(live) < 5 and rng.random() < 0.7):
                context = CONTEXT if rng.random() < 0.3 else ""
                utterance = Utterance(recognizer, context=context, max_new_tokens=16, beginning=beginning)
                live.append((utterance, long_speech(rng, rng.uniform(1, 12)), context))
            for utterance, clip, _ in live:
                size = int(rng.choice([1, 160, 8_000, int(rng.integers(1, 60_000))]))
                utterance.append(clip[utterance.length : utterance.length + size])
                if rng.random() < 0.1:
                    utterance.truncate(int(rng.integers(1, utterance.length + 1)))
            futures = [scheduler.submit(utterance) for utterance, _, _ in live]
            hypotheses = [future.result(60) for future in futures]
            one = int(rng.integers(len(live)))
            utterance, clip, context = live[one]
            check_generated(
                "random", clip[: utterance.length], hypotheses[one].tokens, context=context, max_new_tokens=16
            )
            compared += 1
            for entry in [entry for entry in live if entry[0].length == len(entry[1]) or rng.random() < 0.1]:
                entry[0].close()
                live.remove(entry)
    assert recognizer.decoder.pool.evictions > 0
    assert compared == 14


@pytest.mark.parametrize("language", [None, "English"])
def test_an_utterance_drafts_the_language_of_the_one_before(language: str | None) -> None:
    recognizer, beginning = demo_recognizer(), Beginning()
    first = Utterance(recognizer, language=language, beginning=beginning)
    second = Utterance(recognizer, language=language, beginning=beginning)
    first.feed(spoken("The meeting is on Monday."))
    assert first.work.drafted == 0
    first.close()
    second.feed(spoken("Open the window."))
    drafted = 0 if language else LANGUAGE_TOKENS  # a given language is a part of the prompt
    assert (second.work.drafted, second.work.accepted) == (drafted, drafted)


@pytest.mark.slow
@pytest.mark.no_cover  # half as slow again with coverage, and shorter tests cover the same lines
def test_forty_seconds(name: str) -> None:
    rng = np.random.default_rng(40)
    samples = long_speech(rng, 40.0)
    utterance = check_every_step(name, samples, random_sizes(rng, len(samples)), 200, stride=5)
    assert utterance.work.accepted > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zeros", "hiss", "click"])
def test_silence(name: str, kind: str) -> None:
    rng = np.random.default_rng(1)
    samples = np.zeros(50_000, dtype=np.float32)
    if kind == "hiss":
        samples = (rng.standard_normal(50_000) * 1e-3).astype(np.float32)
    if kind == "click":
        samples[25_000] = 1.0
    check_every_step(name, samples, [1, 1, 7_997, 1, 1, 21_999, 20_000], 24)


@pytest.mark.slow
def test_a_louder_voice_encodes_quiet_windows_again(recognizer: Recognizer, name: str) -> None:
    quiet = long_speech(np.random.default_rng(5), 9.0) * 1e-4
    loud = spoken("Open the garage door.")
    samples = np.concatenate([quiet, loud]).astype(np.float32)
    recognizer.encoder.frames_encoded = 0
    check_every_step(name, samples, [len(quiet), len(loud)], 32)
    floor_moved = recognizer.encoder.frames_encoded
    recognizer.encoder.frames_encoded = 0
    check_every_step(name, np.concatenate([loud, quiet]), [len(loud), len(quiet)], 32)
    assert floor_moved >= recognizer.encoder.frames_encoded + 800 - len(loud) // 160


def test_a_completed_window_is_encoded_once(recognizer: Recognizer) -> None:
    samples = (np.random.default_rng(2).standard_normal(16_000 * 20) * 0.1).astype(np.float32)
    utterance = Utterance(recognizer, max_new_tokens=4)
    utterance.feed(samples[: 16_000 * 17])
    recognizer.encoder.frames_encoded = 0
    utterance.feed(samples[16_000 * 17 :])
    assert recognizer.encoder.frames_encoded == 400  # only the open window: 16 s to 20 s


@pytest.mark.slow
def test_language_and_context_match_the_processor(recognizer: Recognizer, name: str) -> None:
    samples = spoken("Set a timer for ten minutes.", 3)
    for language, context in ((None, "kitchen timer"), ("English", ""), ("German", "Anna, Peter")):
        utterance = Utterance(recognizer, language=language, context=context, max_new_tokens=40)
        utterance.feed(samples[:20_000])
        hypothesis = utterance.feed(samples[20_000:])
        check_generated(name, samples, hypothesis.tokens, language=language, context=context, max_new_tokens=40)
        assert language is None or hypothesis.language == language


@pytest.mark.slow
def test_the_token_limit_matches_generate(recognizer: Recognizer, name: str) -> None:
    samples = spoken("The meeting is on Monday the tenth of May.")
    for limit in (1, 2, 5):
        utterance = Utterance(recognizer, max_new_tokens=limit)
        utterance.feed(samples[:16_000])
        hypothesis = utterance.feed(samples[16_000:])
        check_generated(name, samples, hypothesis.tokens, max_new_tokens=limit)
        assert hypothesis.truncated


@pytest.mark.slow
@pytest.mark.parametrize("cut", [1, 7_000, 60_000, 128_000, 130_000, 159_999])
def test_truncation_equals_audio_without_the_rest(recognizer: Recognizer, name: str, cut: int) -> None:
    samples = long_speech(np.random.default_rng(8), 11.0)
    utterance = Utterance(recognizer, max_new_tokens=32)
    for start in range(0, len(samples), 40_000):
        utterance.feed(samples[start : start + 40_000])
    utterance.truncate(cut)
    assert utterance.length == cut
    check_generated(name, samples[:cut], utterance.finish().tokens, max_new_tokens=32)
    grown = utterance.feed(samples[cut : cut + 30_000])
    check_generated(name, samples[: cut + 30_000], grown.tokens, max_new_tokens=32)


@pytest.mark.slow
def test_replaced_samples_of_the_same_length_are_transcribed(recognizer: Recognizer, name: str) -> None:
    first, second = spoken("Open the window."), spoken("Set a timer for ten minutes.", 3)
    utterance = Utterance(recognizer, max_new_tokens=32)
    utterance.feed(first)
    utterance.truncate(100)
    utterance.append(second[: len(first) - 100])
    samples = np.concatenate([first[:100], second[: len(first) - 100]])
    check_generated(name, samples, utterance.finish().tokens, max_new_tokens=32)


def test_finish_without_new_audio_does_no_work(recognizer: Recognizer) -> None:
    utterance = Utterance(recognizer, max_new_tokens=16)
    utterance.feed(spoken("Stop the music."))
    frames = recognizer.encoder.frames_encoded
    assert utterance.finish() is utterance.hypothesis
    assert recognizer.encoder.frames_encoded == frames


def test_an_empty_utterance_has_an_empty_hypothesis(recognizer: Recognizer) -> None:
    assert Utterance(recognizer).finish().text == ""


@pytest.mark.slow
def test_the_utterances_of_a_session_share_the_pages_of_their_prompt(recognizer_of_its_own: Recognizer) -> None:
    recognizer, decoder = recognizer_of_its_own, recognizer_of_its_own.decoder
    samples = spoken("Stop the music.")
    prefilled = []
    for _ in range(3):
        utterance = Utterance(recognizer, context=CONTEXT, max_new_tokens=12)
        before = decoder.positions_prefilled
        tokens = utterance.feed(samples).tokens
        prefilled.append(decoder.positions_prefilled - before)
        check_generated("random", samples, tokens, context=CONTEXT, max_new_tokens=12)
        utterance.close()
    shared = len(recognizer.prompt(CONTEXT, None)[0]) // PAGE * PAGE
    assert shared > 2 * PAGE
    assert prefilled[1:] == [prefilled[0] - shared] * 2
    assert decoder.pool.positions_used == shared


@pytest.mark.slow
def test_an_utterance_whose_pages_were_taken_starts_from_its_embeddings(recognizer_of_its_own: Recognizer) -> None:
    recognizer = recognizer_of_its_own
    recognizer.decoder.pool = small_pool(recognizer, 1100)
    samples = long_speech(np.random.default_rng(21), 19.0)
    utterance = Utterance(recognizer, max_new_tokens=12)
    utterance.feed(samples[:280_000])
    frames = recognizer.encoder.frames_encoded
    others = [Utterance(recognizer, context=CONTEXT, max_new_tokens=12) for _ in range(4)]  # these take all pages
    for other in others:
        other.feed(samples[:200_000])
    assert recognizer.decoder.pool.evictions > 0
    assert utterance._cache.length == 0
    before = recognizer.encoder.frames_encoded
    check_generated("random", samples, utterance.feed(samples[280_000:]).tokens, max_new_tokens=12)
    assert recognizer.encoder.frames_encoded - before <= 800 < frames  # its completed windows were not encoded again


@pytest.mark.slow
def test_probabilities_of_the_tokens_come_with_the_hypothesis(recognizer: Recognizer, name: str) -> None:
    samples = spoken("The green umbrella is in the hall.")
    utterance = Utterance(recognizer, max_new_tokens=20, scored=True)
    utterance.feed(samples[:20_000])
    hypothesis = utterance.feed(samples[20_000:])
    model, processor = reference_parts(name)
    inputs = processor.apply_transcription_request([samples]).to(DEVICE)
    prompt = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([hypothesis.tokens], device=DEVICE)], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.inference_mode():
        expected = model(**inputs).logits[0, prompt - 1 : -1].log_softmax(-1)
    chosen = expected[range(len(hypothesis.tokens)), hypothesis.tokens]
    assert hypothesis.log_probabilities == pytest.approx(chosen.tolist(), abs=1e-3)
    assert hypothesis.prompt_tokens == prompt
    assert b"".join(hypothesis.pieces).decode(errors="replace") == hypothesis.raw
    unscored = Utterance(recognizer, max_new_tokens=20).feed(samples)
    assert unscored.tokens == hypothesis.tokens
    assert unscored.log_probabilities == ()
    assert unscored.pieces == ()


def test_the_bytes_of_tokens_are_the_raw_text(recognizer: Recognizer, name: str) -> None:
    text = "language German<asr_text>Grüße, 谢谢 👋 <|no_token|> "
    tokens = recognizer.processor.tokenizer(text + "<|im_end|>")["input_ids"]
    pieces = recognizer.pieces(tokens)
    assert len(pieces) == len(tokens)
    assert b"".join(pieces).decode() == text == recognizer.parse(tokens)[0]


def test_a_context_with_too_many_tokens_is_refused(recognizer: Recognizer) -> None:
    words = "Anna " * recognizer.longest_prompt
    with pytest.raises(BadInput, match=rf"tokens long, and this model takes at most {recognizer.longest_prompt:,}"):
        Utterance(recognizer, context=words)


def test_control_tokens_in_the_context_are_refused(recognizer: Recognizer) -> None:
    for token in ("<|audio_pad|>", "<|im_end|>", "<asr_text>"):
        with pytest.raises(BadInput, match="control token"):
            Utterance(recognizer, context=f"Anna {token} Peter")


@pytest.mark.slow
def test_the_comparison_with_generate_fails_on_any_wrong_token(name: str) -> None:
    samples = long_speech(np.random.default_rng(6), 3.0)
    tokens = generate(name, samples, max_new_tokens=12)
    check_generated(name, samples, tokens, max_new_tokens=12)
    for position in range(len(tokens)):
        wrong = (*tokens[:position], tokens[position] + 1, *tokens[position + 1 :])
        with pytest.raises(AssertionError, match=f"token {position} is {tokens[position] + 1}"):
            check_generated(name, samples, wrong, max_new_tokens=12)
    with pytest.raises(AssertionError, match=f"token {len(tokens) - 1} is"):
        check_generated(name, samples, tokens[:-1], max_new_tokens=12)
