"""Whether what the client's state says can be: damage that reading a page does not show."""

from __future__ import annotations

import sqlite3

from twinfold.client.state import ROOT_NODE, SEGMENT_CHUNKS
from twinfold.core.chunking.format import FINE, MAX_SIZE_BYTES, ROW_SIZE_BYTES
from twinfold.model import CHUNK_ID_SIZE_BYTES, Kind

# Numbers are counted up from the highest one, and have to stay in SQLite's integers.
_MAX_NUMBER = 1 << 62
_MAX_ROWS = MAX_SIZE_BYTES // FINE.shortest + 1
_SEGMENT_BYTES = SEGMENT_CHUNKS * CHUNK_ID_SIZE_BYTES

_META = {
    b"client_id": "blob",
    b"source": "blob",
    b"instances": "blob",
    b"server_id": "blob",
    b"server": "text",
    b"ignore": "text",
    b"revision": "integer",
    b"files": "integer",
    b"size_bytes": "integer",
    b"entries": "integer",
    b"sub_block_bytes": "integer",
    b"root_dev": "integer",
    b"root_inode": "integer",
    b"root_fs": "integer",
}
_NEEDED = {b"client_id", b"revision"}
_CLIENT_ID_BYTES = 16
_COUNTS = {b"revision", b"files", b"size_bytes", b"entries", b"sub_block_bytes"}

# What these do not find counts as gone; a chunk that is not found is only sent.
_LOOKED_UP = ("nodes", "segments")

# The root has no name, and no mode before the first session.
_WRONG = {
    "an entry that cannot be": f"""
        SELECT 1 FROM nodes
        WHERE typeof(parent) <> 'integer' OR typeof(name) <> 'blob' OR typeof(kind) <> 'integer'
        OR typeof(mode) <> 'integer' OR typeof(size) <> 'integer'
        OR typeof(mtime_ns) <> 'integer' OR typeof(ctime_ns) <> 'integer'
        OR typeof(dev) <> 'integer' OR typeof(inode) <> 'integer'
        OR typeof(content) <> 'blob' OR typeof(target) <> 'blob'
        OR typeof(manifest) <> 'integer' OR id NOT BETWEEN 1 AND {_MAX_NUMBER}
        OR kind NOT BETWEEN 1 AND 3 OR size < 0 OR manifest NOT BETWEEN 0 AND {_MAX_NUMBER}
        OR mode NOT BETWEEN CASE id WHEN {ROOT_NODE} THEN -1 ELSE 0 END AND 511
        OR length(content) NOT IN (0, {CHUNK_ID_SIZE_BYTES})
        OR CASE id WHEN {ROOT_NODE} THEN parent <> 0 OR length(name)
        ELSE parent < 1 OR length(name) NOT BETWEEN 1 AND 255 OR name IN (x'2e', x'2e2e')
        OR instr(name, x'2f') OR instr(name, x'00') END
        OR parent = {ROOT_NODE} AND name = CAST('.twinfold' AS BLOB)""",  # noqa: S608
    "sizes that cannot be": "SELECT 1 WHERE (SELECT total(size) FROM nodes) > 9223372036854775807",
    "a manifest that cannot be": f"""
        SELECT 1 FROM segments
        WHERE typeof(manifest) <> 'integer' OR typeof(segment) <> 'integer'
        OR typeof(first) <> 'integer' OR typeof(chunk_ids) <> 'blob'
        OR manifest NOT BETWEEN 1 AND {_MAX_NUMBER} OR segment < 0
        OR length(chunk_ids) NOT BETWEEN 1 AND {_SEGMENT_BYTES}
        OR length(chunk_ids) % {CHUNK_ID_SIZE_BYTES}""",  # noqa: S608
    "a manifest with a gap": f"""
        SELECT 1 FROM segments AS here
        WHERE segment > 0
        AND EXISTS (SELECT 1 FROM nodes WHERE nodes.manifest = here.manifest AND manifest > 0)
        AND NOT EXISTS (
            SELECT 1 FROM segments AS before
            WHERE before.manifest = here.manifest AND before.segment = here.segment - 1
            AND length(before.chunk_ids) = {_SEGMENT_BYTES})""",  # noqa: S608
    "sub-blocks that cannot be": f"""
        SELECT 1 FROM sub_blocks
        WHERE typeof(id8) <> 'integer' OR typeof(rows) <> 'blob'
        OR id NOT BETWEEN 1 AND {_MAX_NUMBER} OR length(rows) = 0
        OR length(rows) > {_MAX_ROWS} * {ROW_SIZE_BYTES} OR length(rows) % {ROW_SIZE_BYTES}""",  # noqa: S608
}


def check_soundness(database: sqlite3.Connection) -> None:
    """Look at all that the state says but the ids of chunks, and whether it can be looked up.

    Raises:
        sqlite3.DatabaseError: it says what cannot be.
    """
    for table in _LOOKED_UP:
        (found,) = database.execute(f"PRAGMA integrity_check({table})").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found)
    for words, statement in _WRONG.items():
        if database.execute(f"{statement} LIMIT 1").fetchone():
            raise sqlite3.DatabaseError(words)
    _check_places(database)
    query = "SELECT CAST(key AS BLOB), typeof(value), CAST(value AS BLOB) FROM meta"
    # A key that is not known here is a later version's.
    kept = {key: (kind, value) for key, kind, value in database.execute(query) if key in _META}
    if not kept.keys() >= _NEEDED:
        raise sqlite3.DatabaseError("the client's id or revision is missing")
    for key, (kind, value) in kept.items():
        if kind != _META[key] or not _can_be(key, kind, value):
            raise sqlite3.DatabaseError(f"{key.decode()} cannot be what it is")


def _check_places(database: sqlite3.Connection) -> None:
    """Every entry is in a directory, and every directory comes from the root."""
    query = "SELECT id, parent FROM nodes WHERE kind = ?"
    above: dict[int, int] = dict(database.execute(query, (int(Kind.DIRECTORY),)))
    if ROOT_NODE not in above:
        raise sqlite3.DatabaseError("the root is missing")
    sound = {above[ROOT_NODE], ROOT_NODE}
    for (parent,) in database.execute("SELECT DISTINCT parent FROM nodes"):
        way = []
        node = parent
        while node not in sound and node in above:
            way.append(node)
            node = above.pop(node)
        if node not in sound:
            raise sqlite3.DatabaseError("an entry stands nowhere")
        sound.update(way)


def _can_be(key: bytes, kind: str, value: bytes) -> bool:
    if kind == "text":
        try:
            value.decode()
        except UnicodeDecodeError:
            return False
    if key == b"client_id":
        return len(value) == _CLIENT_ID_BYTES
    if key == b"instances":
        return len(value) % _CLIENT_ID_BYTES == 0
    return key not in _COUNTS or -1 <= int(value) <= _MAX_NUMBER
