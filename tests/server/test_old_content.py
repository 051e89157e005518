"""Reading what the destination holds: ahead, with few lookups, and only what is right."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import errno
import os
import random
import resource
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.server.rig import Rig, chunks_of, put
from twinfold.model import Change, Chunk, MakeDirectory, Move
from twinfold.server.old_content import OldContent, windows
from twinfold.storage.interface import TREE, Location, Place


def contents(count: int, size: int) -> list[bytes]:
    dice = random.Random(count)
    return [dice.randbytes(size) for _ in range(count)]


def fill(rig: Rig, files: Sequence[bytes]) -> None:
    """Put files named 0, 1, ... there."""
    changes: list[Change] = [put(b"%d" % n, data) for n, data in enumerate(files)]
    rig.apply(changes, list(files))
    rig.committer.settle()


def reader(rig: Rig, suspected: list[int]) -> OldContent:
    return OldContent(rig.index, rig.forest, rig.lock, suspected.append)


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def test_more_files_than_are_kept_open(tmp_path: Path) -> None:
    """All are read, and none stays open."""
    files = contents(150, 3_000)
    with Rig(tmp_path) as rig:
        fill(rig, files)
        before = descriptors()
        wanted = [chunk for data in files for chunk in chunks_of(data)]
        with reader(rig, []) as old:
            found = {
                chunk: bytes(d) for group in old.read_all(wanted) for chunk, d in group.items()
            }
            assert descriptors() > before
        assert descriptors() == before
        assert found == {chunk.id: data for chunk, data in zip(wanted, files, strict=True)}


def test_what_lies_in_a_row_is_looked_up_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk that rotted costs its own lookup, and those of a window."""
    data = random.Random(1).randbytes(12_000_000)
    with Rig(tmp_path) as rig:
        fill(rig, [data])
        chunks = chunks_of(data)
        rotten = len(chunks) // 2
        with (tmp_path / "0").open("r+b") as file:
            file.seek(sum(chunk.size for chunk in chunks[:rotten]) + 100)
            file.write(b"X")
        looked_up: list[bytes] = []
        places, some_places = rig.index.places, rig.index.some_places

        def counted(chunk: bytes) -> list[Place]:
            looked_up.append(chunk)
            return places(chunk)

        def counted_together(chunks: Sequence[bytes]) -> dict[bytes, tuple[Place, Location]]:
            looked_up.extend(chunks)
            return some_places(chunks)

        monkeypatch.setattr(rig.index, "places", counted)
        monkeypatch.setattr(rig.index, "some_places", counted_together)
        suspected: list[int] = []
        with reader(rig, suspected) as old:
            found = {
                chunk: bytes(d) for group in old.read_all(chunks) for chunk, d in group.items()
            }
        assert found.keys() == {chunk.id for chunk in chunks} - {chunks[rotten].id}
        assert all(chunks_of(piece)[0].id == chunk for chunk, piece in found.items())
        assert len(looked_up) < 80 < len(chunks)
        assert len(suspected) == 1


def test_what_moved_since_it_was_fetched_is_found(tmp_path: Path) -> None:
    """That nothing is where it was expected raises no suspicion."""
    one, other = contents(2, 50_000)
    [wanted] = chunks_of(one)[:1]
    with Rig(tmp_path) as rig:
        fill(rig, [one, one, other])
        suspected: list[int] = []
        with reader(rig, suspected) as old:
            first = rig.index.places(wanted.id)[0].node
            name = os.fsdecode(b"%d" % [n.id for n in rig.index.children(1)].index(first))
            old.fetch([wanted])
            old._sources.popitem()[1].source.close()
            rig.apply([put(name.encode(), other)], [])
            data = old.read(wanted)
        assert data is not None
        assert data == one[: wanted.size]
        assert suspected == []


def test_what_is_nowhere_is_nothing(tmp_path: Path) -> None:
    """Neither what never was there, nor what was cut off; other places are tried."""
    one, other = contents(2, 20_000)
    with Rig(tmp_path) as rig:
        fill(rig, [one, one, other])
        never = Chunk(bytes(32), 10)
        (mine,), (its,) = chunks_of(one), chunks_of(other)
        os.truncate(tmp_path / "0", 10)
        os.truncate(tmp_path / "2", 10)
        suspected: list[int] = []
        with reader(rig, suspected) as old:
            found = {
                chunk: d for group in old.read_all([never, mine, its]) for chunk, d in group.items()
            }
        assert found == {mine.id: one}
        assert set(suspected) <= {n.id for n in rig.index.children(1) if n.name != b"1"}
        assert suspected


def rot(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"rotten")


@pytest.mark.parametrize("copies", [1, 2])
def test_what_rots_after_it_was_fetched_is_not_used(tmp_path: Path, copies: int) -> None:
    """It is suspected; the chunk is read elsewhere, or is nothing."""
    [data] = contents(1, 20_000)
    [wanted] = chunks_of(data)
    with Rig(tmp_path) as rig:
        fill(rig, [data] * copies)
        first = rig.index.places(wanted.id)[0].node
        name = next(node.name for node in rig.index.children(TREE) if node.id == first)
        suspected: list[int] = []
        with reader(rig, suspected) as old:
            old.fetch([wanted])
            rot(tmp_path / os.fsdecode(name))
            assert old.read(wanted) == (data if copies > 1 else None)
        assert suspected == [first]


