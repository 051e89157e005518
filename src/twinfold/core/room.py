"""How much room is to be left where a destination lies: pure arithmetic."""

from __future__ import annotations

import msgspec

_LOW_WATER_PERCENT = 5
_LOW_WATER_BYTES = 1 << 30
_LOW_WATER_FILES = 10_000
_RESERVE_PART = 64
_LEAST_RESERVE_BYTES = 1 << 20
_MOST_RESERVE_BYTES = 16 << 20
_MOST_RESERVE_FILES = 64


class Room(msgspec.Struct, frozen=True):
    """What a file system has; ``total_files`` is 0 where files (inodes) are not limited."""

    total_bytes: int
    free_bytes: int
    total_files: int
    free_files: int

    @property
    def reserve_bytes(self) -> int:
        """What the server keeps for its own records, so that deletions always go through."""
        share = max(_LEAST_RESERVE_BYTES, self.total_bytes // _RESERVE_PART)
        return min(share, _MOST_RESERVE_BYTES, self.total_bytes // 8)

    @property
    def budget(self) -> Room:
        """The room that content may take, the reserve left out."""
        spare_files = min(_MOST_RESERVE_FILES, self.total_files // _RESERVE_PART)
        return msgspec.structs.replace(
            self,
            free_bytes=max(0, self.free_bytes - self.reserve_bytes),
            free_files=max(0, self.free_files - spare_files),
        )

    def holds(self, size_bytes: int, files: int) -> bool:
        """Tell whether so much more fits."""
        return size_bytes <= self.free_bytes and (not self.total_files or files <= self.free_files)

    def is_low_with(self, size_bytes: int, files: int) -> bool:
        """Tell whether so much more would leave less than the low-water mark."""
        low_bytes = min(self.total_bytes * _LOW_WATER_PERCENT // 100, _LOW_WATER_BYTES)
        low_files = min(self.total_files * _LOW_WATER_PERCENT // 100, _LOW_WATER_FILES)
        return not self.holds(size_bytes + low_bytes, files + low_files)

    def less(self, size_bytes: int, files: int) -> Room:
        """Return what is left once so much has been taken."""
        return msgspec.structs.replace(
            self, free_bytes=self.free_bytes - size_bytes, free_files=self.free_files - files
        )
