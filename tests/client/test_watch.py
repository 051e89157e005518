"""What happens in a watched tree is reported, or that something may have been missed."""

import asyncio
import itertools
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twinfold.client import watch
from twinfold.client.watch import Dirty, Gathering, Watcher, open_watcher

if sys.platform == "linux":
    from twinfold.client import inotify_calls
    from twinfold.client.inotify import InotifyWatcher
else:
    pytest.skip("inotify is Linux's", allow_module_level=True)
assert sys.platform == "linux"

Names = dict[bytes, set[bytes] | None]

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def scan(watcher: Watcher, root: bytes, path: bytes = b"") -> None:
    """Watch a directory and all below it, as the client's scan does."""
    try:
        fd = os.open(os.path.join(root, path), DIRECTORY_FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        return
    scan_open(watcher, fd, path)


def scan_open(watcher: Watcher, fd: int, path: bytes) -> None:
    try:
        watcher.watch_directory(path, fd)
        for entry in sorted(os.listdir(fd)):
            name = os.fsencode(entry)
            try:
                below = os.open(name, DIRECTORY_FLAGS, dir_fd=fd)
            except OSError:
                continue
            scan_open(watcher, below, watch.joined(path, name))
    finally:
        os.close(fd)


def append(path: bytes) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def touched(dirty: Dirty, directory: bytes, name: bytes) -> bool:
    names = dirty.names.get(directory, set())
    return names is None or name in names


class Folder:
    """A watched directory of a test."""

    def __init__(self, root: Path) -> None:
        self.root = os.fsencode(root)
        self.watcher = InotifyWatcher(self.root)
        self.rescan()
        self.watcher.collect()

    def at(self, path: bytes) -> bytes:
        return os.path.join(self.root, path)

    def write(self, path: bytes, content: bytes = b"x") -> None:
        with open(self.at(path), "wb") as file:
            file.write(content)

    def make(self, path: bytes) -> None:
        os.makedirs(self.at(path))

    def move(self, old: bytes, new: bytes) -> None:
        os.rename(self.at(old), self.at(new))

    def rescan(self) -> None:
        scan(self.watcher, self.root)

    def settle(self) -> Dirty:
        """Collect, and scan what is reported as new."""
        dirty = self.watcher.collect()
        for tree in dirty.trees:
            scan(self.watcher, self.root, tree)
        return dirty


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    root = tmp_path / "root"
    root.mkdir()
    folder = Folder(root)
    yield folder
    folder.watcher.close()


@pytest.fixture
def deep(folder: Folder) -> Folder:
    """A folder with a/b/c/file in it, watched and quiet."""
    folder.make(b"a/b/c")
    folder.write(b"a/b/c/file")
    folder.settle()
    folder.watcher.collect()
    return folder


def test_this_platform_has_a_watcher(tmp_path: Path) -> None:
    watcher = open_watcher(os.fsencode(tmp_path))
    assert watcher.sees_everything_before_collect
    watcher.close()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(append, id="append"),
        pytest.param(lambda path: os.truncate(path, 0), id="truncate"),
        pytest.param(lambda path: os.chmod(path, 0o600), id="chmod"),
        pytest.param(lambda path: os.utime(path, ns=(0, 0)), id="utime"),
        pytest.param(os.unlink, id="delete"),
    ],
)
def test_every_change_of_a_file_is_reported(
    deep: Folder, change: Callable[[bytes], object]
) -> None:
    change(deep.at(b"a/b/c/file"))
    assert deep.watcher.collect() == Dirty(names={b"a/b/c": {b"file"}})


def test_a_new_file_and_both_names_of_a_renamed_one_are_reported(deep: Folder) -> None:
    deep.write(b"a/new")
    deep.move(b"a/b/c/file", b"a/b/moved")
    names: Names = {b"a": {b"new"}, b"a/b/c": {b"file"}, b"a/b": {b"moved"}}
    assert deep.watcher.collect() == Dirty(names=names)


def test_a_collected_change_is_not_reported_again(deep: Folder) -> None:
    deep.write(b"a/new")
    assert deep.watcher.collect()
    assert not deep.watcher.collect()


