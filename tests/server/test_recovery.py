"""A crash at any moment: afterwards a batch has happened, or has not."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import errno
import os
import sqlite3
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.fixtures import quick_folder
from tests.server.forest_model import BATCH, Draw, Model, changes_of
from tests.server.rig import ForestWrapper, Rig, put, staged_names
from tests.server.test_commit import check_equal, stage_small
from twinfold.model import Change, Delete, Kind, MakeDirectory, MakeSymlink, Move, SetAttributes
from twinfold.storage import perform
from twinfold.storage.interface import (
    ATTIC,
    STAGING,
    TREE,
    Forest,
    Location,
    Performed,
    Rename,
    SetAside,
    Step,
)


class PowerCutError(BaseException):
    """The process ends here; nothing catches this."""


class Partly:
    """Does steps as a disk does that lost some of them in a power cut.

    Everything goes by paths here; a step that a lost one makes impossible is lost too, and
    no disk loses the only name of an object.
    """

    def __init__(self, root: Path) -> None:
        own = root / ".twinfold"
        self._roots = {TREE: root, STAGING: own / "staging", ATTIC: own / "attic"}
        with sqlite3.connect(own / "index.sqlite") as index:
            rows = index.execute("SELECT id, parent, name FROM nodes WHERE kind = 2 AND id > 3")
            self._places = {node: Location(parent, name) for node, parent, name in rows}
        index.close()

    def _path(self, location: Location) -> bytes:
        return os.path.join(self._directory(location.directory), location.name)

    def _directory(self, node: int) -> bytes:
        if node in self._roots:
            return os.fsencode(self._roots[node])
        return self._path(self._places[node])

    def learn(self, steps: Sequence[Step]) -> None:
        """Follow steps that all reached the disk."""
        for step in steps:
            if isinstance(step, Rename) and step.kind is Kind.DIRECTORY:
                self._places[step.node] = step.target

    def perform(self, step: Step) -> None:
        """Do one step, if that is possible."""
        try:
            if isinstance(step, Rename):
                self._rename(step)
            elif isinstance(step, SetAside):
                attic = os.path.join(os.fsencode(self._roots[ATTIC]), step.name)
                if os.lstat(self._path(step.source)).st_ino == step.inode:
                    os.link(self._path(step.source), attic, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError, KeyError):
            return

    def _rename(self, step: Rename) -> None:
        source, target = self._path(step.source), self._path(step.target)
        if os.lstat(source).st_ino != step.inode:
            return
        if os.path.lexists(target):
            there = os.lstat(target)
            if not step.replaces or stat.S_ISDIR(there.st_mode) or there.st_nlink < 2:
                return
        os.rename(source, target)
        if step.kind is Kind.DIRECTORY:
            self._places[step.node] = step.target


class PartlyForest(ForestWrapper):
    """A forest whose power is cut when some of the steps of its second commit are done."""

    def __init__(self, forest: Forest, disk: Partly, lost: set[int]) -> None:
        super().__init__(forest)
        self._disk = disk
        self._lost = lost
        self._is_first = True

    def perform(
        self, steps: Sequence[Step], locate: Callable[[int], Location | None], *, again: bool
    ) -> Performed:
        if self._is_first:
            self._is_first = False
            self._disk.learn(steps)
            return self.forest.perform(steps, locate, again=again)
        for number, step in enumerate(steps):
            if number not in self._lost:
                self._disk.perform(step)
        raise PowerCutError


def prepare(folder: Path, draws: list[Draw]) -> Model:
    """Make a destination that has settled."""
    model = Model()
    with Rig(folder) as rig:
        rig.commit(stage_small(rig, changes_of(model, draws), 0))
        rig.committer.settle()
    return model


def check_recovered(folder: Path, model: Model) -> None:
    """Recover twice: the second time finds nothing to do."""
    for _ in range(2):
        with Rig(folder) as rig:
            check_equal(rig, model)
            assert staged_names(folder) == []
            assert rig.index.intents() == []


LOST_STEPS = st.one_of(
    st.integers(0, 20).map(lambda first: set(range(first, 1_000))),
    st.sets(st.integers(0, 24)),
)
"""All from one on: the process was killed. Any: the disk had not written them."""


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(before=BATCH, first=BATCH, second=BATCH, lost=LOST_STEPS)
def test_decided_batches_happen_whatever_was_done_of_them(
    before: list[Draw], first: list[Draw], second: list[Draw], lost: set[int]
) -> None:
    """Whichever steps a crash lost: tree, index and attic are those after the batches."""
    with quick_folder() as folder:
        model = prepare(folder, before)
        disk = Partly(folder)
        with Rig(folder, lambda forest: PartlyForest(forest, disk, lost)) as rig:
            rig.commit(stage_small(rig, changes_of(model, first), 0))
            batch = stage_small(rig, changes_of(model, second), 0)
            with pytest.raises(PowerCutError):
                rig.commit(batch)
        check_recovered(folder, model)


def changes_of_all_kinds() -> list[Change]:
    """Return changes whose steps build on each other."""
    return [
        put(b"new", b"N"),
        put(b"old", b"O"),
        Move(b"old", b"d/old"),
        put(b"old", b"P"),
        Move(b"d", b"e"),
        put(b"e/f", b"Q"),
        MakeDirectory(b"d", 0o500, 7),
        Move(b"e/sub", b"d/sub"),
        Delete(b"e"),
        MakeSymlink(b"e", b"old"),
        Move(b"link", b"d/sub/link"),
        SetAttributes(b"d/sub", 0o700, 9),
    ]


BEFORE: list[Change] = [
    MakeDirectory(b"d", 0o755, 1),
    MakeDirectory(b"d/sub", 0o755, 2),
    put(b"d/f", b"F"),
    put(b"d/sub/g", b"G"),
    put(b"old", b"0"),
    MakeSymlink(b"link", b"target"),
]
CONTENTS = [b"N", b"O", b"P", b"Q", b"F", b"G", b"0"]


def test_a_kill_after_each_single_step(scratch: Path) -> None:
    """However far the steps of a batch came, it happens in the end."""
    with Rig(scratch / "whole") as rig:
        rig.apply(BEFORE, CONTENTS)
        rig.apply(changes_of_all_kinds(), CONTENTS)
        tree, attic, steps = rig.tree(), rig.attic(), len(rig.index.intents())
    for done in range(steps + 1):
        folder = scratch / str(done)
        with Rig(folder) as rig:
            rig.apply(BEFORE, CONTENTS)
            rig.committer.settle()
        disk = Partly(folder)
        lost = set(range(done, 1_000))
        with Rig(folder, lambda forest, d=disk, n=lost: PartlyForest(forest, d, n)) as rig:  # type: ignore[misc]
            rig.apply([MakeSymlink(b"other", b"x")])
            with pytest.raises(PowerCutError):
                rig.apply([Delete(b"other"), *changes_of_all_kinds()], CONTENTS)
        for _ in range(2):
            with Rig(folder) as rig:
                assert rig.tree() == tree
                assert rig.attic() - attic in (Counter(), Counter([b"x"]))
                assert sorted(entry.path for entry in rig.entries()) == sorted(tree)


class CutRig(Rig):
    """A rig whose process ends when its clock is read: in the middle of a decision."""

    is_cut = False

    def now(self) -> int:
        if self.is_cut:
            raise PowerCutError
        return super().now()


@pytest.mark.parametrize("at_the_clock", [False, True])
def test_a_kill_before_the_decision_leaves_everything_as_it_was(
    scratch: Path, at_the_clock: bool
) -> None:
    """What was staged is dropped at the next start; nothing of it can be seen."""
    with CutRig(scratch) as rig:
        rig.apply(BEFORE, CONTENTS)
        before = rig.tree()
        batch = rig.stage(changes_of_all_kinds(), CONTENTS)
        rig.is_cut = at_the_clock
        if at_the_clock:
            with pytest.raises(PowerCutError):
                rig.commit(batch)
        assert staged_names(scratch)
        assert rig.tree() == before
    with Rig(scratch) as rig:
        assert rig.tree() == before
        assert staged_names(scratch) == []
        assert rig.index.session().committed == 1


def test_moves_there_and_back_then_a_new_file(tmp_path: Path) -> None:
    """Steps that were all done are not done again to what has their names now."""
    with Rig(tmp_path) as rig:
        rig.apply([put(b"a", b"A"), put(b"d", b"D")], [b"A", b"D"])
        rig.committer.settle()
        rig.apply([Move(b"a", b"b")])
        rig.apply([Move(b"b", b"a")])
        rig.apply([put(b"b", b"B")], [b"B"])
        before = rig.tree()
    with Rig(tmp_path) as rig:
        assert rig.tree() == before


def test_attributes_of_a_replaced_file_are_not_given_to_its_successor(tmp_path: Path) -> None:
    """A file keeps its own bits and mtime when the steps are done again."""
    with Rig(tmp_path) as rig:
        rig.apply([put(b"f", b"1")], [b"1"])
        rig.committer.settle()
        rig.apply([SetAttributes(b"f", 0o600, 9), put(b"f", b"2", 0o640, 8)], [b"2"])
    with Rig(tmp_path) as rig:
        assert rig.tree() == {b"f": ("file", b"2", 0o640, 8)}


class FailingForest(ForestWrapper):
    """A forest whose disk refuses all steps while ``error`` is set."""

    error: OSError | None = None

    def perform(
        self, steps: Sequence[Step], locate: Callable[[int], Location | None], *, again: bool
    ) -> Performed:
        if self.error is not None:
            raise self.error
        return self.forest.perform(steps, locate, again=again)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_refuses_the_steps_loses_nothing(tmp_path: Path, number: int) -> None:
    """A decided batch whose steps failed happens as soon as the disk lets it."""
    made: list[FailingForest] = []

    def wrap(forest: Forest) -> Forest:
        made.append(FailingForest(forest))
        return made[0]

    with Rig(tmp_path, wrap) as rig:
        batch = rig.stage([put(b"f", b"1")], [b"1"])
        made[0].error = OSError(number, "no")
        with pytest.raises(OSError, match="no"):
            rig.commit(batch)
        assert rig.index.session().committed == 1
        rig.stager.drop([batch])
        with pytest.raises(OSError, match="no"):
            rig.committer.finish_steps()
        made[0].error = None
        rig.committer.finish_steps()
        assert b"f" in rig.tree()
        rig.apply([put(b"g", b"2")], [b"2"])
        assert set(rig.tree()) == {b"f", b"g"}


def test_an_edit_behind_our_back_is_kept(tmp_path: Path) -> None:
    """What someone else put at a path goes to the attic when the path is written."""
    with Rig(tmp_path) as rig:
        rig.apply([put(b"f", b"1"), MakeDirectory(b"d", 0o755, 1)], [b"1"])
        (tmp_path / "f").unlink()
        (tmp_path / "f").write_bytes(b"mine")
        (tmp_path / "new").write_bytes(b"also mine")
        (tmp_path / "d").rmdir()
        (tmp_path / "d").write_bytes(b"was a directory")
        rig.apply([put(b"f", b"2"), put(b"new", b"3"), put(b"d/x", b"4")], [b"2", b"3", b"4"])
        assert rig.tree()[b"f"][1] == b"2"
        assert rig.tree()[b"new"][1] == b"3"
        assert rig.tree()[b"d/x"][1] == b"4"
        rig.committer.settle()
        assert set(rig.attic()) == {b"mine", b"also mine", b"was a directory"}
        kept = len(rig.index.attic(None))
    with Rig(tmp_path) as rig:
        assert len(rig.index.attic(None)) == kept == 3


def test_what_is_swapped_in_during_a_recovery_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that takes a file's name just before that file is cleared goes to the attic."""
    made: list[FailingForest] = []

    def wrap(forest: Forest) -> Forest:
        made.append(FailingForest(forest))
        return made[0]

    real = perform.rename

    def swapping(directories: Any, step: Rename, *places: Any, **how: Any) -> None:
        if step.target.name.startswith(b"recover-"):
            (tmp_path / "f").rename(tmp_path / "was-f")
            (tmp_path / "f").mkdir()
            (tmp_path / "f" / "inside").write_bytes(b"somebody's")
        real(directories, step, *places, **how)

    with Rig(tmp_path, wrap) as rig:
        rig.apply([put(b"f", b"1")], [b"1"])
        rig.committer.settle()
        made[0].error = OSError(errno.EIO, "no")
        with pytest.raises(OSError, match="no"):
            rig.apply([put(b"f", b"2"), Move(b"f", b"g")], [b"2"])
        made[0].error = None
        monkeypatch.setattr("twinfold.storage.recovery.rename", swapping)
        rig.committer.finish_steps()
        monkeypatch.undo()
        rig.apply([put(b"f", b"3")], [b"3"])
        assert rig.tree()[b"g"][1] == b"2"
        assert rig.tree()[b"f"][1] == b"3"
        rig.committer.settle()
        assert set(rig.attic()) == {b"1", b"somebody's"}
    assert staged_names(tmp_path) == []
