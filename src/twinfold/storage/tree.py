"""The destination's physical forest: every touch goes by directory descriptors.

A directory is opened component by component from one of the three roots, never through a
symlink, and its children are reached by name from its descriptor. So nothing outside the
destination can be touched, whoever swaps what for a symlink meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from twinfold.core.paths import display
from twinfold.errors import DestinationError
from twinfold.model import PERMISSION_BITS, RESERVED_ROOT_NAME, Kind
from twinfold.storage.attic import purge
from twinfold.storage.interface import (
    ATTIC,
    STAGING,
    TREE,
    Attributes,
    DirectoryListing,
    Found,
    Location,
    Looked,
    Performed,
    Rename,
    SetAside,
    Step,
)
from twinfold.system.durability import rename_new

assert sys.platform != "win32"

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_OPEN_DIRECTORIES = 256
_ABSENT = (FileNotFoundError, NotADirectoryError)


class Source:
    """An open file of the forest that chunks are read from."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Return up to so many bytes from ``offset`` on."""
        return os.pread(self._fd, size_bytes, offset)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)


class Directories:
    """Descriptors of directory nodes, found where they are now.

    While steps are performed, a directory that they move is at its old or its new place;
    after a crash it is at any of those that the steps name. The inode tells.
    """

    def __init__(
        self,
        roots: dict[int, int],
        locate: Callable[[int], Location | None],
        steps: Sequence[Step],
    ) -> None:
        self._roots = roots
        self._locate = locate
        self._places: dict[int, list[Location]] = {}
        self._inodes: dict[int, int] = {}
        self._open: OrderedDict[int, int] = OrderedDict()
        self._searching: set[int] = set()
        for step in steps:
            if isinstance(step, Rename) and step.kind is Kind.DIRECTORY:
                self._places.setdefault(step.node, [step.source]).append(step.target)
                self._inodes[step.node] = step.inode

    def descriptor(self, node: int) -> int:
        """Return the descriptor of a directory; it stays this object's.

        Raises:
            FileNotFoundError: it is nowhere where it could be.
        """
        if node in self._roots:
            return self._roots[node]
        if node in self._open:
            self._open.move_to_end(node)
            return self._open[node]
        if node in self._searching:
            raise FileNotFoundError(errno.ENOENT, "a directory of the index is gone")
        self._searching.add(node)
        try:
            fd = self._search(node)
        finally:
            self._searching.discard(node)
        self._keep(node, fd)
        return fd

    def _search(self, node: int) -> int:
        for location in self._candidates(node):
            try:
                parent = self.descriptor(location.directory)
                fd = os.open(location.name, _DIRECTORY, dir_fd=parent)
            except _ABSENT:
                continue
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                continue
            if self._inodes.get(node) in (None, os.fstat(fd).st_ino):
                return fd
            os.close(fd)
        raise FileNotFoundError(errno.ENOENT, "a directory of the index is gone")

    def _candidates(self, node: int) -> list[Location]:
        if node in self._places:
            return self._places[node]
        location = self._locate(node)
        return [location] if location else []

    def last_location(self, node: int) -> Location:
        """Return where a directory belongs once all steps are done."""
        candidates = self._candidates(node)
        if not candidates:
            raise FileNotFoundError(errno.ENOENT, "a directory is not in the index")
        return candidates[-1]

    def adopt(self, node: int, fd: int) -> None:
        """Take a directory that was made anew for a node."""
        self._inodes[node] = os.fstat(fd).st_ino
        self._keep(node, fd)

    def _keep(self, node: int, fd: int) -> None:
        self._open[node] = fd
        if len(self._open) > _OPEN_DIRECTORIES:
            os.close(self._open.popitem(last=False)[1])

    def close(self) -> None:
        """Let go of all directories but the roots."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()


class Tree:
    """The three folders that the forest's roots stand for, and the steps done in them."""

    def __init__(self, tree_fd: int, staging_fd: int, attic_fd: int) -> None:
        self._roots = {TREE: tree_fd, STAGING: staging_fd, ATTIC: attic_fd}

    @contextmanager
    def _directory(self, root: int, names: Sequence[bytes]) -> Iterator[int]:
        """Open a directory component by component, for as long as the block lasts."""
        fd = os.dup(self._roots[root])
        try:
            for name in names:
                below = os.open(name, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    def open_source(self, root: int, names: Sequence[bytes]) -> Source:
        """Open the regular file at the end of ``names`` for reading.

        Raises:
            OSError: it is not there, or cannot be read.
        """
        with self._directory(root, names[:-1]) as directory:
            fd = os.open(names[-1], _FILE, dir_fd=directory)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise FileNotFoundError(errno.ENOENT, "not a regular file")
        return Source(fd)

    def look(self, root: int, names: Sequence[bytes]) -> DirectoryListing:
        """Return what physically stands in a directory; ``.twinfold`` is left out.

        Raises:
            OSError: it is not there, or cannot be read.
        """
        with self._directory(root, names) as fd:
            itself = _looked(names[-1] if names else b"", os.fstat(fd), b"")
            found = sorted(os.fsencode(name) for name in os.listdir(fd))
            children = []
            for name in found:
                if root == TREE and not names and name == RESERVED_ROOT_NAME:
                    continue
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                is_link = stat.S_ISLNK(status.st_mode)
                target = os.readlink(name, dir_fd=fd) if is_link else b""
                children.append(_looked(name, status, target))
        return DirectoryListing(itself, children)

    def rename_in_attic(self, name: bytes, new_name: bytes) -> None:
        """Give an object of the attic another name."""
        rename_new(name, new_name, self._roots[ATTIC], self._roots[ATTIC])

    def set_aside(self, names: Sequence[bytes]) -> bytes:
        """Take an object that cannot be synchronised from the tree to the attic.

        Returns:
            Its name there.
        """
        with self._directory(TREE, names[:-1]) as fd:
            return _set_aside(fd, names[-1], self._roots[ATTIC])

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
        directories = Directories(self._roots, locate, steps)
        try:
            return _Performance(self._roots, directories, again=again).run(steps)
        finally:
            directories.close()


class _Performance:
    """One run over a list of steps."""

    def __init__(self, roots: dict[int, int], directories: Directories, *, again: bool) -> None:
        self._roots = roots
        self._directories = directories
        self._again = again
        self._identities: dict[int, tuple[int, int, int]] = {}
        self._found: list[Found] = []

    def run(self, steps: Iterable[Step]) -> Performed:
        for step in steps:
            if isinstance(step, Rename):
                self._rename(step)
            elif isinstance(step, SetAside):
                self._set_aside(step)
            else:
                self._give_attributes(step)
        return Performed(list(self._identities.values()), self._found)

    def _rename(self, step: Rename) -> None:
        try:
            source = self._directories.descriptor(step.source.directory)
            if self._again and _inode(source, step.source.name) != step.inode:
                return
        except FileNotFoundError:
            if self._again:
                return
            raise
        target = self._target(step.target.directory)
        try:
            try:
                self._rename_open(step, source, target)
            except PermissionError:
                self._widen(source, target)
                self._rename_open(step, source, target)
        except FileNotFoundError as error:
            if step.target.directory == ATTIC:
                return
            raise DestinationError(
                f"{display(step.source.name)} is gone from the destination; something else "
                "changes files there"
            ) from error
        if step.kind is Kind.FILE and step.target.directory != ATTIC:
            self._note_identity(step.node, target, step.target.name)

    def _rename_open(self, step: Rename, source: int, target: int) -> None:
        names = (step.source.name, step.target.name)
        if step.replaces:
            try:
                os.rename(*names, src_dir_fd=source, dst_dir_fd=target)
                return
            except (IsADirectoryError, NotADirectoryError):
                self._make_way(step.target, target)
        try:
            rename_new(*names, source, target)
        except FileExistsError:
            self._make_way(step.target, target)
            rename_new(*names, source, target)

    def _widen(self, *directories: int) -> None:
        """Let the owner write in directories whose bits forbid it.

        Every directory whose children change gets its recorded attributes afterwards.
        """
        for fd in directories:
            if fd not in self._roots.values() or fd == self._roots[TREE]:
                os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) | 0o700)

    def _make_way(self, location: Location, directory: int) -> None:
        """Take what nobody told us of to the attic."""
        name = _set_aside(directory, location.name, self._roots[ATTIC])
        self._found.append(Found(name, location))

    def _target(self, node: int) -> int:
        try:
            return self._directories.descriptor(node)
        except FileNotFoundError:
            return self._remake(node)

    def _remake(self, node: int) -> int:
        """Make a directory again that somebody else took away."""
        location = self._directories.last_location(node)
        parent = self._target(location.directory)
        try:
            os.mkdir(location.name, 0o700, dir_fd=parent)
        except FileExistsError:
            self._make_way(location, parent)
            os.mkdir(location.name, 0o700, dir_fd=parent)
        fd = os.open(location.name, _DIRECTORY, dir_fd=parent)
        self._directories.adopt(node, fd)
        return fd

    def _set_aside(self, step: SetAside) -> None:
        attic = self._roots[ATTIC]
        try:
            source = self._directories.descriptor(step.source.directory)
        except FileNotFoundError:
            return
        if self._again and (
            _inode(attic, step.name) is not None
            or _inode(source, step.source.name) == step.successor
        ):
            return
        try:
            os.link(
                step.source.name,
                step.name,
                src_dir_fd=source,
                dst_dir_fd=attic,
                follow_symlinks=False,
            )
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                raise
            os.rename(step.source.name, step.name, src_dir_fd=source, dst_dir_fd=attic)

    def _give_attributes(self, step: Attributes) -> None:
        times = (step.mtime_ns, step.mtime_ns)
        if step.kind is Kind.DIRECTORY:
            try:
                fd = self._directories.descriptor(step.node)
            except FileNotFoundError:
                return
            if stat.S_IMODE(os.fstat(fd).st_mode) != step.mode:
                os.fchmod(fd, step.mode)
            os.utime(fd, ns=times)
            return
        try:
            parent = self._directories.descriptor(step.location.directory)
            name = step.location.name
            os.chmod(name, step.mode, dir_fd=parent, follow_symlinks=False)
            os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        self._note_identity(step.node, parent, name)

    def _note_identity(self, node: int, directory: int, name: bytes) -> None:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        self._identities[node] = (node, status.st_ino, status.st_ctime_ns)


def _inode(directory: int, name: bytes) -> int | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino
    except FileNotFoundError:
        return None


def _set_aside(directory: int, name: bytes, attic: int) -> bytes:
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    kept_as = b"found-%d-%d" % (status.st_ino, status.st_ctime_ns)
    rename_new(name, kept_as, directory, attic)
    return kept_as


_KINDS = {stat.S_IFREG: Kind.FILE, stat.S_IFDIR: Kind.DIRECTORY, stat.S_IFLNK: Kind.SYMLINK}


def _looked(name: bytes, status: os.stat_result, target: bytes) -> Looked:
    return Looked(
        name,
        _KINDS.get(stat.S_IFMT(status.st_mode)),
        status.st_mode & PERMISSION_BITS,
        status.st_mtime_ns,
        status.st_size,
        target,
        status.st_ino,
        status.st_ctime_ns,
    )
