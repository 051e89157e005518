"""The watcher of macOS and Windows, as far as it can be tried on any platform."""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("watchdog")

from twinfold.client.watch import Dirty, joined
from twinfold.client.watch_portable import Notices, PortableWatcher, note_fsevents

CREATED, RENAMED, MODIFIED = 0x100, 0x800, 0x1000
IS_FILE, IS_DIRECTORY = 0x10000, 0x20000


@pytest.fixture
def watcher(tmp_path: Path) -> Iterator[PortableWatcher]:
    (tmp_path / "root/a/b").mkdir(parents=True)
    (tmp_path / "root/a/b/file").write_bytes(b"x")
    watcher = PortableWatcher(os.fsencode(tmp_path / "root"))
    yield watcher
    watcher.close()


@pytest.fixture
def notices(tmp_path: Path) -> Notices:
    return Notices(os.fsencode(tmp_path))


def wait_for(watcher: PortableWatcher, seen: Callable[[Dirty], bool]) -> Dirty:
    """Collect until all that is wanted has been reported."""
    total = Dirty()
    deadline = time.monotonic() + 10
    while not seen(total):
        assert time.monotonic() < deadline, total
        time.sleep(0.02)
        dirty = watcher.collect()
        for directory, names in dirty.names.items():
            before = total.names.get(directory, set())
            total.names[directory] = None if names is None or before is None else before | names
        total.trees |= dirty.trees
        total.lost |= dirty.lost
    return total


def wait_for_names(watcher: PortableWatcher, *paths: bytes) -> Dirty:
    def seen(dirty: Dirty) -> bool:
        reported = {joined(d, name) for d, names in dirty.names.items() for name in names or ()}
        return reported.issuperset(paths)

    return wait_for(watcher, seen)


def test_it_does_not_claim_to_have_seen_everything(watcher: PortableWatcher) -> None:
    assert not watcher.sees_everything_before_collect
    assert watcher.incomplete is None
    assert not watcher.root_gone


def test_changes_of_files_are_reported(watcher: PortableWatcher, tmp_path: Path) -> None:
    file = tmp_path / "root/a/b/file"
    file.write_bytes(b"changed")
    wait_for_names(watcher, b"a/b/file")
    file.rename(tmp_path / "root/moved")
    wait_for_names(watcher, b"a/b/file", b"moved")
    (tmp_path / "root/moved").unlink()
    wait_for_names(watcher, b"moved")


def test_new_and_moved_directories_are_trees(watcher: PortableWatcher, tmp_path: Path) -> None:
    (tmp_path / "root/new").mkdir()
    (tmp_path / "root/a").rename(tmp_path / "root/z")
    dirty = wait_for_names(watcher, b"new", b"a", b"z")
    assert dirty.trees >= {b"new", b"z"}


@pytest.mark.skipif(sys.platform != "linux", reason="such names are Linux's")
def test_any_name_is_reported_byte_by_byte(watcher: PortableWatcher, tmp_path: Path) -> None:
    name = b"\xff line\nbreak"
    Path(os.fsdecode(os.fsencode(tmp_path / "root/a") + b"/" + name)).write_bytes(b"x")
    wait_for_names(watcher, b"a/" + name)


def test_the_programs_own_directory_at_the_root_is_not_reported(
    watcher: PortableWatcher, tmp_path: Path
) -> None:
    (tmp_path / "root/.twinfold").mkdir()
    (tmp_path / "root/a/.twinfold").mkdir()
    dirty = wait_for_names(watcher, b"a/.twinfold")
    assert b".twinfold" not in dirty.trees
    assert b".twinfold" not in (dirty.names.get(b"") or set())


async def test_changed_waits_for_the_next_change(watcher: PortableWatcher, tmp_path: Path) -> None:
    waiting = asyncio.create_task(watcher.changed())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    (tmp_path / "root/late").write_bytes(b"x")
    await asyncio.wait_for(waiting, 10)
    await asyncio.wait_for(watcher.changed(), 10)
    assert watcher.collect()


async def test_closing_ends_everything(watcher: PortableWatcher) -> None:
    waiting = asyncio.create_task(watcher.changed())
    await asyncio.sleep(0.01)
    watcher.close()
    await asyncio.wait_for(waiting, 10)
    watcher.close()


def test_an_observer_that_ended_is_a_loss_once_and_incomplete_for_good(
    watcher: PortableWatcher,
) -> None:
    watcher._observer.stop()
    watcher._observer.join()
    assert watcher.collect().lost
    assert watcher.incomplete
    assert not watcher.collect()


def test_a_moved_root_is_gone(watcher: PortableWatcher, tmp_path: Path) -> None:
    (tmp_path / "root").rename(tmp_path / "other")
    assert watcher.root_gone


def test_fsevents_name_files_and_new_directories(notices: Notices, tmp_path: Path) -> None:
    names = ["edited", "made", "made/new", "came", "changed"]
    flags = [MODIFIED | IS_FILE, CREATED | IS_DIRECTORY, CREATED | IS_FILE]
    flags += [RENAMED | IS_DIRECTORY, MODIFIED | IS_DIRECTORY]
    paths = [os.fsencode(os.path.realpath(tmp_path / name)) for name in names]
    note_fsevents(notices, paths, flags)
    assert notices.take() == Dirty(
        names={b"": {b"edited", b"made", b"came", b"changed"}, b"made": {b"new"}},
        trees={b"made", b"came"},
    )
    assert not notices.take()


@pytest.mark.parametrize("flag", [0x01, 0x02, 0x04, 0x08, 0x40, 0x80])
def test_what_fsevents_drops_is_a_loss(notices: Notices, tmp_path: Path, flag: int) -> None:
    note_fsevents(notices, [os.fsencode(tmp_path)], [flag | IS_DIRECTORY])
    assert notices.take().lost


def test_a_changed_root_is_told_by_fsevents(notices: Notices, tmp_path: Path) -> None:
    note_fsevents(notices, [os.fsencode(tmp_path)], [0x20])
    assert notices.root_gone
    assert notices.take().lost


def test_an_event_from_outside_of_the_root_is_a_loss(notices: Notices, tmp_path: Path) -> None:
    notices.note(os.fsencode(tmp_path) + b"-other/file")
    assert notices.take() == Dirty(lost=True)
