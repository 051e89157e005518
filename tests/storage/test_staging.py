"""A staged file that is filled: on its way to the disk while more of it comes."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twinfold.storage.staging import Staging
from twinfold.system.durability import start_writing

MIB = 1 << 20
PIECE_BYTES = MIB // 2


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(pieces=st.integers(1, 60), seed=st.none() | st.integers(0, 9), left_out=st.integers(0, 59))
def test_little_is_left_for_the_sync(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pieces: int,
    seed: int | None,
    left_out: int,
) -> None:
    """In whatever order pieces come, all but the last few MiB are being written by then."""
    data = os.urandom(PIECE_BYTES)
    order = [n for n in range(pieces) if n != left_out]
    if seed is not None:
        random.Random(seed).shuffle(order)
    started: set[int] = set()

    def noted(fd: int, offset: int, size_bytes: int) -> None:
        assert offset % PIECE_BYTES == 0
        started.update(range(offset // PIECE_BYTES, -(-(offset + size_bytes) // PIECE_BYTES)))
        start_writing(fd, offset, size_bytes)

    monkeypatch.setattr("twinfold.storage.staging.start_writing", noted)
    folder = os.open(tmp_path, os.O_RDONLY)
    file = Staging(folder).open_file(b"f", 0)
    for number in order:
        file.write([(number * PIECE_BYTES, data)])
    file.close()
    os.close(folder)
    assert len(set(order) - started) * PIECE_BYTES < 8 * MIB
    written = (tmp_path / "f").read_bytes()
    for number in order:
        assert written[number * PIECE_BYTES : (number + 1) * PIECE_BYTES] == data
    (tmp_path / "f").unlink()


def open_files(folder: Path) -> list[str]:
    """Return the names in a folder that this process has open, those of deleted files included."""
    links = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sorted(link[len(f"{folder}/") :] for link in links if link.startswith(f"{folder}/"))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("others", [0, 1])
def test_what_could_not_be_written_early_is_told_by_the_sync(tmp_path: Path, others: int) -> None:
    """A closed file may be forgotten, with its error: it stays open until it is synced."""
    folder = os.open(tmp_path, os.O_RDONLY)
    staging = Staging(folder)
    for name, size_bytes in ((b"big", 8 * MIB), (b"dropped", 9 * MIB), (b"small", 7 * MIB)):
        file = staging.open_file(name, 0)
        file.write([(0, bytes([1]) * size_bytes)])
        file.close()
    assert open_files(tmp_path) == ["big", "dropped"]
    again = staging.open_file(b"big", 8 * MIB)
    again.write([(8 * MIB, bytes([2]) * 8 * MIB)])
    again.close()
    assert open_files(tmp_path) == ["big", "dropped"]
    staging.flush([b"big", b"small"], [], others)
    assert open_files(tmp_path) == ["dropped"]
    staging.discard([b"dropped"])
    assert open_files(tmp_path) == []
    os.close(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_only_so_many_files_stay_open(tmp_path: Path) -> None:
    """Parts of uploads may come of which none is ever committed."""
    folder = os.open(tmp_path, os.O_RDONLY)
    staging = Staging(folder)
    names = [b"%d" % number for number in range(70)]
    for name in names:
        file = staging.open_file(name, 0)
        file.write([(0, bytes([1]) * 8 * MIB)])
        file.close()
        os.truncate(tmp_path / name.decode(), 0)
    assert 0 < len(open_files(tmp_path)) <= 64
    staging.discard(names)
    assert open_files(tmp_path) == []
    os.close(folder)


def test_that_it_cannot_be_started_is_no_error() -> None:
    """It is a hint: not every file can be written to a disk."""
    reader, writer = os.pipe()
    start_writing(writer, 0, MIB)
    os.close(reader)
    os.close(writer)
