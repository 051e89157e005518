"""Listing a directory by a descriptor that has been open for a while."""

from __future__ import annotations

import os


def rewind(fd: int) -> None:
    """Have the next listing show what is in the directory by now.

    A btrfs shows only what was there when the descriptor was opened or last set to its beginning.
    """
    os.lseek(fd, 0, os.SEEK_SET)
