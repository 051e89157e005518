"""Permissions that stand in the way of a user who is not root."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import os
import shutil
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import LIMIT_S, Pair, assert_one_line, run
from tests.e2e.trees import permissions_bind, plain_user, snapshot
from tests.worlds.fixtures import served

pytestmark = pytest.mark.process


@pytest.fixture
def plain_pair(pair: Pair) -> Pair:
    """Both sides may do what their files' modes allow, and no more."""
    pair.server_prefix = pair.client_prefix = plain_user()
    return pair


def make_read_only(folder: Path) -> None:
    """Fill a folder with what its owner may read and not write."""
    (folder / "a" / "b").mkdir(parents=True)
    for path in ("top", "a/f", "a/b/g", "a/b/h"):
        (folder / path).write_bytes(path.encode())
    close(folder)


def close(folder: Path) -> None:
    """Take the right to write from all below a folder, and from itself."""
    for directory, _, files in os.walk(folder, topdown=False):
        for name in files:
            (Path(directory) / name).chmod(0o444)
        os.chmod(directory, 0o555)


def edit(folder: Path) -> None:
    (folder / "a" / "b" / "g").write_bytes(b"another content")
    (folder / "a" / "b" / "new").write_bytes(b"new")


def replace(folder: Path) -> None:
    (folder / "a" / "x").write_bytes(b"x")
    (folder / "a" / "x").replace(folder / "a" / "b" / "h")
    (folder / "a" / "f").unlink()
    (folder / "a" / "f").mkdir()


MOVES: dict[str, Callable[[Path], object]] = {
    "edited": edit,
    "replaced": replace,
    "renamed": lambda folder: (folder / "a").rename(folder / "z"),
    "moved up": lambda folder: (folder / "a" / "b").rename(folder / "b"),
    "moved down": lambda folder: (folder / "top").rename(folder / "a" / "b" / "top"),
    "deleted": lambda folder: shutil.rmtree(folder / "a"),
    "emptied": lambda folder: (folder / "a" / "b" / "g").unlink(),
}


