"""Stable reading."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from twinfold.client import read
from twinfold.client.read import (
    Reader,
    ScanStoppedError,
    UnsettledError,
    content_of,
    read_again,
    settled,
)
from twinfold.client.tree import Directory, open_path, open_root
from twinfold.core.chunking import chunk_id, sub_blocks
from twinfold.core.manifest import content_id
from twinfold.core.planning import UNSETTLED_CTIME_NS, Facts

IS_COMPILED = importlib.util.find_spec("twinfold._reading") is not None


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Directory]:
    with open_root(os.fsencode(tmp_path)) as directory:
        yield directory


def look(folder: Directory, name: bytes) -> Facts:
    seen = folder.look(name)
    assert seen is not None
    return seen[0]


@pytest.mark.parametrize("size", [0, 1, 32_768, 32_769, 100_000, 4_194_304])
def test_what_is_read_is_what_is_there(tmp_path: Path, folder: Directory, size: int) -> None:
    """The chunks are the file, and the content id is theirs."""
    data = os.urandom(size)
    (tmp_path / "f").write_bytes(data)
    reader = Reader(threading.Event())
    fd, facts = reader.open(folder, b"f", look(folder, b"f"))
    content, cuts = reader.whole(fd, facts)
    assert b"".join(cut[1] for cut in cuts) == data
    assert content == content_id([cut[0] for cut in cuts])
    assert reader.identify(fd, facts) == content
    os.close(fd)


def test_what_is_read_ahead_is_what_is_there(tmp_path: Path, folder: Directory) -> None:
    """Files of a window are as each would be alone; one that changed since is read then."""
    sizes = {b"empty": 0, b"small": 32_768, b"long": 32_769, b"big": 1_000_000, b"edited": 50}
    listed = {}
    for name, size in sizes.items():
        (tmp_path / name.decode()).write_bytes(os.urandom(size))
        listed[name] = look(folder, name)
    time.sleep(0.05)
    (tmp_path / "edited").write_bytes(os.urandom(50))
    reader = Reader(threading.Event())
    reader.read_ahead(folder, [(name, *facts) for name, facts in listed.items()])
    for name, facts in listed.items():
        taken = reader.take((name, *facts))
        if taken is None:
            assert name == b"edited" or not IS_COMPILED
            continue
        fd, now = reader.open(folder, name, facts)
        assert content_of(taken) == reader.whole(fd, now)
        os.close(fd)
        assert reader.take((name, *facts)) is None


@pytest.mark.parametrize("size", [1_000_000, 20_000_000])
def test_a_big_file_is_the_same_with_rows_and_without(
    tmp_path: Path, folder: Directory, size: int
) -> None:
    (tmp_path / "f").write_bytes(os.urandom(1_000_000) * (size // 1_000_000))
    reader = Reader(threading.Event())
    fd, _ = reader.open(folder, b"f", look(folder, b"f"))
    with_rows = list(reader.stretches(fd, lambda: True))
    without = list(reader.stretches(fd, lambda: False))
    os.close(fd)
    assert [cuts for cuts, _ in with_rows] == [cuts for cuts, _ in without]
    assert not any(rows for _, rows in without)
    for cuts, rows in with_rows:
        assert rows == {chunk.id: sub_blocks(data) for chunk, data in cuts}


@pytest.mark.skipif(sys.platform != "linux", reason="others take no such hints")
def test_a_big_file_is_read_by_an_interpreter_built_elsewhere(
    tmp_path: Path, folder: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was built with an older C library does not know how to read without waiting."""
    monkeypatch.delattr(os, "RWF_NOWAIT")
    data = os.urandom(10_000_000)
    (tmp_path / "f").write_bytes(data)
    reader = Reader(threading.Event())
    fd, _ = reader.open(folder, b"f", look(folder, b"f"))
    portions = list(reader.stretches(fd, lambda: False))
    os.close(fd)
    assert b"".join(piece for cuts, _ in portions for _, piece in cuts) == data


@pytest.mark.skipif(sys.platform == "win32", reason="needs descriptors")
def test_no_directory_is_entered_through_a_symlink(tmp_path: Path, folder: Directory) -> None:
    """Not even one that was a directory when it was listed: it leads nowhere."""
    (tmp_path / "outside" / "d").mkdir(parents=True)
    (tmp_path / "link").symlink_to("outside")
    for path in (b"link", b"link/d"):
        with pytest.raises(OSError, match=r"link|directory"):
            open_path(folder, path)
    with pytest.raises(OSError, match=r"link|directory"):
        folder.enter(b"link")


