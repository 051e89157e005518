"""Whether what an index says can be: damage that its pages do not show.

A bit that flips inside of a value leaves the database's own structure whole. What is wrong then
would be met in the middle of a commit.
"""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, select

from twinfold.core.chunking import MAX_SIZE_BYTES
from twinfold.core.session import FolderSession
from twinfold.model import CHUNK_ID_SIZE_BYTES
from twinfold.storage import tables
from twinfold.storage.interface import UNREAD, Step

# 1, 2 and 3 are TREE, STAGING and ATTIC.
_WRONG = {
    "a value of the wrong type": f"""
        SELECT 1 FROM nodes
        WHERE typeof(parent) <> 'integer' OR typeof(name) <> 'blob' OR typeof(kind) <> 'integer'
        OR typeof(mode) <> 'integer' OR typeof(mtime_ns) <> 'integer'
        OR typeof(size) <> 'integer' OR typeof(content) <> 'blob' OR typeof(target) <> 'blob'
        OR typeof(inode) <> 'integer' OR typeof(ctime_ns) <> 'integer'
        OR length(content) NOT IN (0, {CHUNK_ID_SIZE_BYTES}) AND content <> x'{UNREAD.hex()}'
        UNION ALL SELECT 1 FROM attic
        WHERE typeof(removed_ns) <> 'integer' OR typeof(path) <> 'blob'
        UNION ALL SELECT 1 FROM counters WHERE typeof(value) <> 'integer'
        UNION ALL SELECT 1 FROM sessions WHERE typeof(session) <> 'blob'
        UNION ALL SELECT 1 FROM intents WHERE typeof(steps) <> 'blob'""",  # noqa: S608
    "a place that cannot be": f"""
        SELECT 1 FROM places
        WHERE typeof(node) <> 'integer' OR typeof(position) <> 'integer'
        OR typeof(start) <> 'integer' OR typeof(size) <> 'integer'
        OR typeof(chunk) <> 'blob' OR typeof(chunk_prefix) <> 'integer'
        OR position < 0 OR start < 0 OR size NOT BETWEEN 1 AND {MAX_SIZE_BYTES}
        OR length(chunk) <> {CHUNK_ID_SIZE_BYTES}""",  # noqa: S608
    "an id, kind, mode or size that cannot be": """
        SELECT 1 FROM nodes
        WHERE id < 1 OR kind NOT BETWEEN 1 AND 3 OR mode NOT BETWEEN 0 AND 511 OR size < 0""",
    "a name that cannot be": """
        SELECT 1 FROM nodes WHERE length(name) NOT BETWEEN 1 AND 255 OR name IN (x'2e', x'2e2e')
        OR instr(name, x'2f') OR instr(name, x'00')""",
    "an entry that stands nowhere": """
        SELECT 1 FROM nodes LEFT JOIN nodes AS above ON above.id = nodes.parent
        WHERE above.id IS NULL AND nodes.id NOT IN (1, 2, 3)""",
    "no roots": """
        SELECT 1 WHERE (SELECT count(*) FROM nodes WHERE parent = 0 AND id IN (1, 2, 3)) <> 3""",
    "something else's entry in the attic": """
        SELECT 1 FROM attic LEFT JOIN nodes ON nodes.id = attic.node
        WHERE nodes.parent IS NOT 3""",
    "a number that is taken": """
        SELECT 1 WHERE (SELECT max(id) FROM nodes) >= (SELECT value FROM counters)""",
    "no writer": "SELECT 1 WHERE (SELECT count(*) FROM sessions) <> 1",
}


def unsound(connection: Connection) -> str:
    """Return what cannot be in the index of this connection; empty if all can."""
    for words, statement in _WRONG.items():
        if connection.exec_driver_sql(f"{statement} LIMIT 1").first():
            return words
    try:
        for (session,) in connection.execute(select(tables.sessions.c.session)):
            msgspec.msgpack.decode(session, type=FolderSession)
        for (steps,) in connection.execute(select(tables.intents.c.steps)):
            msgspec.msgpack.decode(steps, type=list[Step])
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        return str(error)
    return ""
