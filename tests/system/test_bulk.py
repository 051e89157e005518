"""Many small files with one call: compiled and in plain Python, with the same results."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twinfold.system import bulk

Create = Callable[[int, Sequence[bulk.NewFile]], tuple[list[bulk.FileIdentity], int]]
Take = Callable[[Sequence[bulk.FileStep]], tuple[list[bulk.FileIdentity], int]]

HOLE = bytes(256 * 1024)

creators = pytest.mark.parametrize("create", [bulk.create_files, bulk.create_files_singly])
takers = pytest.mark.parametrize("take", [bulk.take_steps, bulk.take_steps_singly])
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """The descriptor of an empty folder; nothing masks the bits of new files."""
    before = os.umask(0)
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)
    os.umask(before)


def status(folder: int, name: bytes) -> os.stat_result:
    return os.stat(name, dir_fd=folder, follow_symlinks=False)


def content(folder: int, name: bytes) -> bytes:
    fd = os.open(name, os.O_RDONLY, dir_fd=folder)
    with os.fdopen(fd, "rb") as file:
        return file.read()


def listed(folder: int, name: bytes, **other: int) -> bulk.ListedEntry:
    found = status(folder, name)
    facts: dict[str, int] = {
        "kind": 1,
        "mode": found.st_mode & 0o777,
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
        "device": found.st_dev,
        "inode": found.st_ino,
        **other,
    }
    numbers: Any = tuple(facts.values())
    return (name, *numbers)


@creators
@same_folder
@given(
    described=st.lists(st.binary(max_size=50) | st.just(len(HOLE)), max_size=4),
    mode=st.sampled_from([0o000, 0o400, 0o444, 0o644, 0o777]),
    mtime_ns=st.integers(-(10**9) * 86_400 * 365, 2**63 - 10**9),
)
def test_a_file_is_what_was_asked_for(
    folder: int, create: Create, described: list[bytes | int], mode: int, mtime_ns: int
) -> None:
    parts = [bytes(part) if isinstance(part, int) else part for part in described]
    views = tuple([memoryview(part) for part in parts])
    identities, reason = create(folder, [(b"f", mode, mtime_ns, views)])
    found = status(folder, b"f")
    assert (identities, reason) == ([(found.st_ino, found.st_ctime_ns)], 0)
    os.chmod(b"f", 0o600, dir_fd=folder)
    assert content(folder, b"f") == b"".join(parts)
    assert (found.st_mode & 0o777, found.st_mtime_ns) == (mode, mtime_ns)
    os.unlink(b"f", dir_fd=folder)


@creators
def test_zeros_take_no_room(folder: int, create: Create) -> None:
    create(folder, [(b"f", 0o600, 0, (HOLE, b"x", HOLE))])
    assert status(folder, b"f").st_size == 2 * len(HOLE) + 1
    assert status(folder, b"f").st_blocks * 512 < len(HOLE)


@creators
def test_creating_stops_where_it_is_hindered(folder: int, create: Create) -> None:
    os.symlink("nowhere", b"link", dir_fd=folder)
    files: list[bulk.NewFile] = [(name, 0o600, 0, (b"x",)) for name in (b"a", b"link", b"b")]
    identities, reason = create(folder, files)
    found = status(folder, b"a")
    assert (identities, reason) == ([(found.st_ino, found.st_ctime_ns)], errno.EEXIST)
    assert sorted(os.listdir(folder)) == ["a", "link"]


@creators
def test_a_file_that_cannot_be_filled_is_taken_away(folder: int, create: Create) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        assert create(folder, [(b"f", 0o600, 0, (b"x" * 2_000,))]) == ([], errno.EFBIG)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(folder) == []


def step(folder: int, action: int, name: bytes, other: bytes = b"") -> bulk.FileStep:
    return action, folder, name, folder, other, 0o640, -5_000_000_007


@takers
def test_steps_tell_what_the_files_are_then(folder: int, take: Take) -> None:
    """Moved, kept under another name and replaced, adjusted: as the last name says."""
    bulk.create_files(folder, [(name, 0o600, 0, (name,)) for name in (b"a", b"b", b"c", b"d")])
    identities, reason = take(
        [
            step(folder, bulk.MOVE, b"a", b"A"),
            step(folder, bulk.KEEP, b"c", b"kept"),
            step(folder, bulk.REPLACE, b"b", b"c"),
            step(folder, bulk.ADJUST, b"d"),
        ]
    )
    found = [status(folder, name) for name in (b"A", b"c", b"d")]
    expected = [(each.st_ino, each.st_ctime_ns) for each in found]
    assert (identities, reason) == ([expected[0], (0, 0), *expected[1:]], 0)
    assert [content(folder, name) for name in (b"A", b"kept", b"c")] == [b"a", b"c", b"b"]
    assert sorted(os.listdir(folder)) == ["A", "c", "d", "kept"]
    assert (found[2].st_mode & 0o7777, found[2].st_mtime_ns) == (0o640, -5_000_000_007)


@takers
@pytest.mark.parametrize(
    ("action", "name", "other", "reason"),
    [
        (bulk.MOVE, b"b", b"c", errno.EEXIST),
        (bulk.MOVE, b"none", b"new", errno.ENOENT),
        (bulk.KEEP, b"b", b"c", errno.EEXIST),
        (bulk.KEEP, b"none", b"new", errno.ENOENT),
        (bulk.REPLACE, b"none", b"c", errno.ENOENT),
        (bulk.REPLACE, b"b", b"directory", errno.EISDIR),
        (bulk.ADJUST, b"none", b"", errno.ENOENT),
        (bulk.ADJUST, b"directory", b"", errno.EINVAL),
        (bulk.ADJUST, b"link", b"", errno.EINVAL),
    ],
)
def test_the_first_step_that_cannot_be_ends_it(
    folder: int, take: Take, action: int, name: bytes, other: bytes, reason: int
) -> None:
    """What stands there is as it was, and what a symlink leads to."""
    bulk.create_files(folder, [(each, 0o600, 0, (each,)) for each in (b"a", b"b", b"c", b"d")])
    os.mkdir(b"directory", 0o700, dir_fd=folder)
    os.symlink(b"c", b"link", dir_fd=folder)
    first, last = step(folder, bulk.MOVE, b"a", b"x"), step(folder, bulk.MOVE, b"d", b"y")
    identities, found = take([first, step(folder, action, name, other), last])
    assert (len(identities), found) == (1, reason)
    assert sorted(os.listdir(folder)) == ["b", "c", "d", "directory", "link", "x"]
    assert [content(folder, each) for each in (b"b", b"c")] == [b"b", b"c"]
    assert [status(folder, each).st_mode & 0o777 for each in (b"c", b"directory")] == [0o600, 0o700]


def test_files_are_read_as_they_were_listed(folder: int) -> None:
    bulk.create_files(folder, [(b"a", 0o644, 7, (b"one",)), (b"empty", 0o600, 0, ())])
    if bulk.read_files is bulk.read_nothing:
        pytest.skip("the compiled module is not there")
    files = [listed(folder, b"a"), listed(folder, b"empty")]
    assert bulk.read_files(folder, files, 3)[0] == [b"one", b""]
    assert bulk.read_files(folder, files, 2)[0] == [None, b""]


@pytest.mark.parametrize("fact", ["mode", "size", "mtime_ns", "ctime_ns", "device", "inode"])
def test_a_file_that_is_not_as_listed_is_not_read(folder: int, fact: str) -> None:
    bulk.create_files(folder, [(b"a", 0o644, 7, (b"one",))])
    assert bulk.read_files(folder, [listed(folder, b"a", **{fact: 2})], 100)[0] == [None]


def test_only_regular_files_are_read(folder: int) -> None:
    os.mkfifo("fifo", dir_fd=folder)
    os.mkdir("directory", dir_fd=folder)
    bulk.create_files(folder, [(b"f", 0o644, 7, (b"one",))])
    os.symlink("f", "link", dir_fd=folder)
    wanted = [listed(folder, name) for name in (b"fifo", b"directory", b"link")]
    missing = (b"missing", *listed(folder, b"f")[1:])
    assert bulk.read_files(folder, [*wanted, missing], 100)[0] == [None] * 4


def test_reading_tells_whether_the_disk_was_waited_for(folder: int) -> None:
    bulk.create_files(folder, [(b"a", 0o600, 0, (b"one",)), (b"b", 0o600, 0, (b"two",))])
    if bulk.read_files is bulk.read_nothing or sys.platform != "linux":
        pytest.skip("only the compiled module on Linux can tell")
    fd = os.open(b"a", os.O_RDONLY, dir_fd=folder)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT)
        pytest.skip("the file system keeps all in memory")
    except BlockingIOError:
        pass  # The system has begun to read it now.
    except OSError:
        pytest.skip("the file system cannot tell")
    files = [listed(folder, name) for name in (b"a", b"b")]
    content(folder, b"a")
    assert bulk.read_files(folder, files, 9) == ([b"one", b"two"], False)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    assert bulk.read_files(folder, files, 9) == ([b"one", b"two"], True)


def test_fetching_ahead_is_a_hint(folder: int) -> None:
    """It waits for no FIFO, takes what is missing or no directory, and leaves nothing open."""
    os.mkdir("d", dir_fd=folder)
    inside = os.open("d", os.O_RDONLY, dir_fd=folder)
    os.mkfifo("fifo", dir_fd=inside)
    os.symlink("nowhere", "link", dir_fd=inside)
    bulk.create_files(inside, [(b"f", 0o644, 7, (b"one",)), (b"hole", 0o644, 7, (HOLE,))])
    os.close(inside)
    bulk.create_files(folder, [(b"f", 0o644, 7, (b"one",))])
    before = os.listdir("/dev/fd")
    for name in (b"d", b"f", b"missing"):
        for limit_bytes in (0, 1, 1 << 20):
            bulk.fetch_files(folder, name, limit_bytes)
    assert os.listdir("/dev/fd") == before


@pytest.mark.parametrize("wrong", [[b"a"], [(b"a\0b", 0o600, 0, ())], [(b"a", 0o600, 0, ("x",))]])
def test_what_is_no_file_is_refused(folder: int, wrong: list[Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        bulk.create_files(folder, wrong)
    assert os.listdir(folder) == []
