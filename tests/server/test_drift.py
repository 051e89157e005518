"""What something else did to the destination is found, kept and healed."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.server.drifting import EDITS, Checking, Edit, check, contents, edit_all
from tests.server.fixtures import quick_folder
from tests.server.forest_model import BATCH, PIECE, Draw, Model, changes_of
from tests.server.rig import ForestWrapper, Rig, Tree, put, read_attic, read_tree
from tests.server.test_commit import check_equal, stage_small
from tests.server.test_survey import put_cut
from twinfold.core.session import check_epoch
from twinfold.errors import DriftError, StaleEpochError
from twinfold.model import (
    Change,
    MakeDirectory,
    MakeSymlink,
)
from twinfold.protocol import Difference, OpenSession, Progress
from twinfold.server.pending import PendingBatch
from twinfold.server.staged import StagedBatch
from twinfold.storage.interface import (
    TREE,
    DirectoryListing,
    Forest,
    Location,
    Looked,
    Performed,
    Step,
)


def heal(rig: Rig, model: Model) -> None:
    """Do what a client does that was told: compare, and send what is not there."""
    there = {entry.path for entry in rig.entries()}
    entries = sorted(model.tree.items())
    changes = [change_for(path, entry) for path, entry in entries if path not in there]
    changes += [change_for(path, entry) for path, entry in entries if entry[0] == "dir"]
    if changes:
        rig.commit(stage_small(rig, changes, 0))


def change_for(path: bytes, entry: tuple[object, ...]) -> Change:
    if entry[0] == "link":
        assert isinstance(entry[1], bytes)
        return MakeSymlink(path, entry[1])
    *data, mode, mtime_ns = entry[1:]
    assert isinstance(mode, int)
    assert isinstance(mtime_ns, int)
    if entry[0] == "dir":
        return MakeDirectory(path, mode, mtime_ns)
    assert isinstance(data[0], bytes)
    return put(path, data[0], mode, mtime_ns, PIECE)


@settings(
    max_examples=50,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(batches=st.lists(BATCH, min_size=1, max_size=3), edits=EDITS, restart=st.booleans())
def test_any_drift_heals_and_nothing_is_lost(
    batches: list[list[Draw]], edits: list[Edit], restart: bool
) -> None:
    """Afterwards the tree is as it was; whatever stood in it before is there, or in the attic."""
    with quick_folder() as folder:
        model = Model()
        rig = Rig(folder)
        is_open = True
        try:
            rig.start()
            for draws in batches:
                changes = changes_of(model, draws)
                if changes:
                    rig.commit(stage_small(rig, changes, 0))
            if restart:
                rig.close()
                is_open = False
            edit_all(folder, edits)
            before = contents(read_tree(folder)) + read_attic(folder)
            if restart:
                rig = Rig(folder)
                is_open = True
                rig.start()
            session = rig.index.session()
            asyncio.run(check(rig))
            assert before <= contents(rig.tree()) + rig.attic()
            check_that_index_and_disk_agree(rig)
            if {entry.path for entry in rig.entries()} != set(model.tree):
                with pytest.raises(DriftError):
                    check_epoch(rig.index.session(), session.epoch)
                assert rig.index.session().revision > session.revision
            rig.committer.open_session(OpenSession(1, b"client", b"again", "name"), active=False)
            heal(rig, model)
            assert rig.tree() == model.tree
            assert before <= contents(rig.tree()) + rig.attic()
            told: list[Progress | Difference] = []
            asyncio.run(check(rig, deep=True, report=told.append))
            assert [difference for difference in told if isinstance(difference, Difference)] == []
        finally:
            if is_open:
                rig.close()


def check_that_index_and_disk_agree(rig: Rig) -> None:
    entries = {entry.path: (entry.mode, entry.mtime_ns) for entry in rig.entries()}
    disk: Tree = rig.tree()
    assert set(entries) == set(disk)
    for path, entry in disk.items():
        if entry[0] != "link":
            assert entry[-2:] == entries[path], path
    for node, _ in rig.index.attic(None):
        located = rig.index.locate(node)
        assert located is not None
        assert rig.forest.look_at(*located) is not None


async def test_content_that_was_found_is_known(scratch: Path) -> None:
    """What was renamed or copied behind our back does not have to be sent again."""
    data = os.urandom(300_000)
    with Rig(scratch) as rig:
        rig.apply([MakeDirectory(b"d", 0o755, 1), put(b"d/f", data)], [data])
        (scratch / "d").rename(scratch / "elsewhere")
        await check(rig)
        assert rig.tree() == {}
        assert rig.stage([put_cut(b"again", data)]).wanted == {}


async def test_a_foreign_change_of_times_is_read_once(scratch: Path) -> None:
    """Where the bytes are right only the attributes are given again: no client is needed."""
    with Rig(scratch) as rig:
        rig.apply([put(b"f", b"1"), put(b"g", b"2")], [b"1", b"2"])
        before, session = rig.tree(), rig.index.session()
        os.utime(scratch / "f", ns=(1, 1))
        (scratch / "g").chmod(0o600)
        await check(rig)
        assert (rig.tree(), rig.index.session()) == (before, session)
        assert rig.attic() == {}
        assert len(rig.messages) == 2
        await check(rig)
        assert len(rig.messages) == 2


@pytest.mark.parametrize("column", ["mode", "mtime_ns"])
@pytest.mark.parametrize("deep", [False, True])
async def test_a_file_that_nobody_touched_keeps_what_it_has(
    scratch: Path, column: str, deep: bool
) -> None:
    """Its ctime is as recorded: then the index says something else for being damaged."""
    with Rig(scratch) as rig:
        rig.apply([put(b"f", b"1")], [b"1"])
        rig.committer.settle()
        before = rig.tree()
    spoil(scratch, f"UPDATE nodes SET {column} = 128 WHERE name = CAST('f' AS BLOB)")
    with Rig(scratch) as rig:
        await check(rig, deep=deep)
        assert rig.tree() == before


@pytest.mark.parametrize("column", ["mode", "mtime_ns"])
async def test_attributes_of_a_directory_are_compared_with_the_source(
    scratch: Path, column: str
) -> None:
    """Nothing tells whether it was changed or the index damaged, so the client looks, too."""
    with Rig(scratch) as rig:
        rig.apply([MakeDirectory(b"d", 0o755, 1)])
        rig.committer.settle()
        session = rig.index.session()
    spoil(scratch, f"UPDATE nodes SET {column} = 448 WHERE name = CAST('d' AS BLOB)")
    with Rig(scratch) as rig:
        await check(rig)
        with pytest.raises(DriftError, match="an entry was changed"):
            check_epoch(rig.index.session(), session.epoch)


def spoil(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / ".twinfold" / "index.sqlite")) as index, index:
        assert index.execute(statement).rowcount == 1


async def test_harmless_changes_are_not_mentioned(scratch: Path) -> None:
    """A new ctime (a backup, a link) or a copy in place is no difference, and is learnt."""
    with Rig(scratch) as rig:
        rig.apply([put(b"f", b"1"), put(b"g", b"2", mtime_ns=7)], [b"1", b"2"])
        rig.committer.settle()
        os.link(scratch / "f", scratch.parent / f"{scratch.name}-link")
        (scratch.parent / f"{scratch.name}-link").unlink()
        (scratch / "copy").write_bytes(b"2")
        (scratch / "copy").replace(scratch / "g")
        os.utime(scratch / "g", ns=(7, 7))
        (scratch / "g").chmod(0o644)
        told: list[Progress | Difference] = []
        await check(rig, report=told.append)
        # Names came and went, so the root's own mtime is another.
        assert told == [Difference(b"", ["mtime"])]
        [node] = [node for node in rig.index.children(TREE) if node.name == b"g"]
        assert node.inode == (scratch / "g").stat().st_ino


async def test_bit_rot_is_found_by_reading(scratch: Path) -> None:
    """Bytes that changed while all else stayed are found by a deep check only."""
    data = os.urandom(100_000)
    with Rig(scratch) as rig:
        rig.apply([put(b"f", data)], [data])
        rig.committer.settle()
        rot(rig, scratch / "f")
        await check(rig)
        assert rig.messages == []
        told: list[Progress | Difference] = []
        await check(rig, deep=True, report=told.append)
        assert Difference(b"f", ["content"]) in told
        assert rig.tree() == {}
        assert sum(rig.attic().values()) == 1


def rot(rig: Rig, path: Path) -> None:
    """Change a byte, and make the index believe that this is what it wrote."""
    before = path.stat()
    with path.open("r+b") as file:
        first = file.read(1)[0]
        file.seek(0)
        file.write(bytes([first ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    now = path.stat()
    node = rig.index.child(TREE, os.fsencode(path.name))
    assert node is not None
    with rig.index.transaction() as work:
        work.set_identities([(node.id, now.st_ino, now.st_ctime_ns)])


class MeddlingForest(ForestWrapper):
    """A forest in which a batch is committed after each look at a directory of the tree."""

    def __init__(self, forest: Forest) -> None:
        super().__init__(forest)
        self.rig: Rig | None = None
        self.batches: list[list[Change]] = []

    def look(self, root: int, names: Sequence[bytes]) -> DirectoryListing:
        listing = self.forest.look(root, names)
        if self.rig is not None and root == TREE and self.batches:
            self.rig.commit(stage_small(self.rig, self.batches.pop(0), 0))
        return listing


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batches=st.lists(BATCH, min_size=2, max_size=6))
def test_our_own_steps_are_not_taken_for_drift(batches: list[list[Draw]]) -> None:
    """Whatever is committed while the tree is compared, nothing is found."""
    with quick_folder() as folder:
        forests: list[MeddlingForest] = []

        def wrap(forest: Forest) -> MeddlingForest:
            forests.append(MeddlingForest(forest))
            return forests[-1]

        with Rig(folder, wrap) as rig:
            model = Model()
            sent = [changes for draws in batches if (changes := changes_of(model, draws))]
            for changes in sent[:1]:
                rig.commit(stage_small(rig, changes, 0))
            forests[0].rig, forests[0].batches = rig, sent[1:]
            session = rig.index.session()
            asyncio.run(check(rig))
            while forests[0].batches:
                rig.commit(stage_small(rig, forests[0].batches.pop(0), 0))
            assert rig.messages == []
            assert rig.index.session().epoch == session.epoch
            check_equal(rig, model)


async def test_an_edit_before_recovery_is_found(scratch: Path) -> None:
    """What changed between a crash and the next start is not taken for what was written."""
    with Rig(scratch) as rig:
        rig.apply([put(b"f", b"1"), put(b"g", b"1")], [b"1"])
    (scratch / "f").write_bytes(b"2")
    os.utime(scratch / "f", ns=(5, 5))
    with Rig(scratch) as rig:
        await check(rig)
        assert set(rig.tree()) == {b"g"}
        assert rig.attic() == {b"2": 1}


class PowerCutError(BaseException):
    """The process ends here; nothing catches this."""


class CutForest(ForestWrapper):
    """A forest whose process ends before or after the steps of a turn."""

    def __init__(self, forest: Forest, turn: int, before: bool) -> None:
        super().__init__(forest)
        self.is_armed = False
        self._turn = turn
        self._before = before

    def perform(
        self, steps: Sequence[Step], locate: Callable[[int], Location | None], *, again: bool
    ) -> Performed:
        if not self.is_armed:
            return self.forest.perform(steps, locate, again=again)
        self._turn -= 1
        if not self._turn and self._before:
            raise PowerCutError
        done = self.forest.perform(steps, locate, again=again)
        if not self._turn:
            raise PowerCutError
        return done


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("turn", [1, 2])
def test_a_crash_while_drift_is_set_right_loses_nothing(
    scratch: Path, turn: int, before: bool
) -> None:
    """The next start finishes what was decided, finds the rest, and the client is told."""
    forests: list[CutForest] = []

    def wrap(forest: Forest) -> CutForest:
        forests.append(CutForest(forest, turn, before))
        return forests[-1]

    with Rig(scratch, wrap) as rig:
        rig.apply([MakeDirectory(b"d", 0o755, 1), put(b"d/f", b"1"), put(b"g", b"2")], [b"1", b"2"])
        session = rig.index.session()
        (scratch / "d").rename(scratch / "moved")
        (scratch / "g").write_bytes(b"edited")
        (scratch / "new").write_bytes(b"extra")
        forests[0].is_armed = True
        with pytest.raises(PowerCutError):
            asyncio.run(check(rig))
    with Rig(scratch) as rig:
        asyncio.run(check(rig))
        assert (rig.tree(), rig.entries()) == ({}, [])
        assert rig.attic() == {b"1": 1, b"edited": 1, b"extra": 1}
        assert len(rig.index.attic(None)) == 3
        assert rig.index.session().revision > session.revision
        assert rig.stage([put(b"x", b"1")]).wanted == {}


async def test_drift_ends_the_epoch_once(scratch: Path) -> None:
    """Who wrote before is told to compare, until it opens a session; others are stale."""
    with Rig(scratch) as rig:
        rig.apply([put(b"f", b"1"), put(b"g", b"2")], [b"1", b"2"])
        first = rig.index.session()
        for name in ("f", "g"):
            (scratch / name).unlink()
            await check(rig)
        with pytest.raises(DriftError):
            check_epoch(rig.index.session(), first.epoch)
        with pytest.raises(StaleEpochError):
            check_epoch(rig.index.session(), first.epoch - 1)
        opened = rig.committer.open_session(
            OpenSession(1, b"client", b"process", "name"), active=False
        )
        assert opened.epoch > first.epoch
        with pytest.raises(StaleEpochError):
            check_epoch(rig.index.session(), first.epoch)
        check_epoch(rig.index.session(), opened.epoch)


async def test_batches_under_way_are_refused_when_something_was_lost(scratch: Path) -> None:
    """A batch that was announced before is not committed as if nothing had happened."""
    with Rig(scratch) as rig:
        rig.apply([put(b"f", b"1")], [b"1"])
        (scratch / "f").unlink()
        async with Checking(rig) as checking:
            staged: StagedBatch = rig.stage([put(b"g", b"2")])
            batch = PendingBatch(staged, [])
            await checking.pending.add(batch)
            await checking.checker.check()
            assert batch.answer.done()
            with pytest.raises(DriftError):
                await batch.answer


async def test_suspicion_raised_by_reuse_is_looked_into(scratch: Path) -> None:
    """A file whose bytes were not what the index says is read, and goes if that is true."""
    data = os.urandom(100_000)
    with Rig(scratch) as rig:
        rig.apply([put(b"f", data), put(b"g", b"2")], [data, b"2"])
        rig.committer.settle()
        rot(rig, scratch / "f")
        suspected: set[int] = set()
        rig.stager._old._suspect = suspected.add
        assert rig.stage([put(b"h", data)]).wanted
        [node] = suspected
        async with Checking(rig) as checking:
            checking.suspected.update(suspected)
            running = asyncio.create_task(checking.checker.run_forever())
            await checking.checker.first_check.wait()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert set(rig.tree()) == {b"g"}
        assert rig.index.node(node) is None


class BlindForest(ForestWrapper):
    """A forest whose entry ``coarse`` does not show the mtime that it was given."""

    def look_at(self, root: int, names: Sequence[bytes]) -> Looked | None:
        return self.coarsen(self.forest.look_at(root, names))

    def look(self, root: int, names: Sequence[bytes]) -> DirectoryListing:
        listing = self.forest.look(root, names)
        children = [child for looked in listing.children if (child := self.coarsen(looked))]
        return DirectoryListing(listing.itself, children)

    def coarsen(self, looked: Looked | None) -> Looked | None:
        if looked is None or looked.name != b"coarse":
            return looked
        return msgspec.structs.replace(looked, mtime_ns=looked.mtime_ns // 10 * 10)


@pytest.mark.parametrize("change", [put(b"coarse", b"1"), MakeDirectory(b"coarse", 0o755, 5)])
async def test_times_that_the_disk_cannot_hold_are_no_drift(scratch: Path, change: Change) -> None:
    """They are given again once, and then taken as they are."""
    with Rig(scratch, BlindForest) as rig:
        rig.apply([change], [b"1"])
        session = rig.index.session()
        async with Checking(rig) as checking:
            await checking.checker.check()
            told = len(rig.messages)
            intents = rig.committer.is_settled
            await checking.checker.check()
            assert (len(rig.messages), rig.committer.is_settled) == (told, intents)
        assert rig.index.session() == session
        assert set(rig.tree()) == {b"coarse"}
