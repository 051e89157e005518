"""One durable change of the index: reads see its own writes, rows go out in bulk."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, select

from twinfold.core.session import FolderSession
from twinfold.model import Chunk, Kind
from twinfold.storage import tables
from twinfold.storage.interface import Node, Step
from twinfold.storage.statements import Statements
from twinfold.system.sqlite_values import Blob

SESSION_FOLDER = "main"

_ROWS_A_NAME = 4

_PREFIX = struct.Struct("<q")
_DIRECTORY = Kind.DIRECTORY
"""Looked up once: Python 3.11 takes a quarter of a microsecond to find it in its class."""


def chunk_prefix(chunk_id: bytes) -> int:
    """Return the first 8 bytes of a chunk id as a signed little-endian integer."""
    prefix: int = _PREFIX.unpack_from(chunk_id)[0]
    return prefix


def node_of(row: Any) -> Node:
    """Return the node in a row of all columns of the table of nodes."""
    node_id, parent, name, kind, *rest = row
    return Node(node_id, parent, name, Kind(kind), *rest)


class SqlTransaction:
    """`twinfold.storage.interface.IndexTransaction` over one SQL transaction.

    Nodes are kept in memory until they are written together: deleted first and inserted
    then, so that names may change hands among them in any order.
    """

    def __init__(
        self, connection: Connection, cursor: Any, statements: Statements, next_id: int
    ) -> None:
        self._connection = connection
        self._cursor = cursor
        self._statements = statements
        self.next_id = next_id
        self.session: FolderSession | None = None
        self._by_name: dict[tuple[int, bytes], Node | None] = {}
        self._by_id: dict[int, Node] = {}
        self._unsaved: dict[int, Node] = {}
        self._first_new_id = next_id
        self._written: set[int] = set()
        self._fresh: set[int] = set()
        self._place_rows: list[tuple[Any, ...]] = []
        self._attic_rows: list[tuple[Any, ...]] = []

    def look_up(self, parent: int, names: Sequence[bytes]) -> None:
        """Look names up together that `child` will be asked for: many at once take less time.

        What is far from one another among many others is left for `child`.
        """
        if parent in self._fresh or not names:
            return
        # Most of what is between them is what is asked for, where a tree is updated.
        most = _ROWS_A_NAME * len(names)
        first, last = min(names), max(names)
        found = self._cursor.execute(self._statements.children_between, (parent, first, last))
        rows = found.fetchmany(most)
        wanted = set(names)
        for row in rows:
            if row[2] in wanted:
                self._remember(row)
        if len(rows) == most:
            last = rows[-1][2]
        for name in names:
            if name <= last:
                self._by_name.setdefault((parent, name), None)

    def child(self, parent: int, name: bytes) -> Node | None:
        """Return the node of that name, if there is one."""
        key = (parent, name)
        if key in self._by_name:
            return self._by_name[key]
        if parent in self._fresh:
            return None
        row = self._cursor.execute(self._statements.child, key).fetchone()
        if row is None:
            self._by_name[key] = None
            return None
        return self._remember(row)

    def node(self, node_id: int) -> Node | None:
        """Return the node with this id, if there is one."""
        known = self._by_id.get(node_id)
        if known is not None:
            return known
        row = self._cursor.execute(self._statements.node, (node_id,)).fetchone()
        return self._remember(row) if row is not None else None

    def _remember(self, row: Sequence[Any]) -> Node:
        node = self._by_id.get(row[0])
        if node is not None:
            return node
        node = node_of(row)
        self._by_id[node.id] = node
        self._by_name.setdefault((node.parent, node.name), node)
        return node

    def new_id(self) -> int:
        """Return an id that no node has or had."""
        self.next_id += 1
        return self.next_id - 1

    def save(self, node: Node, moved: bool) -> None:
        """Insert or replace a node; ``moved`` if its parent or name differ from before."""
        node_id = node.id
        before = self._by_id.get(node_id)
        if before is None:
            if node.kind is _DIRECTORY:
                self._fresh.add(node_id)
        elif moved and self._by_name.get((before.parent, before.name)) is before:
            self._by_name[before.parent, before.name] = None
        self._by_id[node_id] = self._unsaved[node_id] = node
        self._by_name[node.parent, node.name] = node

    def add_places(self, node_id: int, position: int, offset: int, chunks: Sequence[Chunk]) -> None:
        """Record that ``chunks`` lie one after the other in the node's file from ``offset``."""
        rows = self._place_rows
        for chunk in chunks:
            chunk_id, size = chunk.id, chunk.size
            rows.append((node_id, position, offset, size, Blob(chunk_id), chunk_prefix(chunk_id)))
            position += 1
            offset += size

    def cut_places(self, node_id: int, position: int) -> None:
        """Forget the node's chunk places from this number of its manifest on."""
        self._write_places()
        self._cursor.execute(self._statements.cut_places, (node_id, position))

    def manifest(self, node_id: int, position: int, count: int) -> list[Chunk]:
        """Return a stretch of the node's manifest."""
        self._write_places()
        rows = self._cursor.execute(
            self._statements.manifest, (node_id, position, position + count)
        )
        return [Chunk(*row) for row in rows.fetchall()]

    def add_to_attic(self, node_id: int, path: bytes, removed_ns: int) -> None:
        """Record what a node of the attic was called, and when it left the tree."""
        self._attic_rows.append((node_id, removed_ns, path))

    def add_intents(self, steps: Sequence[Step]) -> None:
        """Record steps that will happen from this commit on."""
        self._cursor.execute(self._statements.insert_intent, (msgspec.msgpack.encode(steps),))

    def clear_intents(self) -> None:
        """Forget the intents recorded so far: they are done and durable on the disk."""
        self._cursor.execute(self._statements.clear_intents)

    def set_identities(self, identities: Iterable[tuple[int, int, int]]) -> None:
        """Record (node, inode, ctime_ns) as found after steps."""
        rows = [(inode, ctime_ns, node) for node, inode, ctime_ns in identities]
        if rows:
            self._cursor.executemany(self._statements.set_identity, rows)

    def forget(self, node_id: int) -> None:
        """Forget a node, all below it, and their chunk places and attic records."""
        self._write_rows()
        nodes = tables.nodes
        below = select(nodes.c.id).where(nodes.c.id == node_id).cte("below", recursive=True)
        below = below.union_all(select(nodes.c.id).where(nodes.c.parent == below.c.id))
        ids = [row[0] for row in self._connection.execute(select(below.c.id))]
        one = [(node,) for node in ids]
        self._cursor.executemany(self._statements.cut_places, [(node, 0) for node in ids])
        self._cursor.executemany(self._statements.delete_node, one)
        self._connection.execute(delete(tables.attic).where(tables.attic.c.node == node_id))
        for node in ids:
            known = self._by_id.pop(node, None)
            if known is not None:
                self._by_name[known.parent, known.name] = None

    def save_session(self, session: FolderSession) -> None:
        """Record the folder's session: epoch, revision, last batch."""
        self.session = session
        packed = msgspec.msgpack.encode(session)
        self._cursor.execute(self._statements.set_session, (packed, SESSION_FOLDER))
        if not self._cursor.rowcount:
            self._cursor.execute(self._statements.insert_session, (SESSION_FOLDER, packed))

    def finish(self) -> None:
        """Write out what is still held in memory."""
        self._write_rows()
        self._cursor.execute(self._statements.set_counter, (self.next_id, "node"))

    def _write_rows(self) -> None:
        self._write_places()
        self._write_nodes()
        if self._attic_rows:
            self._cursor.executemany(self._statements.insert_attic, self._attic_rows)
            self._attic_rows = []

    def _write_places(self) -> None:
        if self._place_rows:
            self._cursor.executemany(self._statements.insert_place, self._place_rows)
            self._place_rows = []

    def _write_nodes(self) -> None:
        first_new, written = self._first_new_id, self._written
        old = [(node,) for node in self._unsaved if node < first_new or node in written]
        if old:
            self._cursor.executemany(self._statements.delete_node, old)
        rows = [
            (
                node.id,
                node.parent,
                Blob(node.name),
                int(node.kind),
                node.mode,
                node.mtime_ns,
                node.size,
                Blob(node.content),
                Blob(node.target),
                node.inode,
                node.ctime_ns,
            )
            for node in self._unsaved.values()
        ]
        if rows:
            self._cursor.executemany(self._statements.insert_node, rows)
        self._written.update(self._unsaved)
        self._unsaved = {}
