"""The index in a SQL database: SQLite through SQLAlchemy Core.

Statements are written in Core and compiled once; the hot ones then run on the driver's own
cursor, which is several times faster than executing Core constructs one by one. One
connection writes; readers have their own.
"""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from sqlalchemy import (
    Connection,
    Engine,
    bindparam,
    create_engine,
    event,
    func,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import DatabaseError

from twinfold.core import session as rules
from twinfold.core.paths import join
from twinfold.core.session import FolderSession
from twinfold.errors import DestinationError, DestinationFullError, FormatError
from twinfold.model import Chunk, Entry, Kind
from twinfold.storage import tables
from twinfold.storage.interface import (
    ATTIC,
    FIRST_FREE_NODE,
    STAGING,
    TREE,
    DoubtfulIndexError,
    Location,
    Node,
    Place,
    Step,
)
from twinfold.storage.soundness import unsound
from twinfold.storage.statements import PLACES_A_QUERY, PREFIXES_A_QUERY, Statements
from twinfold.storage.transaction import SESSION_FOLDER, SqlTransaction, chunk_prefix, node_of
from twinfold.system.sqlite_errors import DISK_ERRORS, code_of, driver_error, tells_of_damage

REVISIONS = ("0001",)
HEAD_REVISION = REVISIONS[-1]
_REVISION = re.compile(r"[0-9]{4}\w*")
_MOST_PLACES = 16
_ENTRIES_A_GROUP = 1_000

_decode_steps = msgspec.msgpack.Decoder(list[Step]).decode


class DamagedIndexError(DestinationError):
    """The index is not as it was written; it can be made anew from the files."""


def open_index(path: Path) -> SqlIndex:
    """Open the index at ``path``, made or migrated where that is due.

    Raises:
        FormatError: a newer version of the program wrote it.
        DamagedIndexError: it is damaged.
    """
    engine = create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_immediate)
    try:
        _migrate(engine, path)
        _check_pages(engine, path)
        _empty_log(engine, path)
        return SqlIndex(engine)
    except DestinationError:
        engine.dispose()
        raise
    except (DatabaseError, sqlite3.DatabaseError, UnicodeDecodeError) as error:
        engine.dispose()
        if code_of(error) == sqlite3.SQLITE_FULL:
            raise DestinationFullError(f"no room for the index {path}; free some there") from error
        if code_of(error) & 0xFF in DISK_ERRORS:
            raise DestinationError(
                f"the index {path} cannot be used: {driver_error(error)}"
            ) from error
        raise DamagedIndexError(f"the index {path} is damaged: {driver_error(error)}") from error


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "cache_size=-16000",
        "temp_store=MEMORY",
        "wal_autocheckpoint=4000",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _migrate(engine: Engine, path: Path) -> None:
    with engine.begin() as connection:
        found = None
        if inspect(connection).has_table("alembic_version"):
            found = connection.scalar(text("SELECT version_num FROM alembic_version"))
        if found is not None and found not in REVISIONS:
            if _REVISION.fullmatch(str(found)) and str(found) > HEAD_REVISION:
                raise FormatError(
                    f"{path.parent.parent} was written by a newer twinfold (index format {found}); "
                    "update this server"
                )
            raise DamagedIndexError(f"the index {path} is of no version that there was")
        if found != HEAD_REVISION:
            _run_migrations(connection)
        # An error in between may have left the tables without them.
        _add_roots(connection)


def _check_pages(engine: Engine, path: Path) -> None:
    """Read all of the index once, so that damage in its middle is not met later.

    Raises:
        DamagedIndexError: it cannot be as it is.
    """
    with engine.connect() as connection:
        found = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar()
        if found == "ok":
            found = unsound(connection) or "ok"
    if found != "ok":
        raise DamagedIndexError(f"the index {path} is damaged: {found}")


def _empty_log(engine: Engine, path: Path) -> None:
    """Write what the log holds to the database, durably.

    The process before may have ended after a sync that failed: then the log can be read, but is not
    on the disk, and what is committed behind it would be lost with it.
    """
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        busy = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if busy:
        raise DestinationError(f"the index {path} is in use by something else; end that first")


