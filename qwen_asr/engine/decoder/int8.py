"""int8 weights for the decoder on a CPU: its linears, and its head with the exact best token.

A row of a weight is stored as whole numbers from -127 to 127 and one scale. A row of activations is rounded to whole
numbers in the same range, by its own largest value. What is summed are integers, so neither the order of a sum nor the
other rows of a batch change a result.

Processors without VNNI add the products of two neighbouring columns in 16 bits and saturate. Weights are scaled so that
no such sum leaves 16 bits (`MOST_OF_A_PAIR`), whatever the activations are. So results are equal on all processors. It
costs about half a bit of the weights; the other way out, activations of 7 bits, costs a whole one where outliers are.
"""

import warnings
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn import functional as F

from qwen_asr.errors import BadConfig

MOST = 127
ZERO_POINT = 128  # the kernels take activations from 1 to 255
# What two neighbouring weights of one sign add up to, before each is rounded by at most 0.5. 255 * (127 + 1) < 2 ** 15.
MOST_OF_A_PAIR = 127
SMALLEST = 1e-30  # rows of zeros are divided by this
WEIGHT_BLOCK = 512  # rows of a weight that are handled at once: their copies in float32 stay in the processor's cache

HEAD_BLOCK = 16  # rows of hidden states at once: their scores stay in the cache, and more rows at once gain no speed
FEW = 4  # up to so many rows, twice as many cost the kernel little: it waits for the weights
COARSE = 1 / 64  # of ‖x‖: where 8 bits miss more, as beside outliers, they leave too many candidates
MANY = 1 / 64  # of the vocabulary: to score so many candidates costs as much as to look closer
ROUNDING = 1e-5  # of ‖x‖ ‖w‖: far more than what sums of float32 round off

# A step of a live session with 1 s chunks, measured: one pass verifies 60 to 110 rows, then 5.5 passes take one each.
SINGLE_PASSES = 5.5
VERIFIED_ROWS = 80
MARGIN = 1.1
FLUSHED_BYTES = 128 * 1024**2  # more than the caches of all but the largest servers

Product = Callable[[Tensor], Tensor]
Kernel = Callable[[Tensor, Tensor], Product]


class Int8Linear:
    """A linear layer without bias, with int8 weights and dynamically quantized activations.

    weight: (out, in), float32, bfloat16 or float16, on the CPU. It is copied, in one byte a weight and not kept, so the
    caller frees its memory by dropping the module or parameter that holds it. Packing takes about 9 ns a weight.

    Raises `BadConfig` where there is no integer kernel.
    """

    def __init__(self, weight: Tensor) -> None:
        self._product = integer_kernel()(*quantize(weight))

    def __call__(self, x: Tensor) -> Tensor:
        """(n, in) float32 → (n, out) float32. Each row is, bit for bit, what it is alone. NaN and infinity stay so."""
        whole, step = _to_whole(x)
        return self._product(whole).mul_(step)