def test_symlinks_fifos_and_hard_links_are_names_like_others(deep: Folder) -> None:
    os.symlink(b"nowhere", deep.at(b"link"))
    os.mkfifo(deep.at(b"fifo"))
    os.link(deep.at(b"a/b/c/file"), deep.at(b"hard"))
    assert deep.watcher.collect().names[b""] == {b"link", b"fifo", b"hard"}


def test_an_edit_is_reported_for_the_hard_link_it_was_made_through(deep: Folder) -> None:
    os.link(deep.at(b"a/b/c/file"), deep.at(b"hard"))
    deep.watcher.collect()
    deep.write(b"hard", b"edited")
    assert touched(deep.watcher.collect(), b"", b"hard")


@pytest.mark.parametrize("name", [b"\xff\xfe", b"line\nbreak", b" ", b"n" * 255, b"\xe2\x80\xae"])
def test_any_name_is_reported_byte_by_byte(folder: Folder, name: bytes) -> None:
    folder.make(name)
    assert folder.settle().trees == {name}
    folder.write(name + b"/" + name)
    assert folder.watcher.collect().names == {name: {name}}


def test_the_roots_own_attributes_are_reported(folder: Folder) -> None:
    os.chmod(folder.root, 0o700)
    assert folder.watcher.collect() == Dirty(names={b"": set()})


def test_the_programs_own_directory_at_the_root_is_not_reported(folder: Folder) -> None:
    folder.make(b".twinfold")
    folder.make(b"sub/.twinfold")
    dirty = folder.settle()
    assert dirty.names == {b"": {b"sub"}}


def test_a_new_tree_is_reported_by_its_top_before_it_is_watched(folder: Folder) -> None:
    folder.make(b"/".join(b"%d" % depth for depth in range(40)))
    assert folder.settle().trees == {b"0"}
    folder.write(b"/".join(b"%d" % depth for depth in range(40)) + b"/file")
    assert list(folder.watcher.collect().names.values()) == [{b"file"}]


def test_paths_longer_than_the_system_takes_are_watched_by_descriptor(folder: Folder) -> None:
    name = b"d" * 250
    fd = os.open(folder.root, DIRECTORY_FLAGS)
    for _ in range(20):
        os.mkdir(name, dir_fd=fd)
        fd, above = os.open(name, DIRECTORY_FLAGS, dir_fd=fd), fd
        os.close(above)
    folder.settle()
    os.mkdir(b"deepest", dir_fd=fd)
    os.close(fd)
    assert folder.watcher.collect().trees == {b"/".join([name] * 20) + b"/deepest"}
    assert folder.watcher.incomplete is None


def test_a_moved_directory_takes_all_below_it_along(deep: Folder) -> None:
    for index in range(500):
        deep.make(b"a/b/many/%d/below" % index)
    deep.settle()
    deep.watcher.collect()
    deep.make(b"elsewhere")
    deep.settle()
    deep.move(b"a", b"elsewhere/z")
    dirty = deep.watcher.collect()
    assert dirty.moved == {b"elsewhere/z"}
    assert not dirty.trees
    assert touched(dirty, b"", b"a")
    assert touched(dirty, b"elsewhere", b"z")
    deep.write(b"elsewhere/z/b/c/file", b"later")
    deep.write(b"elsewhere/z/b/many/77/below/file", b"later")
    names: Names = {b"elsewhere/z/b/c": {b"file"}, b"elsewhere/z/b/many/77/below": {b"file"}}
    assert deep.watcher.collect() == Dirty(names=names)


def test_a_change_before_a_move_is_reported_under_the_new_path(deep: Folder) -> None:
    deep.write(b"a/b/c/file", b"changed")
    deep.move(b"a", b"z")
    assert deep.watcher.collect().names[b"z/b/c"] == {b"file"}


def test_moves_in_a_row_end_at_the_last_path(deep: Folder) -> None:
    deep.move(b"a/b", b"b")
    deep.move(b"a", b"b/c/a")
    deep.move(b"b", b"z")
    deep.write(b"z/c/a/file")
    dirty = deep.watcher.collect()
    assert dirty.moved == {b"z", b"z/c/a"}
    assert touched(dirty, b"z/c/a", b"file")


