"""The encoder computes what transformers' encoder does, however its windows are batched and whatever it remembers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from qwen_asr.engine.encoder import Encoded, Encoder, Layout, Window, key_mask
from qwen_asr.engine.recognizer import Recognizer
from tests.support.checkpoints import demo_recognizer, random_parts, random_recognizer, reference_parts

RECOGNIZERS = {"random": random_recognizer, "demo": demo_recognizer}
ROUNDING = 1e-4
"""The tolerance for embeddings of up to about 10 after a few layers in float32."""
LENGTHS = [1, 7, 8, 9, 99, 100, 101, 108, 109, 350, 600, 699, 700, 701, 799, 800]


@pytest.fixture(params=["random", "demo"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def encoder(name: str) -> Encoder:
    return RECOGNIZERS[name]().encoder


def random_windows(lengths: list[int], seed: int = 0) -> list[Window]:
    """Windows of these lengths in frames, with values as those of a log-mel."""
    generator = torch.Generator().manual_seed(seed)
    return [Window(torch.rand(128, length, generator=generator) * 2 - 0.5) for length in lengths]


def transformers_encoder(model: Any, frames: Tensor) -> Tensor:
    """Embeddings of one window from transformers' own modules."""
    padded = torch.nn.functional.pad(frames, (0, -frames.shape[1] % 100))
    mask = (torch.arange(padded.shape[1]) < frames.shape[1]).long()
    with torch.inference_mode():
        embeddings: Tensor = model.get_audio_features(padded[None], mask[None]).pooler_output
    return embeddings


def assert_equal_up_to_rounding(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() < ROUNDING


def check(name: str, windows: list[Window], results: list[Encoded]) -> None:
    """Each result equals that of transformers, and each stem has the rows of the complete chunks."""
    model, _ = reference_parts(name)
    for window, encoded in zip(windows, results, strict=True):
        assert_equal_up_to_rounding(encoded.embeddings, transformers_encoder(model, window.frames))
        assert len(encoded.stem) == window.frames.shape[1] // 100 * 13


def test_windows_of_any_length_equal_transformers(name: str, encoder: Encoder) -> None:
    windows = random_windows(LENGTHS)
    results = encoder.encode(windows)
    check(name, windows, results)
    for length, encoded in zip(LENGTHS, results, strict=True):
        assert len(encoded.embeddings) == encoder.embeddings_of(length)


def test_windows_of_the_same_length_equal_transformers(name: str, encoder: Encoder) -> None:
    windows = random_windows([430] * 3)
    check(name, windows, encoder.encode(windows))


def test_a_window_alone_equals_transformers(name: str, encoder: Encoder) -> None:
    for window in random_windows(LENGTHS):
        check(name, [window], encoder.encode([window]))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_growing_windows_with_remembered_stems_equal_transformers(name: str, encoder: Encoder, seed: int) -> None:
    """Four windows grow at their own pace in the same passes. Some steps forget the stem, as after a louder voice."""
    generator = torch.Generator().manual_seed(seed)
    clips = random_windows([800] * 4, seed)
    lengths: list[int] = [0] * len(clips)
    stems: list[Tensor | None] = [None] * len(clips)
    while min(lengths) < 800:
        steps = torch.randint(0, 250, (len(clips),), generator=generator).tolist()
        lengths = [min(max(length + step, 1), 800) for length, step in zip(lengths, steps, strict=True)]
        kept = [stem if torch.rand((), generator=generator) < 0.8 else None for stem in stems]
        windows = [Window(one.frames[:, :end], stem) for one, end, stem in zip(clips, lengths, kept, strict=True)]
        results = encoder.encode(windows)
        check(name, windows, results)
        stems = [encoded.stem for encoded in results]


@contextmanager
def convolved(encoder: Encoder) -> Iterator[list[int]]:
    """Within the block, the list grows by the number of chunks of each run of the convolutions."""
    chunks: list[int] = []
    hook = encoder._convolutions[0].register_forward_pre_hook(lambda _, inputs: chunks.append(len(inputs[0])))
    try:
        yield chunks
    finally:
        hook.remove()


def test_the_convolutions_run_only_on_chunks_that_are_not_remembered(name: str, encoder: Encoder) -> None:
    first, second = random_windows([730, 500])
    remembered = encoder.encode([Window(first.frames[:, :630]), second])
    windows = [Window(first.frames, remembered[0].stem), Window(second.frames, remembered[1].stem)]
    with convolved(encoder) as chunks:
        results = encoder.encode(windows)
        assert chunks == [2]  # frames 600 to 700 and 700 to 730
        check(name, windows, results)
        check(name, windows[1:], encoder.encode(windows[1:]))
        assert chunks == [2]  # nothing is left to convolve


def test_a_window_does_not_see_the_others(encoder: Encoder) -> None:
    """Values that are not numbers, as of an overflow in one window, stay in it."""
    windows = random_windows([250, 800, 431])
    expected = encoder.encode(windows)
    broken = Window(torch.full_like(windows[0].frames, torch.inf))
    results = encoder.encode([broken, *windows[1:]])
    assert not results[0].embeddings.isfinite().any()
    for one, other in zip(results[1:], expected[1:], strict=True):
        assert torch.equal(one.embeddings, other.embeddings)
        assert torch.equal(one.stem, other.stem)


def test_padded_windows_equal_packed_ones(name: str, encoder: Encoder) -> None:
    """The form with static shapes: zeros for missing rows, and windows and lengths that nobody needs."""
    windows = random_windows([250, 800, 431])
    results = encoder.encode(windows)
    counts = [len(encoded.embeddings) for encoded in results]
    places, length = 5, 112
    with torch.inference_mode():
        padded = torch.zeros(places, length, results[0].stem.shape[1])
        for place, window in enumerate(windows):
            chunks = torch.nn.functional.pad(window.frames, (0, -window.frames.shape[1] % 100)).unflatten(1, (-1, 100))
            padded[place, : counts[place]] = encoder.stem(chunks.transpose(0, 1)[:, None]).flatten(0, 1)[
                : counts[place]
            ]
        mask = key_mask(torch.tensor([*counts, 1, 1]), length, torch.float32)
        embeddings = encoder.layers(padded.flatten(0, 1), Layout(places, length, mask=mask)).unflatten(0, (places, -1))
    for place, encoded in enumerate(results):
        assert_equal_up_to_rounding(embeddings[place, : counts[place]], encoded.embeddings)


def test_transformers_runs_the_same_model_with_the_same_weights_in_memory() -> None:
    """The fused matrices take no further memory, and transformers' encoder gives what it gave before."""
    model, _ = random_parts()
    [frames] = [window.frames for window in random_windows([530])]
    size = memory(model)
    before = transformers_encoder(model, frames)
    encoder = Encoder(model)
    assert memory(model) == size
    assert_equal_up_to_rounding(transformers_encoder(model, frames), before)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.9)
    changed = transformers_encoder(model, frames)
    assert (changed - before).abs().max() > 100 * ROUNDING
    assert_equal_up_to_rounding(encoder.encode([Window(frames)])[0].embeddings, changed)


