"""Memory that ended sessions held goes back to the system."""

from __future__ import annotations

import ctypes
import gc
import platform


def reclaim() -> None:
    """Frees what only cycles of references still hold, and has the allocator give up what is free. Any thread.

    Ended sessions are in such cycles, with a megabyte each. Python itself would look for them only once a quarter as
    many objects have come as there are for good, and of those a server with torch has a million. What is free then
    lies scattered, a bit in the arena of each thread, and glibc gives nothing of that back unasked (malloc_trim(3)).
    """
    gc.collect()
    if _GLIBC is not None:
        _GLIBC.malloc_trim(0)


_GLIBC = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
