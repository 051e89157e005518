"""Comparing the state with the server's entries, after it was lost or the folder moved on.

What is equal keeps what is known of the source, so that it is not read again. What differs is
taken over from the server without it: the scan then reads the file, and sends nothing if the
content is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterable, Iterator

from twinfold.client.effects import Node
from twinfold.client.rows import short_id
from twinfold.client.state import ROOT_NODE, State
from twinfold.core.paths import check_path_or_root, split
from twinfold.core.planning import DIRECTORY, FILE, SYMLINK, UNSETTLED_CTIME_NS, Known
from twinfold.errors import ConnectionLostError
from twinfold.model import Entry

_CACHED_DIRECTORIES = 50_000
_NO_MODE = -1

_LOOK_EVERY_S = 0.2


def compare_entries(state: State, groups: Iterable[list[Entry] | int], server_id: bytes) -> None:
    """Make the state equal to the server's entries, in one transaction and bounded memory.

    Args:
        state: what was acknowledged as far as is known.
        groups: the entries, parents first, and at last the revision.
        server_id: whose they are.
    """
    with state.transaction() as database:
        comparison = _Comparison(state, database)
        revision = -1
        for group in groups:
            if isinstance(group, int):
                revision = group
            else:
                comparison.add(group)
        comparison.finish()
        values = {"revision": revision, "server_id": server_id}
        database.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())


def differing_entries(state: State, entries: Iterable[Entry]) -> list[tuple[bytes, list[str]]]:
    """Return (path, what differs) of entries that the server has otherwise than acknowledged."""
    found: list[tuple[bytes, list[str]]] = []
    for entry in entries:
        with state.lock:
            known = state.find(check_path_or_root(entry.path))
        if known is None:
            found.append((entry.path, ["extra"]))
        elif known.kind != entry.kind:
            found.append((entry.path, ["type"]))
        elif not _is_equal(known, entry):
            found.append((entry.path, _different(known, entry)))
    return found


def _different(known: Known, entry: Entry) -> list[str]:
    if entry.kind == SYMLINK:
        return ["target"]
    content = entry.kind == FILE and (known.size, known.content) != (entry.size, entry.content)
    what = ["content"] if content else []
    what += ["mode"] if known.mode != entry.mode else []
    return what + (["mtime"] if known.mtime_ns != entry.mtime_ns else [])


def pulled(
    stream: AsyncIterator[list[Entry] | int],
    loop: asyncio.AbstractEventLoop,
    stop: threading.Event | None = None,
) -> Iterator[list[Entry] | int]:
    """Yield what a stream in the event loop brings, in another thread.

    Raises:
        ConnectionLostError: ``stop`` was set.
    """

    async def following() -> list[Entry] | int | None:
        return await anext(stream, None)

    while True:
        coming = asyncio.run_coroutine_threadsafe(following(), loop)
        while not coming.done() and not (stop is not None and stop.is_set()):
            with contextlib.suppress(TimeoutError):
                coming.result(_LOOK_EVERY_S)
        if not coming.done():
            coming.cancel()
            raise ConnectionLostError("the client stops")
        group = coming.result()
        if group is None:
            return
        yield group


class _Comparison:
    def __init__(self, state: State, database: sqlite3.Connection) -> None:
        self._state = state
        self._database = database
        self._directories: dict[bytes, int] = {b"": ROOT_NODE}
        database.execute("CREATE TEMP TABLE IF NOT EXISTS seen (id INTEGER PRIMARY KEY)")
        database.execute("DELETE FROM seen")
        database.execute("UPDATE nodes SET mode = ? WHERE id = ?", (_NO_MODE, ROOT_NODE))

    def add(self, entries: list[Entry]) -> None:
        """Take over some entries."""
        seen = [(self._take(entry),) for entry in entries]
        self._database.executemany("INSERT OR IGNORE INTO seen VALUES (?)", seen)
        contents = ((short_id(e.content),) for e in entries if e.kind == FILE and e.size)
        self._database.executemany("INSERT OR IGNORE INTO known_chunks VALUES (?)", contents)

    def finish(self) -> None:
        """Drop what the server does not have, and count anew."""
        execute = self._database.execute
        execute("DELETE FROM nodes WHERE id <> ? AND id NOT IN (SELECT id FROM seen)", (ROOT_NODE,))
        execute(
            "DELETE FROM segments WHERE manifest NOT IN"
            " (SELECT manifest FROM nodes WHERE manifest > 0)"
        )
        execute("DELETE FROM seen")
        self._state.count_again()

    def _take(self, entry: Entry) -> int:
        path = check_path_or_root(entry.path)
        if not path:
            execute = self._database.execute
            execute(
                "UPDATE nodes SET mode = ?, mtime_ns = ? WHERE id = ?",
                (entry.mode, entry.mtime_ns, ROOT_NODE),
            )
            return ROOT_NODE
        above, name = split(path)
        parent = self._directory(above)
        known = self._state.child(parent, name)
        if known is not None and known.kind != entry.kind:
            self._state.remove(known.node)
            known = None
        node = known.node if known else self._state.allocate_node()
        if entry.kind == DIRECTORY:
            self._remember(path, node)
        if known is None or not _is_equal(known, entry):
            self._store(_row(node, parent, name, entry, known), known is not None)
        return node

    def _store(self, row: Node, is_known: bool) -> None:
        if is_known:
            self._state.update(row)
        else:
            self._state.insert(row)

    def _directory(self, path: bytes) -> int:
        node = self._directories.get(path)
        if node is None:
            known = self._state.find(path)
            if known is None:
                raise sqlite3.IntegrityError("an entry came before its directory")
            node = known.node
            self._remember(path, node)
        return node

    def _remember(self, path: bytes, node: int) -> None:
        if len(self._directories) >= _CACHED_DIRECTORIES:
            self._directories = {b"": ROOT_NODE}
        self._directories[path] = node


def _is_equal(known: Known, entry: Entry) -> bool:
    if entry.kind == SYMLINK:
        return known.target == entry.target
    if (known.mode, known.mtime_ns) != (entry.mode, entry.mtime_ns):
        return False
    return entry.kind == DIRECTORY or (known.size, known.content) == (entry.size, entry.content)


def _row(node: int, parent: int, name: bytes, entry: Entry, known: Known | None) -> Node:
    """Return a row as the server has the entry; only a directory keeps its local identity."""
    kind = int(entry.kind)
    if kind == DIRECTORY:
        dev, inode = known.identity if known else (0, 0)
        return Node(node, parent, name, kind, entry.mode, 0, entry.mtime_ns, 0, dev, inode)
    if kind == SYMLINK:
        return Node(
            node, parent, name, kind, 0, 0, 0, UNSETTLED_CTIME_NS, 0, 0, target=entry.target
        )
    manifest = known.manifest if known and known.content == entry.content else 0
    return Node(
        node,
        parent,
        name,
        kind,
        entry.mode,
        entry.size,
        entry.mtime_ns,
        UNSETTLED_CTIME_NS,
        0,
        0,
        entry.content,
        b"",
        manifest,
    )
