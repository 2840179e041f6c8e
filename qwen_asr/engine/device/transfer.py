"""Copies indices that the host has built to the device."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(arrays: list[NDArray[np.int64]], device: torch.device) -> list[Tensor]:
    """Copy the arrays to the device in one transfer."""
    if device.type == "cpu":
        return [torch.from_numpy(array) for array in arrays]
    packed = torch.from_numpy(np.concatenate([array.ravel() for array in arrays]))
    if device.type == "cuda":
        packed = packed.pin_memory()
    split = packed.to(device, non_blocking=True).split([array.size for array in arrays])
    return [part.view(array.shape) for part, array in zip(split, arrays, strict=True)]
