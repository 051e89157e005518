"""Making data durable: what each system offers."""

from __future__ import annotations

import ctypes
import errno
import os
import sys


def sync_file(fd: int) -> None:
    """Return when the file's or directory's data and metadata survive a power cut.

    Raises:
        OSError: the system could not write it. The pages may be gone by then: what was
            written must be written again, not synced again.
    """
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fsync(fd)


if sys.platform == "linux":
    _libc = ctypes.CDLL(None, use_errno=True)
    _SYNC_FILE_RANGE_WRITE = 2
    _RENAME_NOREPLACE = 1

    def start_writing(fd: int, offset: int, size_bytes: int) -> None:
        """Have the system begin to write these bytes of a file, so that a sync finds less to do.

        A hint: nothing is durable by it, and what could not be written, the sync tells.
        """
        first, size = ctypes.c_int64(offset), ctypes.c_int64(size_bytes)
        _libc.sync_file_range(fd, first, size, _SYNC_FILE_RANGE_WRITE)

    def sync_file_system(fd: int) -> bool:
        """Make all of the file system durable that ``fd`` lies on; False if that cannot be.

        Raises:
            OSError: the system could not write something of it.
        """
        if _libc.syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), "syncfs")
        return True

    def rename_new(source: bytes, target: bytes, source_fd: int, target_fd: int) -> None:
        """Rename within directories, unless the target exists, as one step.

        Raises:
            FileExistsError: it does; nothing was renamed.
        """
        if _libc.renameat2(source_fd, source, target_fd, target, _RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number in (errno.EINVAL, errno.ENOSYS):
            _rename_if_absent(source, target, source_fd, target_fd)
            return
        raise OSError(number, os.strerror(number), target)

elif sys.platform == "darwin":
    _libc = ctypes.CDLL(None, use_errno=True)
    _RENAME_EXCL = 4

    def start_writing(fd: int, offset: int, size_bytes: int) -> None:
        """Leave it to this system when it begins to write."""

    def sync_file_system(fd: int) -> bool:
        """Tell that this system can only sync file by file."""
        return False

    def rename_new(source: bytes, target: bytes, source_fd: int, target_fd: int) -> None:
        """Rename within directories, unless the target exists, as one step.

        Raises:
            FileExistsError: it does; nothing was renamed.
        """
        if _libc.renameatx_np(source_fd, source, target_fd, target, _RENAME_EXCL) == 0:
            return
        number = ctypes.get_errno()
        if number in (errno.EINVAL, errno.ENOTSUP):
            _rename_if_absent(source, target, source_fd, target_fd)
            return
        raise OSError(number, os.strerror(number), target)

else:

    def start_writing(fd: int, offset: int, size_bytes: int) -> None:
        """Leave it to this system when it begins to write."""

    def sync_file_system(fd: int) -> bool:
        """Tell that this system can only sync file by file."""
        return False

    def rename_new(source: bytes, target: bytes, source_fd: int, target_fd: int) -> None:
        """Rename within directories, unless the target exists.

        Raises:
            FileExistsError: it does; nothing was renamed.
        """
        _rename_if_absent(source, target, source_fd, target_fd)


def _rename_if_absent(source: bytes, target: bytes, source_fd: int, target_fd: int) -> None:
    try:
        os.stat(target, dir_fd=target_fd, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd)
        return
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
