"""The scan of named entries: what was not looked into before, and which problems stay."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.mirror import WAYS, ScannedSource, snapshot
from twinfold.client.dirty import Names
from twinfold.client.files import FilePlanner
from twinfold.client.tree import DescriptorDirectory
from twinfold.model import Change, MakeDirectory, Move, PutFile, SetAttributes

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="directories have descriptors")


@pytest.fixture(params=list(WAYS))
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ScannedSource]:
    source = ScannedSource(tmp_path, *WAYS[request.param])
    yield source
    source.state.close()


@pytest.fixture
def deep(source: ScannedSource) -> ScannedSource:
    """A scanned source in which d/e/f has changed since, and nothing else."""
    (source.root / "d" / "e").mkdir(parents=True)
    (source.root / "d" / "e" / "f").write_text("before")
    source.scan()
    (source.root / "d" / "e" / "f").write_text("changed")
    return source


def fail_to_enter(monkeypatch: pytest.MonkeyPatch, failing: bytes, number: int) -> None:
    real = DescriptorDirectory.enter

    def enter(directory: DescriptorDirectory, name: bytes) -> DescriptorDirectory:
        if name == failing:
            raise OSError(number, os.strerror(number))
        return real(directory, name)

    monkeypatch.setattr(DescriptorDirectory, "enter", enter)


def paths(source: ScannedSource) -> list[bytes]:
    return [problem.path for problem in source.problems.listed()]


def is_about_attributes(change: Change) -> bool:
    return isinstance(change, SetAttributes)


def check(source: ScannedSource) -> None:
    assert source.mirror.entries == snapshot(source.root)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ESTALE, errno.ELOOP])
def test_what_is_below_a_directory_that_is_tried_again_is_seen(
    deep: ScannedSource, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The directory itself is as it was known; what is in it was not looked at yet."""
    with monkeypatch.context() as failing:
        fail_to_enter(failing, b"d", number)
        assert deep.scan().retry == {b"": {b"d"}}
    scan = deep.scan(Names({b"": {b"d"}}, set()))
    assert scan.retry == {}
    check(deep)


@pytest.mark.parametrize("names", [{b"": {b"d"}}, {b"d": {b"other"}}, {b"": None}])
def test_what_is_below_a_directory_that_can_be_read_again_is_seen(
    deep: ScannedSource, monkeypatch: pytest.MonkeyPatch, names: dict[bytes, set[bytes] | None]
) -> None:
    """Its problem ends only together with a look at all of it."""
    with monkeypatch.context() as failing:
        fail_to_enter(failing, b"d", errno.EACCES)
        deep.scan()
        assert paths(deep) == [b"d"]
        deep.scan(Names({b"": {b"d"}}, set()))
        assert paths(deep) == [b"d"]
    deep.scan(Names(names, set()))
    assert paths(deep) == []
    check(deep)


