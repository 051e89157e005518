"""The file that holds the client's state: its format, how it is made, opened and set aside."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from twinfold.client.effects import Node
from twinfold.client.rows import INSERT_NODE
from twinfold.client.soundness import check_soundness
from twinfold.client.state import ROOT_NODE, State
from twinfold.errors import FormatError, StateError
from twinfold.model import Kind

FORMAT_VERSION = 2

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE nodes (
    id INTEGER PRIMARY KEY, parent INTEGER NOT NULL, name BLOB NOT NULL,
    kind INTEGER NOT NULL, mode INTEGER NOT NULL, size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
    dev INTEGER NOT NULL, inode INTEGER NOT NULL,
    content BLOB NOT NULL, target BLOB NOT NULL, manifest INTEGER NOT NULL,
    UNIQUE (parent, name)
);
CREATE INDEX nodes_inode ON nodes (inode);
CREATE TABLE segments (
    manifest INTEGER NOT NULL, segment INTEGER NOT NULL, first INTEGER NOT NULL,
    chunk_ids BLOB NOT NULL, PRIMARY KEY (manifest, segment)
) WITHOUT ROWID;
CREATE INDEX segments_first ON segments (first) WHERE segment = 0;
CREATE INDEX nodes_manifest ON nodes (manifest) WHERE manifest > 0;
CREATE TABLE known_chunks (id8 INTEGER PRIMARY KEY);
"""

_SINCE_2 = """
CREATE TABLE sub_blocks (id INTEGER PRIMARY KEY, id8 INTEGER NOT NULL UNIQUE, rows BLOB NOT NULL);
"""


def open_state(path: Path, source: bytes, *, renew: bool = False) -> State:
    """Open the state at ``path``, making a new one where there is none.

    With ``renew`` set, one that is there counts as damaged.

    A file that is damaged, or says what cannot be, is renamed and kept; the new state is filled
    by a comparison with the server.

    Raises:
        FormatError: a newer version of the program wrote it.
        StateError: it cannot be opened or made.
    """
    if renew and path.exists():
        _set_aside(path)
    try:
        return _open(path, source)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        # SQLITE_ERROR tells of tables that are not what they were; the others may pass.
        if isinstance(error, sqlite3.OperationalError) and (
            error.sqlite_errorcode != sqlite3.SQLITE_ERROR
        ):
            raise StateError(f"cannot open the client's state {path}: {error}") from error
        _set_aside(path)
        return _open(path, source)


def _set_aside(path: Path) -> None:
    aside = path.with_name(f"{path.name}.damaged-{os.getpid()}")
    path.replace(aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def copy_state(path: Path, copy: Path) -> None:
    """Write what the state at ``path`` holds now to ``copy``, changing nothing.

    Raises:
        StateError: it cannot be read.
    """
    try:
        with (
            closing(_read_only(path)) as kept,
            closing(sqlite3.connect(copy)) as written,
        ):
            kept.backup(written)
    except sqlite3.Error as error:
        raise StateError(f"cannot read the client's state {path}: {error}") from error


def kept_texts(path: Path, keys: Sequence[str]) -> dict[str, str]:
    """Return texts that the state at ``path`` keeps, if there is one; changes nothing.

    Raises:
        StateError: it cannot be read.
    """
    if not path.exists():
        return {}
    try:
        with closing(_read_only(path)) as kept:
            rows = kept.execute("SELECT key, value FROM meta").fetchall()
    except sqlite3.Error as error:
        raise StateError(f"cannot read the client's state {path}: {error}") from error
    texts = {key: value for key, value in rows if key in keys}
    if not all(isinstance(value, str) for value in texts.values()):
        raise StateError(
            f"the client's state {path} is damaged; twinfold client, started once, makes it anew"
        )
    return texts


def _open(path: Path, source: bytes) -> State:
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        os.chmod(path, 0o600)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA cache_size = -8000")
        database.execute("PRAGMA wal_autocheckpoint = 8000")
        version = _check_format(database, path)
        if version < FORMAT_VERSION:
            _bring_up(database, version, source)
        check_soundness(database)
        return State(database, _read_only(path))
    except BaseException:
        database.close()
        raise


def _read_only(path: Path) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=ro"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)


def _check_format(database: sqlite3.Connection, path: Path) -> int:
    version = int(database.execute("PRAGMA user_version").fetchone()[0])
    if version > FORMAT_VERSION:
        raise FormatError(
            f"the client's state {path} has format {version}, this program knows"
            f" {FORMAT_VERSION}; use the newer twinfold"
        )
    return version


def _bring_up(database: sqlite3.Connection, version: int, source: bytes) -> None:
    """Make a new state, or one of an earlier format, one of this format."""
    database.execute("BEGIN IMMEDIATE")
    if version == 0:
        _create(database, source)
    database.execute(_SINCE_2)
    database.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
    database.execute("COMMIT")


def _create(database: sqlite3.Connection, source: bytes) -> None:
    for statement in _SCHEMA.split(";"):
        database.execute(statement)
    meta = {"client_id": os.urandom(16), "source": source, "revision": -1}
    database.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
    root = Node(ROOT_NODE, 0, b"", int(Kind.DIRECTORY), -1, 0, 0, 0, 0, 0)
    database.execute(INSERT_NODE, msgspec.structs.astuple(root))
