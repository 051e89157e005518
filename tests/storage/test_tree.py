"""The destination is touched inside only, and with what rights there are."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.server.rig import Rig, put
from twinfold.model import Delete, MakeDirectory, Move, SetAttributes
from twinfold.storage.interface import TREE, Location, Opener

_NOBODY = 65_534


@pytest.fixture
def plain_user_folder() -> Iterator[Path]:
    """A folder of a user without special rights, and these rights for the test."""
    folder = Path(tempfile.mkdtemp(prefix="twinfold-test-"))
    is_root = os.geteuid() == 0
    if is_root:
        os.chown(folder, _NOBODY, _NOBODY)
        os.seteuid(_NOBODY)
    try:
        yield folder
    finally:
        if is_root:
            os.seteuid(0)
        shutil.rmtree(folder)


def test_a_plain_user_can_change_what_is_read_only(plain_user_folder: Path) -> None:
    """Files and directories without the write bit are reproduced, replaced, moved, deleted."""
    with Rig(plain_user_folder / "dest") as rig:
        rig.apply([MakeDirectory(b"a", 0o755, 1), MakeDirectory(b"b", 0o555, 1)])
        rig.apply([put(b"a/f", b"1", 0o444), SetAttributes(b"a", 0o555, 1)], [b"1"])
        rig.apply([put(b"a/f", b"2", 0o444)], [b"2"])
        assert rig.tree()[b"a"] == ("dir", 0o555, 1)
        rig.apply([Move(b"a", b"b/a")])
        assert rig.tree()[b"b/a/f"] == ("file", b"2", 0o444, 5)
        rig.apply([Delete(b"b/a")])
        assert set(rig.tree()) == {b"b"}
        rig.committer.settle()
        for node, name in rig.index.attic(None):
            rig.forest.purge(rig.committer.begin_purge([(node, name)])[0])
        assert rig.attic() == {}


def test_a_plain_user_can_change_what_lies_below_a_closed_directory(
    plain_user_folder: Path,
) -> None:
    """Bits that keep the owner out are no obstacle, and are the same afterwards."""
    dest = plain_user_folder / "dest"
    with Rig(dest) as rig:
        rig.apply([MakeDirectory(b"a", 0o755, 1), MakeDirectory(b"a/b", 0o755, 1)])
        rig.apply([SetAttributes(b"a", 0o300, 1)])
        rig.apply([put(b"a/b/f", b"1")], [b"1"])
        rig.apply([SetAttributes(b"a/b", 0o000, 1)])
        rig.apply([put(b"a/b/f", b"2")], [b"2"])
        assert stat.S_IMODE((dest / "a").stat().st_mode) == 0o300
        rig.apply([SetAttributes(b"a/b", 0o755, 1), SetAttributes(b"a", 0o755, 1)])
        assert rig.tree()[b"a/b/f"][1] == b"2"


def test_a_plain_user_can_purge_what_cannot_be_entered(plain_user_folder: Path) -> None:
    """A directory without any bits goes from the attic like others."""
    with Rig(plain_user_folder / "dest") as rig:
        rig.apply([MakeDirectory(b"a", 0o755, 1), MakeDirectory(b"a/b", 0o000, 1)])
        rig.apply([Delete(b"a")])
        [(node, name)] = rig.index.attic(None)
        rig.forest.purge(rig.committer.begin_purge([(node, name)])[0])
        assert os.listdir(plain_user_folder / "dest" / ".twinfold" / "attic") == []


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "f").write_bytes(b"outside")
    (folder / "f").chmod(0o600)
    return folder


def test_nothing_is_written_through_a_directory_swapped_for_a_symlink(
    tmp_path: Path, outside: Path
) -> None:
    """Puts, moves, deletions and attributes stay inside, whatever DEST shows."""
    with Rig(tmp_path / "dest") as rig:
        rig.apply([MakeDirectory(b"d", 0o755, 1), put(b"d/f", b"1"), put(b"g", b"2")], [b"1", b"2"])
        before = outside.stat()
        for changes in (
            [put(b"d/f", b"3")],
            [put(b"d/new", b"3")],
            [Move(b"g", b"d/g")],
            [SetAttributes(b"d", 0o700, 9)],
            [SetAttributes(b"d/f", 0o777, 9)],
            [Delete(b"d/f")],
            [Delete(b"d")],
        ):
            if (tmp_path / "dest" / "d").is_dir() and not (tmp_path / "dest" / "d").is_symlink():
                shutil.rmtree(tmp_path / "dest" / "d")
                os.symlink(outside, tmp_path / "dest" / "d")
            rig.apply(changes, [b"3"])
            assert os.listdir(outside) == ["f"]
            assert (outside / "f").read_bytes() == b"outside"
            assert (outside / "f").stat().st_mode & 0o777 == 0o600
            assert (outside.stat().st_mode, outside.stat().st_mtime_ns) == (
                before.st_mode,
                before.st_mtime_ns,
            )
    with Rig(tmp_path / "dest") as rig:
        assert os.listdir(outside) == ["f"]


def test_attributes_do_not_follow_a_file_swapped_for_a_symlink(
    tmp_path: Path, outside: Path
) -> None:
    """The symlink's target keeps its bits, and the server goes on."""
    with Rig(tmp_path / "dest") as rig:
        rig.apply([put(b"f", b"1")], [b"1"])
        (tmp_path / "dest" / "f").unlink()
        (tmp_path / "dest" / "f").symlink_to(outside / "f")
        rig.apply([SetAttributes(b"f", 0o777, 7)])
    assert (outside / "f").stat().st_mode & 0o777 == 0o600
    with Rig(tmp_path / "dest") as rig:
        rig.apply([put(b"g", b"2")], [b"2"])


