"""Whatever a side finds in its own files, it ends with a line or goes on; nothing is lost."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.fixtures import pair as pair
from tests.e2e.harness import Pair
from tests.hostile import stored

pytestmark = pytest.mark.process

SEED = 1
CASES = 6


def test_spoilt_files(tmp_path: Path) -> None:
    """The seed and the number of cases do it again."""
    counts, failures = stored.spoil(SEED, 60.0, tmp_path / "work", CASES)
    print(f"seed {SEED}:", dict(counts))
    assert not failures, f"{failures[0].replay}\n{failures[0].told}"


def unknown_version(index: sqlite3.Connection) -> None:
    index.execute("UPDATE alembic_version SET version_num = '0000'")


def version_without_sense(index: sqlite3.Connection) -> None:
    index.execute("UPDATE alembic_version SET version_num = ''")


def version_below_all(index: sqlite3.Connection) -> None:
    index.execute("UPDATE alembic_version SET version_num = -9223372036854775808")


def steps_of_another_type(index: sqlite3.Connection) -> None:
    index.execute("INSERT INTO intents (number, steps) VALUES (999, 5)")


def stranger_in_the_attic(index: sqlite3.Connection) -> None:
    index.execute("INSERT INTO attic (node, removed_ns, path) VALUES (100000, 0, x'61')")


def orphan(index: sqlite3.Connection) -> None:
    index.execute("UPDATE nodes SET parent = 100000 WHERE id > 3 AND kind = 1")


def taken_number(index: sqlite3.Connection) -> None:
    index.execute("UPDATE counters SET value = 4")


@pytest.mark.parametrize(
    "spoil",
    [
        unknown_version,
        version_without_sense,
        version_below_all,
        steps_of_another_type,
        stranger_in_the_attic,
        orphan,
        taken_number,
    ],
)
def test_an_index_that_says_what_cannot_be(
    pair: Pair, spoil: Callable[[sqlite3.Connection], None]
) -> None:
    """Its pages are whole, so it opens; it is set aside, and made anew from the files."""
    (pair.source / "file").write_bytes(b"file")
    pair.start_server()
    pair.sync()
    pair.server.terminate()
    own = pair.dest / ".twinfold"
    with closing(sqlite3.connect(own / "index.sqlite")) as index, index:
        spoil(index)
    pair.restart_server()
    (pair.source / "other").write_bytes(b"other")
    pair.sync()
    assert list(own.glob("damaged-*.sqlite"))


def test_something_else_in_the_place_of_the_reserve(pair: Pair) -> None:
    """It says nothing of the room: content comes in, and what was replaced is kept."""
    (pair.source / "file").write_bytes(b"old")
    pair.start_server()
    pair.sync()
    pair.server.terminate()
    ballast = pair.dest / ".twinfold" / "ballast"
    ballast.unlink()
    ballast.mkdir()
    pair.restart_server()
    (pair.source / "file").write_bytes(b"new")
    pair.sync()
    (pair.source / "other").write_bytes(b"other")
    pair.sync()
    assert pair.has_in_attic(b"old")


def test_a_state_that_says_what_cannot_be(pair: Pair) -> None:
    """It is set aside, and the server takes the new client for the one that it knows."""
    (pair.source / "file").write_bytes(b"file")
    pair.start_server()
    pair.sync()
    (path,) = pair.client_state.rglob("state.sqlite")
    with closing(sqlite3.connect(path)) as state, state:
        state.execute("UPDATE nodes SET content = 'text' WHERE name = CAST('file' AS BLOB)")
    (pair.source / "other").write_bytes(b"other")
    pair.sync()
    pair.assert_equal()
    assert list(path.parent.glob("*.damaged-*"))


def misplace(path: Path, name: bytes, into: bytes) -> None:
    """Put a node into another one, where the database looks it up and not where it is kept."""
    with closing(sqlite3.connect(path)) as database:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_nodes_1'"
        (page,) = database.execute(query).fetchone()
        (page_size_bytes,) = database.execute("PRAGMA page_size").fetchone()
        (above,) = database.execute("SELECT id FROM nodes WHERE name = ?", (into,)).fetchone()
    data = bytearray(path.read_bytes())
    start = (page - 1) * page_size_bytes
    # The number of the parent, one byte, stands before the name.
    data[data.index(name, start, start + page_size_bytes) - 1] = above
    path.write_bytes(data)


def fill_a_folder(pair: Pair) -> Path:
    """Bring a folder of files into sync, beside another one; return the folder."""
    folder = pair.source / "folder"
    for path in (folder, pair.source / "twin"):
        path.mkdir()
    for name in ("first", "second", "third"):
        (folder / name).write_bytes(name.encode())
    pair.start_server()
    pair.sync()
    return folder


def test_a_state_whose_look_up_is_wrong(pair: Pair) -> None:
    """What could not be found in it would stay at the server for ever."""
    folder = fill_a_folder(pair)
    (path,) = pair.client_state.rglob("state.sqlite")
    misplace(path, b"second", b"")
    (folder / "third").unlink()
    pair.sync()
    pair.assert_equal()
    assert list(path.parent.glob("*.damaged-*"))


def test_an_index_whose_look_up_is_wrong(pair: Pair) -> None:
    """It is set aside before anything is asked of it, and made anew from the files."""
    folder = fill_a_folder(pair)
    pair.server.terminate()
    own = pair.dest / ".twinfold"
    misplace(own / "index.sqlite", b"third", b"third")
    pair.restart_server()
    assert list(own.glob("damaged-*.sqlite"))
    (folder / "third").write_bytes(b"another")
    pair.sync()
    pair.assert_equal()


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xd9",
        b"",
        b"{}",
        b'{"format":1,"id":"zz","token":"t"}',
        b'{"format":1,"id":"","token":" "}',
    ],
)
def test_an_identity_that_cannot_be_read(pair: Pair, text: bytes) -> None:
    """One line says which file it is and what to do."""
    pair.start_server()
    pair.server.terminate()
    (pair.dest / ".twinfold" / "server.json").write_bytes(text)
    with pytest.raises(AssertionError):
        pair.restart_server()
    assert pair.server.wait_exit() == 1
    (line,) = pair.server.errors.splitlines()
    assert "server.json" in line
    assert "--adopt" in line


def test_a_state_that_says_another_thing_than_the_server(pair: Pair) -> None:
    """The server refuses what follows from it; the client compares, and sends no content again."""
    (pair.source / "directory").mkdir()
    (pair.source / "directory" / "file").write_bytes(os.urandom(100_000))
    pair.start_server()
    pair.sync()
    (path,) = pair.client_state.rglob("state.sqlite")
    with closing(sqlite3.connect(path)) as state, state:
        state.execute("UPDATE nodes SET name = x'6f74686572' WHERE name = x'6469726563746f7279'")
    done = pair.sync()
    assert done["sent_bytes"] < 50_000


def test_an_index_that_lost_where_chunks_lie(pair: Pair) -> None:
    """What a difference builds on is not known any more: all of the manifest is sent."""
    content = os.urandom(8_000_000)
    (pair.source / "file").write_bytes(content)
    pair.start_server()
    pair.sync()
    pair.server.terminate()
    with closing(sqlite3.connect(pair.dest / ".twinfold" / "index.sqlite")) as index, index:
        index.execute("DELETE FROM places")
    pair.restart_server()
    (pair.source / "file").write_bytes(content[:4_000_000] + b"more" + content[4_000_000:])
    pair.sync()


def places_of_later_files(index: sqlite3.Connection) -> None:
    """Take what the next files need; the index has to be unique there."""
    (free,) = index.execute("SELECT value FROM counters").fetchone()
    rows = [(node, 0, 0, 1, b"?" * 32, 1) for node in range(free, free + 100)]
    index.executemany("INSERT INTO places VALUES (?, ?, ?, ?, ?, ?)", rows)


def test_an_index_whose_damage_shows_in_a_commit(pair: Pair) -> None:
    """The running server makes it anew from the files, and the live client goes on."""
    (pair.source / "file").write_bytes(os.urandom(100_000))
    pair.start_server()
    pair.start_client().expect("in_sync")
    pair.server.terminate()
    own = pair.dest / ".twinfold"
    with closing(sqlite3.connect(own / "index.sqlite")) as index, index:
        places_of_later_files(index)
    pair.restart_server()
    for number in range(3):
        (pair.source / f"other {number}").write_bytes(os.urandom(200_000))
    pair.settle()
    pair.assert_equal()
    assert list(own.glob("damaged-*.sqlite"))
    assert pair.server.alive


@pytest.mark.parametrize("once", [False, True])
def test_a_state_whose_damage_shows_later(pair: Pair, once: bool) -> None:
    """The client sets it aside and compares; no content is sent again."""
    (pair.source / "file").write_bytes(os.urandom(1_000_000))
    pair.start_server()
    pair.sync()
    (path,) = pair.client_state.rglob("state.sqlite")
    with closing(sqlite3.connect(path)) as state:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'known_chunks'"
        (page,) = state.execute(query).fetchone()
        (page_size_bytes,) = state.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * page_size_bytes)
        file.write(b"\xff" * page_size_bytes)
    (pair.source / "other").write_bytes(b"other")
    if once:
        assert pair.sync()["sent_bytes"] < 100_000
    else:
        pair.start_client().expect("in_sync")
        pair.settle()
    pair.assert_equal()
    assert list(path.parent.glob("*.damaged-*"))