def test_a_directory_that_could_not_be_listed_is_walked(
    deep: ScannedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event in it is no reason to look at that one name only."""
    (deep.root / "d" / "more").write_text("more")

    def failing(_directory: DescriptorDirectory) -> object:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(DescriptorDirectory, "listing", failing)
        deep.scan()
    assert paths(deep) == [b""]
    deep.scan(Names({b"": {b"x"}}, set()))
    assert paths(deep) == []
    check(deep)


def test_a_named_directory_that_is_not_there_is_tried_again(deep: ScannedSource) -> None:
    """Unless the scan has looked at its name: nobody else would say that it is gone."""
    shutil.rmtree(deep.root / "d")
    assert deep.scan(Names({b"d/e": {b"f"}, b"": {b"d"}}, set())).retry == {}
    check(deep)
    (deep.root / "d" / "e").mkdir(parents=True)
    deep.scan()
    (deep.root / "d" / "e").rmdir()
    assert deep.scan(Names({b"d/e": {b"f"}}, set())).retry == {b"d": {b"e"}}
    deep.scan(Names({b"d": {b"e"}}, set()))
    check(deep)


def test_a_refusal_that_comes_during_the_look_stays(
    source: ScannedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an acknowledgement says of a name meanwhile is newer than the look at it."""
    (source.root / "f").write_text("x")
    source.problems.note(b"f", "no space")
    source.problems.note(b"g", "no space")
    real = FilePlanner.plan_fresh

    def refused(planner: FilePlanner, *args: object) -> None:
        real(planner, *args)  # type: ignore[arg-type]
        source.problems.note(b"f", "no space")

    monkeypatch.setattr(FilePlanner, "plan_fresh", refused)
    source.scan(Names({b"": {b"f", b"g"}}, set()))
    assert paths(source) == [b"f"]
    assert len(source.told) == 2


@pytest.mark.parametrize("names", [{b"": {b"d"}}, {b"": {b"d", b"x"}}, {b"": None}])
@pytest.mark.parametrize("then", ["gone", "moved", "file", "fifo"])
def test_problems_end_with_the_directory_that_they_were_in(
    source: ScannedSource, then: str, names: dict[bytes, set[bytes] | None]
) -> None:
    """Whatever became of it."""
    if sys.platform == "win32":
        pytest.skip("there is no such thing on Windows")
    (source.root / "d" / "deep").mkdir(parents=True)
    os.mkfifo(source.root / "d" / "deep" / "p")
    (source.root / "d2").mkdir()
    os.mkfifo(source.root / "d2" / "p")
    (source.root / "x").touch()
    source.scan()
    assert paths(source) == [b"d/deep/p", b"d2/p"]
    if then == "moved":
        (source.root / "d").rename(source.root / "n")
    else:
        shutil.rmtree(source.root / "d")
    if then == "file":
        (source.root / "d").touch()
    elif then == "fifo":
        os.mkfifo(source.root / "d")
    source.scan(Names({path: set(n) if n else None for path, n in names.items()}, {b"n"}))
    left = {"gone": [], "moved": [b"n/deep/p"], "file": [], "fifo": [b"d"]}[then]
    assert sorted([b"d2/p", *left]) == paths(source)


def test_a_renamed_directory_is_sent_before_all_in_it_is_looked_at(tmp_path: Path) -> None:
    """It is at the destination at once, however much is in it."""
    source = ScannedSource(tmp_path, patience_s=0.0)
    (source.root / "d" / "deep" / "deeper").mkdir(parents=True)
    source.scan()
    source.forget_changes()
    sent: dict[bytes, bool] = {}
    move = Move(b"d", b"n")

    def watch(path: bytes, _fd: int | None) -> None:
        sent[path] = move in source.mirror.changes

    source.watch = watch
    (source.root / "d").rename(source.root / "n")
    source.scan(Names({b"": {b"d", b"n"}}, set()))
    assert sent == {b"": False, b"n": True, b"n/deep": True, b"n/deep/deeper": True}


def test_a_word_about_the_whole_source_stays(source: ScannedSource) -> None:
    """A look at names in the root says nothing about what was noted at the root."""
    (source.root / "f").touch()
    source.scan()
    source.problems.note(b"", "is not watched")
    (source.root / "f").unlink()
    source.scan(Names({b"": {b"f"}}, set()))
    assert paths(source) == [b""]
    source.scan()
    assert paths(source) == []


@pytest.mark.parametrize("names", [{b"c", b"h", b"k"}, {b"c", b"k"}])
def test_a_new_directory_has_the_name_of_one_found_elsewhere(
    source: ScannedSource, names: set[bytes]
) -> None:
    """Also if it is found only in a new directory next to it, and what was named is below it."""
    for name in "hk":
        (source.root / name).mkdir()
        (source.root / name / "old").write_text(name)
    source.scan()
    (source.root / "c").mkdir()
    (source.root / "h").rename(source.root / "c" / "moved")
    (source.root / "h").mkdir()
    (source.root / "h" / "new").write_text("new")
    source.scan(Names({b"": names, b"h": {b"new"}, b"k": None}, set()))
    check(source)


def test_a_directory_that_is_looked_at_twice_brings_what_is_in_it_once(
    source: ScannedSource,
) -> None:
    """What is below a directory that was moved was named, but not yet that it is gone."""
    (source.root / "old").mkdir()
    (source.root / "a").mkdir()
    source.scan()
    source.forget_changes()
    (source.root / "new" / "inner").mkdir(parents=True)
    (source.root / "file").write_text("new")
    (source.root / "old" / "inner").mkdir()
    (source.root / "old").rename(source.root / "a" / "moved")
    named: dict[bytes, set[bytes] | None] = {
        b"": {b"new", b"file"},
        b"a": {b"moved"},
        b"old": {b"inner"},
    }
    source.scan(Names(named, {b"new"}))
    check(source)
    brought = [
        change.path
        for change in source.mirror.changes
        if isinstance(change, PutFile | MakeDirectory | Move)
    ]
    assert len(brought) == len(set(brought))
