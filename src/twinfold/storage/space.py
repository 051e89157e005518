"""The room on the file system that a destination lies on, and a part of it that is held back."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import errno
import os
from contextlib import suppress

from twinfold.core.room import Room

_NAME = b"ballast"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_OPEN = os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class Space:
    """Measures room, and holds some of it in a file that is given up when the disk is full.

    What the file takes nobody else can: the index finds room to record a deletion even where
    other programs have filled the disk, or a quota is used up.
    """

    def __init__(self, own_folder: int) -> None:
        self._folder = own_folder
        self.is_held = False

    def measure(self) -> Room:
        """Return what the file system has for this process."""
        found = os.fstatvfs(self._folder)
        return Room(
            found.f_blocks * found.f_frsize,
            found.f_bavail * found.f_frsize,
            found.f_files,
            found.f_favail,
        )

    def hold(self) -> bool:
        """Take hold of the reserve unless that is so already; False if there is no room for it.

        What else hinders it says nothing of the room: content may come in all the same.
        """
        if self.is_held:
            return True
        room = self.measure()
        try:
            fd = os.open(_NAME, _OPEN, 0o600, dir_fd=self._folder)
            try:
                if os.fstat(fd).st_size != room.reserve_bytes:
                    os.ftruncate(fd, 0)
                    if room.free_bytes < 2 * room.reserve_bytes:
                        return False
                    _fill(fd, room.reserve_bytes)
            finally:
                os.close(fd)
        except OSError as error:
            self.release()
            return error.errno not in _NO_ROOM
        self.is_held = True
        return True

    def release(self) -> None:
        """Give the reserve up, for the index to write in."""
        self.is_held = False
        with suppress(OSError):
            os.unlink(_NAME, dir_fd=self._folder)


if sys.platform == "linux":

    def _fill(fd: int, size_bytes: int) -> None:
        os.posix_fallocate(fd, 0, size_bytes)

else:

    def _fill(fd: int, size_bytes: int) -> None:
        piece = bytes(1 << 20)
        while size_bytes > 0:
            size_bytes -= os.write(fd, piece[:size_bytes])
