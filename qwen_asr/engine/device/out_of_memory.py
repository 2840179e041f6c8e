"""`is_out_of_memory`: whether an error means that memory ran out, on the device or in the machine."""

from __future__ import annotations

import sys


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error means that memory ran out, which torch's allocators report in several ways."""
    torch = sys.modules.get("torch")  # where it is not imported, none of its errors can have been raised
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    message = str(error).lower()  # the CPU allocator, MPS and cuBLAS raise a plain RuntimeError
    return isinstance(error, RuntimeError) and any(
        sign in message for sign in ("out of memory", "can't allocate memory", "alloc_failed")
    )
