"""Learning what a destination holds from its files: a new index, or one that was lost.

Every file is read and cut into chunks, so that nothing it holds is sent again. The attic
is surveyed as well: it is kept, and its content can be used.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from twinfold.core.manifest import ContentHasher
from twinfold.core.paths import display
from twinfold.model import Kind
from twinfold.server.events import Indexing, Listener, Message
from twinfold.server.takein import read_chunks, read_object, record
from twinfold.storage.interface import (
    ATTIC,
    DOOMED_PREFIX,
    STAGING,
    TREE,
    UNREAD,
    DirectoryListing,
    Forest,
    Index,
    IndexTransaction,
    Looked,
    Node,
    Source,
)

TELL_EVERY_S = 2.0
_UNKNOWN = b"\0" * 32
"""Content id of a file that would not hold still or could not be read: equal to none."""


class Survey:
    """Fills an index from the forest; nothing else uses either meanwhile."""

    def __init__(self, index: Index, forest: Forest, now_ns: int, listener: Listener) -> None:
        self._index = index
        self._forest = forest
        self._now_ns = now_ns
        self._listener = listener
        self._files = self._size_bytes = 0
        self._told_s = float("-inf")

    def run(self) -> None:
        """Survey all; after a crash in the middle it begins anew.

        Raises:
            OSError: the forest cannot be read.
        """
        self._forget_what_a_crash_left()
        self._survey(ATTIC, self._begin_attic())
        top = self._forest.look(TREE, [])
        self._survey(TREE, [(TREE, [], top)])
        with self._index.transaction() as work:
            work.save(_node(TREE, 0, top.itself, b""), moved=False)
        if self._files:
            self._listener(Indexing(self._files, self._size_bytes, is_done=True))

    def take_in_attic(self) -> None:
        """Learn what the attic holds and the index does not know, and forget what it lost.

        That is so after an index was put back from an older copy, and after a crash before
        what had been found was read. It gets names that no later entry can get; nothing of it is
        deleted before its time.

        Raises:
            OSError: the forest cannot be read.
        """
        nodes = self._index.children(ATTIC)
        known = {node.name: node for node in nodes if node.content != UNREAD}
        unread = {node.name: node for node in nodes if node.content == UNREAD}
        found = [
            looked
            for looked in self._forest.look(ATTIC, []).children
            if known.pop(looked.name, None) is None and not looked.name.startswith(DOOMED_PREFIX)
        ]
        with self._index.transaction() as work:
            for node in (*known.values(), *unread.values()):
                work.forget(node.id)
        for looked in found:
            self._take_in(looked)
        unknown = [looked for looked in found if looked.name not in unread]
        if unknown:
            self._listener(
                Message(
                    f"the attic holds {len(unknown):,} entries that the index did not know; they "
                    "are kept. Was an older index put back?"
                )
            )

    def _take_in(self, looked: Looked) -> None:
        name = looked.name
        if not name.startswith((b"kept-", b"found-")):
            name = b"kept-%d-" % self._now_ns + name
            self._forest.rename_in_attic(looked.name, name)
        with self._index.transaction() as work:
            node = _node(work.new_id(), ATTIC, looked, b"")
            node = msgspec.structs.replace(node, name=name)
            work.save(node, moved=True)
            work.add_to_attic(node.id, looked.name, self._now_ns)
        ids: dict[int, int] = {}
        for group in read_object(self._forest, node, lambda: None):
            with self._index.transaction() as work:
                record(work, group, ids)

    def _forget_what_a_crash_left(self) -> None:
        with self._index.transaction() as work:
            roots = [work.node(root) for root in (TREE, STAGING, ATTIC)]
            for root in roots:
                if root is not None:
                    work.forget(root.id)
        with self._index.transaction() as work:
            for root in roots:
                if root is not None:
                    work.save(root, moved=True)

    def _begin_attic(self) -> list[tuple[int, list[bytes], DirectoryListing]]:
        """Give what the attic holds names that no later entry can get."""
        for child in self._forest.look(ATTIC, []).children:
            if not child.name.startswith(b"kept-"):
                self._forest.rename_in_attic(child.name, b"kept-%d-" % self._now_ns + child.name)
        return [(ATTIC, [], self._forest.look(ATTIC, []))]

    def _survey(self, root: int, pending: list[tuple[int, list[bytes], DirectoryListing]]) -> None:
        directories: list[tuple[int, list[bytes]]] = []
        while pending or directories:
            if pending:
                parent, names, listing = pending.pop()
            else:
                parent, names = directories.pop()
                listing = self._forest.look(root, names)
            with self._index.transaction() as work:
                for child in listing.children:
                    node_id = self._add(work, root, parent, [*names, child.name], child)
                    if child.kind is Kind.DIRECTORY:
                        directories.append((node_id, [*names, child.name]))

    def _add(
        self,
        work: IndexTransaction,
        root: int,
        parent: int,
        names: list[bytes],
        child: Looked,
    ) -> int:
        node_id = work.new_id()
        path = b"/".join(names)
        if child.kind is None and root == TREE:
            child = msgspec.structs.replace(child, name=self._forest.set_aside(names))
            parent, root = ATTIC, ATTIC
            self._listener(Message(f"{display(path)} is of no kind that is kept: set aside"))
        content = b""
        if child.kind is Kind.FILE:
            content, child = self._read(work, node_id, root, names, child)
        work.save(_node(node_id, parent, child, content), moved=True)
        if parent == ATTIC:
            work.add_to_attic(node_id, path, self._now_ns)
        return node_id

    def _read(
        self, work: IndexTransaction, node_id: int, root: int, names: list[bytes], child: Looked
    ) -> tuple[bytes, Looked]:
        self._tell()
        try:
            source = _Counted(self._forest.open_source(root, names), self._count)
        except OSError as error:
            self._listener(Message(f"{display(b'/'.join(names))} cannot be read: {error.strerror}"))
            return _UNKNOWN, child
        try:
            size, content = _index_content(work, node_id, source)
        finally:
            source.close()
        self._files += 1
        if size != child.size:
            return _UNKNOWN, msgspec.structs.replace(child, size=size)
        return content, child

    def _count(self, size_bytes: int) -> None:
        self._size_bytes += size_bytes
        self._tell()

    def _tell(self) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s >= TELL_EVERY_S:
            self._told_s = now_s
            self._listener(Indexing(self._files, self._size_bytes))


class _Counted:
    """A source that tells how much is read from it."""

    def __init__(self, source: Source, count: Callable[[int], None]) -> None:
        self._source = source
        self._count = count

    def fileno(self) -> int:
        return self._source.fileno()

    def looked(self) -> Looked:
        return self._source.looked()

    def read(self, offset: int, size_bytes: int) -> bytes:
        data = self._source.read(offset, size_bytes)
        self._count(len(data))
        return data

    def read_into(self, room: memoryview, offset: int) -> int:
        size_bytes = self._source.read_into(room, offset)
        self._count(size_bytes)
        return size_bytes

    def fetch(self, offset: int, size_bytes: int) -> None:
        self._source.fetch(offset, size_bytes)

    def close(self) -> None:
        self._source.close()


def _index_content(work: IndexTransaction, node_id: int, source: Source) -> tuple[int, bytes]:
    """Record where the chunks of an open file lie; return (size, content id)."""
    hasher = ContentHasher()
    size_bytes = 0
    for position, offset, chunks in read_chunks(source, hasher):
        work.add_places(node_id, position, offset, chunks)
        size_bytes += sum(chunk.size for chunk in chunks)
    return size_bytes, hasher.content_id()


def _node(node_id: int, parent: int, looked: Looked, content: bytes) -> Node:
    kind = looked.kind or Kind.FILE
    return Node(
        node_id,
        parent,
        looked.name or b"%d" % node_id,
        kind,
        looked.mode,
        0 if kind is Kind.SYMLINK else looked.mtime_ns,
        looked.size if kind is Kind.FILE else len(looked.target),
        content,
        looked.target,
        looked.inode,
        looked.ctime_ns,
    )
