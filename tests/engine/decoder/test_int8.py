"""int8 linears are exact integer arithmetic, row by row; the int8 head finds the best token of the original weights."""

import warnings
import weakref
from collections.abc import Iterator
from itertools import cycle

import pytest
import torch
from torch import Tensor

from qwen_asr.engine.decoder import int8
from qwen_asr.engine.decoder.int8 import Int8Head, Int8Linear, int8_is_faster, integer_kernel
from qwen_asr.errors import BadConfig


def has_kernel() -> bool:
    try:
        return integer_kernel() is not None
    except BadConfig:
        return False


needs_kernel = pytest.mark.skipif(not has_kernel(), reason="no integer kernel in this processor or build of torch")


@pytest.fixture(params=[int8.fbgemm, int8.onednn], ids=["fbgemm", "onednn"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int8.Kernel:
    """Each kernel that this machine has, in turn, as the one that is used."""
    chosen: int8.Kernel = request.param
    if not int8.is_exact(chosen):
        pytest.skip("not on this machine")
    monkeypatch.setattr(int8, "integer_kernel", lambda: chosen)
    return chosen


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def outlying(rows: int, width: int, seed: int = 0) -> Tensor:
    """Activations as decoders have them: a few columns are far larger than the rest."""
    x = random(rows, width, seed=seed)
    x[:, :: width // 7] *= 30
    return x


@pytest.mark.parametrize("width", [2, 3, 33, 130, 1024, 3072])
def test_no_sum_saturates(kernel: int8.Kernel, width: int) -> None:
    """The largest activations meet weights that are quantized from anything: the integer sums are the true ones."""
    weight = random(97, width).sign() * random(97, width, seed=1).abs().pow(8)  # many pairs near their largest sum
    weight[0], weight[1] = 1.0, -1.0
    weight[2, 1::2], weight[2, ::2] = 1e-3, 1.0
    whole, scales = int8.quantize(weight)
    x = torch.stack([torch.full((width,), 127.0), torch.full((width,), -127.0), whole[5].sign() * 127.0])
    sums = (x.double() @ whole.double().T).float()
    assert torch.equal(kernel(whole, torch.ones(97))(x), sums)
    torch.testing.assert_close(kernel(whole, scales)(x), sums * scales, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_error_is_that_of_rounding(kernel: int8.Kernel, dtype: torch.dtype) -> None:
    """Each weight and each activation is at most half a step off: the result is within what that makes of the sum."""
    weight, x = random(200, 512).to(dtype), outlying(9, 512)
    result = Int8Linear(weight)(x)
    known = weight.double()
    half_step = x.double().abs().amax(1, keepdim=True) / 254
    pairs = (known[:, ::2] + known[:, 1::2]).abs().amax(1)
    half_scale = torch.maximum(known.abs().amax(1), pairs) / 254
    possible = half_step * known.abs().sum(1) + (x.double().abs() + half_step).sum(1, keepdim=True) * half_scale
    assert ((result - x.double() @ known.T).abs() <= possible * 1.0001).all()


def test_a_row_is_the_same_alone_and_in_any_batch(kernel: int8.Kernel) -> None:
    linear = Int8Linear(random(1000, 384))
    x = outlying(110, 384) * torch.logspace(-6, 6, 110)[:, None]
    together = linear(x)
    for size in (1, 2, 7, 64, 109):
        assert torch.equal(together, torch.cat([linear(part) for part in x.split(size)]))
    order = torch.randperm(110, generator=torch.Generator().manual_seed(2))
    assert torch.equal(together[order], linear(x[order]))


def test_odd_rows_and_rows_that_are_not_numbers_stay_by_themselves(kernel: int8.Kernel) -> None:
    linear = Int8Linear(torch.cat([random(20, 64), torch.zeros(1, 64)]))
    x = random(8, 64)
    usual = linear(x)
    x[1], x[2], x[3] = 0.0, 1e-38, x[3] * 1e30
    x[4, 3], x[5, 3] = torch.nan, torch.inf
    result = linear(x)
    assert torch.equal(result[[0, 6, 7]], usual[[0, 6, 7]])
    assert (result[1] == 0).all()
    assert result[2].abs().max() < 1e-30
    torch.testing.assert_close(result[3], usual[3] * 1e30, rtol=1e-5, atol=1e25)
    assert not result[4:6].isfinite().any()
    assert (result[:4, 20] == 0).all()
    assert linear(x[:0]).shape == (0, 21)


@needs_kernel
def test_packing_keeps_no_reference_to_the_weight_and_leaves_torch_as_it_was() -> None:
    engine = torch.backends.quantized.engine
    weight = random(64, 32)
    alive = weakref.ref(weight)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        linear = Int8Linear(weight)
        linear(random(3, 32))
    del weight
    assert alive() is None
    assert caught == []
    assert torch.backends.quantized.engine == engine


def assert_best(head: Int8Head, weight: Tensor, hidden: Tensor) -> None:
    """Each token has the highest score, up to what float32 rounds off."""
    best = head.best(hidden)
    assert best.dtype == torch.long
    exact = hidden.double() @ weight.double().T
    lengths = hidden.double().norm(dim=1) * weight.double().norm(dim=1).max()
    assert (exact.gather(1, best[:, None])[:, 0] >= exact.amax(1) - 1e-6 * lengths).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 4, 5, 40])
def test_the_head_finds_the_best_token(kernel: int8.Kernel, rows: int, dtype: torch.dtype) -> None:
    weight = random(3001, 128).to(dtype)
    weight[::50] *= 4  # a few tokens with longer rows
    weight[1::97, 3] = 9.0  # and some with an outlier, so with larger errors
    head = Int8Head(weight)
    for seed in range(5):
        hidden = random(rows, 128, seed=seed)
        assert_best(head, weight, hidden)
        assert_best(head, weight, outlying(rows, 128, seed=seed))
        likely = torch.randint(3001, (rows,), generator=torch.Generator().manual_seed(seed))
        assert_best(head, weight, hidden + weight[likely].float())


def between(row: Tensor, rival: Tensor, hidden: Tensor, quantized: float) -> Tensor:
    """`rival`, scaled so that its score lies between the score of `row` and the one that int8 gives `row`."""
    return rival * (float(row @ hidden) + quantized) / 2 / float(rival @ hidden)


@pytest.mark.parametrize("direction", [1.0, -1.0], ids=["too high", "too low"])
def test_the_head_sees_through_the_worst_rounding_of_a_weight(kernel: int8.Kernel, direction: float) -> None:
    """The hidden state lies along the rounding error of one row; its rival has none, and a score in between."""
    row = random(64)
    whole, scales = int8.quantize(row[None])
    known = whole[0] * scales[0]
    hidden = direction * (known - row)
    hidden += row * (1 - float(row @ hidden)) / float(row @ row) * 0.1  # so that scores are positive
    rival = hidden.sign() * torch.tensor([1.0, 0.0]).repeat(32)  # whole numbers hold it exactly
    weight = torch.stack([row, between(row, rival, hidden, float(known @ hidden)), *torch.zeros(126, 64)])
    assert_best(Int8Head(weight), weight, hidden[None])


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("direction", [1.0, -1.0], ids=["too high", "too low"])
def test_the_head_sees_through_the_worst_rounding_of_a_hidden_state(
    kernel: int8.Kernel, direction: float, rows: int
) -> None:
    """One row lies along the rounding error of the hidden state; its rival sees an element that has none."""
    hidden = random(64)
    step = hidden.abs().max() / 127
    known = (hidden / step).round() * step
    row = direction * (known - hidden).sign() * torch.tensor([1.0, 0.0]).repeat(32)
    largest = int(hidden.abs().argmax())
    row[largest], row[largest ^ 1] = hidden[largest].sign(), 0.0
    rival = (hidden.abs() == hidden.abs().max()) * hidden
    weight = torch.stack([row, between(row, rival, hidden, float(known @ row)), *torch.zeros(126, 64)])
    assert_best(Int8Head(weight), weight, hidden.repeat(rows, 1))


@pytest.mark.parametrize("rows", [1, 40])
def test_the_head_proves_its_choice_where_int8_cannot_tell_tokens_apart(kernel: int8.Kernel, rows: int) -> None:
    """All rows of the weight are alike but for less than a step of int8, so that candidates are too many."""
    weight = random(1, 128) + random(2000, 128, seed=1) * 1e-4
    hidden = random(rows, 128, seed=2)
    assert_best(Int8Head(weight), weight, hidden)
    mixed = torch.cat([weight, random(2000, 128, seed=3)])
    assert_best(Int8Head(mixed), mixed, hidden)


def test_of_equal_tokens_the_head_takes_the_first(kernel: int8.Kernel) -> None:
    weight = random(50, 32).repeat(4, 1)
    hidden = random(20, 32, seed=1)
    assert torch.equal(Int8Head(weight).best(hidden), (hidden @ weight[:50].T).argmax(1))
    assert Int8Head(weight).best(torch.zeros(2, 32)).tolist() == [0, 0]


def test_the_head_survives_rows_that_are_not_numbers_and_no_rows(kernel: int8.Kernel) -> None:
    weight, hidden = random(300, 32), random(6, 32, seed=1)
    head = Int8Head(weight)
    usual = head.best(hidden)
    hidden[1, 0], hidden[3, 5] = torch.nan, torch.inf
    best = head.best(hidden)
    assert torch.equal(best[[0, 2, 4, 5]], usual[[0, 2, 4, 5]])
    assert best[[1, 3]].tolist() == [0, 0]
    assert head.best(hidden[:0]).shape == (0,)


@needs_kernel
@pytest.mark.slow
def test_the_head_at_the_size_of_qwen() -> None:
    weight = random(151_936, 1024).mul_(0.03).bfloat16()
    head = Int8Head(weight)
    hidden = torch.cat([random(16, 1024, seed=1), outlying(4, 1024)])
    expected = torch.cat([hidden @ part.float().T for part in weight.split(20_000)], 1)
    best = head.best(hidden)
    ties = 1e-6 * hidden.norm(dim=1) * 0.03 * 32  # 32 is the square root of the width
    assert (expected.gather(1, best[:, None])[:, 0] >= expected.amax(1) - ties).all()


def scripted(*seconds: float) -> Iterator[float]:
    """A clock by which the timed calls take so many seconds, in turn."""
    now = 0.0
    for duration in cycle(seconds):
        yield now
        now += duration
        yield now


@pytest.fixture
def _small_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "FLUSHED_BYTES", 4096)  # the clock is scripted


@needs_kernel
@pytest.mark.usefixtures("_small_flush")
def test_int8_is_chosen_where_it_is_faster_by_a_tenth() -> None:
    weight = random(64, 32)
    assert int8_is_faster(weight, scripted(1.2, 1.0).__next__)
    assert not int8_is_faster(weight, scripted(1.05, 1.0).__next__)
    assert not int8_is_faster(weight, scripted(1.0, 2.0).__next__)
    assert int8_is_faster(weight.bfloat16(), scripted(1.2, 1.0).__next__)


@needs_kernel
@pytest.mark.usefixtures("_small_flush")
def test_single_rows_weigh_as_much_as_in_a_live_step() -> None:
    single, verified = [3.0, 1.0] * 3, [10.0, 18.0] * 3  # int8 saves 5.5 * 2 s and loses 8 s
    assert int8_is_faster(random(64, 32), scripted(*single, *verified).__next__)
    single = [2.0, 1.0] * 3
    assert not int8_is_faster(random(64, 32), scripted(*single, *verified).__next__)


def test_without_an_integer_kernel_there_is_a_clear_error_and_nothing_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(whole: Tensor, scales: Tensor) -> int8.Product:
        raise RuntimeError("Didn't find engine for operation quantized::linear_prepack")

    def saturating(whole: Tensor, scales: Tensor) -> int8.Product:
        return lambda x: (x @ whole.float().T).clamp(-32768, 32767)

    monkeypatch.setattr(int8, "fbgemm", missing)
    monkeypatch.setattr(int8, "onednn", saturating)
    integer_kernel.cache_clear()
    try:
        with pytest.raises(BadConfig, match="integer kernel that this processor or this build of torch does not have"):
            Int8Linear(random(4, 4))
        assert not int8_is_faster(random(4, 4), scripted(1.0).__next__)
    finally:
        integer_kernel.cache_clear()
