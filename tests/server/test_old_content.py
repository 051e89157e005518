"""Reading what the destination holds: ahead, with few lookups, and only what is right."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.server.rig import Rig, chunks_of, put
from twinfold.model import Change, Chunk
from twinfold.server.old_content import OldContent
from twinfold.storage.interface import Place


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
        places = rig.index.places

        def counted(chunk: bytes) -> list[Place]:
            looked_up.append(chunk)
            return places(chunk)

        monkeypatch.setattr(rig.index, "places", counted)
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
            old._sources.popitem()[1].close()
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
