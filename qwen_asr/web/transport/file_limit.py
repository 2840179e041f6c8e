"""The limit of open files of this process, which bounds how many connections it can hold."""

from __future__ import annotations

import contextlib
import resource


def raise_file_limit(most: int) -> int:
    """Raises the soft limit of open files to the hard one, at most to `most`; returns the soft limit.

    A soft limit above `most` stays. Many systems start a process with 1,024 for the sake of old programs that call
    `select`, and allow it far more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # macOS reports an unlimited hard limit, and refuses more than its kernel allows: then the soft limit stays.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if soft == resource.RLIM_INFINITY else soft
