"""Memory of the device and of the machine: how much is free, and how what has ended returns it. Needs no torch."""

from __future__ import annotations

import ctypes
import gc
import platform
import sys
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch


def device_memory(device: torch.device) -> tuple[int, int]:
    """The bytes that are free, and all that there are: of the GPU on CUDA, else of the machine.

    What torch's allocator holds of a GPU without using it counts as free: torch gives it to whoever asks next.
    """
    if device.type != "cuda":
        memory = psutil.virtual_memory()
        return memory.available, memory.total
    from torch import cuda

    free, total = cuda.mem_get_info(device)
    return free + cuda.memory_reserved(device) - cuda.memory_allocated(device), total


def reclaim() -> None:
    """Frees what only reference cycles hold, and makes the allocator return free memory. Thread-safe.

    Ended sessions are in such cycles, about a megabyte each. Python collects its oldest generation only once the
    number of new objects reaches a quarter of the old ones, and a server with torch holds a million objects. The memory
    that is freed lies scattered over the arenas of the threads, and glibc returns none of it unasked (malloc_trim(3)).
    """
    gc.collect()
    if _GLIBC is not None:
        _GLIBC.malloc_trim(0)


def keep_what_is_loaded() -> None:
    """Lets the garbage collector never look again at what there is now. Call it once, when a model has been loaded.

    Otherwise it looks at the million objects of torch and transformers from time to time, and all threads stand still
    for half a second. What is in a cycle and ends later stays, so this is for what the process keeps.
    """
    gc.collect()
    gc.freeze()


def return_memory() -> None:
    """As `reclaim`, and what torch holds of the GPU without using it. The next passes have to ask for it again."""
    reclaim()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


_GLIBC = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
