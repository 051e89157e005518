"""What to do about a database of one's own that turns out to be damaged while it is used.

A disk that fails for a moment looks like damage as well. So it is opened again first, which looks
at all of it; if it is damaged again soon, it is made anew; and if that does not help, either, the
disk is given time.
"""

from __future__ import annotations

from typing import NamedTuple

CALM_S = 60.0
"""Damage that comes after so long has nothing to do with the damage before."""

_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 60.0


class Remedy(NamedTuple):
    """Make it anew, or only open it again; after a pause."""

    renew: bool
    pause_s: float


class Relapses:
    """Counts how often in a row a database was damaged."""

    def __init__(self) -> None:
        self._count = 0

    def note(self, used_s: float) -> Remedy:
        """Return what to do about damage, after it was used for so long without any."""
        self._count = 1 if used_s >= CALM_S else self._count + 1
        pause_s = min(_LONGEST_PAUSE_S, _PAUSE_S * max(0, self._count - 2))
        return Remedy(self._count == 2, pause_s)