def _run_migrations(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise DamagedIndexError(f"the index is of no version that there was: {error}") from error


def _add_roots(connection: Connection) -> None:
    if connection.scalar(select(func.count()).select_from(tables.nodes)):
        return
    blank: dict[str, Any] = {"kind": int(Kind.DIRECTORY), "mode": 0o755, "mtime_ns": 0, "size": 0}
    blank |= {"content": b"", "target": b"", "inode": 0, "ctime_ns": 0, "parent": 0}
    rows = [blank | {"id": root, "name": b"%d" % root} for root in (TREE, STAGING, ATTIC)]
    connection.execute(insert(tables.nodes), rows)
    connection.execute(insert(tables.counters), {"name": "node", "value": FIRST_FREE_NODE})
    session = rules.begin(time.time_ns())
    row = {"folder": SESSION_FOLDER, "session": msgspec.msgpack.encode(session)}
    connection.execute(insert(tables.sessions), row)


def _groups(prefixes: Sequence[int], count: int) -> Iterator[tuple[int, ...]]:
    """Yield the prefixes so many at a time, as a statement takes them: the last one fills up."""
    for start in range(0, len(prefixes), count):
        group = tuple(prefixes[start : start + count])
        yield group + group[-1:] * (count - len(group))


class SqlIndex:
    """`twinfold.storage.interface.Index` over a SQL database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._statements = Statements(engine)
        self._writer = engine.connect()
        self._reader = engine.raw_connection()
        self._reader_lock = threading.Lock()
        self._is_doubtful = False
        self.on_full: Callable[[], object] = lambda: None
        self.on_damage: Callable[[DamagedIndexError], object] = lambda _error: None
        with engine.connect() as connection:
            self._next_id = connection.scalar(select(tables.counters.c.value)) or FIRST_FREE_NODE
            packed = connection.scalar(select(tables.sessions.c.session))
        self._session = (
            msgspec.msgpack.decode(packed, type=FolderSession) if packed else FolderSession()
        )

    @contextmanager
    def transaction(self) -> Iterator[SqlTransaction]:
        """Begin a durable change.

        Raises:
            DestinationFullError: there is no room for it; ``on_full`` was called.
            DamagedIndexError: it is not as it was written; ``on_damage`` was called.
            DoubtfulIndexError: see there.
            DestinationError: the database cannot be written.
        """
        if self._is_doubtful:
            self._end_doubt()
        try:
            with self._writer.begin():
                cursor = self._cursor(self._writer)
                work = SqlTransaction(self._writer, cursor, self._statements, self._next_id)
                yield work
                work.finish()
        except (DatabaseError, sqlite3.DatabaseError) as error:
            self._fail(error)
        self._next_id = work.next_id
        if work.session is not None:
            self._session = work.session

    def _fail(self, error: Exception) -> NoReturn:
        driver: Any = self._writer.connection.driver_connection
        if driver.in_transaction:
            driver.rollback()
        reason = f"the server's index cannot be written: {driver_error(error)}"
        if code_of(error) == sqlite3.SQLITE_FULL:
            self.on_full()
            raise DestinationFullError(f"{reason}; free some room at the destination") from error
        if code_of(error) & 0xFF == sqlite3.SQLITE_IOERR:
            self.on_full()
            self._is_doubtful = True
            raise DoubtfulIndexError(f"{reason}; check the destination's disk") from error
        if tells_of_damage(error):
            raise self._damaged(error) from error
        raise DestinationError(reason) from error

    def _unreadable(self, error: Exception) -> DestinationError:
        if tells_of_damage(error):
            return self._damaged(error)
        return DestinationError(
            f"the server's index cannot be read: {driver_error(error)};"
            " check the destination's disk"
        )

    def _damaged(self, error: Exception) -> DamagedIndexError:
        damaged = DamagedIndexError(f"the server's index is damaged: {driver_error(error)}")
        self.on_damage(damaged)
        return damaged

    def _end_doubt(self) -> None:
        """Bring all that counts as committed out of the log, and the log to nothing.

        What a failed commit has left in it would otherwise be found by the next start, or be
        missing from it below later commits: a sync that failed says nothing when it is repeated.
        """
        try:
            cursor = self._cursor(self._writer)
            busy = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.DatabaseError as error:
            self.on_full()
            raise DestinationError(
                f"the server's index cannot be written: {error}; check the destination's disk"
            ) from error
        if busy:
            raise DestinationError("the server's index is still being read; it goes on afterwards")
        self._is_doubtful = False

    @staticmethod
    def _cursor(connection: Connection) -> Any:
        driver = connection.connection.driver_connection
        assert driver is not None
        return driver.cursor()

    def _read(self, sql: str, parameters: tuple[Any, ...], most: int = -1) -> list[Any]:
        try:
            with self._reader_lock:
                found = self._reader.cursor().execute(sql, parameters)
                rows: list[Any] = found.fetchall() if most < 0 else found.fetchmany(most)
                found.close()
                return rows
        except sqlite3.DatabaseError as error:
            raise self._unreadable(error) from error

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except DatabaseError as error:
            raise self._unreadable(error) from error

    @property
    def is_surveyed(self) -> bool:
        """Tell whether the index was ever brought in line with the files."""
        return bool(self._read(self._statements.node, (TREE,))[0][9])

    def session(self) -> FolderSession:
        """Return the folder's session as last committed."""
        return self._session

    def known_chunks(self, chunk_ids: Collection[bytes]) -> set[bytes]:
        """Return those of the chunks that some file held when it was last looked at."""
        wanted = sorted({chunk_prefix(chunk_id) for chunk_id in chunk_ids})
        found: set[bytes] = set()
        for group in _groups(wanted, PREFIXES_A_QUERY):
            found.update(row[0] for row in self._read(self._statements.known, group))
        return found.intersection(chunk_ids)

    def places(self, chunk_id: bytes) -> list[Place]:
        """Return places that may hold the chunk; its bytes must be verified there."""
        rows = self._read(self._statements.places, (chunk_prefix(chunk_id),), _MOST_PLACES)
        return [Place(row[0], row[1], row[2]) for row in rows if row[3] == chunk_id]

    def some_places(self, chunk_ids: Sequence[bytes]) -> dict[bytes, tuple[Place, Location]]:
        """Return a place of each chunk that `places` may find, and where its file is."""
        found: dict[bytes, tuple[Place, Location]] = {}
        # A chunk that lies everywhere may leave no rows for others: these are looked up singly.
        most = _MOST_PLACES * PLACES_A_QUERY
        for group in _groups(list(map(chunk_prefix, chunk_ids)), PLACES_A_QUERY):
            for row in self._read(self._statements.some_places, group, most):
                found.setdefault(row[0], (Place(*row[1:4]), Location(*row[4:])))
        return found

    def node(self, node_id: int) -> Node | None:
        """Return the node with this id, if there is one."""
        rows = self._read(self._statements.node, (node_id,))
        return node_of(rows[0]) if rows else None

    def child(self, parent: int, name: bytes) -> Node | None:
        """Return the node of that name, if there is one."""
        rows = self._read(self._statements.child, (parent, name))
        return node_of(rows[0]) if rows else None

    def children(self, parent: int) -> list[Node]:
        """Return the nodes in a directory, by name."""
        return [node_of(row) for row in self._read(self._statements.children, (parent,))]

    def location(self, node_id: int) -> Location | None:
        """Return the directory and name of a node, if it is known."""
        rows = self._read(self._statements.parent, (node_id,))
        return Location(*rows[0]) if rows else None

    def neighbours(self, directory: int, found: bytes, inode: int) -> list[bytes]:
        """Return the names in a directory node that are ``found`` or have this inode."""
        nodes = tables.nodes
        is_it = (nodes.c.name == found) | (nodes.c.inode == inode)
        statement = select(nodes.c.name).where(nodes.c.parent == directory, is_it)
        with self._engine.connect() as connection:
            return list(connection.scalars(statement))

    def locate(self, node_id: int) -> tuple[int, list[bytes]] | None:
        """Return (root, names from the root down) of a node, if it is known."""
        rows = self._read(self._statements.above, (node_id,))
        if not rows or rows[-1][0] not in (TREE, STAGING, ATTIC):
            return None
        return rows[-1][0], [name for _, name in rows[-2::-1]]

    def find_content(self, content: bytes) -> int | None:
        """Return a file node with this content id, if one is known."""
        rows = self._read(self._statements.find_content, (content,), 1)
        return rows[0][0] if rows else None

    def find_upload(self, name: bytes) -> Node | None:
        """Return the staged node of an upload, if one is known."""
        return self.child(STAGING, name)

    def manifest(self, node_id: int, position: int, count: int) -> list[Chunk]:
        """Return a stretch of a file's manifest."""
        rows = self._read(self._statements.manifest, (node_id, position, position + count))
        return [Chunk(*row) for row in rows]

    def intents(self) -> list[Step]:
        """Return the steps not yet known to be durable, in order."""
        statement = select(tables.intents).order_by(tables.intents.c.number)
        with self._connected() as connection:
            rows = connection.execute(statement).all()
        return [step for row in rows for step in _decode_steps(row.steps)]

    def entries(self) -> Iterator[list[Entry]]:
        """Yield the tree's entries in groups, parents before children, the root first."""
        group: list[Entry] = []
        with self._connected() as connection:
            for path, node in self._walk(connection):
                facts = node.kind, node.mode, node.mtime_ns, node.size
                group.append(Entry(path, *facts, node.content, node.target))
                if len(group) == _ENTRIES_A_GROUP:
                    yield group
                    group = []
        yield group

    def _walk(self, connection: Connection) -> Iterator[tuple[bytes, Node]]:
        nodes = tables.nodes
        root = connection.execute(select(nodes).where(nodes.c.id == TREE)).one()
        yield b"", node_of(root)
        pending: list[tuple[int, bytes]] = [(TREE, b"")]
        children = select(nodes).where(nodes.c.parent == bindparam("of")).order_by(nodes.c.name)
        while pending:
            parent, path = pending.pop()
            below: list[tuple[int, bytes]] = []
            for row in connection.execute(children, {"of": parent}):
                node = node_of(row)
                below_path = join(path, node.name)
                yield below_path, node
                if node.kind is Kind.DIRECTORY:
                    below.append((node.id, below_path))
            pending += reversed(below)

    def count_entries(self) -> int:
        """Return how many entries the tree has, without its root."""
        nodes = tables.nodes
        tree = select(nodes.c.id).where(nodes.c.parent == TREE).cte("tree", recursive=True)
        tree = tree.union_all(select(nodes.c.id).where(nodes.c.parent == tree.c.id))
        with self._connected() as connection:
            return connection.scalar(select(func.count()).select_from(tree)) or 0

    def attic(
        self, removed_before_ns: int | None, most: int | None = None
    ) -> list[tuple[int, bytes]]:
        """Return (node, name) of what left the tree before then, oldest first."""
        nodes, attic = tables.nodes, tables.attic
        statement = (
            select(nodes.c.id, nodes.c.name)
            .join(attic, attic.c.node == nodes.c.id)
            .order_by(attic.c.removed_ns)
            .limit(most)
        )
        if removed_before_ns is not None:
            statement = statement.where(attic.c.removed_ns < removed_before_ns)
        with self._connected() as connection:
            return [(row.id, row.name) for row in connection.execute(statement)]

    def size_below(self, node_id: int) -> tuple[int, int]:
        """Return (entries, bytes) of a node with all below it."""
        nodes = tables.nodes
        below = select(nodes.c.id, nodes.c.size).where(nodes.c.id == node_id)
        tree = below.cte("below", recursive=True)
        above = tree.c.id
        tree = tree.union_all(select(nodes.c.id, nodes.c.size).where(nodes.c.parent == above))
        with self._connected() as connection:
            found = connection.execute(select(func.count(), func.sum(tree.c.size))).one()
        return found[0], found[1] or 0

    def staged(self, extended_before_ns: int | None = None) -> list[tuple[int, bytes]]:
        """Return (node, name) of the uploads in staging that were last extended before then."""
        nodes = tables.nodes
        statement = select(nodes.c.id, nodes.c.name).where(nodes.c.parent == STAGING)
        if extended_before_ns is not None:
            statement = statement.where(nodes.c.mtime_ns < extended_before_ns)
        with self._connected() as connection:
            return [(row.id, row.name) for row in connection.execute(statement)]

    def close(self) -> None:
        """Let go of the index."""
        self._writer.close()
        self._reader.close()
        self._engine.dispose()
