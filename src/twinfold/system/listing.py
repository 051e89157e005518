"""Listing a directory by a descriptor that has been open for a while."""

from __future__ import annotations

import os
import sys


def rewind(fd: int) -> None:
    """Have the next listing show what is in the directory by now.

    A btrfs shows only what was there when the descriptor was opened or last set to its beginning.
    """
    os.lseek(fd, 0, os.SEEK_SET)


if sys.platform != "win32":
    _DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

    def list_inodes(fd: int) -> dict[bytes, int]:
        """Return what is in a directory by now: inodes by name.

        Other threads may list it by the same descriptor meanwhile: the place that a listing
        has reached belongs to the descriptor, so this one takes its own.

        Raises:
            OSError: it cannot be read.
        """
        try:
            own = os.open(b".", _DIRECTORY, dir_fd=fd)
        except PermissionError:
            # Its bits are closed by now, also to its owner.
            own = os.dup(fd)
            rewind(own)
        try:
            with os.scandir(own) as entries:
                return {os.fsencode(entry.name): entry.inode() for entry in entries}
        finally:
            os.close(own)
