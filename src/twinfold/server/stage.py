"""A batch on its way in: what its files consist of, and which chunks are still missing.

All of this runs in one thread, so that staged files have one writer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

from twinfold.core.chunking import chunk_id
from twinfold.core.manifest import expand
from twinfold.errors import ContentMismatchError, ProtocolError
from twinfold.model import (
    Change,
    Chunk,
    ExtendUpload,
    MakeDirectory,
    MakeSymlink,
    PutFile,
)
from twinfold.storage.interface import Forest, Index, Source, StagedFile, Staging

_OPEN_SOURCES = 16
_OPEN_FILES = 64
_MANIFEST_PAGE = 4_096


class UnknownBaseError(Exception):
    """Differences name base contents that are not known (any more)."""

    def __init__(self, bases: list[bytes]) -> None:
        super().__init__(bases)
        self.bases = bases


class LostUploadError(Exception):
    """The index has an upload whose staged file is gone or was cut."""

    def __init__(self, node: int, name: bytes) -> None:
        super().__init__(name)
        self.node = node
        self.name = name


class Upload:
    """How far an upload has come, parts not yet committed included."""

    def __init__(self, size_bytes: int, position: int) -> None:
        self.size_bytes = size_bytes
        self.position = position


class StagedChange:
    """One change with what was staged for it.

    Attributes:
        name: of the staged object, empty if the change needs none.
        inode: of the staged object, once it is there.
        chunks: the content that this change brings, in order.
        offset: where the chunks begin in the file.
        position: number of the first chunk in the file's manifest.
        kept: so many leading chunks an earlier attempt at the upload recorded there.
        kept_bytes: their size.
    """

    __slots__ = ("change", "chunks", "inode", "kept", "kept_bytes", "name", "offset", "position")

    def __init__(self, change: Change) -> None:
        self.change = change
        self.name = b""
        self.inode = 0
        self.chunks: Sequence[Chunk] = ()
        self.offset = 0
        self.position = 0
        self.kept = 0
        self.kept_bytes = 0

    @property
    def is_whole_small_file(self) -> bool:
        """Tell whether the content is staged with one call."""
        return isinstance(self.change, PutFile) and len(self.chunks) <= 1


class StagedBatch:
    """A batch, the chunks it waits for, and where their bytes go.

    Attributes:
        wanted: chunks whose bytes are not there yet, and the places that they go to.
        chunks: all chunks that the batch's changes consist of.
        promised: those that an earlier batch brings.
        sizes: of the chunks, as announced.
        is_decided: the index has the batch; what was staged for it is not ours any more.
        names: staged objects that are this batch's alone.
    """

    def __init__(self, number: int, changes: list[StagedChange]) -> None:
        self.number = number
        self.changes = changes
        self.wanted: dict[bytes, list[tuple[StagedChange, int]]] = {}
        self.chunks: frozenset[bytes] = frozenset()
        self.promised: frozenset[bytes] = frozenset()
        self.content_bytes = 0
        self.sizes: dict[bytes, int] = {}
        self.is_decided = False
        self.names: list[bytes] = []


class Stager:
    """Fills staged files with bytes from the wire and with bytes that DEST already holds."""

    def __init__(
        self,
        index: Index,
        staging: Staging,
        forest: Forest,
        forest_lock: AbstractContextManager[object],
        run_name: str,
        suspect: Callable[[int], None] = lambda _node: None,
    ) -> None:
        self._suspect = suspect
        self._index = index
        self._staging = staging
        self._forest = forest
        self._forest_lock = forest_lock
        self._run_name = run_name.encode()
        self._names = 0
        self._uploads: dict[bytes, Upload] = {}
        self._files: OrderedDict[bytes, StagedFile] = OrderedDict()
        self._sources: OrderedDict[int, Source] = OrderedDict()

    def begin(
        self, number: int, changes: Sequence[Change], promised: frozenset[bytes]
    ) -> StagedBatch:
        """Stage what needs no bytes from the wire; the batch then tells what is missing.

        Args:
            number: of the batch.
            changes: checked changes.
            promised: chunks that earlier batches wait for; they are looked for later.

        Raises:
            UnknownBaseError: a difference names a content that is not known.
            ProtocolError: an upload goes on where none is.
        """
        batch = StagedBatch(number, [StagedChange(change) for change in changes])
        bases = {
            change.base: self._index.find_content(change.base)
            for change in changes
            if isinstance(change, ExtendUpload) and change.base
        }
        unknown = [base for base, node in bases.items() if node is None]
        if unknown:
            raise UnknownBaseError(unknown)
        uploads = {
            name: Upload(was.size_bytes, was.position) for name, was in self._uploads.items()
        }
        try:
            for staged in batch.changes:
                self._begin_change(batch, staged, bases)
            batch.chunks = frozenset(batch.wanted)
            batch.promised = batch.chunks & promised
            self.reuse(batch, batch.chunks - promised)
        except BaseException:
            self._uploads = uploads
            self._staging.discard(batch.names)
            raise
        return batch

    def _begin_change(
        self, batch: StagedBatch, staged: StagedChange, bases: Mapping[bytes, int | None]
    ) -> None:
        change = staged.change
        if isinstance(change, PutFile):
            self._begin_file(batch, staged, change)
        elif isinstance(change, ExtendUpload):
            self._extend(batch, staged, change, bases.get(change.base))
        elif isinstance(change, MakeDirectory | MakeSymlink):
            staged.name = self._new_name(batch)

    def _new_name(self, batch: StagedBatch) -> bytes:
        self._names += 1
        name = b"%b-%d" % (self._run_name, self._names)
        batch.names.append(name)
        return name

    def _begin_file(self, batch: StagedBatch, staged: StagedChange, change: PutFile) -> None:
        if change.upload:
            staged.name = upload_name(change.upload)
            self._uploads.pop(staged.name, None)
            return
        staged.name = self._new_name(batch)
        staged.chunks = change.chunks
        if not change.chunks:
            staged.inode = self._staging.create_file(staged.name, change.mode, change.mtime_ns, b"")
        self._want(batch, staged)

    def _want(self, batch: StagedBatch, staged: StagedChange) -> None:
        offset = staged.offset
        for chunk in staged.chunks:
            if batch.sizes.setdefault(chunk.id, chunk.size) != chunk.size:
                raise ProtocolError("a chunk is announced with two sizes", 422)
            batch.wanted.setdefault(chunk.id, []).append((staged, offset))
            offset += chunk.size
        batch.content_bytes += offset - staged.offset

    def _extend(
        self, batch: StagedBatch, staged: StagedChange, change: ExtendUpload, base: int | None
    ) -> None:
        staged.name = upload_name(change.upload)
        staged.offset = change.offset
        staged.chunks = expand(
            change.runs, lambda start, count: self._index.manifest(base or 0, start, count)
        )
        upload = self._upload(staged.name)
        if change.offset > upload.size_bytes:
            raise ProtocolError("an upload goes on beyond its end", 409)
        if change.offset == upload.size_bytes:
            staged.position = upload.position
        else:
            staged.position = self._position(staged.name, change.offset)
            self._keep_recorded(staged)
        if staged.kept < len(staged.chunks):
            self._open_file(staged.name).truncate(change.offset + staged.kept_bytes)
            upload.size_bytes = change.offset + sum(chunk.size for chunk in staged.chunks)
            upload.position = staged.position + len(staged.chunks)
        self._want(batch, staged)

    def _keep_recorded(self, staged: StagedChange) -> None:
        """Find out how much of the part an earlier attempt recorded."""
        node = self._index.find_upload(staged.name)
        if node is None:
            return
        recorded = self._index.manifest(node.id, staged.position, len(staged.chunks))
        for chunk, before in zip(staged.chunks, recorded, strict=False):
            if chunk != before:
                break
            staged.kept += 1
            staged.kept_bytes += chunk.size

    def _upload(self, name: bytes) -> Upload:
        if name not in self._uploads:
            node = self._index.find_upload(name)
            size_bytes = node.size if node else 0
            try:
                file = self._files[name] = self._staging.open_file(name, size_bytes)
            except FileNotFoundError as error:
                raise LostUploadError(node.id if node else 0, name) from error
            file.truncate(size_bytes)
            self._uploads[name] = Upload(size_bytes, self._position(name, size_bytes))
        return self._uploads[name]

    def _position(self, name: bytes, offset: int) -> int:
        """Return the number of the chunk that begins at ``offset`` of an upload."""
        node = self._index.find_upload(name)
        position = reached = 0
        while node is not None and reached < offset:
            page = self._index.manifest(node.id, position, _MANIFEST_PAGE)
            for chunk in page:
                if reached >= offset:
                    break
                reached += chunk.size
                position += 1
            if not page:
                break
        if reached != offset:
            raise ProtocolError("an upload goes on where no chunk of it begins", 409)
        return position

    def reuse(self, batch: StagedBatch, chunk_ids: Iterable[bytes]) -> None:
        """Take chunks from what DEST holds, each verified as it is read."""
        chunk_ids = [chunk for chunk in chunk_ids if chunk in batch.wanted]
        known = self._index.known_chunks(chunk_ids)
        try:
            for chunk in chunk_ids:
                if chunk in known:
                    self._reuse_chunk(batch, chunk)
        finally:
            self._close_sources()

    def _reuse_chunk(self, batch: StagedBatch, chunk: bytes) -> None:
        targets = batch.wanted[chunk]
        wanted = Chunk(chunk, batch.sizes[chunk])
        if all(self._is_in_place(staged, offset, wanted) for staged, offset in targets):
            del batch.wanted[chunk]
            return
        data = self._read_anywhere(wanted)
        if data is not None:
            self._write(batch, wanted, data)

    def _is_in_place(self, staged: StagedChange, offset: int, chunk: Chunk) -> bool:
        return offset < staged.offset + staged.kept_bytes and self._open_file(staged.name).holds(
            offset, chunk
        )

    def _read_anywhere(self, chunk: Chunk) -> bytes | None:
        for place in self._index.places(chunk.id):
            try:
                data = self._source(place.node).read(place.offset, place.size)
            except OSError as error:
                if not isinstance(error, PermissionError):
                    self._suspect(place.node)
                continue
            if len(data) == chunk.size and chunk_id(data) == chunk.id:
                return data
            self._suspect(place.node)
        return None

    def _source(self, node: int) -> Source:
        source = self._sources.get(node)
        if source is not None:
            return source
        with self._forest_lock:
            located = self._index.locate(node)
            if located is None:
                raise FileNotFoundError
            source = self._forest.open_source(*located)
        self._sources[node] = source
        if len(self._sources) > _OPEN_SOURCES:
            self._sources.popitem(last=False)[1].close()
        return source

    def _close_sources(self) -> None:
        for source in self._sources.values():
            source.close()
        self._sources.clear()

    def store(self, batch: StagedBatch, chunks: Sequence[Chunk], payload: bytes) -> None:
        """Put chunks from the wire where the batch wants them.

        Raises:
            ContentMismatchError: bytes do not hash to what was announced for them.
        """
        view = memoryview(payload)
        offset = 0
        for chunk in chunks:
            data = view[offset : offset + chunk.size]
            offset += chunk.size
            if chunk.id not in batch.wanted:
                continue
            if chunk.size != batch.sizes[chunk.id] or chunk_id(data) != chunk.id:
                raise ContentMismatchError("the bytes of a chunk do not have the hash announced")
            self._write(batch, chunk, data)

    def _write(self, batch: StagedBatch, chunk: Chunk, data: bytes | memoryview) -> None:
        for staged, offset in batch.wanted[chunk.id]:
            if staged.is_whole_small_file:
                change = staged.change
                assert isinstance(change, PutFile)
                if staged.inode:
                    continue
                staged.inode = self._staging.create_file(
                    staged.name, change.mode, change.mtime_ns, data
                )
            else:
                self._open_file(staged.name).write(offset, data)
        del batch.wanted[chunk.id]

    def _open_file(self, name: bytes) -> StagedFile:
        file = self._files.get(name)
        if file is not None:
            self._files.move_to_end(name)
            return file
        file = self._files[name] = self._staging.open_file(name, 0)
        if len(self._files) > _OPEN_FILES:
            self._files.popitem(last=False)[1].close()
        return file

    def finish(self, batch: StagedBatch) -> None:
        """Let go of the batch's files: all bytes are there."""
        for staged in batch.changes:
            if staged.chunks and not staged.is_whole_small_file:
                self._open_file(staged.name).extend(
                    staged.offset + sum(chunk.size for chunk in staged.chunks)
                )
        for staged in batch.changes:
            file = self._files.pop(staged.name, None)
            if file is not None:
                file.close()

    def drop(self, batches: Iterable[StagedBatch]) -> None:
        """Throw away what was staged for batches that will not be committed."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._uploads.clear()
        for batch in batches:
            if not batch.is_decided:
                self._staging.discard(batch.names)


def upload_name(upload: bytes) -> bytes:
    """Return the name under which an upload is staged."""
    return b"upload-" + upload.hex().encode()