class Int8Head:
    """The head of the decoder: the best token, found by int8 weights and proved with the original ones.

    With x̂ and ŵ the quantized x and w, |wx - ŵx̂| is at most ‖x - x̂‖ ‖w‖ + ‖x̂‖ ‖w - ŵ‖. Whatever that leaves in the
    running is scored again with the original rows. Where 8 bits are too coarse for x, it is rounded to 16: what the
    first 8 miss is a second row of the batch. If candidates are still too many, the row takes the whole original head.

    weight: (vocabulary, width), float32, bfloat16 or float16, on the CPU. It is kept, not copied: the embedding can
    share it. int8 adds one byte a weight. Raises `BadConfig` where there is no integer kernel.
    """

    def __init__(self, weight: Tensor) -> None:
        whole, scales = quantize(weight)
        self._weight = weight
        self._product = integer_kernel()(whole, scales)
        self._norms, self._errors = _norms(weight, whole, scales)

    def best(self, hidden: Tensor) -> Tensor:
        """(n, width) float32 → (n,) int64: `(hidden @ weight.T).argmax(-1)` in float32, of equal scores the first.

        Scores that differ by no more than float32 rounds off are equal. A row with NaN or infinity gets token 0.
        """
        blocks = hidden.split(HEAD_BLOCK)
        return torch.cat([self._best(block, fine=len(block) <= FEW or _is_coarse(block)) for block in blocks])

    def _best(self, hidden: Tensor, *, fine: bool) -> Tensor:
        rows, ids = self._candidates(hidden, fine=fine)
        unproved = rows.bincount(minlength=len(hidden)) > max(1, MANY * len(self._weight))
        best = torch.zeros(len(hidden), dtype=torch.long)
        if unproved.any():
            best[unproved] = self._whole_head(hidden[unproved]) if fine else self._best(hidden[unproved], fine=True)
            kept = ~unproved[rows]
            rows, ids = rows[kept], ids[kept]
        scores = (self._weight[ids].float() * hidden[rows]).sum(1)
        highest = torch.zeros(len(hidden)).scatter_reduce_(0, rows, scores, "amax", include_self=False)
        won = scores == highest[rows]
        return best.scatter_reduce_(0, rows[won], ids[won], "amin", include_self=False)

    def _candidates(self, hidden: Tensor, *, fine: bool) -> tuple[Tensor, Tensor]:
        """The pairs of a row and a token that may be its best one, by row and then by token."""
        whole, step = _to_whole(hidden)
        known = whole * step
        if fine:
            more, finer = _to_whole(hidden - known)
            scores, added = self._product(torch.cat([whole, more])).chunk(2)
            scores = scores.mul_(step).addcmul_(added, finer)
            known += more * finer
        else:
            scores = self._product(whole).mul_(step)
        length = known.norm(dim=1, keepdim=True)
        missed = (hidden - known).norm(dim=1, keepdim=True) + ROUNDING * length
        lowest = scores.addcmul_(missed, self._norms, value=-1).addcmul_(length, self._errors, value=-1)
        floor = lowest.amax(1, keepdim=True)
        highest = lowest.addcmul_(missed, self._norms, value=2).addcmul_(length, self._errors, value=2)
        rows, ids = (highest >= floor).nonzero(as_tuple=True)
        return rows, ids

    def _whole_head(self, hidden: Tensor) -> Tensor:
        scores = [F.linear(hidden, part.float()) for part in self._weight.split(WEIGHT_BLOCK * 16)]
        return torch.cat(scores, 1).argmax(1)


