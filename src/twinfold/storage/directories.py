"""Descriptors of directory nodes: opened component by component, never through a symlink."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from twinfold.storage.interface import ATTIC, TREE, Found, Location
from twinfold.system.attributes import allow_owner
from twinfold.system.durability import rename_new

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_REACH = 0o500
_MOST_OPEN = 256
NO_NAME = (errno.ENOENT, errno.EILSEQ, errno.EINVAL, errno.ENAMETOOLONG)
NO_DIRECTORY = (*NO_NAME, errno.ENOTDIR, errno.ELOOP)


class Directories:
    """Finds directories by node id, wherever steps have brought them.

    Args:
        roots: the descriptors of the forest's roots.
        locate: where the index has a directory.
        places: for directories that steps move, the locations that may hold them.
        inodes: their inodes; where one is given, only the object that has it is taken.
    """

    def __init__(
        self,
        roots: Mapping[int, int],
        locate: Callable[[int], Location | None],
        places: dict[int, list[Location]],
        inodes: Mapping[int, int],
    ) -> None:
        self.roots = roots
        self._locate = locate
        self._places = places
        self._inodes = inodes
        self._open: OrderedDict[int, int] = OrderedDict()
        self._searching: set[int] = set()
        self._borrowed: dict[int, int] = {}
        self._shut: set[int] = set()
        self._open_up(TREE, roots[TREE])
        self.found: list[Found] = []
        self.remade: list[tuple[int, int, int]] = []

    def trim(self) -> None:
        """Close what is open beyond the limit; no descriptor handed out may be in use."""
        while len(self._open) > _MOST_OPEN:
            self._close(*self._open.popitem(last=False))

    def close(self) -> None:
        """Close all directories but the roots."""
        while self._open:
            self._close(*self._open.popitem())
        mode = self._borrowed.pop(TREE, None)
        if mode is not None:
            os.fchmod(self.roots[TREE], mode)

    def moved(self, node: int, location: Location) -> None:
        """Learn that a directory is at ``location`` from now on."""
        self._places[node] = [location]

    def descriptor(self, node: int) -> int:
        """Return the descriptor of a directory, good until `trim` or `close`.

        What is in the directory can be reached by it, whatever its bits are otherwise.

        Raises:
            FileNotFoundError: it is nowhere where it could be.
        """
        fd = self.roots.get(node)
        if fd is None and (fd := self._open.get(node)) is not None:
            self._open.move_to_end(node)
        if fd is not None:
            if node in self._shut:
                self._shut.discard(node)
                self._open_up(node, fd)
            return fd
        if node in self._searching:
            raise FileNotFoundError(errno.ENOENT, "a directory of the index is gone")
        self._searching.add(node)
        try:
            fd = self._open[node] = self._search(node)
        finally:
            self._searching.discard(node)
        self._open_up(node, fd)
        return fd

    def _open_up(self, node: int, fd: int) -> None:
        """Let the owner reach what is in a directory; its bits come back when it is closed."""
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        if mode & _REACH != _REACH and not _is_reachable(fd):
            self._borrowed.setdefault(node, mode)
            os.fchmod(fd, mode | _REACH)

    def _search(self, node: int) -> int:
        candidates = self._candidates(node)
        inode = self._inodes.get(node)
        for location in candidates:
            fd = self._try_open(node, location)
            if fd is None:
                continue
            if inode is None or os.fstat(fd).st_ino == inode:
                return fd
            os.close(fd)
        fd = self._try_open(node, candidates[-1]) if candidates and inode is not None else None
        if fd is None:
            raise FileNotFoundError(errno.ENOENT, "a directory of the index is gone")
        return fd

    def _try_open(self, node: int, location: Location) -> int | None:
        try:
            parent = self.descriptor(location.directory)
            try:
                return os.open(location.name, OPEN_DIRECTORY, dir_fd=parent)
            except PermissionError:
                return self._open_closed(node, location.name, parent)
        except OSError as error:
            if error.errno not in NO_DIRECTORY:
                raise
            return None

    def _open_closed(self, node: int, name: bytes, parent: int) -> int:
        """Open a directory whose bits keep its owner out; they come back when it is closed."""
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        allow_owner(name, parent)
        self._borrowed[node] = stat.S_IMODE(status.st_mode)
        return os.open(name, OPEN_DIRECTORY, dir_fd=parent)

    def set_mode(self, node: int, mode: int) -> int:
        """Give a directory its permission bits for good; return its descriptor.

        Raises:
            FileNotFoundError: it is nowhere where it could be.
        """
        fd = self.descriptor(node)
        self._borrowed.pop(node, None)
        if stat.S_IMODE(os.fstat(fd).st_mode) != mode:
            os.fchmod(fd, mode)
        if mode & _REACH != _REACH:
            self._shut.add(node)
        return fd

    def _close(self, node: int, fd: int) -> None:
        self._shut.discard(node)
        mode = self._borrowed.pop(node, None)
        if mode is not None:
            os.fchmod(fd, mode)
        os.close(fd)

    def _candidates(self, node: int) -> Sequence[Location]:
        if node in self._places:
            return self._places[node]
        location = self._locate(node)
        return [location] if location else []

    def ensure(self, node: int) -> int:
        """Return a directory's descriptor; one that somebody else took away is made again."""
        missing: list[tuple[int, Location]] = []
        while True:
            try:
                fd = self.descriptor(node)
                break
            except FileNotFoundError:
                candidates = self._candidates(node)
                if not candidates or len(missing) > len(self._places) + 4_096:
                    raise
                missing.append((node, candidates[-1]))
                node = candidates[-1].directory
        for lost, location in reversed(missing):
            fd = self._remake(lost, location, fd)
        return fd

    def _remake(self, node: int, location: Location, parent: int) -> int:
        try:
            os.mkdir(location.name, 0o700, dir_fd=parent)
        except FileExistsError:
            self.make_way(location, parent)
            os.mkdir(location.name, 0o700, dir_fd=parent)
        fd = self._open[node] = os.open(location.name, OPEN_DIRECTORY, dir_fd=parent)
        status = os.fstat(fd)
        self.remade.append((node, status.st_ino, status.st_ctime_ns))
        return fd

    def make_way(self, location: Location, directory: int) -> None:
        """Take what nobody told us of to the attic."""
        name = set_aside(directory, location.name, self.roots[ATTIC])
        self.found.append(Found(name, location))

    def widen(self, *descriptors: int) -> None:
        """Let the owner write in directories whose bits forbid it.

        Every directory whose children change gets its recorded attributes afterwards.
        """
        own = [fd for root, fd in self.roots.items() if root != TREE]
        for fd in descriptors:
            if fd not in own:
                os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) | 0o700)


def _is_reachable(directory: int) -> bool:
    """Tell whether we may reach what is in a directory, as root may whatever its bits are."""
    return os.access(b".", os.R_OK | os.X_OK, dir_fd=directory, effective_ids=True)


def set_aside(directory: int, name: bytes, attic: int) -> bytes:
    """Rename an object into the attic under a name that no other has; return that name."""
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    kept_as = b"found-%d-%d" % (status.st_ino, status.st_ctime_ns)
    rename_new(name, kept_as, directory, attic)
    return kept_as


def inode_at(directory: int, name: bytes) -> int | None:
    """Return the inode of what has this name, if anything has."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino
    except OSError as error:
        if error.errno not in NO_NAME:
            raise
        return None