def test_what_was_fetched_is_read_whatever_becomes_of_its_name(tmp_path: Path) -> None:
    """Moved, replaced or deleted, by steps or by others: it is read, and nothing suspected."""
    files = contents(3, 20_000)
    chunks = [chunk for data in files for chunk in chunks_of(data)]
    with Rig(tmp_path) as rig:
        fill(rig, files)
        suspected: list[int] = []
        with reader(rig, suspected) as old:
            old.fetch(chunks)
            rig.apply([Move(b"0", b"moved"), put(b"0", b"new")], [b"new"])
            (tmp_path / "other").write_bytes(b"other")
            (tmp_path / "other").rename(tmp_path / "1")
            (tmp_path / "2").unlink()
            assert [old.read(chunk) for chunk in chunks] == files
        assert suspected == []


def read_elsewhere(old: OldContent, chunks: Sequence[Chunk]) -> Future[list[bytes | None]]:
    """Read the chunks in a thread of its own."""
    worker = ThreadPoolExecutor(1)
    found = worker.submit(lambda: [old.read(chunk) for chunk in chunks])
    worker.shutdown(wait=False)
    return found


def test_a_batch_that_is_being_committed_is_not_waited_for(tmp_path: Path) -> None:
    """Content that is where it was is read meanwhile."""
    files = contents(3, 20_000)
    chunks = [chunk for data in files for chunk in chunks_of(data)]
    with Rig(tmp_path) as rig:
        fill(rig, files)
        with reader(rig, []) as old, rig.lock:
            assert read_elsewhere(old, chunks).result(timeout=10) == files


@pytest.mark.parametrize("is_fetched", [False, True])
def test_what_steps_under_way_have_displaced_is_found(tmp_path: Path, is_fetched: bool) -> None:
    """By its name in what the index says there is another file now, in another directory."""
    files = contents(4, 20_000)
    with Rig(tmp_path) as rig:
        chunks = fill_directories(rig, files)
        suspected: list[int] = []
        with reader(rig, suspected) as old:
            with rig.lock:
                (tmp_path / "0").rename(tmp_path / "x")
                (tmp_path / "1").rename(tmp_path / "0")
                (tmp_path / "2/b/f").rename(tmp_path / "y")
                (tmp_path / "3/b/f").rename(tmp_path / "2/b/f")
                if is_fetched:
                    old.fetch(chunks)
                found = read_elsewhere(old, chunks)
                with pytest.raises(TimeoutError):
                    found.result(timeout=0.2)
                (tmp_path / "2/b/f").rename(tmp_path / "3/b/f")
                (tmp_path / "y").rename(tmp_path / "2/b/f")
                (tmp_path / "0").rename(tmp_path / "1")
                (tmp_path / "x").rename(tmp_path / "0")
            assert found.result(timeout=10) == files
        assert suspected == []


def test_what_was_fetched_is_not_looked_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is read: many recipes may have the same base."""
    [data] = contents(1, 20_000)
    [wanted] = chunks_of(data)
    with Rig(tmp_path) as rig:
        fill(rig, [data])
        looked_up = [rig.index.some_places([wanted.id])]
        monkeypatch.setattr(rig.index, "some_places", lambda _chunks: looked_up.pop())
        monkeypatch.setattr(rig.index, "places", None)
        with reader(rig, []) as old:
            old.fetch([wanted, wanted])
            assert [old.read(wanted), old.read(wanted)] == [data, data]


def fill_directories(rig: Rig, files: Sequence[bytes]) -> list[Chunk]:
    """Put each file into a directory of its own; return their chunks."""
    for n, data in enumerate(files):
        folder = b"%d" % n
        rig.apply(
            [MakeDirectory(folder, 0o755, 1), MakeDirectory(folder + b"/b", 0o755, 1)],
        )
        rig.apply([put(folder + b"/b/f", data)], [data])
    rig.committer.settle()
    return [chunk for data in files for chunk in chunks_of(data)]


def test_directories_do_not_stay_open(tmp_path: Path) -> None:
    """Neither for long, nor many at a time."""
    files = contents(100, 2_000)
    with Rig(tmp_path) as rig:
        wanted = fill_directories(rig, files)
        before = descriptors()
        most = 0
        with reader(rig, []) as old:
            for chunk, data in zip(wanted, files, strict=True):
                assert old.read(chunk) == data
                most = max(most, descriptors())
        assert 100 < most - before <= 128
        assert descriptors() == before


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Let this process open so many files and no more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * descriptors() + 256, limits[1]))
    held = []
    try:
        with suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        for fd in held[:count]:
            os.close(fd)
        del held[:count]
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in held:
            os.close(fd)


def test_what_is_open_ahead_is_let_go_of_where_descriptors_lack(tmp_path: Path) -> None:
    """Only if not even one file can be opened is that an error."""
    files = contents(60, 2_000)
    with Rig(tmp_path) as rig:
        wanted = fill_directories(rig, files)
        suspected: list[int] = []
        with reader(rig, suspected) as old, descriptors_left(6):
            found = [bytes(d) for group in old.read_all(wanted) for d in group.values()]
        with (
            reader(rig, suspected) as old,
            descriptors_left(1),
            pytest.raises(OSError) as caught,  # noqa: PT011
        ):
            old.read(wanted[0])
        assert caught.value.errno == errno.EMFILE
        assert found == files
        assert suspected == []


def test_a_window_is_bounded_by_what_is_needed_for_it() -> None:
    """By chunks and by bytes; what alone is over a bound goes alone."""
    small, large = Chunk(b"small", 1), Chunk(b"large", 96 * 1024)
    items = [[small] * 8] * 50 + [[large] * 8] * 50 + [[large] * 40] + [[]] * 10
    grouped = list(windows(items, lambda chunks: chunks))
    assert [item for group in grouped for item in group] == items
    for group in grouped:
        chunks = [chunk for item in group for chunk in item]
        assert group == [[large] * 40] or len(chunks) <= 32
        assert group == [[large] * 40] or sum(chunk.size for chunk in chunks) <= 1 << 20
    assert len(grouped) < 70
