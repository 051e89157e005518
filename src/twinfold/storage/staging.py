"""Staging: content is written once, into the very file that is renamed into place."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from twinfold.core.chunking import chunk_id
from twinfold.model import Chunk
from twinfold.storage.attic import purge
from twinfold.storage.directories import OPEN_DIRECTORY
from twinfold.storage.interface import NewFile, Source
from twinfold.system.bulk import FileIdentity, create_files
from twinfold.system.clones import clone_range
from twinfold.system.durability import start_writing, sync_file, sync_file_system
from twinfold.system.listing import list_inodes

_REOPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_PRIVATE = 0o600
_FEW_FILES = 8
"""Up to so many files are synced one by one; more by one sync of the file system."""
_ZEROS = bytes(96 * 1024)
_MOST_PARTS = 1024
"""What one call writes at most, by POSIX (IOV_MAX)."""
_MUCH_BYTES = 8 * 1024 * 1024
"""So much is written to the disk while more comes; what is left then is soon synced."""
_MOST_WATCHED = 64


class _Watched:
    """Files that the system began to write early, kept open until they are synced.

    Once a file that it could not write is closed, the system may forget it, and with it that
    something went wrong: a later sync of the file would succeed.
    """

    def __init__(self) -> None:
        self._fds: dict[bytes, int] = {}

    @property
    def is_full(self) -> bool:
        """Whether no more files should be begun."""
        return len(self._fds) >= _MOST_WATCHED

    def keep(self, name: bytes, fd: int) -> None:
        """Take over an open file."""
        before = self._fds.pop(name, None)
        self._fds[name] = fd
        if before is not None:
            os.close(before)

    @contextmanager
    def until_done(self, names: Iterable[bytes]) -> Iterator[None]:
        """Let go of files at the end of the block, which syncs or discards them."""
        fds = [fd for name in names if (fd := self._fds.pop(name, None)) is not None]
        try:
            yield
        finally:
            for fd in fds:
                with suppress(OSError):
                    os.close(fd)


class FileBeingFilled:
    """A staged file whose verified chunks come in any order; runs of zeros become holes."""

    def __init__(self, name: bytes, fd: int, watched: _Watched) -> None:
        self._name = name
        self._fd = fd
        self._watched = watched
        self._is_begun = False
        self._staged_bytes = os.fstat(fd).st_size
        self._late_bytes = 0
        self._late = range(0)

    def truncate(self, size_bytes: int) -> None:
        """Drop what lies beyond ``size_bytes``."""
        if os.fstat(self._fd).st_size > size_bytes:
            os.ftruncate(self._fd, size_bytes)
        self._staged_bytes = min(self._staged_bytes, size_bytes)

    def write(self, pieces: Iterable[tuple[int, bytes | memoryview]]) -> None:
        """Put verified bytes where they belong, those that adjoin in one call."""
        run: list[bytes | memoryview] = []
        start = end = 0
        for offset, data in pieces:
            if self._is_hole(offset, data):
                continue
            if offset != end or len(run) == _MOST_PARTS:
                self._write_run(start, run)
                run, start = [], offset
            run.append(data)
            end = offset + len(data)
        self._write_run(start, run)

    def clone(self, source: Source, source_offset: int, offset: int, size_bytes: int) -> range:
        """Put bytes of a file at ``offset``, unverified, as blocks that both files share.

        Returns:
            where they lie in this file: the whole blocks of these bytes, maybe none.

        Raises:
            OSError: these files cannot share blocks, or not these.
        """
        block_bytes = os.fstatvfs(self._fd).f_bsize
        shift = source_offset - offset
        start = -(-offset // block_bytes) * block_bytes
        end = (offset + size_bytes) // block_bytes * block_bytes
        if shift % block_bytes or start >= end:
            return range(0)
        clone_range(source.fileno(), start + shift, self._fd, start, end - start)
        # Zeros that belong there are no hole any more.
        self._staged_bytes = max(self._staged_bytes, end)
        return range(start, end)

    def _is_hole(self, offset: int, data: bytes | memoryview) -> bool:
        return offset >= self._staged_bytes and data[0] == 0 and data == _ZEROS[: len(data)]

    def _write_run(self, offset: int, parts: list[bytes | memoryview]) -> None:
        start, end = offset, offset + sum(map(len, parts))
        while offset < end:
            written = os.pwritev(self._fd, parts, offset)
            offset += written
            if offset < end:
                parts = _from(written, parts)
        self._begin_sync(start, end)

    def _begin_sync(self, start: int, end: int) -> None:
        """Note what was written; once that is much, have it brought to the disk meanwhile."""
        if self._late_bytes:
            self._late = range(min(start, self._late.start), max(end, self._late.stop))
        else:
            self._late = range(start, end)
        self._late_bytes += end - start
        if self._late_bytes >= _MUCH_BYTES and not self._watched.is_full:
            self._is_begun = True
            start_writing(self._fd, self._late.start, len(self._late))
            self._late_bytes = 0

    def extend(self, size_bytes: int) -> None:
        """Make sure that the file is at least this long: a hole may be at its end."""
        if os.fstat(self._fd).st_size < size_bytes:
            os.ftruncate(self._fd, size_bytes)

    def holds(self, offset: int, chunk: Chunk) -> bool:
        """Tell whether the chunk lies at ``offset`` already, reading it now."""
        data = os.pread(self._fd, chunk.size, offset)
        return len(data) == chunk.size and chunk_id(data) == chunk.id

    def close(self) -> None:
        """Let go of the file."""
        if self._is_begun:
            self._watched.keep(self._name, self._fd)
        else:
            os.close(self._fd)


def _from(offset: int, parts: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """Return what is left of the parts from an offset into them on."""
    for at, part in enumerate(parts):
        if offset < len(part):
            return [memoryview(part)[offset:], *parts[at + 1 :]]
        offset -= len(part)
    return []


class Staging:
    """The folder of content on its way in."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._watched = _Watched()

    def create_files(
        self, files: Sequence[NewFile], directory: bytes = b""
    ) -> tuple[list[FileIdentity], OSError | None]:
        """Stage whole small files, by themselves or in a staged directory.

        Returns:
            (inode, ctime_ns) of each, and what hindered the next one.
        """
        with self._opened(directory) as fd:
            identities, number = create_files(fd, files)
        if not number:
            return identities, None
        return identities, OSError(number, os.strerror(number), files[len(identities)][0])

    @contextmanager
    def _opened(self, directory: bytes) -> Iterator[int]:
        if not directory:
            yield self._fd
            return
        fd = os.open(directory, OPEN_DIRECTORY, dir_fd=self._fd)
        try:
            yield fd
        finally:
            os.close(fd)

    def open_file(self, name: bytes, size_bytes: int) -> FileBeingFilled:
        """Stage a file to be filled, or reopen one that has ``size_bytes`` already.

        Raises:
            FileNotFoundError: it is gone, or shorter than that.
        """
        flags = _REOPEN if size_bytes else _REOPEN | os.O_CREAT
        fd = os.open(name, flags, _PRIVATE, dir_fd=self._fd)
        if os.fstat(fd).st_size < size_bytes:
            os.close(fd)
            raise FileNotFoundError(errno.ENOENT, "a staged file has been cut", name)
        return FileBeingFilled(name, fd, self._watched)

    def finish_file(self, name: bytes, size_bytes: int, mode: int, mtime_ns: int) -> int:
        """Give a filled file its attributes; return its inode.

        Raises:
            FileNotFoundError: it is gone, or does not have that size.
        """
        fd = os.open(name, _REOPEN, dir_fd=self._fd)
        try:
            if os.fstat(fd).st_size != size_bytes:
                raise FileNotFoundError(errno.ENOENT, "a staged file has been cut", name)
            os.fchmod(fd, mode)
            os.utime(fd, ns=(mtime_ns, mtime_ns))
            return os.fstat(fd).st_ino
        finally:
            os.close(fd)

    def create_directory(self, name: bytes) -> int:
        """Stage an empty directory; return its inode."""
        os.mkdir(name, 0o700, dir_fd=self._fd)
        return os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_ino

    def create_symlink(self, name: bytes, target: bytes) -> int:
        """Stage a symlink; return its inode."""
        os.symlink(target, name, dir_fd=self._fd)
        return os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_ino

    def discard(self, names: Iterable[bytes]) -> None:
        """Drop staged objects that no commit has taken over."""
        names = list(names)
        with self._watched.until_done(names):
            for name in names:
                try:
                    os.unlink(name, dir_fd=self._fd)
                except FileNotFoundError:
                    continue
                except (IsADirectoryError, PermissionError):
                    purge(self._fd, name)

    def names(self) -> list[bytes]:
        """Return the names of all staged objects."""
        return list(list_inodes(self._fd))

    def flush(self, files: Sequence[bytes], filled: Sequence[bytes], others: int) -> bool:
        """Make staged files, directories with all in them, and so many ``others`` durable.

        Returns:
            True if with them all that was done before is durable, renames included.
        """
        with self._watched.until_done(files):
            return self._flush(files, filled, others)

    def _flush(self, files: Sequence[bytes], filled: Sequence[bytes], others: int) -> bool:
        if (len(files) > _FEW_FILES or filled or others) and sync_file_system(self._fd):
            return True
        try:
            _sync_files(self._fd, files)
            for directory in filled:
                with self._opened(directory) as fd:
                    _sync_files(fd, list_inodes(fd))
        except PermissionError:
            # Its bits keep us from opening one; it can be synced with everything else.
            self.flush_all()
            return True
        return False

    def flush_all(self) -> None:
        """Make all that was done before durable, renames included."""
        if not sync_file_system(self._fd):
            os.sync()
            sync_file(self._fd)


def _sync_files(directory: int, names: Iterable[bytes]) -> None:
    """Sync files of a directory, and then itself."""
    for name in names:
        fd = os.open(name, _READ, dir_fd=directory)
        try:
            sync_file(fd)
        finally:
            os.close(fd)
    sync_file(directory)
