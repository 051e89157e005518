"""What a disk holds, and what of it would be there after a power cut.

A write is durable once its file was synced, a name once its directory was. Until then each may
be lost on its own: a file keeps, of every sector, some version since the last sync; a directory
keeps the first so many of its changes. A rename between two directories is in both or in
neither. Nothing else is promised, and nothing better is done, unless the disk *keeps order*: then
names are lost last first in all directories together, and any sync keeps all names, as with
the journals of ext4 and XFS.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import errno
import os
import random
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

ROOT = 1
_NAME_MAX = 255
_LEAST_SECTOR_BYTES = 512


class Attributes(NamedTuple):
    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


class Write(NamedTuple):
    """Bytes at an offset; None cuts the file there, or fills it up with zeros to there."""

    offset: int
    data: bytes | None


@dataclass(eq=False)
class Change:
    """New meanings of names (None: none), by directory; all of them or none is durable."""

    names: dict[int, list[tuple[bytes, int | None]]]
    number: int


@dataclass(eq=False)
class Node:
    """A file, directory or symlink: as it is, what of it is durable, and what came since."""

    number: int
    now: Attributes
    data: bytearray = field(default_factory=bytearray)
    names: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    links: int = 0
    is_shared: bool = False
    kept: Attributes | None = None
    kept_data: bytearray = field(default_factory=bytearray)
    kept_names: dict[bytes, int] = field(default_factory=dict)
    attributes: list[Attributes] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.now.mode)


def failure(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Disk:
    """One file system.

    Args:
        rng: decides what a failed sync loses.
        now_ns: the time.
        keeps_order: see above.
    """

    def __init__(self, rng: random.Random, now_ns: Callable[[], int], *, keeps_order: bool) -> None:
        self._rng = rng
        self._keeps_order = keeps_order
        self._now_ns = now_ns
        self._cookie = 2
        self._next = ROOT + 1
        top = Attributes(stat.S_IFDIR | 0o755, os.geteuid(), os.getegid(), *[now_ns()] * 3)
        self.nodes = {ROOT: Node(ROOT, top, links=1, kept=top)}

    def node(self, number: int) -> Node:
        return self.nodes[number]

    def child(self, directory: int, name: bytes) -> Node:
        found = self.nodes[directory].names.get(name)
        if found is None:
            raise failure(errno.ENOENT)
        return self.nodes[found[0]]

    def make(self, directory: int, name: bytes, mode: int, owner: tuple[int, int]) -> Node:
        self._check_free(directory, name)
        attributes = Attributes(mode, *owner, *[self._now_ns()] * 3)
        node = Node(self._next, attributes, kept=attributes, is_shared=name.endswith(b"-shm"))
        self._next += 1
        self.nodes[node.number] = node
        self._change({directory: [(name, node.number)]})
        return node

    def link(self, node: Node, directory: int, name: bytes) -> None:
        self._check_free(directory, name)
        self._change({directory: [(name, node.number)]})
        self.touch(node)

    def remove(self, directory: int, name: bytes, *, is_directory: bool) -> None:
        node = self.child(directory, name)
        self._check_replaceable(node, is_directory)
        self._change({directory: [(name, None)]})
        self.touch(node)

    def rename(self, old: tuple[int, bytes], new: tuple[int, bytes], *, replaces: bool) -> None:
        node = self.child(*old)
        there = self.nodes[new[0]].names.get(new[1])
        if there is not None:
            if not replaces:
                raise failure(errno.EEXIST)
            if there[0] == node.number:
                return
            self._check_replaceable(self.nodes[there[0]], node.is_directory)
            self.touch(self.nodes[there[0]])
        self._check_name(new[1])
        names: dict[int, list[tuple[bytes, int | None]]] = {old[0]: [(old[1], None)]}
        names.setdefault(new[0], []).append((new[1], node.number))
        self._change(names)
        self.touch(node)

    def write(self, node: Node, offset: int, data: bytes) -> None:
        self._apply(node.data, Write(offset, data))
        if not node.is_shared:
            node.writes.append(Write(offset, data))
        self.touch(node, {"mtime_ns": self._now_ns()})

    def resize(self, node: Node, size_bytes: int) -> None:
        self._apply(node.data, Write(size_bytes, None))
        if not node.is_shared:
            node.writes.append(Write(size_bytes, None))
        self.touch(node, {"mtime_ns": self._now_ns()})

    def touch(self, node: Node, changed: dict[str, int] | None = None) -> None:
        """Set attributes; the ctime becomes now in any case."""
        node.now = node.now._replace(ctime_ns=self._now_ns(), **changed or {})
        node.attributes.append(node.now)

    # What makes it durable.

    def sync(self, node: Node, *, attributes: bool = True) -> None:
        """Keep a file's content or a directory's names."""
        for write in node.writes:
            self._apply(node.kept_data, write)
        node.writes.clear()
        if attributes and node.attributes:
            node.kept = node.now
            node.attributes.clear()
        if self._keeps_order:
            changed = (other for other in self.nodes.values() if other.changes)
            self._keep_changes({other.number: len(other.changes) for other in changed})
        elif node.changes:
            self._keep_changes({node.number: len(node.changes)})

    def sync_all(self) -> None:
        for node in self.nodes.values():
            if node.writes or node.attributes or node.changes:
                self.sync(node)

    def lose_writes(self, nodes: list[Node]) -> None:
        """A sync has failed: some of what was to be written never will be, and nobody says so."""
        for node in nodes:
            node.writes = [write for write in node.writes if self._rng.random() < 0.5]

    def _keep_changes(self, upto: dict[int, int]) -> None:
        """Keep the first so many changes of directories, and whatever these draw along."""
        waiting = list(upto)
        while waiting:
            number = waiting.pop()
            for change in self.nodes[number].changes[: upto[number]]:
                for other in change.names:
                    count = self.nodes[other].changes.index(change) + 1
                    if upto.get(other, 0) < count:
                        upto[other] = count
                        waiting.append(other)
        for number, count in upto.items():
            self._replay(self.nodes[number], count)
            del self.nodes[number].changes[:count]

    def _replay(self, directory: Node, count: int) -> None:
        for change in directory.changes[:count]:
            for name, number in change.names[directory.number]:
                if number is None:
                    directory.kept_names.pop(name, None)
                else:
                    directory.kept_names[name] = number

    # A power cut.

    def lose_power(self, rng: random.Random) -> None:
        """Become one of the states in which a power cut may leave the disk."""
        loses = rng.choice(["all", "none", "some", "some", "some"])
        directories = [node for node in self.nodes.values() if node.changes]
        if self._keeps_order:
            numbers = sorted({change.number for node in directories for change in node.changes})
            kept = numbers[: _share(rng, loses, len(numbers))]
            last = kept[-1] if kept else -1
            upto = {n.number: sum(c.number <= last for c in n.changes) for n in directories}
        else:
            upto = {node.number: _share(rng, loses, len(node.changes)) for node in directories}
        while self._shrink(upto):
            pass
        for node in directories:
            self._replay(node, upto[node.number])
        for node in self.nodes.values():
            if node.writes:
                node.kept_data = torn(node.kept_data, node.writes, loses, rng)
            if node.attributes:
                count = _share(rng, loses, len(node.attributes))
                node.kept = node.attributes[count - 1] if count else node.kept
        self._become_kept()

    def _shrink(self, upto: dict[int, int]) -> bool:
        """Leave out renames that are in one of their directories only; tell whether some were."""
        for number, count in upto.items():
            for at, change in enumerate(self.nodes[number].changes[:count]):
                for other in change.names:
                    if self.nodes[other].changes.index(change) >= upto[other]:
                        upto[number] = at
                        return True
        return False

    def _become_kept(self) -> None:
        for node in self.nodes.values():
            node.links = 1 if node.number == ROOT else 0
        for node in self.nodes.values():
            node.data = bytearray(node.kept_data)
            node.now = node.kept or node.now
            node.attributes, node.writes, node.changes = [], [], []
            node.names = {}
            for name, number in node.kept_names.items():
                node.names[name] = number, self._new_cookie()
                self.nodes[number].links += 1

    # Steps of the above.

    def _change(self, names: dict[int, list[tuple[bytes, int | None]]]) -> None:
        change = Change(names, self._new_cookie())
        for directory, meanings in names.items():
            node = self.nodes[directory]
            for name, number in meanings:
                there = node.names.pop(name, None)
                if there is not None:
                    self.nodes[there[0]].links -= 1
                if number is not None:
                    node.names[name] = number, self._new_cookie()
                    self.nodes[number].links += 1
            node.changes.append(change)
            self.touch(node, {"mtime_ns": self._now_ns()})

    def _new_cookie(self) -> int:
        self._cookie += 1
        return self._cookie

    def _check_free(self, directory: int, name: bytes) -> None:
        self._check_name(name)
        if name in self.nodes[directory].names:
            raise failure(errno.EEXIST)
        if not self.nodes[directory].links:
            raise failure(errno.ENOENT)

    def _check_name(self, name: bytes) -> None:
        if len(name) > _NAME_MAX:
            raise failure(errno.ENAMETOOLONG)

    def _check_replaceable(self, node: Node, is_directory: bool) -> None:
        if node.is_directory and not is_directory:
            raise failure(errno.EISDIR)
        if is_directory and not node.is_directory:
            raise failure(errno.ENOTDIR)
        if node.names:
            raise failure(errno.ENOTEMPTY)

    @staticmethod
    def _apply(data: bytearray, write: Write) -> None:
        apply(data, write)


def apply(data: bytearray, write: Write) -> None:
    """Do one write."""
    if len(data) < write.offset:
        data.extend(bytes(write.offset - len(data)))
    if write.data is None:
        del data[write.offset :]
    else:
        data[write.offset : write.offset + len(write.data)] = write.data


def _share(rng: random.Random, loses: str, count: int) -> int:
    if loses == "some":
        return rng.choice([0, count, rng.randrange(count + 1)])
    return 0 if loses == "all" else count


def torn(kept: bytearray, writes: list[Write], loses: str, rng: random.Random) -> bytearray:
    """Return what of a file may be there: of each sector one version, but none from before a cut.

    The size is that of some moment; what it spans and was not written reads as zeros.
    """
    count = _share(rng, loses, len(writes))
    sizes = _sizes(len(kept), writes)
    cuts = [at for at, write in enumerate(writes, 1) if sizes[at] < sizes[at - 1]]
    least = max([at for at in cuts if at <= count], default=0)
    most = min([at - 1 for at in cuts if at > count], default=len(writes))
    if loses != "some":
        least = most = count
    sector_bytes = _LEAST_SECTOR_BYTES * rng.choice([1, 8])
    data, versions = bytearray(kept), dict[int, int]()
    found: dict[int, bytes] = {}
    for at, write in enumerate(writes, 1):
        end = max(len(data), write.offset) if write.data is None else write.offset + len(write.data)
        start = min(len(data), write.offset)
        apply(data, write)
        for sector in range(start // sector_bytes, -(-end // sector_bytes)):
            if sector not in versions:
                versions[sector] = rng.choice([least, most, rng.randint(least, most)])
            if versions[sector] >= at:
                found[sector] = bytes(data[sector * sector_bytes : (sector + 1) * sector_bytes])
    result = bytearray(kept)
    apply(result, Write(sizes[count], None))
    for sector, content in found.items():
        part = slice(sector * sector_bytes, (sector + 1) * sector_bytes)
        room = len(result[part])
        result[part] = content[:room].ljust(room, b"\0")
    return result


def _sizes(size_bytes: int, writes: list[Write]) -> list[int]:
    """Return the size before all writes, and after each."""
    sizes = [size_bytes]
    for write in writes:
        if write.data is None:
            sizes.append(write.offset)
        else:
            sizes.append(max(sizes[-1], write.offset + len(write.data)))
    return sizes
