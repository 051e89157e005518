"""How long things are kept."""

from __future__ import annotations

UPLOAD_PATIENCE_S = 7 * 86_400
"""An upload that nobody went on with for so long is given up."""

_NS = 1_000_000_000


def expires_before_ns(now_ns: int, keep_s: int) -> int:
    """Return the time before which things are no longer kept."""
    return now_ns - keep_s * _NS


class SteadyClock:
    """Wall-clock time that no jump of the system's clock can hurry while we run.

    It starts at the wall clock's time and goes on by the monotonic clock.
    """

    def __init__(self, wall_ns: int, monotonic_ns: int) -> None:
        self._offset_ns = wall_ns - monotonic_ns

    def at(self, monotonic_ns: int) -> int:
        """Return the time in ns since 1970 at this reading of the monotonic clock."""
        return monotonic_ns + self._offset_ns