def test_a_directory_that_moved_out_is_no_longer_watched(deep: Folder, tmp_path: Path) -> None:
    deep.move(b"a", os.fsencode(tmp_path / "out"))
    assert deep.watcher.collect() == Dirty(names={b"": {b"a"}})
    (tmp_path / "out/b/c/file").write_bytes(b"outside")
    deadline = time.monotonic() + 10
    while watches_of(deep.watcher) > 1 and time.monotonic() < deadline:
        assert not deep.watcher.collect()
        time.sleep(0.05)
    assert watches_of(deep.watcher) == 1
    assert deep.watcher.incomplete is None


def test_a_directory_that_moved_in_is_a_new_tree(deep: Folder, tmp_path: Path) -> None:
    (tmp_path / "out/below").mkdir(parents=True)
    deep.move(os.fsencode(tmp_path / "out"), b"a/in")
    assert deep.settle().trees == {b"a/in"}
    deep.write(b"a/in/below/file")
    assert deep.watcher.collect().names == {b"a/in/below": {b"file"}}


def test_a_directory_that_moved_out_and_in_again_is_a_new_tree(
    deep: Folder, tmp_path: Path
) -> None:
    deep.move(b"a", os.fsencode(tmp_path / "out"))
    deep.watcher.collect()
    deep.move(os.fsencode(tmp_path / "out"), b"again")
    assert deep.settle().trees == {b"again"}
    deep.write(b"again/b/c/file", b"changed")
    assert deep.watcher.collect().names == {b"again/b/c": {b"file"}}


def test_a_directory_made_again_under_its_name_is_a_new_tree(deep: Folder) -> None:
    shutil.rmtree(deep.at(b"a"))
    deep.make(b"a/b")
    assert deep.settle().trees == {b"a"}
    deep.write(b"a/b/file")
    assert deep.watcher.collect().names == {b"a/b": {b"file"}}


def test_a_directory_made_again_while_the_old_one_is_held_open_is_a_new_tree(
    deep: Folder,
) -> None:
    fd = os.open(deep.at(b"a/b/c"), DIRECTORY_FLAGS)
    shutil.rmtree(deep.at(b"a/b/c"))
    deep.make(b"a/b/c")
    assert deep.settle().trees == {b"a/b/c"}
    os.close(fd)
    deep.write(b"a/b/c/file")
    assert deep.watcher.collect().names == {b"a/b/c": {b"file"}}


def test_a_deleted_directory_is_forgotten_though_someone_holds_it_open(deep: Folder) -> None:
    fd = os.open(deep.at(b"a/b/c"), DIRECTORY_FLAGS)
    shutil.rmtree(deep.at(b"a/b/c"))
    deep.watcher.collect()
    assert watches_of(deep.watcher) == 3
    os.close(fd)


def test_a_scan_that_comes_before_the_events_leaves_a_move_what_it_is(deep: Folder) -> None:
    deep.move(b"a", b"z")
    deep.make(b"a")
    deep.watcher.watch_directory(b"a", None)
    dirty = deep.settle()
    assert (dirty.moved, dirty.trees) == ({b"z"}, {b"a"})
    deep.write(b"a/file")
    deep.write(b"z/b/c/file")
    assert deep.watcher.collect().names == {b"a": {b"file"}, b"z/b/c": {b"file"}}


def test_a_new_directory_that_moves_before_it_is_reported_is_still_a_new_tree(
    deep: Folder,
) -> None:
    deep.make(b"new")
    deep.watcher.watch_directory(b"new", None)
    deep.move(b"new", b"newer")
    assert b"newer" in deep.settle().trees
    deep.write(b"newer/file")
    assert deep.watcher.collect().names == {b"newer": {b"file"}}


def test_exchanged_directories_are_both_scanned_again(deep: Folder) -> None:
    deep.make(b"z/y")
    deep.settle()
    exchange(deep.at(b"a"), deep.at(b"z"))
    assert deep.settle().trees == {b"a", b"z"}
    deep.write(b"z/b/c/file", b"changed")
    deep.write(b"a/y/file")
    assert deep.watcher.collect().names == {b"z/b/c": {b"file"}, b"a/y": {b"file"}}


