"""The index file: its tables, and what becomes of one that cannot be used."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from tests.server.rig import Rig, put
from twinfold.core.chunking import chunk_id
from twinfold.errors import DestinationError, FormatError
from twinfold.model import Chunk, Kind
from twinfold.storage import tables
from twinfold.storage.index import DamagedIndexError, SqlIndex, open_index
from twinfold.storage.interface import ATTIC, STAGING, TREE, Location, Node


def file_node(node_id: int, parent: int, name: bytes, size: int = 1) -> Node:
    return Node(node_id, parent, name, Kind.FILE, 0o644, 1, size, b"c" * 32, b"", 7, 8)


def test_the_migrations_make_the_tables(tmp_path: Path) -> None:
    """A migrated database differs in nothing from what the code believes."""
    open_index(tmp_path / "index.sqlite").close()
    engine = create_engine(f"sqlite:///{tmp_path / 'index.sqlite'}")
    with engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), tables.metadata)
    engine.dispose()
    assert found == []


def test_an_index_of_a_newer_program_is_left_alone(tmp_path: Path) -> None:
    """The server says what to do, and changes nothing."""
    with Rig(tmp_path) as rig:
        rig.apply([put(b"f", b"1")], [b"1"])
    with sqlite3.connect(tmp_path / ".twinfold" / "index.sqlite") as index:
        index.execute("UPDATE alembic_version SET version_num = '9999'")
    index.close()
    with pytest.raises(FormatError, match="newer"):
        Rig(tmp_path)
    assert (tmp_path / "f").read_bytes() == b"1"
    with sqlite3.connect(tmp_path / ".twinfold" / "index.sqlite") as index:
        assert index.execute("SELECT count(*) FROM nodes").fetchone()[0] > 3
    index.close()


@pytest.mark.parametrize(
    "content", [b"not a database at all", b"SQLite format 3\0" + b"\xff" * 5_000]
)
def test_a_damaged_index_is_recognised(tmp_path: Path, content: bytes) -> None:
    """It is told apart from one that is merely of another format."""
    (tmp_path / "index.sqlite").write_bytes(content)
    with pytest.raises(DamagedIndexError):
        open_index(tmp_path / "index.sqlite")


def save_all(index: SqlIndex, nodes: list[Node], error: Exception | None = None) -> None:
    with index.transaction() as work:
        for node in nodes:
            work.save(node, moved=True)
            work.add_places(node.id, 0, 0, [Chunk(chunk_id(b"1"), 1)])
        work.add_intents([])
        if error is not None:
            raise error


def new_ids(index: SqlIndex, count: int) -> list[int]:
    with index.transaction() as work:
        return [work.new_id() for _ in range(count)]


_VALUES = [
    (table.name, column.name, value)
    for table in tables.metadata.sorted_tables
    for column in table.columns
    for value in ("'text'", "1.5", "x'00ff'", "-1")
]
_KEYS = {("counters", "name"), ("sessions", "folder")}
"""Nothing is looked up by these."""

_HARMLESS = {
    ("nodes", "mtime_ns", "-1"),
    ("nodes", "inode", "-1"),
    ("nodes", "ctime_ns", "-1"),
    ("nodes", "target", "x'00ff'"),
    ("attic", "removed_ns", "-1"),
    ("attic", "path", "x'00ff'"),
    ("places", "chunk_prefix", "-1"),
    ("places", "node", "-1"),
    ("intents", "number", "-1"),
}
"""Values that can be, or that are found nowhere."""


@pytest.fixture(scope="module")
def filled_index(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An index with a row in each table."""
    base = tmp_path_factory.mktemp("filled")
    with Rig(base) as rig:
        rig.apply([put(b"f", b"1" * 1_000)], [b"1" * 1_000])
        rig.apply([put(b"f", b"2")], [b"2"])
    path = base / ".twinfold" / "index.sqlite"
    with closing(sqlite3.connect(path)) as index, index:
        index.execute("DELETE FROM intents")
        index.execute("INSERT INTO intents VALUES (1, x'90')")
    return path.read_bytes()


