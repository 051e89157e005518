"""The system calls of inotify, and what they need around them."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import sys
import termios
from collections.abc import Iterator
from struct import Struct

assert sys.platform == "linux"

MODIFY = 0x00000002
ATTRIB = 0x00000004
CLOSE_WRITE = 0x00000008
MOVED_FROM = 0x00000040
MOVED_TO = 0x00000080
CREATE = 0x00000100
DELETE = 0x00000200
DELETE_SELF = 0x00000400
MOVE_SELF = 0x00000800
UNMOUNT = 0x00002000
QUEUE_OVERFLOW = 0x00004000
IGNORED = 0x00008000
ONLY_DIRECTORY = 0x01000000
EXCLUDE_UNLINKED = 0x04000000
IS_DIRECTORY = 0x40000000

NAME_EVENTS = MOVED_FROM | MOVED_TO | CREATE | DELETE
SELF_EVENTS = DELETE_SELF | MOVE_SELF
_CONTENT_EVENTS = MODIFY | ATTRIB | CLOSE_WRITE
_WATCHED_EVENTS = NAME_EVENTS | SELF_EVENTS | _CONTENT_EVENTS | ONLY_DIRECTORY | EXCLUDE_UNLINKED

_EVENT = Struct("iIII")
_READ_BYTES = 65_536

_libc = ctypes.CDLL(None, use_errno=True)


def init() -> int:
    """Return a new inotify descriptor."""
    fd = int(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    if fd >= 0:
        return fd
    code = ctypes.get_errno()
    if code == errno.EMFILE:
        raise OSError(code, "the limit of watchers (fs.inotify.max_user_instances) is reached")
    raise OSError(code, os.strerror(code))


def add_watch(inotify_fd: int, directory_fd: int) -> int:
    """Watch the open directory and return the number of its watch, the same one every time."""
    wd = int(_libc.inotify_add_watch(inotify_fd, proc_path(directory_fd), _WATCHED_EVENTS))
    if wd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return wd


def remove_watch(inotify_fd: int, wd: int) -> None:
    """Stop watching, if the kernel has not done so by itself."""
    _libc.inotify_rm_watch(inotify_fd, wd)


def queued_bytes(inotify_fd: int) -> int:
    """Return how much there is to read at this moment."""
    answer = fcntl.ioctl(inotify_fd, termios.FIONREAD, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


def read_queue(inotify_fd: int) -> bytes:
    """Read some of the queued events."""
    return os.read(inotify_fd, _READ_BYTES)


def parse_events(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield each event's watch, mask, cookie and name."""
    offset = 0
    while offset < len(data):
        wd, mask, cookie, length = _EVENT.unpack_from(data, offset)
        start = offset + _EVENT.size
        offset = start + length
        yield wd, mask, cookie, data[start:offset].rstrip(b"\0")


def live_watches(inotify_fd: int) -> set[int]:
    """Return the watches that the kernel still has."""
    with open(f"/proc/self/fdinfo/{inotify_fd}", "rb") as lines:
        return {int(line.split()[1][3:], 16) for line in lines if line.startswith(b"inotify ")}


def watch_limit() -> int:
    """Return how many directories this user may watch."""
    limits = []
    for name in ["fs/inotify/max_user_watches", "user/max_inotify_watches"]:
        with open(f"/proc/sys/{name}") as file:
            limits.append(int(file.read()))
    return min(limits)


def proc_path(fd: int) -> bytes:
    """Return a path that leads to what is open, wherever it is by now and however deep."""
    return b"/proc/self/fd/%d" % fd


def is_at(path: bytes, fd: int) -> bool:
    """Whether this path leads to what is open."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except OSError:
        return False


def open_below(root: bytes, path: bytes) -> int:
    """Open a directory below the root, following no link on the way."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    fd = os.open(root, flags)
    for name in path.split(b"/") if path else ():
        above = fd
        try:
            fd = os.open(name, flags | os.O_NOFOLLOW, dir_fd=above)
        finally:
            os.close(above)
    return fd