def test_a_directory_made_again_by_someone_else_can_still_be_moved(tmp_path: Path) -> None:
    """A directory is its name in the index, whoever made the one that is there."""
    with Rig(tmp_path) as rig:
        rig.apply([MakeDirectory(b"a", 0o755, 1), put(b"a/x", b"1")], [b"1"])
        shutil.rmtree(tmp_path / "a")
        os.mkdir(tmp_path / "a")
        rig.apply([put(b"a/y", b"2")], [b"2"])
        rig.apply([Move(b"a", b"b"), put(b"b/z", b"3")], [b"3"])
        assert set(rig.tree()) == {b"b", b"b/y", b"b/z"}


def test_special_files_are_not_opened(tmp_path: Path) -> None:
    """A FIFO has no content, and reading it does not wait."""
    with Rig(tmp_path) as rig:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match="regular"):
            rig.forest.open_source(TREE, [b"pipe"])
        [looked] = rig.forest.look(TREE, []).children
        assert (looked.name, looked.kind) == (b"pipe", None)


def open_bytes(opener: Opener, node: int) -> bytes:
    source = opener.open_source(node)
    try:
        return source.read(0, 100)
    finally:
        source.close()


@contextmanager
def opening(rig: Rig, locate: Callable[[int], Location | None]) -> Iterator[Opener]:
    opener = rig.forest.opener(locate)
    try:
        yield opener
    finally:
        opener.close()


def node_at(rig: Rig, path: bytes) -> int:
    node = TREE
    for name in path.split(b"/"):
        found = rig.index.child(node, name)
        assert found is not None
        node = found.id
    return node


def fill(rig: Rig) -> None:
    """Put the files 0 to 9 into a/b, each with its name for its content."""
    rig.apply([MakeDirectory(b"a", 0o755, 1), MakeDirectory(b"a/b", 0o755, 1)])
    names = [b"%d" % n for n in range(10)]
    rig.apply([put(b"a/b/" + name, name) for name in names], names)


