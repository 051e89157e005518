"""The C library's heap: how the memory of buffers is shared between threads."""

from __future__ import annotations

import ctypes
import sys

_M_ARENA_MAX = -8
"""From glibc's malloc.h."""


def share_heap() -> bool:
    """Have all threads take memory from one heap, so that what one gives back serves the others.

    Otherwise glibc gives each of the first threads (eight a core) a heap of its own, and each
    keeps its largest need: buffers go from the thread that reads to the one that sends.

    Returns:
        False where the C library has no such setting.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_ARENA_MAX, 1))