def change(folder: Path, what: Callable[[Path], object]) -> None:
    """Change something in a folder that is read-only before and after."""
    for directory, _, _ in os.walk(folder):
        os.chmod(directory, 0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    what(folder)
    close(folder)


def test_read_only_trees_can_be_changed_later(plain_pair: Pair) -> None:
    """Files of mode 0444 in directories of mode 0555 are made, changed, moved and deleted."""
    pair = plain_pair
    for name in MOVES:
        (pair.source / name).mkdir()
        make_read_only(pair.source / name)
    pair.source.chmod(0o555)
    pair.start()
    pair.assert_equal()
    for name, what in MOVES.items():
        change(pair.source / name, what)
        pair.converge()
    pair.settle()
    assert stat.S_IMODE(pair.dest.stat().st_mode) == 0o555
    pair.client.terminate()
    pair.server.terminate()
    pair.restart_server("--keep", "0")
    for name in MOVES:
        change(pair.source / name, lambda folder: (folder / "late").write_bytes(b"late"))
    pair.sync()


def test_directories_without_rights_are_made_and_changed(pair: Pair) -> None:
    """A server without rights of its own works below what its owner may not enter."""
    if permissions_bind():
        pytest.skip("needs a client that may read what a plain user may not")
    pair.server_prefix = plain_user()
    (pair.source / "d" / "in").mkdir(parents=True)
    (pair.source / "d" / "in" / "f").write_bytes(b"f")
    pair.start()
    for mode in (0o000, 0o300, 0o444, 0o111):
        (pair.source / "d").chmod(mode)
        (pair.source / "d" / "in").chmod(mode)
        pair.settle()
        assert mode_of(pair.dest / "d" / "in") == mode
        (pair.source / "d" / "in" / "f").write_bytes(b"%o" % mode)
        (pair.source / "d" / "in" / "more").mkdir(mode=mode)
        pair.converge()
        (pair.source / "d" / "in" / "more").rename(pair.source / "d" / "moved")
        (pair.source / "d" / "in").rename(pair.source / "out")
        pair.converge()
        (pair.source / "out").rename(pair.source / "d" / "in")
        (pair.source / "d" / "moved").rmdir()
        pair.converge()


def test_a_directory_that_becomes_unreadable_keeps_what_it_had(plain_pair: Pair) -> None:
    """The client says which one it cannot look into, and deletes nothing of it."""
    pair = plain_pair
    (pair.source / "d" / "in").mkdir(parents=True)
    (pair.source / "d" / "in" / "f").write_bytes(b"f")
    pair.start()
    for mode in (0o000, 0o300, 0o444):
        mark = pair.client.mark()
        (pair.source / "d").chmod(mode)
        (pair.source / "other").write_bytes(b"%o" % mode)
        problem = pair.client.expect("problem", since=mark)
        assert problem["path"].startswith("d"), problem
        assert pair.wait().code == 3
        assert (pair.dest / "d" / "in" / "f").read_bytes()
        assert (pair.dest / "other").read_bytes() == b"%o" % mode
        (pair.source / "d").chmod(0o755)
        (pair.source / "d" / "in" / "f").write_bytes(b"%o" % mode)
        pair.settle()


def test_a_file_that_its_owner_may_not_read_is_made_durable(pair: Pair) -> None:
    """A server without rights of its own cannot open what it has to sync, and syncs all."""
    if permissions_bind():
        pytest.skip("needs a client that may read what a plain user may not")
    pair.server_prefix = plain_user()
    pair.start()
    for mode in (0o000, 0o200):
        path = pair.source / f"{mode:o}"
        path.write_bytes(b"x")
        path.chmod(mode)
        pair.settle()
        assert mode_of(pair.dest / path.name) == mode


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_becomes_readable_arrives_while_live(plain_pair: Pair) -> None:
    """An unreadable file is a problem until it can be read; what was there of it stays."""
    pair = plain_pair
    for name in ("old", "new"):
        (pair.source / name).write_bytes(b"first")
    (pair.source / "new").chmod(0)
    pair.start()
    assert [event["path"] for event in pair.client.events("problem")] == ["new"]
    (pair.source / "old").write_bytes(b"second")
    (pair.source / "old").chmod(0)
    pair.client.expect("problem", where=lambda event: event["path"] == "old")
    assert pair.wait().code == 3
    assert (pair.dest / "old").read_bytes() in (b"first", b"second")
    assert not (pair.dest / "new").exists()
    for name in ("old", "new"):
        (pair.source / name).chmod(0o400)
    pair.converge()
    assert (pair.dest / "old").read_bytes() == b"second"


@pytest.fixture
def failing_disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[int], None]]]:
    """A folder on a disk that can be made read-only, and what does it."""
    with served(tmp_path / "disk") as process:
        yield tmp_path / "disk", process.send_signal


def test_a_disk_that_becomes_read_only_keeps_whole_versions(
    pair: Pair, failing_disk: tuple[Path, Callable[[int], None]]
) -> None:
    """Nothing of a change is visible meanwhile; it arrives by itself afterwards."""
    disk, switch = failing_disk
    pair.dest = disk / "dest"
    (pair.source / "file").write_bytes(b"before")
    (pair.source / "folder").mkdir()
    pair.start()
    before = snapshot(pair.dest)
    switch(signal.SIGUSR1)
    (pair.source / "file").write_bytes(b"after")
    (pair.source / "folder" / "new").write_bytes(b"new")
    assert pair.wait(5).code == 3
    assert snapshot(pair.dest) == before
    assert pair.client.alive
    assert pair.server.alive
    switch(signal.SIGUSR2)
    pair.converge()


def test_a_server_on_a_read_only_disk(
    tmp_path: Path, failing_disk: tuple[Path, Callable[[int], None]]
) -> None:
    """One line that says so, and nothing is left."""
    disk, switch = failing_disk
    switch(signal.SIGUSR1)
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            (disk / "probe").mkdir()
        except OSError:
            break
        assert time.monotonic() < deadline
    before = os.listdir(disk)
    result = run("server", disk / "dest", "--listen", "127.0.0.1:0", state=tmp_path / "state")
    assert "read-only" in assert_one_line(result).lower()
    assert os.listdir(disk) == before
