"""Passes over many utterances: the same numbers as alone, and hardly more operators."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.operators import CountOperators
from qwen_asr.engine.decoder.fixed_passes import Shape, default_shapes
from qwen_asr.engine.decoder.forward import Decoder
from qwen_asr.engine.decoder.kv_pool import KVCache
from qwen_asr.engine.decoder.packing import AUDIO, Row
from qwen_asr.engine.recognizer import Recognizer
from tests.support.checkpoints import DEVICE, random_parts, random_recognizer, reference_parts


@pytest.fixture
def decoder() -> Decoder:
    return random_recognizer().decoder


@pytest.fixture
def caches(decoder: Decoder) -> Iterator[list[KVCache]]:
    opened = [decoder.new_cache() for _ in range(64)]
    for cache in opened:
        cache.begin()
    yield opened
    for cache in opened:
        cache.close()
        cache.end()


def row(cache: KVCache, tokens: list[int], predictions: int = 1) -> Row:
    cache.reserve(len(tokens))
    return Row(cache, np.array(tokens, dtype=np.int64), (), predictions)


def reference_logits(tokens: list[int]) -> torch.Tensor:
    """The logits of transformers' own decoder for one sequence of tokens, (n, vocabulary)."""
    model, _ = reference_parts("random")
    with torch.inference_mode():
        hidden = model.model.language_model(
            input_ids=torch.tensor([tokens], device=DEVICE), use_cache=False
        ).last_hidden_state
        logits: torch.Tensor = model.lm_head(hidden)[0].cpu()
    return logits


def check_predictions(logits: torch.Tensor, predicted: list[int]) -> None:
    """Each predicted token has the best logit, up to float32 rounding."""
    chosen = logits[range(len(predicted)), predicted]
    assert (logits.max(dim=-1).values - chosen).max() < 1e-4


def test_rows_of_any_shape_together_equal_transformers(decoder: Decoder, caches: list[KVCache]) -> None:
    rng = np.random.default_rng(0)
    past = [0, 1, 63, 64, 65, 300, 1100, 5]
    new = [1, 1, 2, 200, 1, 64, 3, 161]
    texts = [rng.integers(0, 300, before + after).tolist() for before, after in zip(past, new, strict=True)]
    first = [row(cache, text[:n]) for cache, text, n in zip(caches, texts, past, strict=False) if n]
    decoder.predict(first)
    second = [
        row(cache, text[n:], predictions=min(len(text) - n, 5))
        for cache, text, n in zip(caches, texts, past, strict=False)
    ]
    for text, one, prediction in zip(texts, second, decoder.predict(second), strict=True):
        assert one.cache.length == len(text)
        assert len(prediction.tokens) == one.predictions
        check_predictions(reference_logits(text)[-one.predictions :], prediction.tokens)


def test_pages_in_any_order_give_the_same(decoder: Decoder, caches: list[KVCache]) -> None:
    """Two caches that grow in turn have each other's pages between their own."""
    rng = np.random.default_rng(1)
    texts = [rng.integers(0, 300, 260).tolist() for _ in range(2)]
    for start in range(0, 260, 52):
        for cache, text in zip(caches, texts, strict=False):
            [prediction] = decoder.predict([row(cache, text[start : start + 52])])
    assert not caches[1].contiguous
    check_predictions(reference_logits(texts[1])[-1:], prediction.tokens)


def test_a_pass_without_predictions_fills_the_cache(decoder: Decoder, caches: list[KVCache]) -> None:
    text = np.random.default_rng(2).integers(0, 300, 40).tolist()
    assert decoder.predict([row(caches[0], text[:39], predictions=0)])[0].tokens == []
    [prediction] = decoder.predict([row(caches[0], text[39:])])
    check_predictions(reference_logits(text)[-1:], prediction.tokens)