def test_a_directory_moved_over_an_empty_one_is_scanned_again(deep: Folder) -> None:
    deep.make(b"empty")
    deep.settle()
    deep.move(b"a", b"empty")
    assert deep.settle().trees == {b"empty"}
    deep.write(b"empty/b/c/file", b"changed")
    assert deep.watcher.collect().names == {b"empty/b/c": {b"file"}}


def test_a_scan_overtaken_by_a_move_reports_where_the_directory_is_now(deep: Folder) -> None:
    deep.make(b"a/b/c/late")
    fd = os.open(deep.at(b"a/b/c/late"), DIRECTORY_FLAGS)
    deep.move(b"a", b"z")
    deep.watcher.collect()
    deep.watcher.watch_directory(b"a/b/c/late", fd)
    os.close(fd)
    assert deep.settle().trees == {b"z/b/c/late"}
    deep.write(b"z/b/c/late/file")
    assert deep.watcher.collect().names == {b"z/b/c/late": {b"file"}}


def test_a_scan_overtaken_by_a_replacement_does_not_take_one_for_the_other(deep: Folder) -> None:
    deep.make(b"new")
    fd = os.open(deep.at(b"new"), DIRECTORY_FLAGS)
    deep.move(b"new", b"old")
    deep.make(b"new")
    deep.watcher.collect()
    deep.watcher.watch_directory(b"new", fd)
    os.close(fd)
    deep.move(b"new", b"newer")
    assert {b"newer", b"old"} <= deep.settle().trees
    deep.write(b"newer/file")
    deep.write(b"old/file")
    assert deep.watcher.collect().names == {b"newer": {b"file"}, b"old": {b"file"}}


def test_a_directory_deleted_under_the_scan_is_no_loss(deep: Folder) -> None:
    deep.make(b"gone")
    fd = os.open(deep.at(b"gone"), DIRECTORY_FLAGS)
    os.rmdir(deep.at(b"gone"))
    deep.watcher.watch_directory(b"gone", fd)
    os.close(fd)
    assert deep.watcher.collect() == Dirty(names={b"": {b"gone"}})
    assert watches_of(deep.watcher) == 4


