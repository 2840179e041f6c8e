"""The quickest form of a linear layer on a device, and several with the same input as one."""

import platform
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

LARGE = 500_000
"""Weights of a matrix from which oneDNN's product is quicker; below, its 25 µs a call are too much."""

Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(rows, in), weight (out, in), bias (out,) or None, to (rows, out)."""


def fastest_linear(device: torch.device, dtype: torch.dtype) -> Linear:
    """The quickest form of a linear layer on `device`: `F.linear`, except on x86 in float32.

    There that is MKL's product, which on AMD is slow for a few rows of a large matrix. oneDNN's took 0.2 to 0.6 times
    as long for 8 to 110 rows of 0.6B's matrices, but 4 to 9 times as long for one row (EPYC with AVX2, two threads).
    """
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    if x86 and device.type == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available():
        return _by_size
    return F.linear


def _by_size(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if rows.shape[:-1].numel() == 1 or weight.numel() < LARGE:
        return F.linear(rows, weight, bias)
    # The operator that torch.compile takes, here without another form of the weights.
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "none")
    return product


def fuse(parameters: list[Tensor]) -> Tensor:
    """One tensor with the values of all, of which the parameters become views: the memory does not double."""
    if len(parameters) == 1:
        return parameters[0].data
    fused = torch.cat([parameter.data for parameter in parameters])
    for parameter, part in zip(parameters, fused.split([len(one) for one in parameters]), strict=True):
        parameter.data = part
    return fused
