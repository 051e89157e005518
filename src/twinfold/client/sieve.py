"""Which chunks a first scan has met already, in bounded memory."""

from __future__ import annotations

_SIEVE_BYTES = 1 << 21


class ChunkSieve:
    """Tells chunks that were surely not met before from those that may have been.

    One bit a chunk in a fixed 2 MiB, at the place that its hash names.
    """

    def __init__(self) -> None:
        self._bits = bytearray(_SIEVE_BYTES)

    def meet(self, chunk_id: bytes) -> bool:
        """Take note of a chunk; False if it is surely a new one."""
        place = hash(chunk_id)
        at, bit = place >> 3 & _SIEVE_BYTES - 1, 1 << (place & 7)
        known = self._bits[at]
        self._bits[at] = known | bit
        return known & bit != 0
