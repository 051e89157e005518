"""The state's rows: how entries are written and asked for, and what becomes of the answers."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from twinfold.client.effects import Effect, Insert, Node, SaveSegment
from twinfold.core.planning import DIRECTORY, Known
from twinfold.core.times import FIRST_TIME_NS, LAST_TIME_NS
from twinfold.system.sqlite_values import Blob

_FACTS = "kind, mode, size, mtime_ns, ctime_ns, dev, inode"
_COLUMNS = f"id, parent, name, {_FACTS}"
KNOWN_COLUMNS = f"name, id, {_FACTS}, content, target, manifest"
# A time that only stands for the file's own is left out: it equals none.
_OWN_TIME = f"CASE WHEN mtime_ns > {FIRST_TIME_NS} AND mtime_ns < {LAST_TIME_NS} THEN mtime_ns END"
LISTED_QUERY = (
    f"SELECT name, {_FACTS.replace('mtime_ns', _OWN_TIME)} FROM nodes"  # noqa: S608
    " WHERE parent = ? ORDER BY name"
)
DIRECTORIES_QUERY = f"SELECT {KNOWN_COLUMNS} FROM nodes WHERE parent = ? AND kind = {DIRECTORY}"  # noqa: S608
INSERT_NODE = f"INSERT INTO nodes ({_COLUMNS}, content, target, manifest) VALUES ({'?,' * 12}?)"  # noqa: S608
_NEW = frozenset((Insert, SaveSegment))
_SUBTREE = (
    "WITH RECURSIVE below (id) AS (SELECT ? UNION ALL "
    "SELECT nodes.id FROM nodes JOIN below ON nodes.parent = below.id) "
)
COUNT_BELOW = _SUBTREE + "SELECT count(*) FROM below"  # noqa: S608
SUM_BELOW = _SUBTREE + (  # noqa: S608
    "SELECT count(*), coalesce(sum(kind = ?), 0), coalesce(sum(size), 0)"
    " FROM below JOIN nodes USING (id)"
)
DROP_SEGMENTS_BELOW = _SUBTREE + (  # noqa: S608
    "DELETE FROM segments WHERE manifest IN"
    " (SELECT manifest FROM nodes JOIN below USING (id) WHERE manifest > 0)"
)
DROP_BELOW = _SUBTREE + "DELETE FROM nodes WHERE id IN (SELECT id FROM below)"  # noqa: S608


def short_id(chunk_id: bytes) -> int:
    """Return the first eight bytes of a chunk id as SQLite's integer."""
    return short_ids([chunk_id])[0]


def short_ids(chunk_ids: Iterable[bytes]) -> tuple[int, ...]:
    """Return the `short_id` of each."""
    first = b"".join([chunk_id[:8] for chunk_id in chunk_ids])
    return struct.unpack(f"<{len(first) // 8}q", first)


def row_of(node: Node) -> tuple[Any, ...]:
    """Return an entry as `INSERT_NODE` takes it."""
    return (
        node.id,
        node.parent,
        Blob(node.name),
        node.kind,
        node.mode,
        node.size,
        node.mtime_ns,
        node.ctime_ns,
        node.dev,
        node.inode,
        Blob(node.content),
        Blob(node.target),
        node.manifest,
    )


def in_groups(effects: Sequence[Effect]) -> Iterator[tuple[type[Effect], Iterable[Any]]]:
    """Yield effects of one kind at a time, in their order where it matters.

    It does not in a batch of new entries, whose rows and segments would be added by turns.
    """
    if not _NEW.issuperset(map(type, effects)):
        yield from groupby(effects, type)
        return
    yield SaveSegment, [effect for effect in effects if type(effect) is SaveSegment]
    yield Insert, [effect for effect in effects if type(effect) is Insert]


def known_of(row: tuple[Any, ...]) -> Known:
    """Return what is known of an entry from its `KNOWN_COLUMNS`."""
    return Known(row[1], row[2:9], row[9], row[10], row[11])
