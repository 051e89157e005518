"""The index can be lost: it is made anew from the files."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.server.rig import ForestWrapper, Rig, put
from twinfold.core.chunking import Chunker, chunk_id
from twinfold.core.manifest import content_id
from twinfold.errors import DestinationError
from twinfold.model import Chunk, Delete, MakeDirectory, MakeSymlink, PutFile
from twinfold.storage.interface import Source


def chunked(data: bytes) -> list[Chunk]:
    """Return the chunks that both ends cut content into."""
    chunker = Chunker()
    pieces = [*chunker.feed(data), *chunker.finish()]
    return [Chunk(chunk_id(piece), len(piece)) for piece in pieces]


def put_cut(path: bytes, data: bytes) -> PutFile:
    chunks = chunked(data)
    return PutFile(path, 0o644, 5, len(data), content_id(chunks), chunks)


def fill(folder: Path, big: bytes) -> None:
    (folder / "d" / "empty").mkdir(parents=True)
    (folder / "d" / "big").write_bytes(big)
    (folder / "small").write_bytes(b"small")
    (folder / "nothing").write_bytes(b"")
    (folder / "link").symlink_to("nowhere")


def test_a_filled_folder_is_adopted(scratch: Path) -> None:
    """Its entries are known with their content, and nothing of it has to be sent."""
    big = os.urandom(500_000)
    fill(scratch, big)
    with pytest.raises(DestinationError):
        Rig(scratch)
    with Rig(scratch, adopt=True) as rig:
        entries = {entry.path: entry for entry in rig.entries()}
        assert set(entries) == set(rig.tree())
        assert entries[b"d/big"].content == content_id(chunked(big))
        assert entries[b"link"].target == b"nowhere"
        assert rig.stage([put_cut(b"new", big), put_cut(b"new2", b"small")]).wanted == {}
        rig.apply([put_cut(b"new", big), Delete(b"d")])
        assert b"new" in rig.tree()
        assert b"d" not in rig.tree()


def test_a_lost_index_is_made_anew(scratch: Path) -> None:
    """Tree and attic are known again; no revision or epoch comes a second time."""
    with Rig(scratch) as rig:
        rig.apply([put(b"f", b"1"), MakeSymlink(b"l", b"t"), put(b"g", b"2")], [b"1", b"2"])
        rig.apply([Delete(b"g")])
        rig.committer.settle()
        before = rig.tree(), rig.entries(), rig.index.session()
    for file in (scratch / ".twinfold").glob("index.sqlite*"):
        file.unlink()
    with Rig(scratch) as rig:
        assert (rig.tree(), rig.entries()) == before[:2]
        assert rig.attic() == {b"2": 1}
        assert len(rig.index.attic(None)) == 1
        assert rig.stage([put(b"h", b"2")]).wanted == {}
        rig.apply([put(b"f", b"3"), Delete(b"l")], [b"3"])
        assert rig.attic() == {b"1": 1, b"2": 1, b"t": 1}


def test_a_damaged_index_is_set_aside_and_made_anew(scratch: Path) -> None:
    """The server starts, has everything, and keeps the damaged file."""
    with Rig(scratch) as rig:
        rig.apply([put(b"f", b"1")], [b"1"])
        rig.committer.settle()
        before = rig.entries()
    for file in (scratch / ".twinfold").glob("index.sqlite-*"):
        file.unlink()
    (scratch / ".twinfold" / "index.sqlite").write_bytes(b"no database" * 1_000)
    with Rig(scratch) as rig:
        assert rig.entries() == before
    assert len(list((scratch / ".twinfold").glob("damaged-*.sqlite"))) == 1


class BrokenForest(ForestWrapper):
    """A forest whose process ends when the file named ``z`` is read."""

    def open_source(self, root: int, names: Sequence[bytes]) -> Source:
        if names[-1] == b"z":
            raise KeyboardInterrupt
        return self.forest.open_source(root, names)


def test_a_survey_that_was_cut_begins_anew(scratch: Path) -> None:
    """Nothing is counted twice, nothing is left out."""
    fill(scratch, b"x" * 100_000)
    (scratch / "d" / "z").write_bytes(b"last")
    with pytest.raises(KeyboardInterrupt), Rig(scratch, BrokenForest, adopt=True):
        pass
    with Rig(scratch) as rig:
        assert rig.index.is_surveyed
        assert sorted(entry.path for entry in rig.entries()) == sorted(rig.tree())
        assert rig.index.count_entries() == len(rig.tree())


def test_what_is_never_synchronised_is_set_aside(scratch: Path) -> None:
    """A FIFO is not opened, and does not stand in the way."""
    (scratch / "d").mkdir()
    os.mkfifo(scratch / "d" / "pipe")
    os.mkfifo(scratch / "pipe")
    with Rig(scratch, adopt=True) as rig:
        assert [entry.path for entry in rig.entries()] == [b"d"]
        assert not (scratch / "pipe").exists()
        assert len(rig.messages) == 2
        rig.apply([MakeDirectory(b"pipe", 0o755, 1)])
        assert len(rig.index.attic(None)) == 2


def test_a_survey_reads_no_symlink(scratch: Path) -> None:
    """A symlink to a directory outside is a symlink, whatever is behind it."""
    (scratch / "outside").mkdir()
    (scratch / "outside" / "f").write_bytes(b"1")
    (scratch / "dest").mkdir()
    (scratch / "dest" / "link").symlink_to(scratch / "outside")
    with Rig(scratch / "dest", adopt=True) as rig:
        assert [entry.path for entry in rig.entries()] == [b"link"]
        assert rig.stage([put(b"x", b"1")]).wanted
