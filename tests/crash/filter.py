"""Has the kernel ask before each system call that may change a disk (seccomp, Linux 5.5).

The thread that makes the call waits until whoever holds the listener has answered: go on, fail
with this error, or nothing, because the process was killed meanwhile. Other calls cost nothing.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import platform
import select
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.crash.site import READING

ROOT = Path(__file__).parents[2]
_NUMBERS = {
    "x86_64": {
        "chmod": 90,
        "copy_file_range": 326,
        "creat": 85,
        "fallocate": 285,
        "fchmod": 91,
        "fchmodat": 268,
        "fdatasync": 75,
        "flock": 73,
        "fsync": 74,
        "ftruncate": 77,
        "link": 86,
        "linkat": 265,
        "mkdir": 83,
        "mkdirat": 258,
        "open": 2,
        "openat": 257,
        "pwrite64": 18,
        "rename": 82,
        "renameat": 264,
        "renameat2": 316,
        "rmdir": 84,
        "symlink": 88,
        "symlinkat": 266,
        "syncfs": 306,
        "truncate": 76,
        "unlink": 87,
        "unlinkat": 263,
        "utimensat": 280,
        "write": 1,
        "writev": 20,
    },
    "aarch64": {
        "copy_file_range": 285,
        "fallocate": 47,
        "fchmod": 52,
        "fchmodat": 53,
        "fdatasync": 83,
        "flock": 32,
        "fsync": 82,
        "ftruncate": 46,
        "linkat": 37,
        "mkdirat": 34,
        "openat": 56,
        "pwrite64": 68,
        "renameat": 38,
        "renameat2": 276,
        "symlinkat": 36,
        "syncfs": 267,
        "truncate": 45,
        "unlinkat": 35,
        "utimensat": 88,
        "write": 64,
        "writev": 66,
    },
}
"""What changes a disk or makes it durable, and its number on each machine."""

_SECCOMP_NUMBERS = {"x86_64": 317, "aarch64": 277}
_OPENS = {"open": 1, "openat": 2}
"""Which of their arguments has the flags."""

_WRITES = ("write", "writev")
_NO_FILES = ("anon_inode:", "socket:")

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ASK, _ALLOW = 0x7FC00000, 0x7FFF0000
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_CONTINUE = 1
_NOTICE = struct.Struct("=QIIiIQ6Q")
_ANSWER = struct.Struct("=QqiI")


class Asked(NamedTuple):
    """A call that waits for an answer; ``call`` is empty if it cannot change a disk after all."""

    id: int
    call: str


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def install() -> int:
    """Have the calls of this process and its descendants wait; return the listener.

    Raises:
        OSError: the system does not allow that.
    """
    numbers = _numbers()
    parts = [struct.pack("=HBBI", _LOAD, 0, 0, 0)]
    for left, number in zip(range(len(numbers), 0, -1), numbers, strict=True):
        parts.append(struct.pack("=HBBI", _JUMP_IF_EQUAL, left, 0, number))
    parts.append(struct.pack("=HBBI", _RETURN, 0, 0, _ALLOW))
    parts.append(struct.pack("=HBBI", _RETURN, 0, 0, _ASK))
    program = _Program(len(parts), b"".join(parts))
    system = ctypes.CDLL(None, use_errno=True)
    system.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    seccomp = _SECCOMP_NUMBERS[platform.machine()]
    listener = system.syscall(seccomp, _SET_MODE_FILTER, _NEW_LISTENER, ctypes.byref(program))
    if listener < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(listener)


def receive(listener: int) -> Asked | None:
    """Return the next call that waits; None when no process is left that could make one."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        ((_, events),) = poll.poll()
        if not events & select.POLLIN:
            return None
        notice = bytearray(_NOTICE.size)
        try:
            fcntl.ioctl(listener, _RECEIVE, notice)
        except OSError as error:
            # Who asked was killed.
            if error.errno in (errno.ENOENT, errno.EINTR):
                continue
            raise
        number, thread, _flags, call, _arch, _at, *arguments = _NOTICE.unpack(notice)
        return Asked(number, _name(call, thread, arguments))


def answer(listener: int, asked: Asked, error: int = 0) -> None:
    """Let a call go on, or fail with an error."""
    flags = 0 if error else _CONTINUE
    try:
        fcntl.ioctl(listener, _SEND, _ANSWER.pack(asked.id, 0, -error, flags))
    except OSError as failure:
        # Who asked was killed meanwhile.
        if failure.errno != errno.ENOENT:
            raise


def _numbers() -> dict[int, str]:
    return {number: call for call, number in _NUMBERS[platform.machine()].items()}


def _name(number: int, thread: int, arguments: list[int]) -> str:
    call = _numbers()[number]
    if call in _OPENS:
        flags = arguments[_OPENS[call]]
        changes = os.O_CREAT | os.O_TRUNC | os.O_TMPFILE
        return "openat" if flags & changes & ~os.O_DIRECTORY else READING
    if call in _WRITES:
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/{thread}/fd/{arguments[0]}")
            return "" if target.startswith(_NO_FILES) else call
    return call


@functools.cache
def why_not() -> str:
    """Return why calls cannot be made to wait here, empty if they can."""
    if platform.machine() not in _NUMBERS:
        return f"the system calls of {platform.machine()} are not known"
    words = [sys.executable, "-c", "from tests.crash.filter import install; install()"]
    tried = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        return ""
    return f"seccomp may not be used here: {tried.stderr.strip().splitlines()[-1]}"
