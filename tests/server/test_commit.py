"""Batches become what they say: on the disk, in the index, in the attic."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.server.fixtures import quick_folder
from tests.server.forest_model import (
    GROUPS,
    PIECE,
    Draw,
    Model,
    all_contents,
    changes_of,
)
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
from twinfold.errors import LostPlaceError
from twinfold.model import Change, Delete, MakeDirectory, MakeSymlink, Move, SetAttributes
from twinfold.protocol import Refusal
from twinfold.server.staged import StagedBatch
from twinfold.storage.interface import TREE, Location, Performed, Step


def stage_small(rig: Rig, changes: list[Change], ahead: int) -> StagedBatch:
    """Stage a batch of the model's changes with whatever content it asks for."""
    batch = rig.stage(changes, ahead=ahead)
    for data in all_contents():
        rig.stager.store(batch, chunks_of(data, PIECE), cut(data, PIECE))
    return batch


def check_equal(rig: Rig, model: Model) -> None:
    assert rig.tree() == model.tree
    assert sorted(rig.entries(), key=lambda entry: entry.path) == model.entries()
    assert rig.attic() == model.attic
    assert rig.index.count_entries() == len(model.tree)


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(groups=GROUPS)
def test_any_changes_do_what_they_say(groups: list[list[list[Draw]]]) -> None:
    """Tree, index and attic are as a dictionary has it, for all changes in any order.

    Batches that are committed together, and restarts between, make no difference.
    """
    with quick_folder() as folder:
        model = Model()
        for group in groups:
            with Rig(folder) as rig:
                check_equal(rig, model)
                batches: list[StagedBatch] = []
                for draws in group:
                    changes = changes_of(model, draws)
                    if changes:
                        batches.append(stage_small(rig, changes, len(batches)))
                if batches:
                    rig.commit(*batches)
                check_equal(rig, model)
                assert staged_names(folder) == []


@pytest.mark.parametrize("together", [True, False])
def test_batches_before_a_bad_one_can_still_be_committed(tmp_path: Path, together: bool) -> None:
    """A group that fails because of one batch leaves the others as they were."""
    with Rig(tmp_path) as rig:
        good = rig.stage([MakeDirectory(b"a", 0o755, 1), MakeSymlink(b"l", b"t")])
        bad = rig.stage([Delete(b"a"), SetAttributes(b"nothing", 0o644, 1)], ahead=1)
        if together:
            with pytest.raises(LostPlaceError):
                rig.commit(good, bad)
            assert rig.tree() == {}
        rig.commit(good)
        with pytest.raises(LostPlaceError):
            rig.commit(bad)
        assert set(rig.tree()) == {b"a", b"l"}


def test_a_number_means_one_revision(tmp_path: Path) -> None:
    """The revision grows by one with each batch, however they are grouped."""
    with Rig(tmp_path) as rig:
        start = rig.index.session().revision
        rig.commit(*(rig.stage([MakeSymlink(b"l", b"%d" % n)], ahead=n) for n in range(3)))
        rig.apply([Delete(b"l")])
        assert (rig.index.session().revision, rig.index.session().committed) == (start + 4, 4)
    with Rig(tmp_path) as rig:
        assert (rig.index.session().revision, rig.index.session().committed) == (start + 4, 4)


def test_a_file_moves_into_a_very_deep_directory(tmp_path: Path) -> None:
    """However many directories are open at once, it is the right file that moves."""
    with Rig(tmp_path) as rig:
        rig.apply([MakeDirectory(b"a", 0o755, 1)])
        rig.apply([put(b"a/x", b"right")], [b"right"])
        levels = [b"t" + b"/d" * depth for depth in range(301)]
        rig.apply([MakeDirectory(level, 0o755, 1) for level in levels])
        rig.apply([put(level + b"/x", b"wrong") for level in levels[:-1]], [b"wrong"])
        rig.apply([Move(b"a/x", levels[-1] + b"/x")])
        assert rig.tree()[levels[-1] + b"/x"][1] == b"right"
        assert b"a/x" not in rig.tree()