def memory(model: torch.nn.Module) -> int:
    """The bytes of all storages that the parameters lie in."""
    storages = [parameter.untyped_storage() for parameter in model.parameters()]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_float16_is_clamped_as_in_transformers() -> None:
    model, _ = random_parts()
    model.half()
    tower = model.model.audio_tower
    with torch.no_grad():
        for layer in tower.layers:
            layer.fc2.bias[0] = 60_000.0  # the sum of two is beyond the largest number of float16
    encoder = Encoder(model)
    with torch.inference_mode():
        rows = torch.randn(20, tower.config.d_model, generator=torch.Generator().manual_seed(0)).half()
        hidden = rows
        for layer in tower.layers:
            hidden = layer(hidden, torch.tensor([0, 20]), max_seqlen=20)[0]
        assert hidden.max() == torch.finfo(torch.float16).max - 1000
        expected = model.model.multi_modal_projector(tower.ln_post(hidden))
        actual = encoder.layers(rows, Layout(1, 20))
    assert expected.isfinite().all()
    assert (actual - expected).abs().max() < 0.02 * expected.abs().max()


class Operators(TorchDispatchMode):
    """Counts the operators that torch dispatches, views included."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def operators(encoder: Encoder, windows: list[Window]) -> int:
    with Operators() as operators:
        encoder.encode(windows)
    return operators.count


def test_the_number_of_operators_does_not_grow_with_the_number_of_windows() -> None:
    encoder = random_recognizer().encoder
    lengths = torch.randint(1, 301, (64,), generator=torch.Generator().manual_seed(0)).tolist()
    clips = random_windows([length + 100 for length in lengths])
    many = [Window(clip.frames[:, :length]) for clip, length in zip(clips, lengths, strict=True)]
    alone = operators(encoder, many[:1])
    assert alone > 50
    together = operators(encoder, many)
    assert together <= 1.5 * alone
    assert together == operators(encoder, many[:2])
    stems = [encoded.stem for encoded in encoder.encode(many)]
    grown = [Window(clip.frames, stem) for clip, stem in zip(clips, stems, strict=True)]
    assert together == operators(encoder, grown)


@pytest.mark.slow
def test_passes_in_fixed_shapes_give_the_same() -> None:
    """What a GPU captures as graphs, uncaptured: more windows and chunks than the largest shape holds, and stems."""
    exact, fixed = random_recognizer().encoder, Recognizer(*random_parts(), name="random").encoder
    fixed.fix_shapes(chunks=[1, 4], windows=[1, 3])
    rng = np.random.default_rng(9)
    sizes = (1, 99, 100, 230, 800, 799, 250)
    frames = [torch.from_numpy(rng.standard_normal((128, size)).astype(np.float32)) for size in sizes]
    first = [encoder.encode([Window(one[:, :200]) for one in frames]) for encoder in (exact, fixed)]
    second = [
        encoder.encode([Window(one, known.stem) for one, known in zip(frames, encoded, strict=True)])
        for encoder, encoded in zip((exact, fixed), first, strict=True)
    ]
    for alone, other in zip(*first, strict=True):
        torch.testing.assert_close(other.stem, alone.stem, atol=1e-4, rtol=0)
    for alone, other in zip(*second, strict=True):
        torch.testing.assert_close(other.embeddings, alone.embeddings, atol=1e-4, rtol=0)
