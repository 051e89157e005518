"""Locks that keep a second process away from a folder, and end with their process."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from types import TracebackType

from twinfold.errors import LockedError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


class FolderLock:
    """An exclusive lock on a file, held until `release` or the end of the process.

    The file is left in place: removing it would let two processes lock two files of one name.

    Args:
        path: the lock file; its folder exists.
        subject: what is locked, for the message to the one who comes second.
    """

    def __init__(self, path: Path, subject: str) -> None:
        self._path = path
        self._subject = subject
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            LockedError: another process holds it; the message names its id.
        """
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            _lock(fd)
        except OSError as error:
            owner = _read_owner(self._path)
            os.close(fd)
            raise LockedError(f"{self._subject} by process {owner}; end that one first") from error
        self._fd = fd
        with contextlib.suppress(OSError):
            # It is for the message only, and a full disk has no room for it.
            os.ftruncate(fd, 0)
            os.write(fd, b"%d\n" % os.getpid())

    def release(self) -> None:
        """Give the lock back; without effect if it is not held."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                # The descriptor is gone whatever is said: a disk that is away says something.
                os.close(self._fd)
            self._fd = None

    def __enter__(self) -> FolderLock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


_LOCKED_BYTE = 1 << 30
"""Windows locks bytes against reading too: one far behind the process id."""


def _lock(fd: int) -> None:
    if sys.platform == "win32":
        os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        os.lseek(fd, 0, os.SEEK_SET)
    else:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _read_owner(path: Path) -> str:
    try:
        text = path.read_bytes()[:20].decode("ascii", "replace").strip()
    except OSError:
        text = ""
    return text if text.isdecimal() else "unknown"
