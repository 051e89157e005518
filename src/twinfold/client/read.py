"""Stable reading: a file's bytes count only if it did not change while they were read."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from blake3 import blake3

from twinfold.client.tree import Directory, facts_of, open_path, signed
from twinfold.core.chunking import MIN_SIZE_BYTES, cut_lengths, cut_with_rows
from twinfold.core.manifest import EMPTY_CONTENT, ContentHasher
from twinfold.core.planning import FILE, UNSETTLED_CTIME_NS, Facts, ListedEntry, is_racy
from twinfold.core.times import kept_time_ns
from twinfold.errors import DescriptorsError
from twinfold.model import Chunk

WHOLE_BYTES = 4 * 1024 * 1024
"""Up to this size a file is one change; beyond it, an upload in parts."""

CLOCK_GRANULARITY_NS = 10_000_000
"""File times tick at least this often (100 Hz), and every tick is a new ctime."""

_AHEAD_FILES = 128
_FETCHED_BYTES = 2 * WHOLE_BYTES

SWAPPED = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.ENXIO, errno.ESTALE}
"""What the calls answer when an entry became something else since it was listed."""

OUT_OF_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}

Cut = tuple[Chunk, bytes | memoryview]
"""A chunk and its bytes: a view of all that was read at once, unless it is the whole of it."""


class Portion(NamedTuple):
    """Successive chunks of a big file; ``rows`` of each, by id, where they were wanted."""

    cuts: list[Cut]
    rows: dict[bytes, bytes]


class ScanStoppedError(Exception):
    """The scan was told to end before it was through."""


class UnsettledError(Exception):
    """The file changes or vanishes while it is looked at; it is to be tried again later."""


class Reader:
    """Reads one file at a time; ``stop`` ends a long read."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._ahead: dict[bytes, tuple[ListedEntry, bytes]] = {}

    def open(self, directory: Directory, name: bytes, listed: Facts) -> tuple[int, Facts]:
        """Return (descriptor, facts) of the file that was listed, when it can be read safely.

        Waits out the clock tick in which the file was last changed, so that a change after
        the read cannot leave the same ctime. A ctime in the future can prove nothing, and is
        returned as unsettled.

        Raises:
            UnsettledError: another file has this name now, or none.
            OSError: it may not be read.
        """
        try:
            fd = directory.open_file(name)
        except OSError as error:
            if error.errno in SWAPPED:
                raise UnsettledError from error
            raise
        facts = listed
        if not is_unchanged(fd, listed):
            facts = facts_of(os.fstat(fd))
            if facts.kind != FILE or facts[5:] != listed[5:]:
                os.close(fd)
                raise UnsettledError
        now_ns = time.time_ns()
        if is_racy(facts.ctime_ns, now_ns, CLOCK_GRANULARITY_NS):
            wait_ns = facts.ctime_ns + CLOCK_GRANULARITY_NS - now_ns
            if wait_ns <= 2 * CLOCK_GRANULARITY_NS:
                time.sleep(wait_ns / 1e9)
        return fd, facts

    def read_ahead(self, directory: Directory, files: Sequence[ListedEntry]) -> bool:
        """Read those of the files that are no uploads, so that `take` has them; forget others.

        Those whose ctime the clock may not have left yet are not among them.

        Returns:
            Whether the disk had to be waited for.
        """
        settled_ns = time.time_ns() - CLOCK_GRANULARITY_NS
        files = [
            file
            for file in files
            if file[1] == FILE and file[3] <= WHOLE_BYTES and file[5] <= settled_ns
        ]
        contents, has_waited = directory.read_ahead(files, WHOLE_BYTES)
        self._ahead = {
            file[0]: (file, data)
            for file, data in zip(files, contents, strict=True)
            if data is not None
        }
        return has_waited

    def take_all(
        self, files: Iterable[ListedEntry], most_bytes: int
    ) -> Iterator[tuple[ListedEntry, bytes]]:
        """Yield files with what `take` returns, of so many bytes at most.

        Ends before the first that was not read ahead.
        """
        pop = self._ahead.pop
        for file in files:
            most_bytes -= file[3]
            if most_bytes < 0:
                return
            listed, data = pop(file[0], (None, b""))
            if listed is not file:
                return
            yield file, data

    def take(self, file: ListedEntry) -> bytes | None:
        """Return what is in a file, if it was read ahead; its facts are settled then."""
        listed, data = self._ahead.pop(file[0], (None, b""))
        return data if listed == file else None

    def whole(self, fd: int, facts: Facts) -> tuple[bytes, list[Cut]]:
        """Return (content id, chunks with their bytes) of a file of up to `WHOLE_BYTES`.

        Raises:
            UnsettledError: the file changed meanwhile.
        """
        size = facts[2]
        data = _read_at(fd, 0, size)
        if len(data) != size:
            raise UnsettledError
        check_unchanged(fd, facts)
        return content_of(data)

    def stretches(self, fd: int, wants_rows: Callable[[], bool]) -> Iterator[Portion]:
        """Yield a file's chunks from its start to its end, as many as `WHOLE_BYTES` decide.

        Where rows are wanted, they are found in the same pass.
        What comes after the last cut is read again with the next ones: that is less than to
        copy all of it to where it could stay.
        """
        offset = 0
        is_final = False
        while not is_final:
            if self._stop.is_set():
                raise ScanStoppedError
            data = _read_at(fd, offset, WHOLE_BYTES)
            _fetch(fd, offset + len(data))
            is_final = len(data) < WHOLE_BYTES
            portion = _portion(memoryview(data), is_final, wants_rows())
            yield portion
            offset += sum(chunk.size for chunk, _ in portion.cuts)

    def identify(self, fd: int, facts: Facts) -> bytes:
        """Return the content id of a file of any size.

        Raises:
            UnsettledError: the file changed meanwhile.
        """
        hasher = ContentHasher()
        for cuts, _ in self.stretches(fd, lambda: False):
            hasher.add([chunk for chunk, _ in cuts])
        check_unchanged(fd, facts)
        return hasher.content_id()


