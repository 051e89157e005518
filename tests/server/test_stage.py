"""Taking content from what the destination holds: only if its bytes are right now."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import os
from pathlib import Path

import pytest

from tests.server.rig import Rig, chunks_of, extend, put, put_upload, staged_names
from twinfold.core.manifest import content_id
from twinfold.errors import ContentMismatchError, ProtocolError
from twinfold.model import Delete, ExtendUpload, MakeDirectory, Move, Run
from twinfold.server.stage import LostUploadError, UnknownBaseError

UPLOAD = b"u" * 16


def test_content_that_is_there_is_not_asked_for(tmp_path: Path) -> None:
    """Neither from the tree, nor from a moved directory, nor from the attic."""
    data = os.urandom(100_000)
    with Rig(tmp_path) as rig:
        rig.apply([MakeDirectory(b"d", 0o755, 1), put(b"d/f", data)], [data])
        assert rig.stage([put(b"g", data)]).wanted == {}
        rig.apply([Move(b"d", b"e")])
        assert rig.stage([put(b"g", data)]).wanted == {}
        rig.apply([Delete(b"e")])
        batch = rig.stage([put(b"g", data)])
        assert batch.wanted == {}
        rig.commit(batch)
    assert chunks_of((tmp_path / "g").read_bytes()) == chunks_of(data)


def test_content_that_was_changed_behind_our_back_is_asked_for(tmp_path: Path) -> None:
    """A chunk counts only if its bytes hash right as they are read."""
    data = os.urandom(100_000)
    with Rig(tmp_path) as rig:
        rig.apply([put(b"f", data)], [data])
        with (tmp_path / "f").open("r+b") as file:
            file.seek(50_000)
            file.write(b"X")
        assert set(rig.stage([put(b"g", data)]).wanted) == {chunks_of(data)[1].id}
        os.truncate(tmp_path / "f", 10)
        assert set(rig.stage([put(b"g", data)]).wanted) == {c.id for c in chunks_of(data)}
        (tmp_path / "f").unlink()
        (tmp_path / "f").symlink_to("g")
        assert len(rig.stage([put(b"g", data)]).wanted) == 3


def test_content_is_never_read_through_a_symlink(tmp_path: Path) -> None:
    """A directory that was swapped for a symlink gives nothing."""
    data = b"the same content outside"
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "f").write_bytes(data)
    with Rig(tmp_path / "dest") as rig:
        rig.apply([MakeDirectory(b"d", 0o755, 1), put(b"d/f", data)], [data])
        os.rename(tmp_path / "dest" / "d", tmp_path / "away")
        os.symlink(tmp_path / "outside", tmp_path / "dest" / "d")
        assert rig.stage([put(b"g", data)]).wanted


def test_a_chunk_is_announced_with_one_size_only(tmp_path: Path) -> None:
    """A batch that contradicts itself is refused, and leaves nothing."""
    with Rig(tmp_path) as rig:
        one, two = put(b"a", b"same"), put(b"b", b"same")
        lied = type(two)(two.path, 0o644, 1, 9, two.content, [type(two.chunks[0])(two.content, 9)])
        with pytest.raises(ProtocolError):
            rig.stage([put(b"e", b""), one, lied])
        assert staged_names(tmp_path) == []


def test_zeros_become_holes(tmp_path: Path) -> None:
    """Also at the end of a file, which has its length all the same."""
    data = b"x" + b"\0" * 399_999
    with Rig(tmp_path) as rig:
        rig.apply([put(b"f", data)], [data])
    status = (tmp_path / "f").stat()
    assert status.st_size == 400_000
    assert status.st_blocks * 512 <= 100_000
    assert chunks_of((tmp_path / "f").read_bytes()) == chunks_of(data)


@pytest.mark.parametrize("again", [0, 1, 2, 3])
@pytest.mark.parametrize("reopened", [True, False])
def test_an_upload_goes_on_at_other_borders(scratch: Path, again: int, reopened: bool) -> None:
    """After a restart the parts may be cut elsewhere; what is there is not asked for."""
    data = os.urandom(200_000)
    rig = Rig(scratch)
    rig.start()
    try:
        rig.apply([extend(UPLOAD, data, 0, 3)], [data[:120_000]])
        if reopened:
            rig.close()
            rig = Rig(scratch)
            rig.start()
        batch = rig.stage([extend(UPLOAD, data, again, 4)])
        assert set(batch.wanted) == {chunks_of(data)[3].id}
        rig.stager.store(batch, chunks_of(data)[3:4], [data[120_000:160_000]])
        rig.commit(batch)
        rig.apply([extend(UPLOAD, data, 4, 5)], [data[160_000:]])
        rig.apply([put_upload(b"f", data, UPLOAD)])
    finally:
        rig.close()
    assert chunks_of((scratch / "f").read_bytes()) == chunks_of(data)


def test_an_upload_that_changed_its_mind(tmp_path: Path) -> None:
    """Where a repeated part differs, the upload is the new one from there on."""
    old, new = os.urandom(160_000), os.urandom(80_000)
    new = old[:40_000] + new
    with Rig(tmp_path) as rig:
        rig.apply([extend(UPLOAD, old, 0, 4)], [old])
        rig.apply([extend(UPLOAD, new, 0, 3)], [new])
        rig.apply([put_upload(b"f", new, UPLOAD)])
    assert chunks_of((tmp_path / "f").read_bytes()) == chunks_of(new)


def test_an_upload_in_the_middle_of_nowhere_is_refused(tmp_path: Path) -> None:
    """Beyond its end, or where no chunk of it begins."""
    data = os.urandom(120_000)
    with Rig(tmp_path) as rig:
        rig.apply([extend(UPLOAD, data, 0, 2)], [data[:80_000]])
        with pytest.raises(ProtocolError):
            rig.stage([ExtendUpload(UPLOAD, 120_000, b"", [Run(0, 0, chunks_of(b"x"))])])
        with pytest.raises(ProtocolError):
            rig.stage([ExtendUpload(UPLOAD, 10, b"", [Run(0, 0, chunks_of(b"x"))])])
        rig.apply([extend(UPLOAD, data, 2, 3)], [data[80_000:]])
        with pytest.raises(ContentMismatchError):
            rig.apply([put_upload(b"f", data[::-1], UPLOAD)])
        with pytest.raises(FileNotFoundError):
            rig.apply([put_upload(b"f", data[:-1], UPLOAD)])
    assert not (tmp_path / "f").exists()


def test_a_difference_takes_the_rest_from_its_base(tmp_path: Path) -> None:
    """Only the new chunk is asked for; an unknown base is named."""
    data = os.urandom(200_000)
    base = content_id(chunks_of(data))
    new = data[:80_000] + os.urandom(40_000) + data[120_000:]
    with Rig(tmp_path) as rig:
        rig.apply([put(b"f", data)], [data])
        fresh = chunks_of(new)[2:3]
        part = ExtendUpload(UPLOAD, 0, base, [Run(0, 2, fresh), Run(3, 2, [])])
        batch = rig.stage([part])
        assert set(batch.wanted) == {fresh[0].id}
        rig.stager.store(batch, fresh, [new[80_000:120_000]])
        rig.commit(batch)
        rig.apply([put_upload(b"f", new, UPLOAD)])
        with pytest.raises(UnknownBaseError) as caught:
            rig.stage([ExtendUpload(b"v" * 16, 0, b"?" * 32, [Run(0, 1, [])])])
        assert caught.value.bases == [b"?" * 32]
        # What runs beyond the base's end may be there in an index that is not damaged.
        with pytest.raises(UnknownBaseError):
            rig.stage([ExtendUpload(b"v" * 16, 0, base, [Run(0, 6, [])])])
    assert chunks_of((tmp_path / "f").read_bytes()) == chunks_of(new)


@pytest.mark.parametrize("left_bytes", [None, 10])
def test_a_staged_file_that_was_lost_is_not_replaced_by_zeros(
    tmp_path: Path, left_bytes: int | None
) -> None:
    """An upload whose file is gone or was cut is lost, and says so."""
    data = b"x" * 80_000
    with Rig(tmp_path) as rig:
        rig.apply([extend(UPLOAD, data, 0, 1)], [data[:40_000]])
    for staged in (tmp_path / ".twinfold" / "staging").iterdir():
        if left_bytes is None:
            staged.unlink()
        else:
            os.truncate(staged, left_bytes)
    with Rig(tmp_path) as rig:
        with pytest.raises(LostUploadError):
            rig.stage([extend(UPLOAD, data, 1, 2)])
        with pytest.raises(FileNotFoundError):
            rig.apply([put_upload(b"f", data[:40_000], UPLOAD)])
        assert rig.tree() == {}
