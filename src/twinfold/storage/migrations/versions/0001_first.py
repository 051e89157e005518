"""The index as it was first released."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_LARGE = sa.text("size > 98304")


def upgrade() -> None:
    """Create all tables."""
    op.create_table(
        "nodes",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("parent", sa.BigInteger, nullable=False),
        sa.Column("name", sa.LargeBinary, nullable=False),
        sa.Column("kind", sa.SmallInteger, nullable=False),
        sa.Column("mode", sa.Integer, nullable=False),
        sa.Column("mtime_ns", sa.BigInteger, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("target", sa.LargeBinary, nullable=False),
        sa.Column("inode", sa.BigInteger, nullable=False),
        sa.Column("ctime_ns", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("parent", "name", name="nodes_parent_name"),
    )
    op.create_index(
        "nodes_content", "nodes", ["content"], sqlite_where=_LARGE, postgresql_where=_LARGE
    )
    op.create_table(
        "places",
        sa.Column("node", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("start", sa.BigInteger, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("chunk", sa.LargeBinary, nullable=False),
        sa.Column("chunk_prefix", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("places_chunk_prefix", "places", ["chunk_prefix"])
    op.create_table(
        "attic",
        sa.Column("node", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("removed_ns", sa.BigInteger, nullable=False),
        sa.Column("path", sa.LargeBinary, nullable=False),
    )
    op.create_index("attic_removed", "attic", ["removed_ns"])
    op.create_table(
        "intents",
        sa.Column("number", _ID, primary_key=True),
        sa.Column("steps", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("folder", sa.String, primary_key=True),
        sa.Column("session", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "counters",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
