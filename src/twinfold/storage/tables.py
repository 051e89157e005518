"""The index's tables, as SQLAlchemy Core sees them.

The migrations in ``storage/migrations`` create them; a test holds the two together.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    UniqueConstraint,
)

metadata = MetaData()

nodes = Table(
    "nodes",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("parent", BigInteger, nullable=False),
    Column("name", LargeBinary, nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("mode", Integer, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("target", LargeBinary, nullable=False),
    Column("inode", BigInteger, nullable=False),
    Column("ctime_ns", BigInteger, nullable=False),
    UniqueConstraint("parent", "name", name="nodes_parent_name"),
)
"""The forest; see `twinfold.storage.interface.Node`."""

Index(
    "nodes_content",
    nodes.c.content,
    sqlite_where=nodes.c.size > 98_304,
    postgresql_where=nodes.c.size > 98_304,
)

places = Table(
    "places",
    metadata,
    Column("node", BigInteger, primary_key=True, autoincrement=False),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("start", BigInteger, nullable=False),
    Column("size", Integer, nullable=False),
    Column("chunk", LargeBinary, nullable=False),
    Column("chunk_prefix", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Where chunks lie: the manifest of every file, and an index from chunk to files.

``chunk_prefix`` is the first 8 bytes of the chunk id as a signed little-endian integer.
"""

Index("places_chunk_prefix", places.c.chunk_prefix)

attic = Table(
    "attic",
    metadata,
    Column("node", BigInteger, primary_key=True, autoincrement=False),
    Column("removed_ns", BigInteger, nullable=False),
    Column("path", LargeBinary, nullable=False),
    Index("attic_removed", "removed_ns"),
)
"""What the tree no longer shows: when it left, and its path at that time."""

intents = Table(
    "intents",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("steps", LargeBinary, nullable=False),
)
"""Steps that are decided but not yet known to be durable (msgpack lists)."""

sessions = Table(
    "sessions",
    metadata,
    Column("folder", String, primary_key=True),
    Column("session", LargeBinary, nullable=False),
)
"""The writer of each folder (msgpack of `twinfold.core.session.FolderSession`)."""

counters = Table(
    "counters",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", BigInteger, nullable=False),
)
"""The next free node id."""