def test_probabilities_are_those_of_the_predicted_tokens(decoder: Decoder, caches: list[KVCache]) -> None:
    text = np.random.default_rng(3).integers(0, 300, 30).tolist()
    one = row(caches[0], text, predictions=4)
    [prediction] = decoder.predict([Row(one.cache, one.tokens, (), 4, scored=True)])
    expected = reference_logits(text)[-4:].log_softmax(-1).max(-1).values
    assert prediction.log_probabilities == pytest.approx(expected.tolist(), abs=1e-4)
    assert all(value < 0 for value in prediction.log_probabilities)


def test_audio_takes_the_places_of_its_marks(decoder: Decoder, caches: list[KVCache]) -> None:
    text = np.random.default_rng(4).integers(0, 300, 20).tolist()
    table = reference_parts("random")[0].model.language_model.embed_tokens.weight.detach()
    marked = [*text[:4], *[AUDIO] * 3, *text[7:10], AUDIO, *text[11:]]
    audio = (table[text[4:6]], table[text[6:7]]), (table[text[10:11]],)
    caches[0].reserve(20)
    caches[1].reserve(5)
    rows = [
        Row(caches[1], np.array(text[:5]), (), 1),
        Row(caches[0], np.array(marked), (*audio[0], *audio[1]), 1),
    ]
    check_predictions(reference_logits(text)[-1:], decoder.predict(rows)[1].tokens)


@pytest.mark.slow
@pytest.mark.parametrize("mixed", [False, True])
def test_a_pass_of_64_utterances_takes_hardly_more_operators_than_one_of_one(
    decoder: Decoder, caches: list[KVCache], mixed: bool
) -> None:
    """With `mixed`, half of the utterances verify a draft while the others decode a token."""
    rng = np.random.default_rng(5)
    decoder.predict([row(cache, [1] * int(rng.integers(20, 600))) for cache in caches])

    def operators(rows: list[Row]) -> int:
        with torch.no_grad(), CountOperators() as counted:
            decoder.predict(rows)
        return counted.count

    alone = operators([row(caches[0], [5])])
    sizes = [int(rng.integers(20, 120)) if mixed and index % 2 else 1 for index in range(64)]
    together = operators([row(cache, [5] * size) for cache, size in zip(caches, sizes, strict=True)])
    assert together <= 1.5 * alone


def test_passes_in_fixed_shapes_give_the_same() -> None:
    """What a GPU captures as graphs, uncaptured: rows that fit, rows that are too many, and one that fits nowhere."""
    rng = np.random.default_rng(7)
    texts = [rng.integers(0, 300, size).tolist() for size in (40, 90, 64, 65, 30, 200, 33)]
    new = [1, 1, 5, 40, 1, 150, 30]
    exact, fixed = random_recognizer().decoder, Recognizer(*random_parts(), name="random").decoder
    shapes = [Shape(1, 1, 128), Shape(2, 1, 128), Shape(2, 32, 128), Shape(1, 64, 128)]
    fixed.fix_shapes(shapes)
    results = []
    for decoder in (exact, fixed):
        opened = [decoder.new_cache() for _ in texts]
        for cache in opened:
            cache.begin()
        decoder.predict([row(cache, text[:-n]) for cache, text, n in zip(opened, texts, new, strict=True)])
        rows = [row(cache, text[-n:], min(n, 3)) for cache, text, n in zip(opened, texts, new, strict=True)]
        rows[2] = replace(rows[2], scored=True)
        results.append(decoder.predict(rows))
        assert [cache.length for cache in opened] == [len(text) for text in texts]
    for text, one, other in zip(texts, *results, strict=True):
        logits = reference_logits(text)[-len(one.tokens) :]
        check_predictions(logits, one.tokens)
        check_predictions(logits, other.tokens)
    assert results[1][2].log_probabilities == pytest.approx(results[0][2].log_probabilities, abs=1e-4)


def test_the_default_shapes_hold_the_steps_of_ordinary_utterances() -> None:
    shapes = default_shapes()
    for rows, new, total in ((1, 1, 20), (300, 1, 500), (64, 60, 350), (1, 190, 1000), (16, 130, 600)):
        assert any(rows <= one.rows and new <= one.new and total <= one.total for one in shapes)
    assert len(shapes) < 160  # each takes some 50 ms to capture