def content_of(data: bytes) -> tuple[bytes, list[Cut]]:
    """Return (content id, chunks with their bytes) of a whole file."""
    if not data:
        return EMPTY_CONTENT, []
    if len(data) <= MIN_SIZE_BYTES:
        chunk_id = blake3(data).digest()
        return chunk_id, [(Chunk(chunk_id, len(data)), data)]
    view = memoryview(data)
    cuts = _cuts(view, cut_lengths(view, True))
    hasher = ContentHasher()
    hasher.add([chunk for chunk, _ in cuts])
    return hasher.content_id(), cuts


def windows(files: Sequence[ListedEntry]) -> Iterator[Sequence[ListedEntry]]:
    """Yield the files in groups whose content is worth reading ahead together."""
    ends_bytes = list(accumulate([file[3] for file in files]))
    start = start_bytes = 0
    while start < len(files):
        fitting = bisect_right(ends_bytes, start_bytes + WHOLE_BYTES, start)
        end = max(start + 1, min(fitting, start + _AHEAD_FILES))
        yield files[start:end]
        start, start_bytes = end, ends_bytes[end - 1]


def check_stop(stop: threading.Event) -> None:
    """Make sure that the scan is to go on.

    Raises:
        ScanStoppedError: it is not.
    """
    if stop.is_set():
        raise ScanStoppedError


def check_descriptors(error: Exception) -> None:
    """Make sure that an error says something of the entry, not of this process.

    Raises:
        DescriptorsError: no more files could be opened.
    """
    if isinstance(error, OSError) and error.errno in OUT_OF_DESCRIPTORS:
        raise DescriptorsError(
            f"this client cannot open more files ({(error.strerror or str(error)).lower()}); raise"
            " its limit (ulimit -n), it goes on by itself then"
        ) from error


