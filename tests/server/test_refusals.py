"""What does not fit is left out alone, with what builds on it, until it is sent again."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.server.rig import (
    ForestWrapper,
    Rig,
    chunks_of,
    cut,
    extend,
    put,
    put_upload,
    staged_names,
)
from twinfold.core.room import Room
from twinfold.model import Change, Delete, ExtendUpload, MakeDirectory, Move, Run, SetAttributes
from twinfold.server.staged import StagedBatch
from twinfold.storage.interface import NewFile, Performed, Staging, Step
from twinfold.storage.staging import Staging as RealStaging

UPLOAD = b"u" * 16
AMPLE = Room(1 << 40, 1 << 39, 1 << 20, 1 << 19)


def stage(rig: Rig, changes: Sequence[Change], room: Room, *contents: bytes) -> StagedBatch:
    batch = rig.stager.begin(rig.index.session().committed + 1, changes, frozenset(), room)
    for data in contents:
        rig.stager.store(batch, chunks_of(data), cut(data))
    return batch


def refused(rig: Rig, changes: Sequence[Change], room: Room, *contents: bytes) -> list[int]:
    """Commit changes where there is so much room; return the places of those refused."""
    by_batch = rig.commit(stage(rig, changes, room, *contents))
    assert all(refusal.again for found in by_batch.values() for refusal in found)
    return sorted(refusal.index for found in by_batch.values() for refusal in found)


def inodes(count: int) -> Room:
    return Room(1 << 40, 1 << 39, 1 << 20, count)


def test_a_file_that_does_not_fit_is_left_out(tmp_path: Path) -> None:
    """The old version stays, and the others of its batch take effect, deletions too."""
    with Rig(tmp_path) as rig:
        rig.apply([put(b"a", b"old"), put(b"gone", b"x")], [b"old", b"x"])
        room = Room(1 << 40, 100, 0, 0)
        changes: list[Change] = [put(b"a", b"n" * 1_000), put(b"b", b"small"), Delete(b"gone")]
        assert refused(rig, changes, room, b"n" * 1_000, b"small") == [0]
        tree = rig.tree()
        assert (tree[b"a"][1], tree[b"b"][1]) == (b"old", b"small")
        assert b"gone" not in tree
        assert refused(rig, [put(b"a", b"n" * 1_000)], AMPLE, b"n" * 1_000) == []
        assert staged_names(tmp_path) == []


def test_nothing_is_put_below_a_directory_that_was_refused(tmp_path: Path) -> None:
    """In this batch and the next ones; when it is sent again, all is taken."""
    make: list[Change] = [
        MakeDirectory(b"d", 0o755, 1),
        put(b"d/f", b"1"),
        MakeDirectory(b"d/e", 0o755, 1),
    ]
    more: list[Change] = [put(b"d/e/g", b"2"), Move(b"x", b"d/x"), SetAttributes(b"d", 0o700, 2)]
    with Rig(tmp_path) as rig:
        rig.apply([put(b"x", b"x")], [b"x"])
        assert refused(rig, make, inodes(0), b"1") == [0, 1, 2]
        assert refused(rig, [*more, put(b"y", b"y")], AMPLE, b"2", b"y") == [0, 1, 2]
        assert set(rig.tree()) == {b"x", b"y"}
        assert refused(rig, make, AMPLE, b"1") == []
        assert refused(rig, more, AMPLE, b"2") == []
        assert set(rig.tree()) == {b"d", b"d/e", b"d/e/g", b"d/f", b"d/x", b"y"}
        assert staged_names(tmp_path) == []


def test_an_upload_that_does_not_fit_begins_again(tmp_path: Path) -> None:
    """Its later parts and its name are refused as well; what was received is not lost."""
    data = os.urandom(120_000)
    room = Room(1 << 40, 50_000, 0, 0)
    with Rig(tmp_path) as rig:
        assert refused(rig, [extend(UPLOAD, data, 0, 1)], room, data[:40_000]) == []
        assert refused(rig, [extend(UPLOAD, data, 1, 3)], room) == [0]
        assert refused(rig, [put_upload(b"f", data, UPLOAD)], AMPLE) == [0]
        again = stage(rig, [extend(UPLOAD, data, 0, 3)], AMPLE, data[40_000:])
        assert not again.wanted
        assert rig.commit(again) == {}
        assert refused(rig, [put_upload(b"f", data, UPLOAD)], AMPLE) == []
        assert rig.tree()[b"f"][1] == data


def test_an_upload_needs_room_once(tmp_path: Path) -> None:
    """Neither each of its parts, nor what is there already, needs the whole of it again."""
    data = os.urandom(120_000)
    room = Room(1 << 40, 130_000, 0, 0)
    parts = [
        ExtendUpload(UPLOAD, 0, b"", [Run(0, 0, chunks_of(data)[:1])], 120_000),
        ExtendUpload(UPLOAD, 40_000, b"", [Run(0, 0, chunks_of(data)[1:2])], 80_000),
        ExtendUpload(UPLOAD, 80_000, b"", [Run(0, 0, chunks_of(data)[2:])], 40_000),
    ]
    with Rig(tmp_path) as rig:
        assert refused(rig, parts[:2], room, data[:80_000]) == []
        assert refused(rig, parts, Room(1 << 40, 40_000, 0, 0), data[80_000:]) == []
        assert refused(rig, [put_upload(b"f", data, UPLOAD)], room) == []
        assert rig.tree()[b"f"][1] == data


def test_an_upload_that_will_not_fit_is_refused_at_once(tmp_path: Path) -> None:
    """Its first part says how much is to come."""
    data = os.urandom(40_000)
    part = ExtendUpload(UPLOAD, 0, b"", [Run(0, 0, chunks_of(data))], 1 << 30)
    with Rig(tmp_path) as rig:
        assert refused(rig, [part], Room(1 << 40, 1 << 20, 0, 0)) == [0]
        assert staged_names(tmp_path) == []


class FullStaging(RealStaging):
    """Staging on a system that has no room, which nobody could know beforehand."""

    is_full = True

    def create_files(
        self, files: Sequence[NewFile], directory: bytes = b""
    ) -> tuple[list[tuple[int, int]], OSError | None]:
        if self.is_full and files:
            return [], OSError(errno.EDQUOT, "no room")
        return super().create_files(files, directory)

    def create_directory(self, name: bytes) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, "no room")
        return super().create_directory(name)


def test_what_only_the_system_knows_is_refused_as_well(tmp_path: Path) -> None:
    with Rig(tmp_path):
        pass
    fd = os.open(tmp_path / ".twinfold" / "staging", os.O_RDONLY | os.O_DIRECTORY)
    staging = FullStaging(fd)
    changes: list[Change] = [
        MakeDirectory(b"d", 0o755, 1),
        put(b"d/f", b"1"),
        put(b"g", b"2"),
        put(b"h", b"1"),
    ]
    with Rig(tmp_path, wrap_staging=lambda _staging: staging) as rig:
        assert refused(rig, changes, AMPLE, b"1", b"2") == [0, 1, 2, 3]
        staging.is_full = False
        assert refused(rig, changes, AMPLE, b"1", b"2") == []
        assert set(rig.tree()) == {b"d", b"d/f", b"g", b"h"}
    os.close(fd)


class CountingForest(ForestWrapper):
    """A forest that counts how often steps are done again."""

    again = 0

    def perform(self, steps: Sequence[Step], locate: object, *, again: bool) -> Performed:
        self.again += again
        return self.forest.perform(steps, locate, again=again)  # type: ignore[arg-type]


class UnsyncedStaging(RealStaging):
    """Staging whose disk fails to sync everything, once."""

    fails = True

    def flush_all(self) -> None:
        if self.fails:
            self.fails = False
            raise OSError(errno.EIO, "the disk fails")
        super().flush_all()


def test_steps_are_done_again_after_a_sync_that_failed(tmp_path: Path) -> None:
    """The next sync may succeed without having written them."""
    with Rig(tmp_path):
        pass
    fd = os.open(tmp_path / ".twinfold" / "staging", os.O_RDONLY | os.O_DIRECTORY)
    staging: Staging = UnsyncedStaging(fd)
    with Rig(tmp_path, CountingForest, wrap_staging=lambda _staging: staging) as rig:
        rig.apply([put(b"f", b"1")], [b"1"])
        with pytest.raises(OSError, match="fails"):
            rig.committer.settle()
        assert rig.index.intents()
        rig.committer.settle()
        assert rig.index.intents() == []
        assert isinstance(rig.forest, CountingForest)
        assert rig.forest.again == 1
    os.close(fd)
