"""The C library's heap: how the memory of buffers is shared between threads."""

from __future__ import annotations

import ctypes
import sys

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

_KEPT_BYTES = 16 * 1024 * 1024
"""So much at the heap's end is kept when it is free; buffers of twice as much are in the heap."""


def share_heap() -> bool:
    """Have all threads take memory from one heap, so that what one gives back serves the others.

    Otherwise glibc gives each of the first threads (eight a core) a heap of its own, and each
    keeps its largest need: buffers go from the thread that reads to the one that sends. What is
    free at the heap's end serves the next buffers, too: glibc gives it back to the system, which
    has to clear each page that it hands out again.

    Returns:
        False where the C library has no such settings.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(
        (
            mallopt(_M_ARENA_MAX, 1),
            mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES),
            mallopt(_M_MMAP_THRESHOLD, 2 * _KEPT_BYTES),
        )
    )