def test_without_a_descriptor_no_link_is_followed(deep: Folder, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    deep.move(b"a/b", b"a/x")
    os.symlink(tmp_path / "out", deep.at(b"a/b"))
    deep.make(b"plain")
    deep.watcher.collect()
    for path in [b"a/b", b"plain", b"missing", b"a/x/c/file"]:
        deep.watcher.watch_directory(path, None)
    assert watches_of(deep.watcher) == 5


def test_queue_overflow_is_a_loss_and_a_rescan_repairs_what_was_missed(deep: Folder) -> None:
    for path in [b"a/stays", b"dies/below", b"x", b"y"]:
        deep.make(path)
    deep.settle()
    deep.watcher.collect()
    overflow(deep)
    deep.move(b"a/b", b"b")
    deep.move(b"a", b"b/a")
    deep.move(b"b/c", b"c")
    shutil.rmtree(deep.at(b"dies"))
    deep.move(b"x", b"swap")
    deep.move(b"y", b"x")
    deep.move(b"swap", b"y")
    assert deep.watcher.collect().lost
    deep.rescan()
    deep.watcher.collect()
    for path in [b"b", b"b/a", b"b/a/stays", b"c", b"x", b"y"]:
        deep.write(path + b"/file", b"seen")
        assert deep.watcher.collect().names == {path: {b"file"}}, path
    assert watches_of(deep.watcher) == 7
    assert len(list(deep.watcher._tree.root.subtree())) == 7
    assert deep.watcher.incomplete is None
    deep.move(b"b", b"z")
    deep.write(b"z/a/stays/file", b"again")
    assert deep.settle().names[b"z/a/stays"] == {b"file"}
    deep.move(b"x", b"last")
    assert b"last" in deep.settle().trees
    deep.write(b"last/file", b"again")
    assert deep.watcher.collect().names == {b"last": {b"file"}}


def test_a_flood_of_names_is_one_directory_to_list_again(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "MAX_NAMES_PER_DIRECTORY", 100)
    for index in range(200):
        folder.write(b"%d" % index)
    assert folder.watcher.collect() == Dirty(names={b"": None})


def test_more_names_than_can_be_kept_are_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MAX_NAMES", 100)
    gathering: Gathering[bytes] = Gathering()
    for index in range(1_000):
        gathering.note_name(b"%d" % index, b"file")
    assert gathering.lost
    assert len(gathering.names) <= 100


WATCH_LIMIT_SCRIPT = """
import os, sys
from twinfold.client.inotify import InotifyWatcher
root = os.fsencode(sys.argv[1])
watcher = InotifyWatcher(root)
def scan():
    watcher.watch_directory(b"", None)
    for name in sorted(os.listdir(root)):
        watcher.watch_directory(name, None)
scan()
print(watcher.incomplete)
print(watcher.collect().lost)
with open("/proc/sys/user/max_inotify_watches", "w") as limit:
    limit.write("100")
scan()
print(watcher.incomplete)
"""


def test_reaching_the_watch_limit_is_said_until_it_is_lifted(tmp_path: Path) -> None:
    for index in range(8):
        (tmp_path / f"{index}").mkdir()
    own_limit = ["unshare", "--user", "--map-root-user", "sh", "-c"]
    lower = 'echo 5 > /proc/sys/user/max_inotify_watches && exec "$@"'
    if (
        shutil.which("unshare") is None
        or subprocess.run([*own_limit, lower, "sh", "true"]).returncode
    ):
        pytest.skip("no user namespace with a watch limit of its own")
    command = [sys.executable, "-c", WATCH_LIMIT_SCRIPT, os.fspath(tmp_path)]
    run = subprocess.run(
        [*own_limit, lower, "sh", *command], check=True, capture_output=True, text=True
    )
    assert run.stdout.splitlines() == [
        "the limit of 5 watched directories (fs.inotify.max_user_watches) is reached: "
        "4 directories are not watched",
        "False",
        "None",
    ]


def test_nothing_is_watched_before_the_first_scan(tmp_path: Path) -> None:
    watcher = InotifyWatcher(os.fsencode(tmp_path))
    assert watcher.incomplete == "1 directories are not watched yet"
    watcher.watch_directory(b"", None)
    assert watcher.incomplete is None
    watcher.close()


@pytest.mark.parametrize("held_open", [False, True])
@pytest.mark.parametrize("what", ["moved", "deleted", "replaced", "parent moved"])
def test_a_root_that_is_not_what_it_was_is_gone(tmp_path: Path, what: str, held_open: bool) -> None:
    root = tmp_path / "parent/root"
    root.mkdir(parents=True)
    folder = Folder(root)
    fd = os.open(root, DIRECTORY_FLAGS) if held_open else None
    assert not folder.watcher.root_gone
    if what == "deleted":
        root.rmdir()
    elif what == "parent moved":
        (tmp_path / "parent").rename(tmp_path / "other")
    else:
        root.rename(tmp_path / "other")
        if what == "replaced":
            root.mkdir()
    folder.watcher.collect()
    assert folder.watcher.root_gone
    folder.watcher.close()
    if fd is not None:
        os.close(fd)


async def test_changed_waits_for_the_next_change_and_not_longer(deep: Folder) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(deep.watcher.changed(), 0.05)
    waiting = asyncio.create_task(deep.watcher.changed())
    await asyncio.sleep(0)
    deep.write(b"a/b/c/file", b"changed")
    await asyncio.wait_for(waiting, 10)
    await asyncio.wait_for(deep.watcher.changed(), 10)
    assert deep.watcher.collect().names == {b"a/b/c": {b"file"}}


async def test_changed_wakes_for_what_the_scan_took_from_the_queue(deep: Folder) -> None:
    waiting = asyncio.create_task(deep.watcher.changed())
    await asyncio.sleep(0)
    deep.write(b"a/b/c/file", b"changed")
    worker = threading.Thread(target=deep.rescan)
    worker.start()
    worker.join()
    await asyncio.wait_for(waiting, 10)
    assert deep.watcher.collect().names == {b"a/b/c": {b"file"}}


async def test_changed_stays_silent_about_the_programs_own_directory(folder: Folder) -> None:
    waiting = asyncio.create_task(folder.watcher.changed())
    await asyncio.sleep(0)
    folder.make(b".twinfold")
    await asyncio.sleep(0.05)
    assert not waiting.done()
    waiting.cancel()


async def test_closing_ends_everything(folder: Folder) -> None:
    waiting = asyncio.create_task(folder.watcher.changed())
    await asyncio.sleep(0.01)
    folder.watcher.close()
    await asyncio.wait_for(waiting, 10)
    folder.write(b"late")
    folder.rescan()
    assert not folder.watcher.collect()
    folder.watcher.close()


def test_watching_again_what_is_watched_costs_little(folder: Folder) -> None:
    for index in range(1_000):
        folder.make(b"%d/a/b/c/d" % (index % 100) + b"%d" % index)
    folder.settle()
    fd = os.open(folder.root, DIRECTORY_FLAGS)
    started = time.process_time()
    for _ in range(5_000):
        folder.watcher.watch_directory(b"", fd)
    # Ten times what is wanted on an idle machine.
    assert time.process_time() - started < 2
    os.close(fd)


Stamp = tuple[int, ...]
Listing = dict[bytes, Stamp]
NAMES = [b"a", b"b", b"c"]
OPERATIONS = ["write", "write", "mkdir", "mkdir", "rename", "rename", "rename", "rename"]
OPERATIONS += ["delete", "rmtree", "chmod", "exchange", "out", "in"]


def stamp_of(found: os.stat_result) -> Stamp:
    if stat.S_ISDIR(found.st_mode):
        return (found.st_ino, found.st_mode)
    return (found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def listings(root: bytes) -> dict[bytes, tuple[int, Listing]]:
    """Every directory's inode number and content, by path."""
    found = {}
    for directory, _, _ in os.walk(root):
        path = os.path.relpath(directory, root) if directory != root else b""
        entries = {e.name: stamp_of(e.stat(follow_symlinks=False)) for e in os.scandir(directory)}
        found[path] = (os.stat(directory).st_ino, entries)
    return found


def act(root: bytes, outside: bytes, operation: str, one: bytes, other: bytes) -> None:
    """Do one thing to the tree; whatever is impossible is left."""
    first, second = os.path.join(root, one), os.path.join(root, other)
    out = os.path.join(outside, other.replace(b"/", b""))
    try:
        if operation == "write":
            with open(first, "ab") as file:
                file.write(b"x")
        elif operation == "mkdir":
            os.makedirs(first)
        elif operation == "rename":
            os.rename(first, second)
        elif operation == "delete":
            os.unlink(first)
        elif operation == "rmtree":
            shutil.rmtree(first)
        elif operation == "chmod":
            os.chmod(first, 0o700 | random.getrandbits(6))
        elif operation == "exchange":
            exchange(first, second)
        else:
            os.rename(*((first, out) if operation == "out" else (out, first)))
    except OSError:
        pass


paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map(b"/".join)
actions = st.tuples(st.sampled_from(OPERATIONS), paths, paths)


@given(bursts=st.lists(st.lists(actions, min_size=1, max_size=12), min_size=1, max_size=8))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_changed_is_reported(bursts: list[list[tuple[str, bytes, bytes]]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        root, outside = os.fsencode(place) + b"/root", os.fsencode(place) + b"/outside"
        for path in [root, outside]:
            os.mkdir(path)
        for names in itertools.product(NAMES, NAMES):
            os.makedirs(os.path.join(root, *names))
        folder = Folder(Path(os.fsdecode(root)))
        known = dict(listings(root).values())
        for burst in bursts:
            for action in burst:
                act(root, outside, *action)
            dirty = folder.watcher.collect()
            known = check_report(known, dirty, root)
            for tree in dirty.trees:
                scan(folder.watcher, root, tree)
        assert folder.watcher.incomplete is None
        folder.watcher.close()


def check_report(known: dict[int, Listing], dirty: Dirty, root: bytes) -> dict[int, Listing]:
    """Compare a report with what differs from what was known; return what is there."""
    actual = listings(root)
    assert not dirty.lost
    for path, (inode, entries) in actual.items():
        parts = path.split(b"/")
        if any(b"/".join(parts[:depth]) in dirty.trees for depth in range(1, len(parts) + 1)):
            continue
        before = known[inode]
        for name in before.keys() | entries.keys():
            if before.get(name) != entries.get(name):
                assert touched(dirty, path, name), (path, name, dirty)
    return dict(actual.values())


class Mirror:
    """Follows a tree by nothing but the watcher's reports, while the tree goes on changing."""

    def __init__(self, root: bytes) -> None:
        self.root = root
        self.watcher = InotifyWatcher(root)
        self.content: dict[bytes, Listing] = {}
        self.follow_tree(b"")

    def step(self) -> bool:
        dirty = self.watcher.collect()
        if dirty.lost:
            self.follow_tree(b"")
        for tree in dirty.trees | dirty.moved:
            self.follow_tree(tree)
        for directory, names in dirty.names.items():
            assert names is not None
            for name in names:
                self.follow_name(directory, name)
        return bool(dirty)

    def follow_name(self, directory: bytes, name: bytes) -> None:
        path = watch.joined(directory, name)
        listing = self.content.get(directory)
        try:
            stamp = stamp_of(os.lstat(os.path.join(self.root, path)))
        except OSError:
            self.forget(path)
            if listing is not None:
                listing.pop(name, None)
            return
        if len(stamp) != 2:
            self.forget(path)
        if listing is not None:
            listing[name] = stamp

    def follow_tree(self, path: bytes) -> None:
        try:
            fd = inotify_calls.open_below(self.root, path)
            readable = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECTORY)
            os.close(fd)
        except OSError:
            self.forget(path)
            return
        self.forget(path)
        self.follow_open(readable, path)

    def follow_open(self, fd: int, path: bytes) -> None:
        try:
            self.watcher.watch_directory(path, fd)
            listing = self.content[path] = {}
            for entry in os.listdir(fd):
                name = os.fsencode(entry)
                try:
                    listing[name] = stamp_of(os.lstat(name, dir_fd=fd))
                    below = os.open(name, DIRECTORY_FLAGS, dir_fd=fd)
                except OSError:
                    continue
                self.follow_open(below, watch.joined(path, name))
        finally:
            os.close(fd)

    def forget(self, path: bytes) -> None:
        below = path + b"/"
        for known in [p for p in self.content if p == path or p.startswith(below) or not path]:
            del self.content[known]


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(4))
def test_a_mirror_of_a_tree_in_motion_ends_up_equal(tmp_path: Path, seed: int) -> None:
    root, outside = os.fsencode(tmp_path / "root"), os.fsencode(tmp_path / "outside")
    for path in [root, outside]:
        os.mkdir(path)
    mirror = Mirror(root)
    generator = random.Random(seed)
    stopping = threading.Event()

    def disturb() -> None:
        while not stopping.is_set():
            for _ in range(generator.choice([1, 3, 30])):
                one, other = (random_path(generator) for _ in range(2))
                act(root, outside, generator.choice(OPERATIONS), one, other)
            time.sleep(0.0005)

    worker = threading.Thread(target=disturb)
    worker.start()
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        mirror.step()
    stopping.set()
    worker.join()
    while mirror.step():
        pass
    actual = {path: entries for path, (_, entries) in listings(root).items()}
    assert mirror.content == actual
    assert mirror.watcher.incomplete is None
    mirror.watcher.close()


def random_path(generator: random.Random) -> bytes:
    return b"/".join(generator.choices(NAMES, k=generator.randint(1, 5)))


def overflow(folder: Folder) -> None:
    """Make more events than the queue holds; the last ones are lost."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    folder.write(b"one")
    for _ in range(limit // 4 + 1):
        folder.move(b"one", b"two")
        folder.move(b"two", b"one")
    os.unlink(folder.at(b"one"))


def exchange(one: bytes, other: bytes) -> None:
    """Let two paths change places in one step."""
    at_fdcwd, rename_exchange = -100, 2
    if inotify_calls._libc.renameat2(at_fdcwd, one, at_fdcwd, other, rename_exchange):
        raise OSError("renameat2")


def watches_of(watcher: InotifyWatcher) -> int:
    """Count the watches that the system holds for the watcher."""
    return len(inotify_calls.live_watches(watcher._fd))
