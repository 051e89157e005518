"""A listing shows what is in a directory now, also on file systems that go by its opening.

On a btrfs a descriptor shows only what was there when it was opened or last set to its beginning.
"""

from __future__ import annotations

import sys

assert sys.platform != "win32"

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.small import btrfs
from tests.server.rig import Rig, put
from twinfold.client.tree import by_name, open_root
from twinfold.model import Delete
from twinfold.storage.interface import ATTIC, TREE


@pytest.fixture(params=["plain", "btrfs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "plain":
        yield tmp_path
    else:
        with btrfs(tmp_path / "btrfs") as mounted:
            yield mounted


def test_the_server_lists_what_came_since_it_started(folder: Path) -> None:
    """Tree, staging and attic, whose descriptors stay open."""
    with Rig(folder / "dest") as rig:
        for number in range(3):
            name = b"%d" % number
            rig.apply([put(name, name), put(b"gone", name)], [name])
            rig.apply([Delete(b"gone")])
            (folder / "dest" / ".twinfold" / "staging" / f"{number}").touch()
            listed = [child.name for child in rig.forest.look(TREE, []).children]
            assert listed == [b"0", b"1", b"2"][: number + 1]
            assert len(rig.forest.look(ATTIC, []).children) == number + 1
            assert sorted(rig.staging.names()) == listed


@contextmanager
def switching_often() -> Iterator[None]:
    """Let threads come between each other even where there is little time for it."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before_s)


def test_threads_do_not_take_names_from_each_other(folder: Path) -> None:
    """A check for drift and the attic's collector may list the same folder at once."""
    with Rig(folder / "dest") as rig:
        for number in range(2_000):
            # Long names, so that a listing takes many calls that another can come between.
            (folder / "dest" / f"{number:0200}").touch()

        def look(_: int) -> int:
            return len(rig.forest.look(TREE, []).children)

        with switching_often(), ThreadPoolExecutor(4) as threads:
            assert set(threads.map(look, range(80))) == {2_000}


def test_what_a_recovery_puts_into_the_attic_stays_known(folder: Path) -> None:
    """Content that was set aside right after a crash is kept, and used, like any other."""
    with Rig(folder / "dest") as rig:
        rig.apply([put(b"file", b"old")], [b"old"])
        rig.apply([put(b"file", b"new")], [b"new"])
        [kept] = rig.index.attic(None)
        # As if the power had gone before the old file's second name was on the disk.
        (folder / "dest" / ".twinfold" / "attic" / kept[1].decode()).rename(folder / "old")
        (folder / "old").rename(folder / "dest" / "file")
    with Rig(folder / "dest") as rig:
        assert rig.index.attic(None) == [kept]
        assert rig.messages == []


def test_the_client_lists_what_came_since_it_opened_a_directory(folder: Path) -> None:
    """What is made between opening and listing is not left out."""
    with open_root(bytes(folder)) as root:
        before = set(by_name(root.listing().entries))
        for number in range(3):
            (folder / f"new-{number}").touch()
            now = set(by_name(root.listing().entries)) - before
            assert now == {b"new-%d" % n for n in range(number + 1)}
