"""Setting an entry's permission bits and mtime without ever following a symlink."""

from __future__ import annotations

import os
import stat
import sys

if sys.platform == "linux":

    def allow_owner(name: bytes, directory: int) -> None:
        """Give the owner of a directory all rights in it.

        Raises:
            OSError: it is not there, is no directory, or is not ours.
        """
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=directory)
        try:
            os.chmod(f"/proc/self/fd/{fd}", 0o700)
        finally:
            os.close(fd)

    def set_file_attributes(name: bytes, directory: int, mode: int, mtime_ns: int) -> bool:
        """Give a regular file its bits and mtime; False if something else stands there.

        Raises:
            OSError: it is not there, or is not ours.
        """
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return False
            itself = f"/proc/self/fd/{fd}"
            os.chmod(itself, mode)
            os.utime(itself, ns=(mtime_ns, mtime_ns))
            return True
        finally:
            os.close(fd)

elif sys.platform != "win32":

    def allow_owner(name: bytes, directory: int) -> None:
        """Give the owner of a directory all rights in it.

        Raises:
            OSError: it is not there, or is not ours.
        """
        os.chmod(name, 0o700, dir_fd=directory, follow_symlinks=False)

    def set_file_attributes(name: bytes, directory: int, mode: int, mtime_ns: int) -> bool:
        """Give a regular file its bits and mtime; False if something else stands there.

        Raises:
            OSError: it is not there, is a symlink, or is not ours.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=directory)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return False
            os.fchmod(fd, mode)
            os.utime(fd, ns=(mtime_ns, mtime_ns))
            return True
        finally:
            os.close(fd)
