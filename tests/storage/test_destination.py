"""Taking hold of a destination: by one at a time, and only of what can be understood."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import os
import resource
import sqlite3
from pathlib import Path

import pytest

from twinfold.core.session import commit_batches
from twinfold.errors import DestinationError, LockedError
from twinfold.storage.destination import Destination, open_destination
from twinfold.system.locks import FolderLock


def open_at(path: Path) -> Destination:
    return open_destination(os.fsencode(path), adopt=False)


def test_one_has_it_at_a_time(tmp_path: Path) -> None:
    """Who comes second learns the first one's process; when that lets go, the next may."""
    first = open_at(tmp_path)
    with pytest.raises(LockedError, match=str(os.getpid())):
        open_at(tmp_path)
    first.close()
    open_at(tmp_path).close()


def test_a_folder_that_is_made_survives_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each folder that gets a new one is synced."""
    synced: list[int] = []

    def sync(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        os.fsync(fd)

    monkeypatch.setattr("twinfold.storage.destination.sync_file", sync)
    open_at(tmp_path / "a" / "b" / "c").close()
    made_in = [tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "c"]
    assert {folder.stat().st_ino for folder in made_in} <= set(synced)


def test_a_lock_needs_no_room(tmp_path: Path) -> None:
    """Who comes second is kept away, even if it cannot be said by whom."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with FolderLock(tmp_path / "lock", "it"), pytest.raises(LockedError, match="unknown"):
            FolderLock(tmp_path / "lock", "it").acquire()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": 1}', b"\xff\xfe"])
def test_an_identity_that_cannot_be_read_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    """A new one would have a new token, and shut every client out; put back, all goes on."""
    first = open_at(tmp_path)
    identity = first.identity
    first.close()
    file = tmp_path / ".twinfold" / "server.json"
    before = file.read_bytes()
    file.write_bytes(content)
    with pytest.raises(DestinationError, match=r"server\.json"):
        open_at(tmp_path)
    assert file.read_bytes() == content
    file.write_bytes(before)
    again = open_at(tmp_path)
    assert again.identity == identity
    again.close()


def test_an_index_that_something_else_reads_is_left_alone(tmp_path: Path) -> None:
    """Its log could not be written into it; the one line says what to do, and it is not damaged."""
    first = open_at(tmp_path)
    index = tmp_path / ".twinfold" / "index.sqlite"
    reader = sqlite3.connect(index, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM nodes").fetchone()[0] > 0
    with first.index.transaction() as work:
        work.save_session(commit_batches(first.index.session(), 1))
    first.close()
    with pytest.raises(DestinationError, match="in use by something else"):
        open_at(tmp_path)
    reader.close()
    open_at(tmp_path).close()
    assert not list(index.parent.glob("damaged-*"))


@pytest.mark.parametrize("part", ["staging", "attic", "."])
def test_a_part_of_it_that_was_swapped_is_noticed(tmp_path: Path, part: str) -> None:
    """Nothing may be written into a folder that is not the one that was opened."""
    path = tmp_path / "destination"
    opened = open_at(path)
    opened.check_place()
    folder = path / ".twinfold" / part
    folder.rename(tmp_path / "aside")
    folder.mkdir()
    with pytest.raises(DestinationError, match="moved, removed or replaced"):
        opened.check_place()
    opened.close()
