"""Lets the package `spaces` lend a GPU on a machine without one: what its GPU processes put on CUDA stays on the CPU.

`spaces` itself is real, with its emulation of CUDA in the main process, the weights on disk, the fork and the pickling.
Only what needs the driver is replaced here: a few of torch's functions, for a torch that was built without CUDA.
"""

from __future__ import annotations

import mmap
import os
from typing import Any

import torch


def install() -> None:
    """For the process that will be the Space's, before it imports `spaces`."""
    torch.version.cuda = "12.8"  # None in a torch for the CPU
    torch._C._cuda_init = lambda: None  # torch for the CPU has none
    torch.cuda.synchronize = lambda *_: None
    torch.cuda._is_in_bad_fork = _is_in_bad_fork  # `spaces` pickles it
    os.register_at_fork(after_in_child=_lend)


def _is_in_bad_fork() -> bool:
    return False


def _lend() -> None:
    """For a process that was forked: a GPU that is the CPU."""
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor.clone()  # type: ignore[method-assign]  # it is put back by nobody
    torch.Tensor.pin_memory = _pin_memory  # type: ignore[assignment,method-assign]  # any device
    for name in ("empty", "tensor"):
        setattr(torch, name, _on_cpu(getattr(torch, name)))


def _pin_memory(tensor: torch.Tensor, *_: Any) -> torch.Tensor:
    """Memory that begins at a page, as CUDA's does: `spaces` reads the weights into it with O_DIRECT."""
    memory = mmap.mmap(-1, max(tensor.numel() * tensor.element_size(), 1))
    return torch.frombuffer(memory, dtype=tensor.dtype)[: tensor.numel()].view(tensor.shape).copy_(tensor)


def _on_cpu(create: Any) -> Any:
    def created(*values: Any, device: Any = None, **options: Any) -> torch.Tensor:
        is_cuda = device is not None and torch.device(device).type == "cuda"
        return create(*values, device="cpu" if is_cuda else device, **options)

    return created
