"""The index's hot statements, compiled once."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, Executable, bindparam, delete, insert, select, text, update

from twinfold.storage import tables

PREFIXES_A_QUERY = 256
PLACES_A_QUERY = 32


class Statements:
    """The hot statements as the driver takes them: SQL text with positional parameters."""

    def __init__(self, engine: Engine) -> None:
        nodes, places = tables.nodes, tables.places
        self._engine = engine
        self.child = self._compile(
            select(nodes).where(
                nodes.c.parent == bindparam("parent"), nodes.c.name == bindparam("name")
            )
        )
        self.children_between = self._compile(
            select(nodes)
            .where(
                nodes.c.parent == bindparam("parent"),
                nodes.c.name >= bindparam("first"),
                nodes.c.name <= bindparam("last"),
            )
            .order_by(nodes.c.name)
        )
        self.node = self._compile(select(nodes).where(nodes.c.id == bindparam("id")))
        self.children = self._compile(
            select(nodes).where(nodes.c.parent == bindparam("parent")).order_by(nodes.c.name)
        )
        self.insert_node = self._compile(insert(nodes))
        self.delete_node = self._compile(delete(nodes).where(nodes.c.id == bindparam("old")))
        self.insert_place = self._compile(insert(places))
        self.insert_attic = self._compile(insert(tables.attic))
        self.insert_intent = self._compile(insert(tables.intents).values(steps=bindparam("steps")))
        self.clear_intents = self._compile(delete(tables.intents))
        self.insert_session = self._compile(insert(tables.sessions))
        self.set_session = self._compile(
            update(tables.sessions)
            .where(tables.sessions.c.folder == bindparam("old"))
            .values(session=bindparam("session"))
        )
        self.set_counter = self._compile(
            update(tables.counters)
            .where(tables.counters.c.name == bindparam("old"))
            .values(value=bindparam("value"))
        )
        self.cut_places = self._compile(
            delete(places).where(
                places.c.node == bindparam("old"), places.c.position >= bindparam("first")
            )
        )
        self.manifest = self._compile(
            select(places.c.chunk, places.c.size)
            .where(
                places.c.node == bindparam("node"),
                places.c.position >= bindparam("first"),
                places.c.position < bindparam("end"),
            )
            .order_by(places.c.position)
        )
        self.set_identity = self._compile(
            update(nodes)
            .where(nodes.c.id == bindparam("old"))
            .values(inode=bindparam("new_inode"), ctime_ns=bindparam("new_ctime_ns"))
        )
        self.places = self._compile(
            select(places.c.node, places.c.start, places.c.size, places.c.chunk).where(
                places.c.chunk_prefix == bindparam("prefix")
            )
        )
        numbered: list[Any] = [bindparam(f"prefix_{number}") for number in range(PREFIXES_A_QUERY)]
        self.known = self._compile(
            select(places.c.chunk).where(places.c.chunk_prefix.in_(numbered))
        )
        columns_of_place = places.c.chunk, places.c.node, places.c.start, places.c.size
        self.some_places = self._compile(
            select(*columns_of_place, nodes.c.parent, nodes.c.name)
            .join(nodes, nodes.c.id == places.c.node)
            .where(places.c.chunk_prefix.in_(numbered[:PLACES_A_QUERY]))
        )
        self.parent = self._compile(
            select(nodes.c.parent, nodes.c.name).where(nodes.c.id == bindparam("id"))
        )
        columns = nodes.c.id, nodes.c.name, nodes.c.parent
        first = select(*columns).where(nodes.c.id == bindparam("id")).cte("above", recursive=True)
        above = first.union_all(select(*columns).join(first, nodes.c.id == first.c.parent))
        self.above = self._compile(select(above.c.id, above.c.name))
        """A node and the directories above it, upwards."""
        self.find_content = self._compile(
            select(nodes.c.id).where(
                nodes.c.content == bindparam("content"), nodes.c.size > text("98304")
            )
        )

    def _compile(self, statement: Executable) -> str:
        compiled = statement.compile(dialect=self._engine.dialect)  # type: ignore[attr-defined]
        return str(compiled)