@pytest.fixture
def high_recursion() -> Iterator[None]:
    """Allow the frames that a server allows itself."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    yield
    sys.setrecursionlimit(before)


@pytest.mark.usefixtures("high_recursion")
def test_what_lies_beyond_the_longest_path_can_be_changed(scratch: Path) -> None:
    """Directories deeper than a path of the system can say are reached all the same."""
    levels = [b"/".join([b"a name of some length"] * depth) for depth in range(1, 1_001)]
    with Rig(scratch) as rig:
        rig.apply([MakeDirectory(level, 0o755, 1) for level in levels])
        rig.apply([put(levels[-1] + b"/x", b"1")], [b"1"])
    with Rig(scratch) as rig:
        rig.apply([Move(levels[-1] + b"/x", b"y"), Delete(levels[0])])
        assert set(rig.tree()) == {b"y"}
        [(node, name)] = rig.index.attic(None)
        rig.forest.purge(rig.committer.begin_purge([(node, name)])[0])
        assert rig.attic() == {}


def test_a_name_of_255_bytes(tmp_path: Path) -> None:
    """The longest names come, are replaced, moved and deleted like others."""
    one, two = b"\xfe" * 255, b"\xfd" * 255
    with Rig(tmp_path) as rig:
        rig.apply([put(one, b"1")], [b"1"])
        rig.apply([put(one, b"2"), Move(one, two)], [b"2"])
        assert rig.tree()[two][1] == b"2"
        rig.apply([Delete(two)])
        assert rig.tree() == {}
        assert sorted(rig.attic()) == [b"1", b"2"]


def test_many_small_commits_do_not_pile_up_intents(scratch: Path) -> None:
    """What recovery would have to go through again stays small."""
    with Rig(scratch) as rig:
        most = 0
        for number in range(60):
            names = [b"%d-%d" % (number, which) for which in range(40)]
            rig.apply([put(name, b"same") for name in names], [b"same"])
            most = max(most, len(rig.index.intents()))
        assert most <= 2_100
        rig.committer.settle()
        assert rig.index.intents() == []
        assert rig.committer.is_settled


LONG = b"n" * 256
"""A name that no file system here takes; the checks on arrival are left out on purpose."""

REASON = "its name is too long for the destination's file system"


def test_a_name_that_the_disk_refuses_is_told_and_holds_nothing_up(tmp_path: Path) -> None:
    """The others of the batch take effect; the answer names the change and the reason."""
    with Rig(tmp_path) as rig:
        changes = [put(b"before", b"1"), put(LONG, b"1"), put(b"after", b"1")]
        assert rig.apply(changes, [b"1"]) == {1: [Refusal(1, REASON)]}
        assert set(rig.tree()) == {b"before", b"after"}
        rig.committer.settle()
        assert [entry.path for entry in rig.entries()] == [b"after", b"before"]
        assert rig.apply([put(b"next", b"2")], [b"2"]) == {}
    with Rig(tmp_path) as rig:
        assert set(rig.tree()) == {b"before", b"after", b"next"}
        assert staged_names(tmp_path) == []


def test_refusals_are_told_to_the_batch_that_they_belong_to(tmp_path: Path) -> None:
    """In a group of batches each answer has its own."""
    with Rig(tmp_path) as rig:
        one = rig.stage([put(b"a", b"1"), put(LONG, b"1")], [b"1"])
        two = rig.stage([put(LONG + b"2", b"1")], [b"1"], ahead=1)
        three = rig.stage([put(b"c", b"1")], [b"1"], ahead=2)
        expected = {one.number: [Refusal(1, REASON)], two.number: [Refusal(0, REASON)]}
        assert rig.commit(one, two, three) == expected


def test_a_refusal_survives_a_crash(tmp_path: Path) -> None:
    """Recovery meets the same refusal, and goes on with the rest."""
    with Rig(tmp_path) as rig:
        rig.apply([put(LONG, b"1"), put(b"f", b"1")], [b"1"])
    for _ in range(2):
        with Rig(tmp_path) as rig:
            assert set(rig.tree()) == {b"f"}
            assert [entry.path for entry in rig.entries()] == [b"f"]
            assert staged_names(tmp_path) == []


@pytest.mark.parametrize("settled", [True, False])
def test_a_directory_that_the_disk_refuses_takes_its_content_along(
    tmp_path: Path, settled: bool
) -> None:
    """Nothing of it is shown, nothing of it is in the way, and the server starts again."""
    with Rig(tmp_path) as rig:
        inner: list[Change] = [
            MakeDirectory(LONG, 0o755, 1),
            put(LONG + b"/f", b"1"),
            put(b"g", b"1"),
        ]
        assert rig.apply(inner, [b"1"])[1][0] == Refusal(0, REASON)
        if settled:
            rig.committer.settle()
            assert [entry.path for entry in rig.entries()] == [b"g"]
    with Rig(tmp_path) as rig:
        assert set(rig.tree()) == {b"g"}
        assert [entry.path for entry in rig.entries()] == [b"g"]
        assert staged_names(tmp_path) == []


@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("source", [b"f", b"d"])
def test_a_move_that_the_disk_refuses_loses_nothing(
    tmp_path: Path, source: bytes, settled: bool
) -> None:
    """The source has it under the old name no longer: it is kept in the attic."""
    with Rig(tmp_path) as rig:
        rig.apply([put(b"f", b"1"), MakeDirectory(b"d", 0o755, 1), put(b"d/f", b"2")], [b"1", b"2"])
        assert rig.apply([Move(source, LONG)]) == {2: [Refusal(0, REASON)]}
        if settled:
            rig.committer.settle()
    with Rig(tmp_path) as rig:
        rig.committer.settle()
        assert sorted(entry.path for entry in rig.entries()) == sorted(rig.tree())
        held = {entry[1] for entry in rig.tree().values()} | set(rig.attic())
        assert held >= {b"1", b"2"}
        assert len(rig.index.attic(None)) == 1
        assert staged_names(tmp_path) == []


def filled(path: bytes, *names: bytes) -> list[Change]:
    """Return the changes that make a directory with files in it."""
    return [MakeDirectory(path, 0o755, 1), *(put(path + b"/" + name, name) for name in names)]


def test_files_of_a_new_directory_come_with_it(tmp_path: Path) -> None:
    """They are staged under their own names; what the index knows of them is what is there."""
    with Rig(tmp_path) as rig:
        batch = rig.stage(filled(b"d", b"f", b"g"), [b"f", b"g"])
        (staged,) = staged_names(tmp_path)
        assert sorted(os.listdir(tmp_path / ".twinfold/staging" / staged)) == ["f", "g"]
        rig.commit(batch)
        assert rig.tree().keys() == {b"d", b"d/f", b"d/g"}
        check_recorded(rig, b"d", b"f", b"g")
        assert staged_names(tmp_path) == []


def check_recorded(rig: Rig, directory: bytes, *names: bytes) -> None:
    """The index has the inode and the ctime that each file has."""
    parent = rig.index.child(TREE, directory)
    assert parent is not None
    rig.committer.settle()
    for name in names:
        node = rig.index.child(parent.id, name)
        looked = rig.forest.look_at(TREE, [directory, name])
        assert node is not None
        assert looked is not None
        assert (node.inode, node.ctime_ns) == (looked.inode, looked.ctime_ns)


def test_files_of_a_directory_that_is_there_already(tmp_path: Path) -> None:
    """The directory is sent again, as by a client that lost its place."""
    with Rig(tmp_path) as rig:
        rig.apply(filled(b"d", b"f", b"g"), [b"f", b"g"])
        changed: list[Change] = [*filled(b"d", b"new"), put(b"d/f", b"other")]
        assert rig.apply(changed, [b"new", b"other"]) == {}
        assert {path: entry[1] for path, entry in rig.tree().items() if path != b"d"} == {
            b"d/f": b"other",
            b"d/g": b"g",
            b"d/new": b"new",
        }
        assert rig.attic() == {b"f": 1}
        check_recorded(rig, b"d", b"f", b"g", b"new")
    with Rig(tmp_path) as rig:
        assert staged_names(tmp_path) == []
        assert set(rig.tree()) == {b"d", b"d/f", b"d/g", b"d/new"}


def test_a_new_directory_that_is_not_committed_leaves_nothing(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        batch = rig.stage(filled(b"d", b"f"), [b"f"])
        rig.stager.drop([batch])
        assert staged_names(tmp_path) == []


def test_a_file_put_twice_into_a_new_directory(tmp_path: Path) -> None:
    """The last one counts, whichever of them came in one piece."""
    long = bytes(range(256)) * 400
    for contents in ([b"1", long], [long, b"1"], [b"1", b"2"]):
        folder = tmp_path / f"{len(contents[0])}-{contents[1][:1].hex()}"
        folder.mkdir()
        with Rig(folder) as rig:
            puts = [put(b"d/f", data) for data in contents]
            rig.apply([MakeDirectory(b"d", 0o755, 1), *puts], pieces_of(contents))
            assert rig.tree()[b"d/f"][1] == contents[1]
            assert rig.attic() == {contents[0]: 1}


@pytest.mark.parametrize("first", ["upload", "directory", "symlink"])
def test_what_stood_at_a_path_before_in_the_same_batch(tmp_path: Path, first: str) -> None:
    """A file that comes to a path of a new directory after something else is staged by itself."""
    failures: list[bool] = []

    class Counting(ForestWrapper):
        def perform(
            self, steps: Sequence[Step], locate: Callable[[int], Location | None], *, again: bool
        ) -> Performed:
            failures.append(again)
            return self.forest.perform(steps, locate, again=again)

    upload = b"u" * 16
    before: dict[str, list[Change]] = {
        "upload": [extend(upload, b"1", 0, 1), put_upload(b"d/f", b"1", upload)],
        "directory": [MakeDirectory(b"d/f", 0o755, 1)],
        "symlink": [MakeSymlink(b"d/f", b"nowhere")],
    }
    with Rig(tmp_path, Counting) as rig:
        rig.apply([MakeDirectory(b"d", 0o755, 1), *before[first], put(b"d/f", b"2")], [b"1", b"2"])
        assert rig.tree()[b"d/f"][1] == b"2"
        assert failures == [False]


def pieces_of(contents: list[bytes]) -> list[bytes]:
    """Return the contents chunk by chunk, so that the longer ones do not come whole."""
    return [piece for data in contents for piece in cut(data)]
