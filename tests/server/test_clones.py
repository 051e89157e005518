"""What an edited file keeps, on file systems whose files can share blocks."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.e2e.small import btrfs, free_bytes, xfs
from tests.server.rig import PIECE_BYTES, Rig, chunks_of, put_upload
from twinfold.core.manifest import content_id
from twinfold.model import Chunk, ExtendUpload, Run

UPLOAD = b"u" * 16
PIECES = 400
EDITED = 150
ZEROS = 300
LITTLE_BYTES = 3 << 20
"""What an edit of a few bytes may take of a disk, the index and its log included."""


@pytest.fixture(params=[btrfs, xfs])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    mounting: Callable[[Path], AbstractContextManager[Path]] = request.param
    with mounting(tmp_path / "disk") as folder:
        yield folder


def content() -> bytearray:
    """Return 16 MB with one piece of zeros."""
    data = bytearray(os.urandom(PIECES * PIECE_BYTES))
    data[ZEROS * PIECE_BYTES : (ZEROS + 1) * PIECE_BYTES] = bytes(PIECE_BYTES)
    return data


def upload(rig: Rig, data: bytes) -> None:
    """Bring a first version of the file."""
    chunks = chunks_of(data)
    batch = rig.stage([ExtendUpload(b"o" * 16, 0, b"", [Run(0, 0, chunks)])], [data])
    rig.commit(batch)
    rig.apply([put_upload(b"f", data, b"o" * 16)])


def edited(data: bytes, at: int) -> tuple[bytes, list[Chunk], ExtendUpload]:
    """Return an edit of a piece, its new chunk, and the change that uploads it."""
    new = bytearray(data)
    new[at * PIECE_BYTES + 100 : at * PIECE_BYTES + 200] = os.urandom(100)
    fresh = chunks_of(bytes(new))[at : at + 1]
    runs = [Run(0, at, fresh), Run(at + 1, PIECES - at - 1, [])]
    return bytes(new), fresh, ExtendUpload(UPLOAD, 0, content_id(chunks_of(data)), runs)


def test_an_edit_takes_no_more_room_than_what_is_new(disk: Path) -> None:
    """The rest shares its blocks with the version in the attic, which stays what it was."""
    data = bytes(content())
    with Rig(disk / "dest") as rig:
        upload(rig, data)
        os.sync()
        before = free_bytes(disk)
        new, fresh, change = edited(data, EDITED)
        batch = rig.stage([change])
        assert set(batch.wanted) == {fresh[0].id}
        rig.stager.store(batch, fresh, [new[EDITED * PIECE_BYTES : (EDITED + 1) * PIECE_BYTES]])
        rig.commit(batch)
        rig.apply([put_upload(b"f", new, UPLOAD)])
        os.sync()
        assert before - free_bytes(disk) < LITTLE_BYTES
        (kept,) = [
            path for path in (disk / "dest" / ".twinfold").rglob("*") if is_file(path, len(data))
        ]
        assert kept.read_bytes() == data
    assert (disk / "dest" / "f").read_bytes() == new


def is_file(path: Path, size_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == size_bytes


@pytest.mark.parametrize("spoilt", [20, ZEROS, EDITED + 1, PIECES - 1])
def test_what_was_changed_behind_our_back_is_not_kept(disk: Path, spoilt: int) -> None:
    """Each piece that is shared is verified where it lies; zeros over other bytes are no hole."""
    data = bytes(content())
    with Rig(disk / "dest") as rig:
        upload(rig, data)
        with (disk / "dest" / "f").open("r+b") as file:
            file.seek(spoilt * PIECE_BYTES + 10_000)
            file.write(b"X" * 9_000)
        new, fresh, change = edited(data, EDITED)
        batch = rig.stage([change])
        chunks = chunks_of(new)
        assert set(batch.wanted) == {fresh[0].id, chunks[spoilt].id}
        for at in (EDITED, spoilt):
            piece = new[at * PIECE_BYTES : (at + 1) * PIECE_BYTES]
            rig.stager.store(batch, chunks[at : at + 1], [piece])
        rig.commit(batch)
        rig.apply([put_upload(b"f", new, UPLOAD)])
    assert (disk / "dest" / "f").read_bytes() == new


def test_an_upload_that_was_interrupted_goes_on(disk: Path) -> None:
    """What was laid and not committed is laid again, by a server that was started again."""
    data = bytes(content())
    with Rig(disk / "dest") as rig:
        upload(rig, data)
        new, fresh, change = edited(data, EDITED)
        rig.stage([change])
    with Rig(disk / "dest") as rig:
        batch = rig.stage([change])
        assert set(batch.wanted) == {fresh[0].id}
        rig.stager.store(batch, fresh, [new[EDITED * PIECE_BYTES : (EDITED + 1) * PIECE_BYTES]])
        rig.commit(batch)
        rig.apply([put_upload(b"f", new, UPLOAD)])
    assert (disk / "dest" / "f").read_bytes() == new


@pytest.mark.parametrize("shift", [1, 4_096 * 3])
def test_what_is_shifted(disk: Path, shift: int) -> None:
    """By whole blocks it is shared, by anything else it is written."""
    data = bytes(content())
    with Rig(disk / "dest") as rig:
        upload(rig, data)
        own = os.urandom(shift)
        runs = [Run(0, 0, chunks_of(own)), Run(0, PIECES, [])]
        chunks = chunks_of(own) + chunks_of(data)
        batch = rig.stage([ExtendUpload(UPLOAD, 0, content_id(chunks_of(data)), runs)])
        assert set(batch.wanted) == {chunk.id for chunk in chunks_of(own)}
        (staged,) = batch.changes
        assert bool(staged.laid) is (shift % 4_096 == 0)
        rig.stager.store(batch, chunks_of(own), [own])
        rig.commit(batch)
        put = put_upload(b"f", b"", UPLOAD)
        rig.apply([type(put)(b"f", 0o644, 5, shift + len(data), content_id(chunks), [], UPLOAD)])
    assert (disk / "dest" / "f").read_bytes() == own + data