def test_a_directory_is_looked_for_once(tmp_path: Path) -> None:
    """Its files are found by their names alone, wherever it is renamed to."""
    with Rig(tmp_path) as rig:
        fill(rig)
        nodes = {n: node_at(rig, b"a/b/%d" % n) for n in range(10)}
        located: list[int] = []

        def locate(node: int) -> Location | None:
            located.append(node)
            return rig.index.location(node)

        with opening(rig, locate) as opener:
            assert [open_bytes(opener, nodes[n]) for n in range(5)] == [b"%d" % n for n in range(5)]
            assert len(located) == 5 + 2
            rig.apply([Move(b"a/b", b"c")])
            (tmp_path / "c").rename(tmp_path / "away")
            assert [open_bytes(opener, nodes[n]) for n in range(5, 9)] == [b"5", b"6", b"7", b"8"]
            assert len(located) == 9 + 2
            (tmp_path / "away").rename(tmp_path / "c")
            rig.apply([Move(b"c/9", b"9")])
            assert open_bytes(opener, nodes[9]) == b"9"


def test_what_is_gone_from_an_open_directory_is_looked_for_afresh(tmp_path: Path) -> None:
    """Others may have put another directory in its place."""
    with Rig(tmp_path) as rig:
        fill(rig)
        with opening(rig, rig.index.location) as opener:
            assert open_bytes(opener, node_at(rig, b"a/b/0")) == b"0"
            (tmp_path / "a").rename(tmp_path / "old")
            (tmp_path / "a" / "b").mkdir(parents=True)
            (tmp_path / "old" / "b" / "1").rename(tmp_path / "a" / "b" / "1")
            assert open_bytes(opener, node_at(rig, b"a/b/1")) == b"1"
            with pytest.raises(FileNotFoundError):
                opener.open_source(node_at(rig, b"a/b/2"))
            with pytest.raises(FileNotFoundError):
                opener.open_source(99_999)


@pytest.mark.parametrize("swapped", ["a", "a/b", "a/b/0"])
def test_a_node_is_not_opened_through_a_symlink(tmp_path: Path, swapped: str) -> None:
    """Whichever component is one, and whether or not the directory was opened before."""
    with Rig(tmp_path / "dest") as rig:
        fill(rig)
        (tmp_path / "elsewhere" / "a" / "b").mkdir(parents=True)
        (tmp_path / "elsewhere" / "a" / "b" / "0").write_bytes(b"elsewhere")
        node = node_at(rig, b"a/b/0")
        with opening(rig, rig.index.location) as opener:
            open_bytes(opener, node_at(rig, b"a/b/1"))
            (tmp_path / "dest" / swapped).rename(tmp_path / "moved")
            (tmp_path / "dest" / swapped).symlink_to(tmp_path / "elsewhere" / swapped)
            with suppress(OSError):
                assert open_bytes(opener, node) == b"0"
        with opening(rig, rig.index.location) as opener, pytest.raises(OSError):  # noqa: PT011
            opener.open_source(node)


def test_a_deep_file_is_opened(tmp_path: Path) -> None:
    """Also where there are more directories above it than stay open."""
    with Rig(tmp_path) as rig:
        path = b"d"
        for _ in range(100):
            rig.apply([MakeDirectory(path, 0o755, 1)])
            path += b"/d"
        rig.apply([put(path, b"deep")], [b"deep"])
        before = len(os.listdir("/dev/fd"))
        with opening(rig, rig.index.location) as opener:
            node = node_at(rig, path)
            assert open_bytes(opener, node) == open_bytes(opener, node) == b"deep"
            assert 0 < len(os.listdir("/dev/fd")) - before <= 64
        assert len(os.listdir("/dev/fd")) == before


def test_a_purge_follows_no_symlink(tmp_path: Path, outside: Path) -> None:
    """What a deleted directory's symlinks point to stays."""
    with Rig(tmp_path / "dest") as rig:
        rig.apply([MakeDirectory(b"d", 0o755, 1)])
        os.symlink(outside, tmp_path / "dest" / "d" / "link")
        rig.apply([Delete(b"d")])
        [(node, name)] = rig.index.attic(None)
        rig.forest.purge(rig.committer.begin_purge([(node, name)])[0])
    assert os.listdir(outside) == ["f"]
    assert os.listdir(tmp_path / "dest" / ".twinfold" / "attic") == []
