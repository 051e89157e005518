"""Files too large for one change: sent in parts, written as a difference to what is known."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from blake3 import blake3

from twinfold.client.batch import BatchBuilder
from twinfold.client.effects import Effect, SaveSegment
from twinfold.client.read import (
    WHOLE_BYTES,
    Portion,
    Reader,
    UnsettledError,
    check_unchanged,
)
from twinfold.client.shortage import NoRoomError, Shortage
from twinfold.client.state import SEGMENT_CHUNKS, State
from twinfold.client.subblocks import BaseCursor
from twinfold.core.manifest import ContentHasher, Differ
from twinfold.core.planning import Facts, Known
from twinfold.model import CHUNK_ID_SIZE_BYTES, UPLOAD_ID_SIZE_BYTES, Chunk, ExtendUpload, Run

_STRETCH_CHUNKS = 160
"""More chunks than a buffer of `WHOLE_BYTES` can hold."""

_SEGMENT_BYTES = SEGMENT_CHUNKS * CHUNK_ID_SIZE_BYTES
_INODE = struct.Struct("<q")


class Base(NamedTuple):
    """An acknowledged content to which a new one is written as a difference."""

    manifest: int
    content: bytes


class Uploaded(NamedTuple):
    """What `Uploader.upload` did: ``upload`` is empty if the content was the expected one."""

    content: bytes
    manifest: int
    upload: bytes
    effects: list[Effect]


class Uploader:
    """Sends big files, in bounded memory whatever their size.

    Args:
        use_bases: False after the server did not know a base that it should have known.
    """

    def __init__(
        self,
        state: State,
        builder: BatchBuilder,
        reader: Reader,
        shortage: Shortage,
        use_bases: bool = True,
    ) -> None:
        self._state = state
        self._builder = builder
        self._reader = reader
        self._shortage = shortage
        self._use_bases = use_bases
        self._client_id = state.blob("client_id")

    def upload(self, fd: int, facts: Facts, path: bytes, expected: Known | None) -> Uploaded:
        """Send a file's content in parts, unless it is the expected one; not yet its name.

        Raises:
            UnsettledError: the file changed meanwhile; the server drops what it got.
            NoRoomError: the server has no room for it.
        """
        if expected is not None and self._is_unchanged_without_manifest(fd, facts, expected):
            return Uploaded(expected.content, 0, b"", [])
        base = None
        if expected is not None and expected.manifest and self._use_bases:
            base = Base(expected.manifest, expected.content)
        work = UploadInParts(
            self._state,
            self._builder,
            self._upload_id(path, facts),
            path,
            base,
            disk_bytes(fd),
            may_be_same=expected is not None and expected.size == facts.size,
        )
        try:
            for portion in self._reader.stretches(fd, lambda: work.is_all_new):
                if self._shortage.is_short_of(facts.size):
                    raise NoRoomError
                if work.is_at_start and base is None and portion.cuts and self._use_bases:
                    found = self._state.manifest_beginning_with(portion.cuts[0][0].id)
                    work.use_base(Base(*found) if found else None)
                check_unchanged(fd, facts)
                work.extend(portion)
            check_unchanged(fd, facts)
        except (UnsettledError, NoRoomError, OSError):
            work.abandon()
            raise
        return work.finish(expected)

    def _is_unchanged_without_manifest(self, fd: int, facts: Facts, expected: Known) -> bool:
        return (
            not expected.manifest
            and expected.size == facts.size
            and self._reader.identify(fd, facts) == expected.content
        )

    def _upload_id(self, path: bytes, facts: Facts) -> bytes:
        """Return the id of what is staged for a file, the same for each attempt at it."""
        digest = blake3(self._client_id + path + b"\0" + _INODE.pack(facts.inode)).digest()
        return digest[:UPLOAD_ID_SIZE_BYTES]


class UploadInParts:
    """One file on its way.

    As long as one that ``may_be_same`` equals its base from the start on, nothing is sent: only
    the borders of the parts are kept. Any other is sent as it is read.
    """

    def __init__(
        self,
        state: State,
        builder: BatchBuilder,
        upload: bytes,
        path: bytes,
        base: Base | None,
        disk_bytes: int,
        *,
        may_be_same: bool,
    ) -> None:
        self._state = state
        self._builder = builder
        self._may_be_same = may_be_same
        self._upload = upload
        self._path = path
        self._disk_bytes = disk_bytes
        self._manifest = state.allocate_manifest()
        self._hasher = ContentHasher()
        self._offset = 0
        self._count = 0
        self._prefix: list[tuple[int, int, int]] = []
        self._part_offset = 0
        self._part_chunks = 0
        self._runs: list[Run] = []
        self._ids = bytearray()
        self._segments = 0
        self._effects: list[Effect] = []
        self.use_base(base)

    @property
    def is_at_start(self) -> bool:
        """Whether nothing was read yet."""
        return self._count == 0

    @property
    def is_all_new(self) -> bool:
        """Whether the file is not written as a difference."""
        return self._base is None

    def use_base(self, base: Base | None) -> None:
        """Write the file as a difference to this content."""
        self._base = base
        self._same_so_far = self._may_be_same and base is not None
        self._differ = None
        self._cursor = None
        if base is not None:
            manifest = base.manifest
            self._cursor = BaseCursor(self._state, manifest)
            self._differ = Differ(
                lambda start, count: self._state.manifest_ids(manifest, start, count)
            )

    def extend(self, portion: Portion) -> None:
        """Append the next chunks."""
        cuts = portion.cuts
        chunks = [chunk for chunk, _ in cuts]
        self._hasher.add(chunks)
        runs = self._differ.difference(chunks) if self._differ else [Run(0, 0, chunks)]
        if self._same_so_far and not self._continues_prefix(runs):
            self._send_prefix()
        if self._same_so_far:
            self._note_prefix(len(chunks))
            self._offset += sum(chunk.size for chunk in chunks)
        else:
            self._append(portion, runs)
        if self._cursor is not None:
            rows = self._builder.new_rows
            self._builder.add_recipes(self._cursor.recipes(cuts, runs, rows))
        self._count += len(chunks)

    def finish(self, expected: Known | None) -> Uploaded:
        """Send what is left and return what the file's name is to be given to."""
        content = self._hasher.content_id()
        if expected is not None and content == expected.content:
            return Uploaded(content, expected.manifest, b"", [])
        if self._same_so_far:
            self._send_prefix()
        self._send_part()
        self._save_segment(final=True)
        return Uploaded(content, self._manifest, self._upload, self._effects)

    def abandon(self) -> None:
        """Give the upload up; the content that a batch already holds keeps its announcement."""
        self._send_part()

    def _continues_prefix(self, runs: list[Run]) -> bool:
        return not runs or (
            len(runs) == 1 and not runs[0].chunks and runs[0].keep_start == self._count
        )

    def _note_prefix(self, count: int) -> None:
        if self._prefix and self._prefix[-1][2] + count <= SEGMENT_CHUNKS:
            offset, start, so_far = self._prefix[-1]
            self._prefix[-1] = offset, start, so_far + count
        else:
            self._prefix.append((self._offset, self._count, count))

    def _send_prefix(self) -> None:
        self._same_so_far = False
        ends = [offset for offset, _, _ in self._prefix[1:]] + [self._offset]
        for (offset, start, count), end in zip(self._prefix, ends, strict=False):
            self._builder.make_room(0)
            self._builder.count_kept(count, end - offset)
            self._part_offset = offset
            self._runs = [Run(start, count, [])]
            if self._base is not None:
                self._save_ids(self._state.manifest_ids(self._base.manifest, start, count))
            self._send_part()
        self._prefix = []
        self._part_offset = self._offset

    def _append(self, portion: Portion, runs: list[Run]) -> None:
        if self._part_chunks + _STRETCH_CHUNKS > SEGMENT_CHUNKS or (
            self._builder.is_full_for(WHOLE_BYTES)
        ):
            self._send_part()
            self._builder.make_room(WHOLE_BYTES)
        cuts, rows = portion
        at = 0
        for run in runs:
            kept = [chunk for chunk, _ in cuts[at : at + run.keep_count]]
            self._builder.add_places(kept, self._path, self._offset)
            self._step_over(kept)
            at += run.keep_count
            fresh = cuts[at : at + len(run.chunks)]
            self._builder.add_content(fresh, self._path, self._offset, is_part=True, rows=rows)
            self._step_over(run.chunks)
            at += len(run.chunks)
            self._join(run)
        self._builder.let_go_of(cuts)
        self._part_chunks += len(cuts)

    def _step_over(self, chunks: Sequence[Chunk]) -> None:
        self._offset += sum(chunk.size for chunk in chunks)
        self._save_ids([chunk.id for chunk in chunks])

    def _join(self, run: Run) -> None:
        last = self._runs[-1] if self._runs else None
        if last is not None and not run.keep_count:
            last.chunks.extend(run.chunks)
        elif (
            last is not None
            and not last.chunks
            and last.keep_start + last.keep_count == run.keep_start
        ):
            self._runs[-1] = Run(last.keep_start, last.keep_count + run.keep_count, run.chunks)
        else:
            self._runs.append(run)

    def _send_part(self) -> None:
        if self._runs:
            keeps = any(run.keep_count for run in self._runs)
            base = self._base.content if self._base is not None and keeps else b""
            offset = self._part_offset
            left_bytes = max(0, self._disk_bytes - offset)
            part = ExtendUpload(self._upload, offset, base, self._runs, left_bytes)
            self._builder.add(part, *self._effects)
            self._effects = []
        self._runs, self._part_chunks = [], 0
        self._part_offset = self._offset

    def _save_ids(self, chunk_ids: Iterable[bytes]) -> None:
        self._ids += b"".join(chunk_ids)
        while len(self._ids) >= _SEGMENT_BYTES:
            self._save_segment()

    def _save_segment(self, final: bool = False) -> None:
        if self._ids or not final:
            ids = bytes(self._ids[:_SEGMENT_BYTES])
            self._effects.append(SaveSegment(self._manifest, self._segments, ids))
            self._segments += 1
            del self._ids[:_SEGMENT_BYTES]


def disk_bytes(fd: int) -> int:
    """Return about what a file takes on the disk: holes do not count."""
    status = os.fstat(fd)
    blocks: int | None = getattr(status, "st_blocks", None)
    return status.st_size if blocks is None else min(status.st_size, blocks * 512)
