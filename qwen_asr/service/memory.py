"""`reclaim`: returns the memory of ended sessions to the operating system."""

from __future__ import annotations

import ctypes
import gc
import platform


def reclaim() -> None:
    """Frees what only reference cycles hold, and makes the allocator return free memory. Thread-safe.

    Ended sessions are in such cycles, about a megabyte each. Python collects its oldest generation only once the
    number of new objects reaches a quarter of the old ones, and a server with torch holds a million objects. The memory
    that is freed lies scattered over the arenas of the threads, and glibc returns none of it unasked (malloc_trim(3)).
    """
    gc.collect()
    if _GLIBC is not None:
        _GLIBC.malloc_trim(0)


_GLIBC = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
