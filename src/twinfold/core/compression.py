"""How hard to compress what is sent: pure arithmetic on measured durations.

Packing and sending overlap: a stretch of content takes as long as the slower of the two. So
the level goes up while the processor waits for the network, and down, to none at last, while
the network waits for the processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

SMALL_BODY_BYTES = 64 * 1024
SMALL_BODY_LEVEL = 3
SAMPLE_BYTES = 32 * 1024
PROBE_LEVEL = 1

RECIPES_LEVEL = 6
"""At least, where content is compressed: a tenth less than at level 3, in three times the time."""


class Level(NamedTuple):
    """What a zstd level did with source code on one core; other content and cores scale it."""

    level: int
    bytes_per_s: float
    ratio: float


LEVELS = (
    Level(1, 350e6, 0.200),
    Level(3, 237e6, 0.178),
    Level(6, 100e6, 0.157),
    Level(9, 62e6, 0.153),
)
"""Those that lie between, and beyond, bring hardly more than the one before."""

_PROBE_EVERY = 64
_MARGIN = 1.3
"""Compressing has to be so much better than not: it costs the receiver something, too."""

_PROCESSOR_SHARE = 0.5
"""Scanning and hashing take the rest, on a machine of two cores that does nothing else."""

_OVERLAP_LOSS = 0.2
"""So much of the shorter of the two, packing and sending, does not overlap with the other."""

_WEIGHT = 0.2
_MEMORY_BYTES = 4 * 1024 * 1024
_INCOMPRESSIBLE = 0.95
_FIRST_GUESS_BYTES = 256 * 1024
_FIRST_GUESS_BYTES_PER_S = 20e6

_BUFFERED_BYTES = 4 * 1024 * 1024
"""So much of what is sent first may only have gone into buffers: it proves no network fast."""

_BY_LEVEL = {level.level: level for level in LEVELS}


class CompressionChooser:
    """Chooses the zstd level of each frame from what sending and compressing took so far.

    Args:
        fixed: None for automatic, 0 for off, otherwise the level to use always.
    """

    def __init__(self, fixed: int | None) -> None:
        self._fixed = fixed
        # To take a fast network for a slow one costs some milliseconds, the opposite seconds.
        self._sent_bytes = float(_FIRST_GUESS_BYTES)
        self._sending_s = self._sent_bytes / _FIRST_GUESS_BYTES_PER_S
        self._unproven_bytes = _BUFFERED_BYTES
        self._speed = 1.0
        self._ratio = 1.5
        self._frames = 0

    def level(self, size_bytes: int) -> int | None:
        """Return the level for a frame of this size; None for no compression."""
        if self._fixed is not None:
            return self._fixed or None
        if size_bytes < SMALL_BODY_BYTES:
            return SMALL_BODY_LEVEL
        self._frames += 1
        best = self._best()
        if best is not None:
            return best
        return PROBE_LEVEL if self._frames % _PROBE_EVERY == 0 else None

    def recipes_level(self, size_bytes: int) -> int:
        """Return the level for a frame of recipes of this size.

        What is new in changed files is little, and alike: it is compressed whatever the network is.
        """
        if size_bytes < SMALL_BODY_BYTES:
            return SMALL_BODY_LEVEL
        best = self._best() if self._fixed is None else self._fixed
        return max(best, RECIPES_LEVEL) if best else PROBE_LEVEL

    def leaves_plain(self, sizes_bytes: Sequence[int]) -> bool:
        """Tell whether by now `level` would return None for each of these frames in turn.

        They count as asked for then.
        """
        if self._fixed is not None:
            return not self._fixed
        count = len(sizes_bytes)
        is_probe_due = self._frames % _PROBE_EVERY + count >= _PROBE_EVERY
        has_small = any(size_bytes < SMALL_BODY_BYTES for size_bytes in sizes_bytes)
        if is_probe_due or has_small or self._best() is not None:
            return False
        self._frames += count
        return True

    def _best(self) -> int | None:
        best = min(LEVELS, key=self._cost)
        is_worth_it = self._cost(best) * _MARGIN < self._sending_s / self._sent_bytes
        return best.level if is_worth_it else None

    def _cost(self, level: Level) -> float:
        """Return the seconds that a byte of content takes at this level, about."""
        packing_s = 1 / (level.bytes_per_s * self._speed * _PROCESSOR_SHARE)
        ratio = min(1.0, level.ratio * self._ratio)
        sending_s = ratio * self._sending_s / self._sent_bytes
        return max(packing_s, sending_s) + _OVERLAP_LOSS * min(packing_s, sending_s)

    def observe_packing(
        self, level: int, size_bytes: int, packed_bytes: int, duration_s: float
    ) -> None:
        """Learn from one compressed frame."""
        usual = _BY_LEVEL.get(level)
        if usual is not None and size_bytes >= SMALL_BODY_BYTES:
            speed = size_bytes / max(duration_s, 1e-6) / usual.bytes_per_s
            self._speed += _WEIGHT * (speed - self._speed)
            self._ratio += _WEIGHT * (packed_bytes / size_bytes / usual.ratio - self._ratio)

    def observe_sending(self, sent_bytes: int, duration_s: float) -> None:
        """Learn from how long the network took these bytes, all streams taken together."""
        if self._unproven_bytes > 0:
            self._unproven_bytes -= sent_bytes
            duration_s = max(duration_s, sent_bytes / _FIRST_GUESS_BYTES_PER_S)
        kept = 0.5 ** (sent_bytes / _MEMORY_BYTES)
        self._sent_bytes = self._sent_bytes * kept + sent_bytes
        self._sending_s = self._sending_s * kept + max(duration_s, 1e-9)


class SendingTime:
    """How long some stream, of several at once, had to wait for the network."""

    def __init__(self) -> None:
        self._streams = 0
        self._counted_until_s = 0.0

    def begin(self, now_s: float) -> None:
        """A stream hands over bytes."""
        if not self._streams:
            self._counted_until_s = now_s
        self._streams += 1

    def end(self, now_s: float) -> float:
        """A stream's bytes are taken; return the seconds since others' were, or it began."""
        self._streams -= 1
        duration_s = now_s - self._counted_until_s
        self._counted_until_s = now_s
        return duration_s


def is_incompressible(size_bytes: int, packed_bytes: int) -> bool:
    """Tell from a compressed sample that compressing the rest would be in vain."""
    return packed_bytes > size_bytes * _INCOMPRESSIBLE