def int8_is_faster(weight: Tensor, clock: Callable[[], float]) -> bool:
    """Whether int8 weights make a live session's decoder faster on this machine than weights in the dtype of `weight`.

    weight: one of the decoder's largest linears (gate and up), on the CPU, in the dtype that would be used otherwise:
    float32, or bfloat16 where the processor computes with it. clock: seconds, for example `time.perf_counter`.

    Which is faster depends on the memory's bandwidth (a single row waits for the weights), on integer instructions
    (many rows do not), and on the layer's size (quantizing activations costs 30 µs a call, so small layers lose). No
    list of processors says that, so both are timed with the current number of threads, in the mix of a live step: 5.5
    passes of one row, and one that verifies 80. The cache is flushed before each, as the other layers would do.
    int8 must win by a tenth, since it changes some results. The test takes 0.3 to 0.6 s at the size of 0.6B.

    False where there is no integer kernel.
    """
    weight = weight.detach()  # PyTorch refuses to quantize a parameter whose gradient it could be asked for
    try:
        quantized = Int8Linear(weight)
    except BadConfig:
        return False
    flush = torch.ones(FLUSHED_BYTES // 4)
    plain_seconds = int8_seconds = 0.0
    for rows, passes in ((1, SINGLE_PASSES), (VERIFIED_ROWS, 1.0)):
        x = torch.linspace(-1.0, 1.0, rows * weight.shape[1]).view(rows, -1)
        same = x.to(weight.dtype)
        plain, int8 = [], []
        for _ in range(3):
            flush.sum()
            plain.append(_seconds(partial(F.linear, same, weight), clock))
            flush.sum()
            int8.append(_seconds(partial(quantized, x), clock))
        plain_seconds += passes * min(plain)
        int8_seconds += passes * min(int8)
    return int8_seconds * MARGIN < plain_seconds


def _seconds(run: Callable[[], Tensor], clock: Callable[[], float]) -> float:
    begun = clock()
    run()
    return clock() - begun


@cache
def integer_kernel() -> Kernel:
    """The fastest integer product of torch that is exact here: fbgemm on x86, else oneDNN.

    It takes whole weights (out, in) int8 and scales (out,), and gives the product with whole activations, (n, in)
    float32 from -127 to 127 → (n, out) float32. Raises `BadConfig` if there is none.
    """
    for kernel in (fbgemm, onednn):
        if is_exact(kernel):
            return kernel
    raise BadConfig(
        "int8 weights need an integer kernel that this processor or this build of torch does not have "
        "(fbgemm or oneDNN). Leave the weights as they are: --quantize none."
    )


def fbgemm(whole: Tensor, scales: Tensor) -> Product:
    """The product by fbgemm: x86 with AVX2 or AVX-512. See `integer_kernel`."""
    with warnings.catch_warnings():
        # torch 2.13 deprecates tensors with dtype qint8, and has no other way into fbgemm. oneDNN follows if they go.
        warnings.filterwarnings("ignore", message=".*quantized tensor creation functions", category=UserWarning)
        zeros = torch.zeros(len(scales), dtype=torch.long)
        weight = torch._make_per_channel_quantized_tensor(whole, scales.double(), zeros, 0)
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"  # decides how weights are packed; the packed ones then remember it
    try:
        packed = torch.ops.quantized.linear_prepack(weight, None)
    finally:
        torch.backends.quantized.engine = before
    multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
    return lambda x: multiply(x, 1.0, ZERO_POINT, packed)


def onednn(whole: Tensor, scales: Tensor) -> Product:
    """The product by oneDNN: x86 and 64-bit Arm on Linux; without VNNI slow for few rows. See `integer_kernel`."""
    packed = torch.ops.onednn.qlinear_prepack(whole, None)
    zeros = torch.zeros(len(scales), dtype=torch.long)
    multiply = torch.ops.onednn.qlinear_pointwise

    def product(x: Tensor) -> Tensor:
        unsigned = (x + ZERO_POINT).to(torch.uint8)
        result: Tensor = multiply(
            unsigned, 1.0, ZERO_POINT, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return result

    return product


def is_exact(kernel: Kernel) -> bool:
    """Whether the kernel exists and computes the largest sums that may occur without saturation."""
    patterns = [[127, 1, 127, 1], [1, 127, 127, 1], [64, 64, 64, 64], [127, -127, 127, -127]]
    weight = torch.tensor(patterns * 8, dtype=torch.int8).repeat(1, 64)
    weight[1::2] *= -1
    x = torch.full((64, weight.shape[1]), float(MOST))
    x[1::2] *= -1
    try:
        product = kernel(weight, torch.ones(len(weight)))
        return all(torch.equal(product(part), part @ weight.float().T) for part in (x, x[:1], x[1:2]))
    except (AttributeError, NotImplementedError, RuntimeError):
        return False


def _is_coarse(x: Tensor) -> bool:
    whole, step = _to_whole(x)
    return bool((x - whole * step).norm() > COARSE * x.norm())


def _to_whole(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (n, in) → whole numbers from -127 to 127, and the step (n, 1) by which they are multiples."""
    step = x.abs().amax(1, keepdim=True).clamp_min_(SMALLEST).div_(MOST)
    return (x / step).round_(), step


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight (out, in) → whole numbers, int8, and the scale of each row, (out,) float32."""
    whole = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(len(weight))
    blocks = (tensor.split(WEIGHT_BLOCK) for tensor in (weight, whole, scales))
    for source, into, scale in zip(*blocks, strict=True):
        rows = source.float()
        pairs = rows[:, :-1:2] + rows[:, 1::2]
        torch.maximum(rows.abs().amax(1) / MOST, pairs.abs().amax(1) / MOST_OF_A_PAIR, out=scale)
        scale.clamp_min_(SMALLEST)
        into.copy_((rows / scale[:, None]).round_())
    return whole, scales


def _norms(weight: Tensor, whole: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """‖w‖ and ‖w - ŵ‖ of each row, (out,) each."""
    norms, errors = [], []
    blocks = (tensor.split(WEIGHT_BLOCK) for tensor in (weight, whole, scales))
    for source, numbers, scale in zip(*blocks, strict=True):
        rows = source.float()
        norms.append(rows.norm(dim=1))
        errors.append((rows - numbers * scale[:, None]).norm(dim=1))
    return torch.cat(norms), torch.cat(errors)