@pytest.mark.parametrize("size", [100, 100_000])
@pytest.mark.parametrize("how", ["append", "truncate", "same size"])
def test_a_change_while_reading_is_noticed(
    tmp_path: Path, folder: Directory, size: int, how: str
) -> None:
    """Nothing that was read from a file that changed meanwhile is used."""
    path = tmp_path / "f"
    path.write_bytes(os.urandom(size))
    reader = Reader(threading.Event())
    fd, facts = reader.open(folder, b"f", look(folder, b"f"))
    with path.open("r+b") as file:
        if how == "append":
            file.seek(0, os.SEEK_END)
            file.write(b"more")
        elif how == "truncate":
            file.truncate(size // 2)
        else:
            file.write(b"other bytes")
    if how == "same size":
        os.utime(path, ns=(0, facts.mtime_ns))
    with pytest.raises(UnsettledError):
        reader.whole(fd, facts)
    os.close(fd)


def test_a_file_of_this_tick_is_read_after_it(tmp_path: Path, folder: Directory) -> None:
    """A write after the read gets another ctime, so it cannot go unnoticed."""
    (tmp_path / "f").write_bytes(b"x")
    fd, facts = Reader(threading.Event()).open(folder, b"f", look(folder, b"f"))
    assert time.time_ns() - facts.ctime_ns >= read.CLOCK_GRANULARITY_NS
    os.close(fd)


def test_a_ctime_of_the_future_proves_nothing(tmp_path: Path, folder: Directory) -> None:
    """It is remembered as unsettled, so that the file is read again."""
    (tmp_path / "f").write_bytes(b"x")
    facts = look(folder, b"f")
    ahead = facts._replace(ctime_ns=time.time_ns() + 10**12)
    assert settled(ahead).ctime_ns == UNSETTLED_CTIME_NS
    time.sleep(0.02)
    assert settled(facts) == facts


@pytest.mark.parametrize("now", ["nothing", "another file", "symlink", "fifo", "directory"])
def test_a_name_that_became_something_else(tmp_path: Path, folder: Directory, now: str) -> None:
    """It is not read, and a FIFO does not block."""
    if sys.platform == "win32":
        pytest.skip("there is no such thing on Windows")
    path = tmp_path / "f"
    path.write_bytes(b"x")
    facts = look(folder, b"f")
    path.rename(tmp_path / "kept")
    if now == "another file":
        path.write_bytes(b"y")
    elif now == "symlink":
        path.symlink_to("kept")
    elif now == "fifo":
        os.mkfifo(path)
    elif now == "directory":
        path.mkdir()
    with pytest.raises(UnsettledError):
        Reader(threading.Event()).open(folder, b"f", facts)


def test_reading_leaves_the_source_as_it_is(tmp_path: Path, folder: Directory) -> None:
    """Not even the access time of an own file changes."""
    path = tmp_path / "f"
    path.write_bytes(b"x" * 100)
    os.utime(path, ns=(1, 2))
    before = path.stat()
    time.sleep(0.02)
    reader = Reader(threading.Event())
    fd, facts = reader.open(folder, b"f", look(folder, b"f"))
    reader.whole(fd, facts)
    os.close(fd)
    assert path.stat() == before


def test_reading_a_chunk_again_checks_it(tmp_path: Path, folder: Directory) -> None:
    """Bytes that are not the chunk any more are not returned."""
    (tmp_path / "f").write_bytes(b"0123456789")
    assert read_again(folder, b"f", 2, 3, chunk_id(b"234")) == b"234"
    with pytest.raises(UnsettledError):
        read_again(folder, b"f", 3, 3, chunk_id(b"234"))
    with pytest.raises(UnsettledError):
        read_again(folder, b"gone", 2, 3, chunk_id(b"234"))


def test_a_long_read_can_be_ended(tmp_path: Path, folder: Directory) -> None:
    """The stop is seen between two buffers."""
    (tmp_path / "f").write_bytes(b"x" * 5_000_000)
    stop = threading.Event()
    reader = Reader(stop)
    fd, facts = reader.open(folder, b"f", look(folder, b"f"))
    stop.set()
    with pytest.raises(ScanStoppedError):
        reader.identify(fd, facts)
    os.close(fd)
