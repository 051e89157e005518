"""Times of files: nanoseconds since 1970 in signed 64 bits, from 1677 to 2262."""

from __future__ import annotations

LAST_TIME_NS = (1 << 63) - 1
FIRST_TIME_NS = -LAST_TIME_NS

TIME_NOT_KEPT = "has a time before 1678 or after 2262; the destination gets the nearest that can be"


def kept_time_ns(time_ns: int) -> int:
    """Return the time that is kept of one that a file system tells: the nearest that can be."""
    return max(FIRST_TIME_NS, min(time_ns, LAST_TIME_NS))
