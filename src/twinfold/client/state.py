"""The client's memory: what the server acknowledged, and from what it was read.

Only acknowledgements advance it, each in one transaction together with the folder's revision.
So a client that is killed at any moment finds, at its next start, either a state that matches
the server's revision, or one that does not and is compared with the server's entries first.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any

from twinfold.client.effects import Effect, Insert, Node, Relocate, Remove, SaveSegment, Update
from twinfold.client.rows import (
    COUNT_BELOW,
    DIRECTORIES_QUERY,
    DROP_BELOW,
    DROP_SEGMENTS_BELOW,
    INSERT_NODE,
    KNOWN_COLUMNS,
    LISTED_QUERY,
    SUM_BELOW,
    in_groups,
    known_of,
    row_of,
    short_id,
    short_ids,
)
from twinfold.core.planning import DIRECTORY, Known, ListedEntry
from twinfold.errors import DamagedStateError, StateError
from twinfold.model import CHUNK_ID_SIZE_BYTES, Chunk, Kind
from twinfold.system.sqlite_errors import tells_of_damage
from twinfold.system.sqlite_values import Blob

ROOT_NODE = 1
SEGMENT_CHUNKS = 4_096

SUB_BLOCK_BUDGET_BYTES = 256 * 1024 * 1024
"""What the rows of sub-blocks may take; the oldest make room for new ones."""

_SUB_BLOCKS_ROW_BYTES = 40
"""About what the database takes for the rows of a chunk, besides them."""

_MOST_VALUES = 500
"""So many values stand in one statement, less than any SQLite takes."""

_KIND = itemgetter(1)
_FILE = int(Kind.FILE)


def segment_of(state: State, chunks: Sequence[Chunk]) -> SaveSegment | None:
    """Return what keeps the manifest of a file that comes as a whole; one of a chunk has none."""
    if len(chunks) < 2:
        return None
    return SaveSegment(state.allocate_manifest(), 0, b"".join([chunk.id for chunk in chunks]))


def _rows_of(
    read: Callable[..., list[Any]], query: str, keys: Sequence[int]
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a query that ends in a column, for those with these keys in it."""
    for start in range(0, len(keys), _MOST_VALUES):
        some = keys[start : start + _MOST_VALUES]
        yield from read(f"{query} IN ({','.join('?' * len(some))})", *some)


