"""The destination's physical forest: every touch goes by directory descriptors.

A directory is opened component by component from one of the three roots, never through a
symlink, and its children are reached by name from its descriptor. So nothing outside the
destination can be touched, whoever swaps what for a symlink meanwhile.
"""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from twinfold.core.times import kept_time_ns
from twinfold.model import PERMISSION_BITS, RESERVED_ROOT_NAME, Kind
from twinfold.storage.attic import purge
from twinfold.storage.collisions import Neighbours
from twinfold.storage.directories import (
    NO_DIRECTORY,
    NO_NAME,
    OPEN_DIRECTORY,
    inode_at,
    set_aside,
)
from twinfold.storage.interface import (
    ATTIC,
    STAGING,
    TREE,
    DirectoryListing,
    Location,
    Looked,
    Performed,
    Step,
)
from twinfold.storage.perform import Performance
from twinfold.storage.recovery import Recovery
from twinfold.system.durability import rename_new
from twinfold.system.listing import list_inodes

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_MOST_DIRECTORIES = 64


class Source:
    """An open file of the forest that chunks are read from."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """Return its descriptor."""
        return self._fd

    def looked(self) -> Looked:
        """Return what the file itself is now; its name is empty."""
        return _looked(b"", os.fstat(self._fd), b"")

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Return up to so many bytes from ``offset`` on."""
        return os.pread(self._fd, size_bytes, offset)

    def read_into(self, room: memoryview, offset: int) -> int:
        """Fill ``room`` from ``offset`` on, as far as there is something; return with how much."""
        return os.preadv(self._fd, [room], offset)

    def fetch(self, offset: int, size_bytes: int) -> None:
        """Have the system bring so many bytes into memory, where it takes such hints."""
        if sys.platform == "linux":
            with suppress(OSError):
                os.posix_fadvise(self._fd, offset, size_bytes, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)


class Opener:
    """Opens files by node; the directories on the way stay open meanwhile.

    A directory that is open stays the one of its node wherever steps rename it to.

    Args:
        roots: the descriptors of the forest's roots.
        locate: where the index has a node.
    """

    def __init__(self, roots: Mapping[int, int], locate: Callable[[int], Location | None]) -> None:
        self._roots = roots
        self._locate = locate
        self._directories: OrderedDict[int, int] = OrderedDict()

    def open_source(self, node_id: int, location: Location | None = None) -> Source:
        """Open the regular file of a node for reading.

        Args:
            node_id: of the file.
            location: where the index had it a moment ago, if it was asked.

        Raises:
            OSError: it is not known, not there, or cannot be read.
        """
        if location is None:
            directory, name = self._location(node_id)
        else:
            directory, name = location.directory, location.name
        try:
            return _open_source(self._directory(directory), name)
        except FileNotFoundError:
            if location is None and not self._directories:
                raise
        # Others may have put another directory in the place of one that is open.
        self.close()
        directory, name = self._location(node_id)
        return _open_source(self._directory(directory), name)

    def _location(self, node_id: int) -> tuple[int, bytes]:
        location = self._locate(node_id)
        if location is None:
            raise FileNotFoundError(errno.ENOENT, "the index does not know it")
        return location.directory, location.name

    def _directory(self, node_id: int) -> int:
        """Return a directory's descriptor, good until the next one is asked for."""
        way: list[tuple[int, bytes]] = []
        while (fd := self._descriptor(node_id)) is None:
            above, name = self._location(node_id)
            way.append((node_id, name))
            node_id = above
        for node, name in reversed(way):
            fd = self._directories[node] = os.open(name, OPEN_DIRECTORY, dir_fd=fd)
            if len(self._directories) > _MOST_DIRECTORIES:
                os.close(self._directories.popitem(last=False)[1])
        return fd

    def _descriptor(self, node_id: int) -> int | None:
        if node_id in self._directories:
            self._directories.move_to_end(node_id)
            return self._directories[node_id]
        return self._roots.get(node_id)

    def close(self) -> None:
        """Let go of the directories; they are opened again if more files are."""
        while self._directories:
            os.close(self._directories.popitem()[1])


