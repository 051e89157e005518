"""The attic: what the tree no longer shows, until its time has come."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import os
import stat

from twinfold.system.attributes import allow_owner

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def purge(directory: int, name: bytes) -> None:
    """Delete an object with all below it, if it is there; follow no symlink.

    Raises:
        OSError: something of it could not be deleted; calling again goes on.
    """
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(name, dir_fd=directory)
        return
    _purge_directory(directory, name)


def _purge_directory(directory: int, name: bytes) -> None:
    """Delete a directory of any depth: one descriptor a level, no recursion."""
    fds = [_open_writable(directory, name)]
    levels = [(name, _unlink_files(fds[0]))]
    try:
        while fds:
            below = levels[-1][1]
            if below:
                child = below.pop()
                fds.append(_open_writable(fds[-1], child))
                levels.append((child, _unlink_files(fds[-1])))
                continue
            os.close(fds.pop())
            empty = levels.pop()[0]
            os.rmdir(empty, dir_fd=fds[-1] if fds else directory)
    finally:
        for fd in fds:
            os.close(fd)


def _open_writable(directory: int, name: bytes) -> int:
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=directory)
    except PermissionError:
        allow_owner(name, directory)
        fd = os.open(name, _DIRECTORY, dir_fd=directory)
    if os.fstat(fd).st_mode & 0o700 != 0o700:
        os.fchmod(fd, 0o700)
    return fd


def _unlink_files(fd: int) -> list[bytes]:
    """Delete all but directories; return the names of those."""
    directories = []
    with os.scandir(fd) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(os.fsencode(entry.name))
            else:
                os.unlink(entry.name, dir_fd=fd)
    return directories
