"""Whether compressing what is sent pays: pure arithmetic on measured durations."""

from __future__ import annotations

SMALL_BODY_BYTES = 64 * 1024
SMALL_BODY_LEVEL = 3
SAMPLE_BYTES = 32 * 1024
FAST_LEVEL = 1
DENSE_LEVEL = 3

_WEIGHT = 0.2
_PROBE_EVERY = 64
_MARGIN = 1.3
_INCOMPRESSIBLE = 0.95


class CompressionChooser:
    """Chooses the zstd level of each frame from what sending and compressing took so far.

    Args:
        fixed: None for automatic, 0 for off, otherwise the level to use always.
        loopback: whether the peer is on this machine, until measurements say more.
    """

    def __init__(self, fixed: int | None, loopback: bool) -> None:
        self._fixed = fixed
        self._network = 2e9 if loopback else 10e6
        self._speed = 400e6
        self._ratio = 0.4
        self._frames = 0

    def level(self, size_bytes: int) -> int | None:
        """Return the level for a frame of this size; None for no compression."""
        if self._fixed is not None:
            return self._fixed or None
        if size_bytes < SMALL_BODY_BYTES:
            return SMALL_BODY_LEVEL
        self._frames += 1
        if self._frames % _PROBE_EVERY == 0:
            return FAST_LEVEL
        plain_s = 1 / self._network
        packed_s = 1 / self._speed + self._ratio / self._network
        if plain_s < packed_s * _MARGIN:
            return None
        return DENSE_LEVEL if self._network * 8 < self._speed else FAST_LEVEL

    def observe_packing(self, size_bytes: int, packed_bytes: int, duration_s: float) -> None:
        """Learn from one compressed frame."""
        if size_bytes >= SMALL_BODY_BYTES:
            self._speed = _moved(self._speed, size_bytes / max(duration_s, 1e-6))
            self._ratio = _moved(self._ratio, packed_bytes / size_bytes)

    def observe_sending(self, sent_bytes: int, duration_s: float) -> None:
        """Learn from how long the network took these bytes."""
        if sent_bytes >= SMALL_BODY_BYTES:
            self._network = _moved(self._network, sent_bytes / max(duration_s, 1e-6))


def is_incompressible(size_bytes: int, packed_bytes: int) -> bool:
    """Tell from a compressed sample that compressing the rest would be in vain."""
    return packed_bytes > size_bytes * _INCOMPRESSIBLE


def _moved(average: float, value: float) -> float:
    return average + _WEIGHT * (value - average)