@pytest.mark.parametrize(("table", "column", "value"), _VALUES)
def test_a_value_that_cannot_be_is_recognised(
    tmp_path: Path, filled_index: bytes, table: str, column: str, value: str
) -> None:
    """Whatever value is wrong, it is not met in the middle of a commit."""
    path = tmp_path / "index.sqlite"
    path.write_bytes(filled_index)
    open_index(path).close()
    with closing(sqlite3.connect(path)) as index, index:
        chosen = f"(SELECT {column} FROM {table} ORDER BY {column} DESC LIMIT 1)"
        before = index.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        assert before, "there is nothing to spoil"
        try:
            index.execute(f"UPDATE {table} SET {column} = {value} WHERE {column} = {chosen}")
        except sqlite3.IntegrityError:
            return
    is_harmless = (table, column) in _KEYS or (table, column, value) in _HARMLESS
    if is_harmless:
        open_index(path).close()
        return
    with pytest.raises(DamagedIndexError):
        open_index(path)


def test_tables_without_their_roots_get_them(tmp_path: Path) -> None:
    """The disk may fail between the two, the first time that an index is made."""
    open_index(tmp_path / "index.sqlite").close()
    with sqlite3.connect(tmp_path / "index.sqlite") as made:
        for table in ("nodes", "counters", "sessions"):
            made.execute(f"DELETE FROM {table}")
    made.close()
    index = open_index(tmp_path / "index.sqlite")
    assert not index.is_surveyed
    with index.transaction() as work:
        work.save(file_node(work.new_id(), TREE, b"f"), moved=True)
    assert index.count_entries() == 1
    index.close()


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """Nodes, places, intents and the session are written together or not at all."""
    index = open_index(tmp_path / "index.sqlite")
    session = index.session()
    [node] = new_ids(index, 1)
    with pytest.raises(KeyError):
        save_all(index, [file_node(node, TREE, b"f")], KeyError())
    assert index.count_entries() == 0
    assert index.known_chunks([chunk_id(b"1")]) == set()
    assert index.intents() == []
    assert index.session() == session
    index.close()


def test_two_nodes_of_one_name_are_refused(tmp_path: Path) -> None:
    """A name in a directory stands for one node; the error is one for people."""
    index = open_index(tmp_path / "index.sqlite")
    one, two = new_ids(index, 2)
    with pytest.raises(DestinationError):
        save_all(index, [file_node(one, TREE, b"f"), file_node(two, TREE, b"f")])
    assert index.count_entries() == 0
    index.close()


def test_names_change_hands_in_one_transaction(tmp_path: Path) -> None:
    """Two nodes can swap their names."""
    index = open_index(tmp_path / "index.sqlite")
    one, two = new_ids(index, 2)
    save_all(index, [file_node(one, TREE, b"a"), file_node(two, TREE, b"b")])
    with index.transaction() as work:
        assert work.child(TREE, b"a") == file_node(one, TREE, b"a")
        assert work.child(TREE, b"b") == file_node(two, TREE, b"b")
        work.save(file_node(one, STAGING, b"x"), moved=True)
        work.save(file_node(two, TREE, b"a"), moved=True)
        work.save(file_node(one, TREE, b"b"), moved=True)
        assert work.child(TREE, b"a") == file_node(two, TREE, b"a")
    assert index.location(one) == Location(TREE, b"b")
    assert index.locate(two) == (TREE, [b"a"])
    assert index.find_upload(b"x") is None
    index.close()


