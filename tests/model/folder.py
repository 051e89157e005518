"""A folder of real files, and the same once more in a dictionary of objects.

Each operation is done on the files first; only if the system took it, the dictionary follows.
What the dictionary says is thus the kernel's answer, worked out a second time.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import ctypes
import os
import shutil
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from tests.e2e.trees import Node, Tree
from twinfold.core.paths import is_within, join, split

IGNORED = b".ignored"
"""Names that end like this are not synchronised."""

_libc = ctypes.CDLL(None, use_errno=True)
_RENAME_EXCHANGE = 2


class Thing:
    """What a name leads to; hard links are names of one thing.

    ``mtime_ns`` is None where the system chose it.
    """

    def __init__(self, kind: str, mode: int = 0, content: bytes = b"") -> None:
        self.kind = kind
        self.mode = mode
        self.content = bytearray(content)
        self.mtime_ns: int | None = None


class ModelledFolder:
    """Does operations on a folder, and knows what has to come of them.

    Attributes:
        log: what was done, in words.
        counts: operations by kind.
    """

    def __init__(self, root: Path, counts: Counter[str]) -> None:
        self.root = root
        self.log: list[str] = []
        self.counts = counts
        self._base = os.fsencode(root)
        self._serial = 0
        os.mkdir(self._base, 0o755)
        self.things: dict[bytes, Thing] = {b"": Thing("directory", 0o755)}

    def expected(self) -> dict[bytes, Thing]:
        """Return what has to be at the destination."""
        return {
            path: thing
            for path, thing in self.things.items()
            if thing.kind != "fifo" and not is_ignored(path)
        }

    def problems(self) -> set[bytes]:
        """Return the paths of what cannot be synchronised and has to be told."""
        return {
            path for path, t in self.things.items() if t.kind == "fifo" and not is_ignored(path)
        }

    def directories(self) -> list[bytes]:
        """Return all directories, in order."""
        return sorted(path for path, thing in self.things.items() if thing.kind == "directory")

    def entries(self, *kinds: str) -> list[bytes]:
        """Return all entries (of these kinds), in order, without the folder itself."""
        found = (path for path, t in self.things.items() if path and (not kinds or t.kind in kinds))
        return sorted(found)

    def put(self, path: bytes, data: bytes) -> None:
        """Write a file: a new one, or what is there in place."""
        before = self.things.get(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK

        def act() -> None:
            if before is not None and before.kind == "fifo":
                raise FileExistsError
            fd = os.open(self.at(path), flags, 0o644)
            try:
                os.write(fd, data)
            finally:
                os.close(fd)

        if self._do("put", act, path, len(data)):
            if before is None:
                self._add(path, Thing("file", 0o644 & ~umask(), data))
            else:
                self._write(before, bytearray(data))

    def write_at(self, path: bytes, offset: int, data: bytes) -> None:
        """Write in the middle of a file, or beyond its end."""
        thing = self.things[path]
        if not data:
            return  # Nothing changes then, not even the size.
        if self._do("write in place", lambda: self._pwrite(path, offset, data), path, offset):
            content = thing.content
            content.extend(bytes(max(0, offset - len(content))))
            content[offset : offset + len(data)] = data
            self._write(thing, content)

    def truncate(self, path: bytes, size: int) -> None:
        """Cut a file, or make it longer by a hole."""
        thing = self.things[path]
        if self._do("truncate", lambda: os.truncate(self.at(path), size), path, size):
            content = thing.content[:size]
            self._write(thing, content + bytes(size - len(content)))

    def save(self, path: bytes, data: bytes) -> None:
        """Replace a file as editors do: write another one and rename it over."""
        self._serial += 1
        spare = join(split(path)[0], b".save-%d" % self._serial)
        self.put(spare, data)
        self.rename(spare, path)
        if spare in self.things:
            self.delete(spare)

    def rename(self, source: bytes, path: bytes) -> None:
        """Rename over whatever the system lets it be renamed over."""
        there = self.things.get(path)
        if self._do("rename", lambda: os.rename(self.at(source), self.at(path)), source, path):
            # Two names of one object: nothing happens then.
            if there is not None and there is self.things.get(source):
                return
            moved = self._take(source)
            self._take(path)
            self._bring(path, moved)

    def exchange(self, one: bytes, other: bytes) -> None:
        """Let two names change places in one step."""

        def act() -> None:
            result = _libc.renameat2(-100, self.at(one), -100, self.at(other), _RENAME_EXCHANGE)
            if result != 0:
                raise OSError(ctypes.get_errno(), "renameat2")

        if self._do("exchange", act, one, other) and one != other:
            first, second = self._take(one), self._take(other)
            self._bring(other, first)
            self._bring(one, second)

    def delete(self, path: bytes) -> None:
        """Delete an entry with all below it."""
        is_directory = self.things[path].kind == "directory"
        act: Callable[[], object] = lambda: os.unlink(self.at(path))  # noqa: E731
        if is_directory:
            act = lambda: shutil.rmtree(self.at(path))  # noqa: E731
        if self._do("rmtree" if is_directory else "delete", act, path):
            self._take(path)

    def make_directory(self, path: bytes) -> None:
        """Make an empty directory."""
        if self._do("mkdir", lambda: os.mkdir(self.at(path), 0o755), path):
            self._add(path, Thing("directory", 0o755 & ~umask()))

    def make_symlink(self, path: bytes, target: bytes) -> None:
        """Make a symlink to anything or nothing."""
        if self._do("symlink", lambda: os.symlink(target, self.at(path)), path, target):
            self._add(path, Thing("symlink", 0, target))

    def make_fifo(self, path: bytes) -> None:
        """Make what is not synchronised."""
        if self._do("fifo", lambda: os.mkfifo(self.at(path)), path):
            self._add(path, Thing("fifo"))

    def link(self, source: bytes, path: bytes) -> None:
        """Give a thing another name."""

        def act() -> None:
            os.link(self.at(source), self.at(path), follow_symlinks=False)

        if self._do("hard link", act, source, path):
            self._add(path, self.things[source])

    def chmod(self, path: bytes, mode: int) -> None:
        """Set permission bits."""
        if self._do("chmod", lambda: os.chmod(self.at(path), mode), path, oct(mode)):
            self.things[path].mode = mode

    def utime(self, path: bytes, mtime_ns: int) -> None:
        """Set an mtime."""
        times = (mtime_ns, mtime_ns)
        if self._do("utime", lambda: os.utime(self.at(path), ns=times), path, mtime_ns):
            # What a file system cannot hold it cuts.
            self.things[path].mtime_ns = os.stat(self.at(path)).st_mtime_ns

    def at(self, path: bytes) -> bytes:
        """Return the path for the system."""
        return os.path.join(self._base, path) if path else self._base

    def _pwrite(self, path: bytes, offset: int, data: bytes) -> None:
        fd = os.open(self.at(path), os.O_WRONLY | os.O_NOFOLLOW)
        try:
            os.pwrite(fd, data, offset)
        finally:
            os.close(fd)

    def _do(self, kind: str, act: Callable[[], object], *words: object) -> bool:
        """Do something; False if the system does not take it."""
        try:
            act()
        except OSError as error:
            self.counts["operations that the system refuses"] += 1
            self.log.append(f"{kind} {words}: {error.strerror}")
            return False
        self.counts[f"operations/{kind}"] += 1
        self.log.append(f"{kind} {words}")
        return True

    def _write(self, thing: Thing, content: bytearray) -> None:
        thing.content = content
        thing.mtime_ns = None

    def _add(self, path: bytes, thing: Thing) -> None:
        self.things[path] = thing
        self._touch(split(path)[0])

    def _take(self, path: bytes) -> dict[bytes, Thing]:
        gone = [known for known in self.things if is_within(known, path)]
        if gone:
            self._touch(split(path)[0])
        return {known[len(path) :]: self.things.pop(known) for known in gone}

    def _bring(self, path: bytes, things: dict[bytes, Thing]) -> None:
        for below, thing in things.items():
            self.things[path + below] = thing
        self._touch(split(path)[0])
        if things[b""].kind == "directory":
            # Its entry for the directory above may be written anew, and its time with it.
            things[b""].mtime_ns = None

    def _touch(self, directory: bytes) -> None:
        self.things[directory].mtime_ns = None


def umask() -> int:
    """Return the bits that new files do not get."""
    now = os.umask(0o022)
    os.umask(now)
    return now


def is_ignored(path: bytes) -> bool:
    """Tell whether a path, or a directory above it, is ignored."""
    return any(name.endswith(IGNORED) for name in path.split(b"/"))


def compare_with_model(found: Tree, expected: dict[bytes, Thing]) -> list[str]:
    """List where a tree is not what the dictionary says."""
    lines = [f"{path!r}: missing" for path in expected if path not in found]
    lines += [f"{path!r}: too much" for path in found if path not in expected]
    for path, thing in expected.items():
        node = found.get(path)
        if node is not None and not _agrees(thing, node):
            lines.append(f"{path!r}: {node}, but {thing.__dict__}")
    return lines


def _agrees(thing: Thing, node: Node) -> bool:
    if thing.kind == "symlink":
        return node == Node("symlink", 0, 0, bytes(thing.content))
    content = blake3(thing.content).digest() if thing.kind == "file" else b""
    known = (node.kind, node.mode, node.content) == (thing.kind, thing.mode, content)
    return known and thing.mtime_ns in (None, node.mtime_ns)


def without_ignored(tree: Tree) -> Tree:
    """Return a source's tree as it is to arrive: without what is ignored or special."""
    return {p: n for p, n in tree.items() if n.kind != "special" and not is_ignored(p)}


def remove(path: Path) -> None:
    """Remove a folder whose bits may forbid it."""
    for directory, _, _ in os.walk(os.fsencode(path)):
        os.chmod(directory, stat.S_IRWXU)
    shutil.rmtree(path, ignore_errors=True)
