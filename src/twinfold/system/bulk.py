"""Many small files with one call: without the interpreter's lock if the compiled module is there.

The functions in plain Python do the same one by one; the tests compare both.
"""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import errno
import os
from collections.abc import Callable, Sequence

from twinfold.system.attributes import set_file_attributes
from twinfold.system.durability import rename_new

_CREATE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


NewFile = tuple[bytes, int, int, tuple[bytes | memoryview, ...]]
"""Name, mode, mtime in ns, and the content in parts of a file to create."""

MOVE, REPLACE, KEEP, ADJUST = range(4)
"""Give a file a name that nothing has, one whatever has it, one more; or other attributes."""

FileStep = tuple[int, int, bytes, int, bytes, int, int]
"""One of these, a descriptor and a name there, those that the file gets, its mode and mtime in ns.

What the step does not need is not looked at.
"""

FileIdentity = tuple[int, int]
"""Inode and ctime in ns of a file."""

Kinds = tuple[int, int, int, int]
"""What to call a file, a directory, a symlink, and anything else."""

ListedFacts = tuple[int, int, int, int, int, int, int]
"""Kind, mode, size in bytes, mtime and ctime in ns, device and inode, as far as they count."""

ListedEntry = tuple[bytes, int, int, int, int, int, int, int]
"""A name, and the facts of what it is."""

_HOLE_BYTES = 32 * 1024
"""A part of at least so many zeros becomes a hole."""


def create_files_singly(
    directory_fd: int, files: Sequence[NewFile]
) -> tuple[list[FileIdentity], int]:
    """Do what `create_files` does, file by file."""
    identities: list[FileIdentity] = []
    for file in files:
        try:
            identities.append(_create(directory_fd, file))
        except OSError as error:
            return identities, error.errno or 0
    return identities, 0


def _create(directory_fd: int, file: NewFile) -> FileIdentity:
    name, mode, mtime_ns, parts = file
    fd = os.open(name, _CREATE, mode, dir_fd=directory_fd)
    try:
        try:
            _fill(fd, parts)
            os.utime(fd, ns=(mtime_ns, mtime_ns))
            status = os.fstat(fd)
            return status.st_ino, status.st_ctime_ns
        finally:
            os.close(fd)
    except OSError:
        os.unlink(name, dir_fd=directory_fd)
        raise


def _fill(fd: int, parts: Sequence[bytes | memoryview]) -> None:
    ends_with_hole = False
    for part in filter(len, parts):
        ends_with_hole = len(part) >= _HOLE_BYTES and part == bytes(len(part))
        if ends_with_hole:
            os.lseek(fd, len(part), os.SEEK_CUR)
            continue
        view = memoryview(part)
        while view:
            view = view[os.write(fd, view) :]
    if ends_with_hole:
        os.ftruncate(fd, os.lseek(fd, 0, os.SEEK_CUR))


def take_steps_singly(steps: Sequence[FileStep]) -> tuple[list[FileIdentity], int]:
    """Do what `take_steps` does, step by step."""
    identities: list[FileIdentity] = []
    for step in steps:
        try:
            identities.append(_take(*step))
        except OSError as error:
            return identities, error.errno or 0
    return identities, 0


def _take(
    action: int,
    source_fd: int,
    source: bytes,
    target_fd: int,
    target: bytes,
    mode: int,
    mtime_ns: int,
) -> FileIdentity:
    if action == KEEP:
        os.link(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
        return 0, 0
    if action == ADJUST:
        if not set_file_attributes(source, source_fd, mode, mtime_ns):
            raise OSError(errno.EINVAL, "no regular file")
        target_fd, target = source_fd, source
    elif action == MOVE:
        rename_new(source, target, source_fd, target_fd)
    else:
        os.rename(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd)
    status = os.stat(target, dir_fd=target_fd, follow_symlinks=False)
    return status.st_ino, status.st_ctime_ns


def read_nothing(
    _directory_fd: int, files: Sequence[ListedEntry], _limit_bytes: int
) -> tuple[list[bytes | None], bool]:
    """Do as `read_files` may: leave each to be read on its own."""
    return [None] * len(files), False


def fetch_nothing(_directory_fd: int, _name: bytes, _limit_bytes: int) -> None:
    """Do as `fetch_files` may: leave it to the system what it reads ahead."""


create_files: Callable[[int, Sequence[NewFile]], tuple[list[FileIdentity], int]]
"""Create files in a directory.

Returns:
    The identity of each, and the error number that hindered the next one, or 0.
"""

take_steps: Callable[[Sequence[FileStep]], tuple[list[FileIdentity], int]]
"""Take steps with files, in order.

Returns:
    The identity of each file after its step, (0, 0) for one that is kept, and the error number
    that hindered the next one, or 0.
"""

read_files: Callable[[int, Sequence[ListedEntry], int], tuple[list[bytes | None], bool]]
"""Read files in a directory, and ask the system to fetch those over the limit in bytes.

Returns:
    What is in those that were as listed before and after, None for all others; and whether
    the disk had to be waited for.
"""

list_entries: Callable[[int, Kinds], tuple[ListedFacts, list[ListedEntry], ListedFacts]] | None
"""List a directory, if the compiled module is there.

Returns:
    What it is itself before, what each entry is, in order of the names, and what it is after.

Raises:
    OSError: it cannot be read.
"""

fetch_files: Callable[[int, bytes, int], None]
"""Ask the system to fetch so many bytes of the files in a directory of a directory.

A hint: nothing is said of a directory that is not there.
"""

try:
    from twinfold import _files, _reading
except ImportError:
    create_files = create_files_singly
    fetch_files = fetch_nothing
    list_entries = None
    read_files = read_nothing
    take_steps = take_steps_singly
else:
    create_files = _files.create_files
    fetch_files = _reading.fetch_files
    list_entries = _reading.list_entries
    read_files = _reading.read_files
    take_steps = _files.take_steps