class Tree:
    """The three folders that the forest's roots stand for, and the steps done in them."""

    def __init__(
        self, tree_fd: int, staging_fd: int, attic_fd: int, neighbours: Neighbours
    ) -> None:
        self._roots = {TREE: tree_fd, STAGING: staging_fd, ATTIC: attic_fd}
        self._neighbours = neighbours

    @contextmanager
    def _directory(self, root: int, names: Sequence[bytes]) -> Iterator[int]:
        """Open a directory component by component, for as long as the block lasts."""
        fd = os.dup(self._roots[root])
        try:
            for name in names:
                below = os.open(name, OPEN_DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    def opener(self, locate: Callable[[int], Location | None]) -> Opener:
        """Return what opens files by node; ``locate`` tells where the index has a node."""
        return Opener(self._roots, locate)

    def open_source(self, root: int, names: Sequence[bytes]) -> Source:
        """Open the regular file at the end of ``names`` for reading.

        Raises:
            OSError: it is not there, or cannot be read.
        """
        with self._directory(root, names[:-1]) as directory:
            return _open_source(directory, names[-1])

    def look(self, root: int, names: Sequence[bytes]) -> DirectoryListing:
        """Return what physically stands in a directory; ``.twinfold`` is left out.

        Raises:
            OSError: it is not there, or cannot be read.
        """
        with self._directory(root, names) as fd:
            itself = _looked(names[-1] if names else b"", os.fstat(fd), b"")
            found = sorted(list_inodes(fd))
            is_top = root == TREE and not names
            own_inode = inode_at(fd, RESERVED_ROOT_NAME) if is_top else None
            children = []
            for name in found:
                looked = _look_at(fd, name)
                if looked is not None and looked.inode != own_inode:
                    children.append(looked)
        return DirectoryListing(itself, children)

    def look_at(self, root: int, names: Sequence[bytes]) -> Looked | None:
        """Return what physically stands under one name (a root itself for none), if anything.

        Raises:
            OSError: it cannot be told.
        """
        if not names:
            return _looked(b"", os.fstat(self._roots[root]), b"")
        try:
            with self._directory(root, names[:-1]) as fd:
                return _look_at(fd, names[-1])
        except OSError as error:
            if error.errno not in NO_DIRECTORY:
                raise
            return None

    def rename_in_attic(self, name: bytes, new_name: bytes) -> None:
        """Give an object of the attic another name."""
        rename_new(name, new_name, self._roots[ATTIC], self._roots[ATTIC])

    def set_aside(self, names: Sequence[bytes]) -> bytes:
        """Take an object that cannot be synchronised from the tree to the attic.

        Returns:
            Its name there.
        """
        with self._directory(TREE, names[:-1]) as fd:
            return set_aside(fd, names[-1], self._roots[ATTIC])

    def purge(self, name: bytes) -> None:
        """Delete an object of the attic with all below it, if it is there."""
        purge(self._roots[ATTIC], name)

    def perform(
        self, steps: Sequence[Step], locate: Callable[[int], Location | None], *, again: bool
    ) -> Performed:
        """Do the steps in order; ``again`` if some may have been done before a crash.

        Raises:
            DestinationError: an object that a step needs is gone (never with ``again``).
        """
        work: Performance | Recovery
        if again:
            work = Recovery(self._roots, locate, self._neighbours, steps)
        else:
            work = Performance(self._roots, locate, steps)
        try:
            return work.run()
        finally:
            work.close()


def _open_source(directory: int, name: bytes) -> Source:
    fd = os.open(name, _FILE, dir_fd=directory)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileNotFoundError(errno.ENOENT, "not a regular file")
    return Source(fd)


_KINDS = {stat.S_IFREG: Kind.FILE, stat.S_IFDIR: Kind.DIRECTORY, stat.S_IFLNK: Kind.SYMLINK}


def _look_at(directory: int, name: bytes) -> Looked | None:
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        is_link = stat.S_ISLNK(status.st_mode)
        target = os.readlink(name, dir_fd=directory) if is_link else b""
    except OSError as error:
        if error.errno not in NO_NAME:
            raise
        return None
    return _looked(name, status, target)


def _looked(name: bytes, status: os.stat_result, target: bytes) -> Looked:
    return Looked(
        name,
        _KINDS.get(stat.S_IFMT(status.st_mode)),
        status.st_mode & PERMISSION_BITS,
        kept_time_ns(status.st_mtime_ns),
        status.st_size,
        target,
        status.st_ino,
        status.st_ctime_ns,
    )
