"""Batches and their changes on the way in, with what was staged for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from twinfold.core.chunking import MAX_SIZE_BYTES, chunk_id
from twinfold.core.paths import split
from twinfold.core.room import Room
from twinfold.model import (
    Change,
    Chunk,
    Delete,
    ExtendUpload,
    MakeDirectory,
    MakeSymlink,
    Move,
    PutFile,
)
from twinfold.server.lack import NO_FILES, NO_ROOM, Lack
from twinfold.storage.interface import Index

_HOLE = chunk_id(bytes(MAX_SIZE_BYTES))
"""The chunk that runs of zeros are cut into; it takes no room, and is in no smaller file."""


class Upload:
    """How far an upload has come, parts not yet committed included."""

    def __init__(self, size_bytes: int, position: int) -> None:
        self.size_bytes = size_bytes
        self.position = position


class StagedChange(msgspec.Struct, eq=False, gc=False):
    """One change with what was staged for it.

    Attributes:
        name: of the staged object, empty as long as it needs none.
        inode: of the staged object, once it is there as a whole.
        ctime_ns: of a file in its directory.
        directory: the change of the same batch that makes the directory of a new file.
        is_in_directory: the file was staged in that directory, under its own name.
        is_filled: files were staged in this directory.
        node: the node that a directory has become.
        is_begun: some of its content is staged, piece by piece.
        chunks: the content that this change brings, in order.
        offset: where the chunks begin in the file.
        position: number of the first chunk in the file's manifest.
        kept: so many leading chunks an earlier attempt at the upload recorded there.
        kept_bytes: their size.
        laid: where old content was laid under it, by offset in the file.
        refusal: why the destination cannot take it, None if it can.
    """

    change: Change
    name: bytes = b""
    inode: int = 0
    ctime_ns: int = 0
    directory: StagedChange | None = None
    is_in_directory: bool = False
    is_filled: bool = False
    node: int = 0
    is_begun: bool = False
    chunks: Sequence[Chunk] = ()
    offset: int = 0
    position: int = 0
    kept: int = 0
    kept_bytes: int = 0
    laid: list[range] = []
    refusal: Lack | None = None

    def comes_whole(self, pieces: Mapping[bytes, object]) -> bool:
        """Tell whether all of a file is among these chunks, so that one call stages it."""
        if self.inode or self.is_begun or self.refusal is not None:
            return False
        if not isinstance(self.change, PutFile) or self.change.upload:
            return False
        for chunk in self.chunks:  # noqa: SIM110 (once a file: a generator costs more)
            if chunk.id not in pieces:
                return False
        return True


class StagedBatch:
    """A batch, the chunks it waits for, and where their bytes go.

    Attributes:
        wanted: chunks whose bytes are not there yet, and the places that they go to.
        chunks: all chunks that the batch's changes consist of.
        promised: those that an earlier batch brings.
        kept_chunks: those that a content on record has: some file should hold them.
        sizes: of the chunks, as announced.
        is_finished: all bytes are there, and its files are closed.
        is_decided: the index has the batch; what was staged for it is not ours any more.
        names: staged objects that are this batch's alone.
    """

    def __init__(self, number: int, changes: list[StagedChange]) -> None:
        self.number = number
        self.changes = changes
        self.wanted: dict[bytes, list[tuple[StagedChange, int]]] = {}
        self.chunks: frozenset[bytes] = frozenset()
        self.promised: frozenset[bytes] = frozenset()
        self.kept_chunks: set[bytes] = set()
        self.content_bytes = 0
        self.sizes: dict[bytes, int] = {}
        self.is_finished = False
        self.is_decided = False
        self.names: list[bytes] = []

    def note_kept(self, staged: StagedChange, change: ExtendUpload) -> None:
        """Note which of the chunks of a part of an upload its base has."""
        at = 0
        for run in change.runs:
            self.kept_chunks.update(c.id for c in staged.chunks[at : at + run.keep_count])
            at += run.keep_count + len(run.chunks)

    def forget_wants_of_refused(self) -> None:
        """Chunks that only refused changes consist of are not waited for."""
        refused = [
            chunk
            for chunk, targets in self.wanted.items()
            if all(staged.refusal is not None for staged, _ in targets)
        ]
        for chunk in refused:
            del self.wanted[chunk]


def assign_directories(batch: StagedBatch) -> None:
    """Name the new directories that new files can be staged in, under their own names.

    They need no step of their own then. Not where the batch moves or deletes something, which
    may be the directory, nor where it brings something else to the same path before.
    """
    if not {type(staged.change) for staged in batch.changes}.isdisjoint((Move, Delete)):
        return
    made: dict[bytes, StagedChange] = {}
    taken: set[bytes] = set()
    for staged in batch.changes:
        change = staged.change
        if isinstance(change, PutFile):
            if change.path not in taken:
                staged.directory = made.get(split(change.path)[0])
        elif isinstance(change, MakeDirectory):
            made[change.path] = staged
        elif not isinstance(change, MakeSymlink):
            continue
        taken.add(change.path)


def upload_name(upload: bytes) -> bytes:
    """Return the name under which an upload is staged."""
    return b"upload-" + upload.hex().encode()


def room_for(change: Change, index: Index) -> tuple[int, int]:
    """Return (bytes, inodes) that the destination's file system needs for a change, about.

    For a part of an upload that is what the whole upload still needs.
    """
    if isinstance(change, PutFile):
        if change.upload:
            return 0, 0
        if change.size < MAX_SIZE_BYTES:
            return change.size, 1
        return sum(chunk.size for chunk in change.chunks if chunk.id != _HOLE), 1
    if isinstance(change, ExtendUpload):
        needed_bytes = max(part_bytes(change), change.left_bytes) - there_bytes(change, index)
        return max(0, needed_bytes), not change.offset
    return 0, isinstance(change, MakeDirectory | MakeSymlink)


def part_bytes(change: ExtendUpload) -> int:
    """Return the bytes of new content in a part of an upload, holes left out."""
    return sum(chunk.size for run in change.runs for chunk in run.chunks if chunk.id != _HOLE)


def there_bytes(change: ExtendUpload, index: Index) -> int:
    """Return how much of an upload is staged already, from the offset of a part on."""
    upload = index.find_upload(upload_name(change.upload))
    return max(0, upload.size - change.offset) if upload is not None else 0


def fit(change: Change, budget: Room, index: Index) -> tuple[Lack | None, Room]:
    """Return why the change does not fit (if so), and what is left for the next one."""
    size_bytes, files = room_for(change, index)
    if size_bytes and not budget.holds(size_bytes, 0):
        return NO_ROOM, budget
    if files and not budget.holds(0, files):
        return NO_FILES, budget
    if isinstance(change, ExtendUpload):
        size_bytes = max(0, part_bytes(change) - there_bytes(change, index))
    return None, budget.less(size_bytes, files)
