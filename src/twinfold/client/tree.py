"""The source's directories: the only place where the source is touched, and never written.

On POSIX every step goes by directory descriptors and never through a symlink, so that paths of
any length work and a directory that is swapped for a symlink meanwhile leads nowhere. Windows
has no such calls; there it goes by path.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import NamedTuple, Protocol

from twinfold.core.planning import DIRECTORY, FILE, OTHER, SYMLINK, Facts, ListedEntry
from twinfold.core.times import kept_time_ns
from twinfold.model import PERMISSION_BITS
from twinfold.system.listing import rewind

if sys.platform == "win32":

    def read_files(
        _directory_fd: int, files: Sequence[ListedEntry], _limit_bytes: int
    ) -> tuple[list[bytes | None], bool]:
        """Read nothing ahead."""
        return [None] * len(files), False

    list_entries = None

else:
    from twinfold.system.bulk import list_entries, read_files

_LISTING_TRIES = 4
_SIGNED_MAX = (1 << 63) - 1
_WORD = 1 << 64

_KINDS = {stat.S_IFREG: FILE, stat.S_IFDIR: DIRECTORY, stat.S_IFLNK: SYMLINK}

if sys.platform == "win32":
    _READ_FLAGS = os.O_RDONLY | os.O_BINARY | os.O_NOINHERIT
    _QUIET_FLAGS = _READ_FLAGS
    _DIRECTORY_FLAGS = _READ_FLAGS
else:
    _READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    _QUIET_FLAGS = _READ_FLAGS | getattr(os, "O_NOATIME", 0)
    _DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def facts_of(status: os.stat_result) -> Facts:
    """Return what of a stat result is compared.

    Numbers are folded into the signed 64 bits that the state can hold, times are cut to them.
    """
    mode = status.st_mode
    kind = _KINDS.get(mode & 0o170000, OTHER)
    inode = signed(status.st_ino)
    dev = signed(status.st_dev)
    if kind == FILE:
        return Facts(
            FILE,
            mode & PERMISSION_BITS,
            status.st_size,
            kept_time_ns(status.st_mtime_ns),
            status.st_ctime_ns,
            dev,
            inode,
        )
    if kind == DIRECTORY:
        mtime_ns = kept_time_ns(status.st_mtime_ns)
        return Facts(DIRECTORY, mode & PERMISSION_BITS, 0, mtime_ns, 0, dev, inode)
    return Facts(kind, 0, 0, 0, status.st_ctime_ns, dev, inode)


def signed(value: int) -> int:
    """Return an inode or device number folded into signed 64 bits."""
    if value <= _SIGNED_MAX:
        return value
    value %= _WORD
    return value - _WORD if value > _SIGNED_MAX else value


class Listing(NamedTuple):
    """What is in a directory, in order of the names, and the directory before and after."""

    before: Facts
    entries: list[ListedEntry]
    after: Facts


class Directory(Protocol):
    """One open directory of the source."""

    @property
    def fd(self) -> int | None:
        """The descriptor, where there is one."""
        ...

    def enter(self, name: bytes) -> Directory:
        """Open the directory ``name`` in this one; a symlink is an error."""
        ...

    def listing(self) -> Listing:
        """Return what every name in the directory is; names that vanish meanwhile are left out."""
        ...

    def facts(self) -> Facts:
        """Return the facts of the directory itself."""
        ...

    def look(self, name: bytes) -> tuple[Facts, int] | None:
        """Return (facts, number of hard links) of a name, or None where it does not exist."""
        ...

    def open_file(self, name: bytes) -> int:
        """Open ``name`` for reading: follows no symlink, waits for no FIFO."""
        ...

    def read_ahead(
        self, files: Sequence[ListedEntry], limit_bytes: int
    ) -> tuple[list[bytes | None], bool]:
        """Read files together, and ask the system to fetch those over the limit.

        Returns:
            What is in those that were what their facts say all the while, None for others;
            and whether the disk had to be waited for.
        """
        ...

    def read_link(self, name: bytes) -> bytes:
        """Return the text of the symlink ``name``."""
        ...

    def close(self) -> None:
        """Give the directory back."""
        ...

    def __enter__(self) -> Directory: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def open_root(path: bytes) -> Directory:
    """Open the source itself; this one path may lead through symlinks."""
    if sys.platform == "win32":
        return PathDirectory(os.fsdecode(path))
    flags = _DIRECTORY_FLAGS & ~os.O_NOFOLLOW
    return DescriptorDirectory(os.open(path, flags))


def open_path(root: Directory, path: bytes) -> Directory:
    """Open the directory at ``path`` below ``root``, name by name; `root` stays open.

    Raises:
        OSError: it does not exist, is something else, or may not be read.
    """
    here = root.enter(b".") if not path else root
    for name in path.split(b"/") if path else ():
        try:
            below = here.enter(name)
        finally:
            if here is not root:
                here.close()
        here = below
    return here


def list_settled(directory: Directory) -> tuple[list[ListedEntry], Facts]:
    """Return (entries, the directory's own facts), listed again while it changes (a few times)."""
    for _ in range(_LISTING_TRIES):
        listing = directory.listing()
        if listing.before == listing.after:
            break
    return listing.entries, listing.after


def by_name(entries: Iterable[ListedEntry]) -> dict[bytes, Facts]:
    """Return the facts of each name."""
    return {entry[0]: Facts._make(entry[1:]) for entry in entries}


class _Closing:
    """Closes a directory at the end of a ``with`` block."""

    def close(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class DescriptorDirectory(_Closing):
    """A directory by its descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd: int = fd

    def __enter__(self) -> DescriptorDirectory:
        return self

    @property
    def fd(self) -> int | None:
        """The descriptor."""
        return self._fd

    def enter(self, name: bytes) -> DescriptorDirectory:
        """Open a directory in this one."""
        return DescriptorDirectory(os.open(name, _DIRECTORY_FLAGS, dir_fd=self._fd))

    def listing(self) -> Listing:
        """Return the facts of every name."""
        if list_entries is not None:
            before, entries, after = list_entries(self._fd, (FILE, DIRECTORY, SYMLINK, OTHER))
            return Listing(Facts._make(before), entries, Facts._make(after))
        before, found, encode = self.facts(), [], os.fsencode
        rewind(self._fd)
        with os.scandir(self._fd) as listing:
            for entry in listing:
                try:
                    facts = facts_of(entry.stat(follow_symlinks=False))
                except FileNotFoundError:
                    continue
                found.append((encode(entry.name), *facts))
        return Listing(before, sorted(found), self.facts())

    def facts(self) -> Facts:
        """Return the facts of the directory itself."""
        return facts_of(os.fstat(self._fd))

    def look(self, name: bytes) -> tuple[Facts, int] | None:
        """Return (facts, links) of one name."""
        try:
            status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return facts_of(status), status.st_nlink

    def open_file(self, name: bytes) -> int:
        """Open a file, without touching its atime where that is allowed."""
        try:
            return os.open(name, _QUIET_FLAGS, dir_fd=self._fd)
        except PermissionError:
            return os.open(name, _READ_FLAGS, dir_fd=self._fd)

    def read_ahead(
        self, files: Sequence[ListedEntry], limit_bytes: int
    ) -> tuple[list[bytes | None], bool]:
        """Read files together."""
        return read_files(self._fd, files, limit_bytes)

    def read_link(self, name: bytes) -> bytes:
        """Return a symlink's text."""
        return os.readlink(name, dir_fd=self._fd)

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class PathDirectory(_Closing):
    """A directory by its path, for systems without calls relative to a descriptor."""

    def __init__(self, path: str) -> None:
        self._path = path
        status = os.stat(path, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(20, "is not a directory", path)

    def __enter__(self) -> PathDirectory:
        return self

    @property
    def fd(self) -> int | None:
        """There is none."""
        return None

    def enter(self, name: bytes) -> PathDirectory:
        """Open a directory in this one."""
        return PathDirectory(self._join(name))

    def listing(self) -> Listing:
        """Return the facts of every name."""
        before, found = self.facts(), []
        for name in map(os.fsencode, os.listdir(self._path)):
            seen = self.look(name)
            if seen is not None:
                found.append((name, *seen[0]))
        return Listing(before, sorted(found), self.facts())

    def facts(self) -> Facts:
        """Return the facts of the directory itself."""
        return facts_of(os.stat(self._path, follow_symlinks=False))

    def look(self, name: bytes) -> tuple[Facts, int] | None:
        """Return (facts, links) of one name."""
        try:
            status = os.stat(self._join(name), follow_symlinks=False)
        except FileNotFoundError:
            return None
        return facts_of(status), status.st_nlink

    def open_file(self, name: bytes) -> int:
        """Open a file."""
        return os.open(self._join(name), _READ_FLAGS)

    def read_ahead(
        self, files: Sequence[ListedEntry], limit_bytes: int
    ) -> tuple[list[bytes | None], bool]:
        """Read nothing ahead."""
        return [None] * len(files), False

    def read_link(self, name: bytes) -> bytes:
        """Return a symlink's text."""
        return os.fsencode(os.readlink(self._join(name)))

    def close(self) -> None:
        """Nothing is held open."""

    def _join(self, name: bytes) -> str:
        return os.path.join(self._path, os.fsdecode(name))