class State:
    """The state of one source in one SQLite file; usable from any thread.

    Opened by `open_state`. ``lock`` may be held to see several answers at one moment.

    Args:
        database: what is written to.
        beside: a connection of its own to the same file, for what is read while another
            thread writes.

    Attributes:
        folder: the folder that the file is in.
        sub_block_budget_bytes: what the rows of sub-blocks may take.
    """

    def __init__(self, database: sqlite3.Connection, beside: sqlite3.Connection) -> None:
        self._database = database
        self.lock = threading.RLock()
        self._beside = beside
        self._beside_lock = threading.Lock()
        path = self._one("SELECT file FROM pragma_database_list WHERE name = 'main'")
        self.folder = os.path.dirname(str(path))
        self._last_node = max(ROOT_NODE, self._one("SELECT max(id) FROM nodes") or 0)
        self._last_manifest = self._one("SELECT max(manifest) FROM segments") or 0
        self.sub_block_budget_bytes = SUB_BLOCK_BUDGET_BYTES
        self._sub_block_bytes = self.number("sub_block_bytes")
        self.files, self.size_bytes, self.entries = (
            self.number(key) for key in ("files", "size_bytes", "entries")
        )

    def close(self) -> None:
        """Close the file; everything acknowledged is in it."""
        with self.lock, self._beside_lock:
            self._beside.close()
            self._database.close()

    def text(self, key: str) -> str | None:
        """Return a text that was kept under ``key``."""
        value = self._one("SELECT value FROM meta WHERE key = ?", key)
        return None if value is None else str(value)

    def blob(self, key: str) -> bytes:
        """Return bytes that were kept under ``key``, empty if none were."""
        value = self._one("SELECT value FROM meta WHERE key = ?", key)
        return b"" if value is None else bytes(value)

    def number(self, key: str) -> int:
        """Return a number that was kept under ``key``, 0 if none was."""
        return int(self._one("SELECT value FROM meta WHERE key = ?", key) or 0)

    def keep(self, **values: bytes | int | str) -> None:
        """Keep values under their keys, in one transaction."""
        with self.transaction():
            self._keep(values)

    def keep_durably(self, **values: bytes | int | str) -> None:
        """Keep values so that a power cut cannot take them back."""
        with self.lock:
            self._database.execute("PRAGMA synchronous = FULL")
            try:
                self.keep(**values)
            finally:
                self._database.execute("PRAGMA synchronous = NORMAL")

    @property
    def revision(self) -> int:
        """The folder's revision that this state equals."""
        return self.number("revision")

    def allocate_node(self) -> int:
        """Return an id for a new entry; valid even before the entry is acknowledged."""
        self._last_node += 1
        return self._last_node

    def allocate_manifest(self) -> int:
        """Return a number for a new manifest."""
        self._last_manifest += 1
        return self._last_manifest

    def children(self, node: int) -> dict[bytes, Known]:
        """Return what is known in a directory, by name."""
        query = f"SELECT {KNOWN_COLUMNS} FROM nodes WHERE parent = ?"  # noqa: S608
        return {row[0]: known_of(row) for row in self._all(query, node)}

    def directories_if_only(
        self, node: int, listed: Sequence[ListedEntry]
    ) -> dict[bytes, Known] | None:
        """Return the directories known in a directory, if all that is known there is just this.

        None where anything differs, or has a time that only stands for the real one.
        """
        with self.lock:
            if self._all(LISTED_QUERY, node) != listed:
                return None
            if DIRECTORY not in map(_KIND, listed):
                return {}
            return {row[0]: known_of(row) for row in self._all(DIRECTORIES_QUERY, node)}

    def child(self, node: int, name: bytes) -> Known | None:
        """Return what is known of one name in a directory."""
        return self._known("parent = ? AND name = ?", node, name)

    def node(self, node: int) -> Known | None:
        """Return what is known of an entry by its id."""
        return self._known("id = ?", node)

    def find(self, path: bytes) -> Known | None:
        """Return what is known at a path."""
        with self.lock:
            known = self.node(ROOT_NODE)
            for name in path.split(b"/") if path else ():
                if known is None:
                    return None
                known = self.child(known.node, name)
            return known

    def with_inode(self, dev: int, inode: int, limit: int = 64) -> list[tuple[int, int, bytes]]:
        """Return (id, parent, name) of entries that were read from this inode."""
        query = "SELECT id, parent, name FROM nodes WHERE inode = ? AND dev = ? LIMIT ?"
        return self._all(query, inode, dev, limit)

    def place(self, node: int) -> tuple[int, bytes] | None:
        """Return (parent, name) of an entry as acknowledged."""
        row: tuple[int, bytes] | None = self._first(
            "SELECT parent, name FROM nodes WHERE id = ?", node
        )
        return row

    def count_below(self, node: int) -> int:
        """Return how many entries there are at and below an entry."""
        return int(self._one(COUNT_BELOW, node))

    def knows_chunk(self, chunk_id: bytes) -> bool:
        """Tell whether the server ever acknowledged this chunk; a hint only."""
        query = "SELECT 1 FROM known_chunks WHERE id8 = ?"
        return bool(self._all_beside(query, short_id(chunk_id)))

    def manifest_ids(self, manifest: int, start: int, count: int) -> list[bytes]:
        """Return a stretch of a stored manifest, shorter where it ends before."""
        first, last = start // SEGMENT_CHUNKS, (start + count - 1) // SEGMENT_CHUNKS
        query = (
            "SELECT chunk_ids FROM segments WHERE manifest = ? AND segment BETWEEN ? AND ?"
            " ORDER BY segment"
        )
        rows = self._all_beside(query, manifest, first, last)
        data = memoryview(b"".join(row[0] for row in rows))
        begin = (start - first * SEGMENT_CHUNKS) * CHUNK_ID_SIZE_BYTES
        end = min(len(data), begin + count * CHUNK_ID_SIZE_BYTES)
        step = CHUNK_ID_SIZE_BYTES
        return [bytes(data[at : at + step]) for at in range(begin, end, step)]

    def manifest_beginning_with(self, chunk_id: bytes) -> tuple[int, bytes] | None:
        """Return (manifest, content id) of a big file that begins with this chunk."""
        query = (
            "SELECT nodes.manifest, nodes.content FROM segments"
            " JOIN nodes ON nodes.manifest = segments.manifest"
            " WHERE segments.segment = 0 AND segments.first = ? LIMIT 1"
        )
        row: tuple[int, bytes] | None = self._first(query, short_id(chunk_id))
        return row

    def sub_blocks(self, chunk_ids: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        """Return (chunk id, rows) of those chunks whose sub-blocks are kept; a hint only."""
        ids = short_ids(chunk_ids)
        query = "SELECT id8, rows FROM sub_blocks WHERE id8"
        rows: dict[int, bytes] = dict(_rows_of(self._all_beside, query, ids))
        return [
            (chunk_id, rows[id8])
            for chunk_id, id8 in zip(chunk_ids, ids, strict=True)
            if id8 in rows
        ]

    def acknowledge(
        self,
        effects: Sequence[Effect],
        chunk_ids: Iterable[bytes],
        revision: int | None,
        sub_blocks: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        """Apply what a committed batch changed, together with the folder's new revision.

        With ``revision`` None only the client's own knowledge of its source has advanced.
        """
        # To find rows takes a while: who asks the state meanwhile is not to wait for that.
        found = list(sub_blocks)
        kept_ids = short_ids([chunk_id for chunk_id, _ in found])
        kept = [(id8, Blob(rows)) for id8, (_, rows) in zip(kept_ids, found, strict=True)]
        known = [(id8,) for id8 in short_ids(chunk_ids)]
        with self.transaction():
            for kind, group in in_groups(effects):
                self._apply(kind, group)
            self._database.executemany("INSERT OR IGNORE INTO known_chunks VALUES (?)", known)
            self._keep_sub_blocks(kept)
            if revision is not None:
                self._keep({"revision": revision})
            self._keep_totals()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Do all of the block or nothing of it.

        Raises:
            DamagedStateError: the file is damaged, or what it holds contradicts the change.
            StateError: it cannot be written, for lack of room most likely.
        """
        with self.lock:
            totals = self.files, self.size_bytes, self.entries
            sub_block_bytes = self._sub_block_bytes
            try:
                self._database.execute("BEGIN IMMEDIATE")
                yield self._database
                self._database.execute("COMMIT")
            except BaseException as error:
                self.files, self.size_bytes, self.entries = totals
                self._sub_block_bytes = sub_block_bytes
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error | UnicodeDecodeError):
                    advice = "free some room there, it goes on by itself then"
                    raise self._failed("written", error, advice) from error
                raise

    def insert(self, node: Node) -> None:
        """Add one entry, within a transaction."""
        self._insert([node])

    def update(self, *nodes: Node) -> None:
        """Change entries, in this order, within a transaction."""
        before = self._contents([node.id for node in nodes])
        dropped: list[tuple[int]] = []
        for node in nodes:
            size_bytes, manifest = before.get(node.id, (0, 0))
            self.size_bytes += node.size - size_bytes
            if manifest and manifest != node.manifest:
                dropped.append((manifest,))
            before[node.id] = node.size, node.manifest
        self._database.executemany("DELETE FROM segments WHERE manifest = ?", dropped)
        self._database.executemany(
            "UPDATE nodes SET mode = ?, size = ?, mtime_ns = ?, ctime_ns = ?, dev = ?,"
            " inode = ?, content = ?, target = ?, manifest = ? WHERE id = ?",
            [(*row_of(node)[4:], node.id) for node in nodes],
        )

    def _contents(self, nodes: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Return (size in bytes, manifest) of entries, by id."""
        query = "SELECT id, size, manifest FROM nodes WHERE id"
        return {row[0]: row[1:] for row in _rows_of(self._all, query, nodes)}

    def remove(self, node: int) -> None:
        """Drop an entry with all below it, within a transaction."""
        row = self._database.execute(SUM_BELOW, (node, _FILE)).fetchone()
        self.entries -= row[0]
        self.files -= row[1]
        self.size_bytes -= row[2]
        self._database.execute(DROP_SEGMENTS_BELOW, (node,))
        self._database.execute(DROP_BELOW, (node,))

    def _insert(self, nodes: Iterable[Node]) -> None:
        rows = list(map(row_of, nodes))
        self._database.executemany(INSERT_NODE, rows)
        self.entries += len(rows)
        sizes_bytes = [row[5] for row in rows if row[3] == _FILE]
        self.files += len(sizes_bytes)
        self.size_bytes += sum(sizes_bytes)

    def _apply(self, kind: type[Effect], group: Iterable[Any]) -> None:
        if kind is Insert:
            self._insert(effect.node for effect in group)
        elif kind is Update:
            self.update(*(effect.node for effect in group))
        elif kind is Remove:
            for effect in group:
                self.remove(effect.node)
        elif kind is Relocate:
            self._database.executemany(
                "UPDATE nodes SET parent = ?, name = ? WHERE id = ?",
                [(effect.parent, effect.name, effect.node) for effect in group],
            )
        elif kind is SaveSegment:
            self._database.executemany(
                "INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?)",
                [(e.manifest, e.index, short_id(e.chunk_ids), e.chunk_ids) for e in group],
            )

    def _keep_sub_blocks(self, rows: Sequence[tuple[int, Blob]]) -> None:
        """Keep the rows of chunks; beyond the budget the oldest go, some more than have to."""
        if not rows:
            return
        self._database.executemany(
            "INSERT OR REPLACE INTO sub_blocks (id8, rows) VALUES (?, ?)", rows
        )
        self._sub_block_bytes += sum(_SUB_BLOCKS_ROW_BYTES + len(data) for _, data in rows)
        if self._sub_block_bytes > self.sub_block_budget_bytes:
            self._drop_oldest_sub_blocks()
        self._keep({"sub_block_bytes": self._sub_block_bytes})

    def _drop_oldest_sub_blocks(self) -> None:
        least_bytes = self.sub_block_budget_bytes * 7 // 8
        kept_bytes = 0
        query = f"SELECT id, length(rows) + {_SUB_BLOCKS_ROW_BYTES} FROM sub_blocks"  # noqa: S608
        for number, size_bytes in self._database.execute(f"{query} ORDER BY id DESC"):
            if kept_bytes + size_bytes > least_bytes:
                self._database.execute("DELETE FROM sub_blocks WHERE id <= ?", (number,))
                break
            kept_bytes += size_bytes
        self._sub_block_bytes = kept_bytes

    def _keep(self, values: dict[str, Any]) -> None:
        self._database.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())

    def _keep_totals(self) -> None:
        self._keep({"files": self.files, "size_bytes": self.size_bytes, "entries": self.entries})

    def count_again(self) -> None:
        """Count entries, files and bytes anew, within a transaction."""
        self.entries, self.files, self.size_bytes = self._database.execute(
            "SELECT count(*) - 1, coalesce(sum(kind = ?), 0), coalesce(sum(size), 0) FROM nodes",
            (_FILE,),
        ).fetchone()
        self._keep_totals()

    def _known(self, condition: str, *values: object) -> Known | None:
        query = f"SELECT {KNOWN_COLUMNS} FROM nodes WHERE {condition}"  # noqa: S608
        row = self._first(query, *values)
        return known_of(row) if row else None

    def _one(self, query: str, *values: object) -> Any:
        row = self._first(query, *values)
        return row[0] if row else None

    def _first(self, query: str, *values: object) -> Any:
        rows = self._all(query, *values)
        return rows[0] if rows else None

    def _all(self, query: str, *values: object) -> list[Any]:
        """Return the rows of a query.

        Raises:
            DamagedStateError: the file is damaged.
            StateError: it cannot be read.
        """
        with self.lock:
            return self._rows(self._database, query, values)

    def _all_beside(self, query: str, *values: object) -> list[Any]:
        """Return what `_all` does, without waiting for a transaction that is under way."""
        with self._beside_lock:
            return self._rows(self._beside, query, values)

    def _rows(
        self, database: sqlite3.Connection, query: str, values: Sequence[object]
    ) -> list[Any]:
        try:
            return database.execute(query, values).fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise self._failed("read", error, "check that folder's disk") from error

    def _failed(self, what: str, error: Exception, advice: str) -> StateError:
        if tells_of_damage(error):
            return DamagedStateError(
                f"the client's state in {self.folder} is damaged ({error}):"
                " twinfold client opens it again, and makes it anew where that does not help"
            )
        return StateError(
            f"the client's state in {self.folder} cannot be {what}: {error}; {advice}"
        )