def is_unchanged(fd: int, facts: Facts) -> bool:
    """Tell whether an open file is what these facts say: the hot half of a stable read."""
    status = os.fstat(fd)
    _, mode, size, mtime_ns, ctime_ns, dev, inode = facts
    return (
        status.st_ctime_ns == ctime_ns
        and kept_time_ns(status.st_mtime_ns) == mtime_ns
        and status.st_size == size
        and signed(status.st_ino) == inode
        and signed(status.st_dev) == dev
        and status.st_mode == stat.S_IFREG | (status.st_mode & ~0o170777) | mode
    )


def check_unchanged(fd: int, facts: Facts) -> None:
    """Make sure that the file is still what it was when reading began.

    Raises:
        UnsettledError: it is not.
    """
    if not is_unchanged(fd, facts):
        raise UnsettledError


def settled(facts: Facts) -> Facts:
    """Return the facts to remember of a file that was read just now.

    A ctime that the clock has not reached is kept as `UNSETTLED_CTIME_NS`: it equals nothing.
    """
    if is_racy(facts.ctime_ns, time.time_ns(), CLOCK_GRANULARITY_NS):
        return facts._replace(ctime_ns=UNSETTLED_CTIME_NS)
    return facts


def read_again(root: Directory, path: bytes, offset: int, size: int, chunk_id: bytes) -> bytes:
    """Return a chunk's bytes from the file that they were read from before.

    Raises:
        UnsettledError: these bytes are no longer there.
        OSError: the file cannot be read.
    """
    parent, _, name = path.rpartition(b"/")
    with open_path(root, parent) as directory:
        try:
            fd = directory.open_file(name)
        except FileNotFoundError as error:
            raise UnsettledError from error
    with os.fdopen(fd, "rb") as file:
        file.seek(offset)
        data = file.read(size)
    if blake3(data).digest() != chunk_id:
        raise UnsettledError
    return data


def _read_at(fd: int, offset: int, size: int) -> bytes:
    """Return so many bytes of a file, or those up to its end."""
    data = _read_some(fd, offset, size)
    while len(data) < size and (more := _read_some(fd, offset + len(data), size - len(data))):
        data += more
    return data


if sys.platform == "win32":

    def _read_some(fd: int, offset: int, size: int) -> bytes:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, size)

else:

    def _read_some(fd: int, offset: int, size: int) -> bytes:
        return os.pread(fd, size, offset)


def _fetch(fd: int, offset: int) -> None:
    """Have the system read on while what was read is worked on, where it takes such hints.

    To ask for what is in memory already takes long: a look at its end does not.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            if not _is_in_memory(fd, offset + _FETCHED_BYTES - 1):
                os.posix_fadvise(fd, offset, _FETCHED_BYTES, os.POSIX_FADV_WILLNEED)


if sys.platform == "linux":

    def _is_in_memory(fd: int, offset: int) -> bool:
        # Not known to an interpreter that was built with an older C library.
        without_waiting: int | None = getattr(os, "RWF_NOWAIT", None)
        if without_waiting is None:
            return False
        try:
            return os.preadv(fd, (bytearray(1),), offset, without_waiting) == 1
        except OSError:
            return False


def _portion(data: memoryview, is_final: bool, with_rows: bool) -> Portion:
    if not with_rows:
        return Portion(_cuts(data, cut_lengths(data, is_final)), {})
    lengths, rows = cut_with_rows(data, is_final, fine=False)
    cuts = _cuts(data, lengths)
    return Portion(cuts, {chunk.id: rows for (chunk, _), rows in zip(cuts, rows, strict=True)})


def _cuts(data: memoryview, lengths: Iterable[int]) -> list[Cut]:
    cuts: list[Cut] = []
    start = 0
    for length in lengths:
        piece = data[start : start + length]
        cuts.append((Chunk(blake3(piece).digest(), length), piece))
        start += length
    return cuts
