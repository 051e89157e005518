"""A sync that failed is not believed when it is repeated, neither for files nor for the index."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import event

from tests.server.rig import Rig, chunks_of, extend, put, put_upload
from twinfold.errors import DestinationError
from twinfold.model import Delete
from twinfold.storage.interface import DoubtfulIndexError
from twinfold.storage.staging import Staging

UPLOAD = b"u" * 16


class ForgetfulStaging(Staging):
    """Staging on a disk that fails one sync and forgets what was written before it.

    That is what a kernel does: pages that could not be written count as clean afterwards.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.folder = fd
        self.fails = False

    def flush(self, files: Sequence[bytes], filled: Sequence[bytes], others: int) -> bool:
        if self.fails:
            self.fails = False
            for name in files:
                fd = os.open(name, os.O_WRONLY, dir_fd=self.folder)
                size_bytes = os.fstat(fd).st_size
                os.ftruncate(fd, 0)
                os.ftruncate(fd, size_bytes)
                os.close(fd)
            raise OSError(5, "the disk fails")
        return super().flush(files, filled, others)


def forgetful(rig_path: Path) -> tuple[Rig, ForgetfulStaging]:
    fd = os.open(rig_path / ".twinfold" / "staging", os.O_RDONLY | os.O_DIRECTORY)
    staging = ForgetfulStaging(fd)
    return Rig(rig_path, wrap_staging=lambda _staging: staging), staging


def test_an_upload_begins_anew_after_a_failed_sync(tmp_path: Path) -> None:
    """Also the parts of it that an earlier sync has written."""
    with Rig(tmp_path):
        pass
    rig, staging = forgetful(tmp_path)
    data = os.urandom(120_000)
    with rig:
        rig.apply([extend(UPLOAD, data, 0, 1)], [data[:40_000]])
        staging.fails = True
        batch = rig.stage([extend(UPLOAD, data, 1, 3)], [data[40_000:]])
        with pytest.raises(OSError, match="disk"):
            rig.commit(batch)
        rig.stager.drop([batch])
        rig.committer.drop_suspects()
        assert rig.index.staged() == []
        again = rig.stage([extend(UPLOAD, data, 0, 3)])
        assert len(again.wanted) == 3
        for at in range(0, 120_000, 40_000):
            piece = data[at : at + 40_000]
            rig.stager.store(again, chunks_of(piece), [piece])
        rig.commit(again)
        rig.apply([put_upload(b"f", data, UPLOAD)])
        assert rig.tree()[b"f"][1] == data
    os.close(staging.folder)


def test_nothing_is_committed_between_a_failed_sync_and_its_dropping(tmp_path: Path) -> None:
    """A batch that was staged before the sync failed may have lost its bytes as well."""
    with Rig(tmp_path):
        pass
    rig, staging = forgetful(tmp_path)
    with rig:
        first = rig.stage([put(b"a", b"a")], [b"a"])
        second = rig.stage([put(b"b", b"b")], [b"b"], ahead=1)
        staging.fails = True
        with pytest.raises(OSError, match="disk"):
            rig.commit(first)
        with pytest.raises(OSError, match="sync failed"):
            rig.commit(second)
        rig.stager.drop([first, second])
        rig.committer.drop_suspects()
        rig.apply([put(b"a", b"a")], [b"a"])
        assert rig.tree()[b"a"][1] == b"a"
    os.close(staging.folder)


def break_index(rig: Rig) -> None:
    """Let the next commit of the index end as a failed sync of its log does."""

    def fail(_connection: object) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise error

    event.listen(rig.index._engine, "commit", fail, once=True)


def test_the_index_empties_its_log_after_a_failed_sync(tmp_path: Path) -> None:
    """Nothing is written behind bytes that may be missing; what was decided before stays."""
    with Rig(tmp_path) as rig:
        rig.apply([put(b"a", b"a")], [b"a"])
        break_index(rig)
        batch = rig.stage([Delete(b"a")])
        with pytest.raises(DoubtfulIndexError):
            rig.commit(batch)
        rig.stager.drop([batch])
        log = tmp_path / ".twinfold" / "index.sqlite-wal"
        before_bytes = log.stat().st_size
        rig.apply([put(b"b", b"b")], [b"b"])
        assert set(rig.tree()) == {b"a", b"b"}
        assert log.stat().st_size < before_bytes


def test_an_index_in_doubt_takes_nothing_until_its_log_is_empty(tmp_path: Path) -> None:
    """A reader that keeps the log from being emptied puts off the next commit."""
    with Rig(tmp_path) as rig:
        rig.apply([put(b"a", b"a")], [b"a"])
        break_index(rig)
        batch = rig.stage([Delete(b"a")])
        with pytest.raises(DoubtfulIndexError):
            rig.commit(batch)
        rig.stager.drop([batch])
        other = sqlite3.connect(tmp_path / ".twinfold" / "index.sqlite")
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM nodes").fetchone()
        with pytest.raises(DestinationError, match="read"):
            rig.apply([put(b"b", b"b")], [b"b"])
        other.close()
        rig.apply([put(b"b", b"b")], [b"b"])
        assert set(rig.tree()) == {b"a", b"b"}


def test_what_the_index_cannot_forget_stays_in_the_attic(tmp_path: Path) -> None:
    """A full disk that fails the record, too, is no reason to lose what was kept."""
    with Rig(tmp_path) as rig:
        rig.apply([put(b"a", b"a")], [b"a"])
        rig.apply([Delete(b"a")])
        kept = rig.index.attic(None)
        rig.committer.settle()
        break_index(rig)
        with pytest.raises(DoubtfulIndexError):
            rig.committer.begin_purge(kept)
        names = os.listdir(tmp_path / ".twinfold" / "attic")
        assert [os.fsencode(name) for name in names] == [name for _, name in kept]
        assert rig.index.attic(None) == kept