def test_names_looked_up_together_are_found_as_one_by_one(tmp_path: Path) -> None:
    """Of any number, with those that are not there, and with what the transaction did before."""
    index = open_index(tmp_path / "index.sqlite")
    ids = new_ids(index, 150)
    names = [b"%d" % number for number in range(len(ids))]
    nodes = [file_node(node, TREE, name) for node, name in zip(ids, names, strict=True)]
    save_all(index, nodes)
    with index.transaction() as work:
        work.save(file_node(ids[0], STAGING, b"x"), moved=True)
        work.save(file_node(ids[1], TREE, names[0]), moved=True)
        work.look_up(TREE, [*names, b"none"])
        found = [work.child(TREE, name) for name in [*names, b"none"]]
        assert found == [file_node(ids[1], TREE, names[0]), None, *nodes[2:], None]
        work.save(file_node(ids[2], TREE, b"none"), moved=True)
        assert work.child(TREE, names[2]) is None
        assert work.child(TREE, b"none") == file_node(ids[2], TREE, b"none")
    assert index.child(TREE, names[2]) is None
    with index.transaction() as work:
        some = [names[3], b"30", b"31.", names[-1], b"~"]
        work.look_up(TREE, some)
        found = [work.child(TREE, name) for name in some]
        assert found == [nodes[3], nodes[30], None, nodes[-1], None]
    index.close()


def test_a_node_is_located_from_its_root_down(tmp_path: Path) -> None:
    """However deep it is; a root lies in itself, and what hangs in the air nowhere."""
    index = open_index(tmp_path / "index.sqlite")
    nodes = new_ids(index, 300)
    names = [b"%d" % number for number in range(len(nodes))]
    above = [ATTIC, *nodes]
    chain = zip(nodes, above, names, strict=False)
    save_all(
        index, [Node(n, p, name, Kind.DIRECTORY, 0, 0, 0, b"", b"", 0, 0) for n, p, name in chain]
    )
    save_all(index, [file_node(900, 899, b"f")])
    assert index.locate(nodes[-1]) == (ATTIC, names)
    assert index.locate(TREE) == (TREE, [])
    assert index.locate(900) is None
    index.close()


def test_what_is_forgotten_takes_along_what_is_below(tmp_path: Path) -> None:
    """Nodes, chunk places and attic records; ids are never given twice."""
    index = open_index(tmp_path / "index.sqlite")
    directory = Node(20, ATTIC, b"20", Kind.DIRECTORY, 0o755, 1, 0, b"", b"", 5, 6)
    with index.transaction() as work:
        first = work.new_id()
        work.save(directory, moved=True)
        work.add_to_attic(20, b"d", 5)
        work.save(file_node(21, 20, b"f"), moved=True)
        work.add_places(21, 0, 0, [Chunk(chunk_id(b"1"), 1), Chunk(chunk_id(b"2"), 1)])
    assert index.manifest(21, 0, 9) == [Chunk(chunk_id(b"1"), 1), Chunk(chunk_id(b"2"), 1)]
    assert index.attic(6) == [(20, b"20")]
    assert index.attic(5) == []
    with index.transaction() as work:
        work.forget(20)
    assert index.attic(None) == []
    assert index.locate(21) is None
    assert index.places(chunk_id(b"1")) == []
    index.close()
    index = open_index(tmp_path / "index.sqlite")
    with index.transaction() as work:
        assert work.new_id() > first
    index.close()


def test_what_a_start_finds_committed_is_in_the_database_itself(tmp_path: Path) -> None:
    """The log may be there to be read and yet not on the disk: a sync of it may have failed."""
    before = open_index(tmp_path / "index.sqlite")
    with before.transaction() as work:
        work.save(file_node(work.new_id(), TREE, b"f"), moved=True)
    killed = tmp_path / "killed"
    killed.mkdir()
    for name in ("index.sqlite", "index.sqlite-wal"):
        (killed / name).write_bytes((tmp_path / name).read_bytes())
    before.close()
    assert (killed / "index.sqlite-wal").stat().st_size > 0

    index = open_index(killed / "index.sqlite")
    assert (killed / "index.sqlite-wal").stat().st_size == 0
    with sqlite3.connect(f"file:{killed / 'index.sqlite'}?immutable=1", uri=True) as alone:
        assert alone.execute("SELECT name FROM nodes WHERE name = ?", (b"f",)).fetchall()
    alone.close()
    index.close()
