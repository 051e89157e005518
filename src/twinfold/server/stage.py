"""A batch on its way in: what its files consist of, and which chunks are still missing.

All of this runs in one thread, so that staged files have one writer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

from twinfold.core.chunking import chunk_id
from twinfold.core.manifest import expand
from twinfold.core.room import Room
from twinfold.errors import ContentMismatchError, ProtocolError
from twinfold.model import (
    Change,
    Chunk,
    ExtendUpload,
    MakeDirectory,
    MakeSymlink,
    PutFile,
    Recipe,
)
from twinfold.server.clones import Clones, is_laid
from twinfold.server.lack import NO_ROOM, lack_of
from twinfold.server.old_content import OldContent, windows
from twinfold.server.recipes import built
from twinfold.server.staged import (
    StagedBatch,
    StagedChange,
    Upload,
    assign_directories,
    fit,
    upload_name,
)
from twinfold.server.whole import WholeFiles
from twinfold.storage.interface import Forest, Index, StagedFile, Staging

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
        self._index = index
        self._staging = staging
        self._old = OldContent(index, forest, forest_lock, suspect)
        self._clones = Clones(index, self._old)
        self._run_name = run_name.encode()
        self._names = 0
        self._uploads: dict[bytes, Upload] = {}
        self._stopped: set[bytes] = set()
        self._leftovers: list[bytes] = []
        self._files: OrderedDict[bytes, StagedFile] = OrderedDict()
        self._whole = WholeFiles(staging, self._name, self._refuse)

    def begin(
        self,
        number: int,
        changes: Sequence[Change],
        promised: frozenset[bytes],
        budget: Room | None = None,
    ) -> StagedBatch:
        """Stage what needs no bytes from the wire; the batch then tells what is missing.

        Args:
            number: of the batch.
            changes: checked changes.
            promised: chunks that earlier batches wait for; they are looked for later.
            budget: the room that content may take, if not all has room: what does not fit is
                refused.

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
            assign_directories(batch)
            for staged in batch.changes:
                if budget is not None:
                    staged.refusal, budget = fit(staged.change, budget, self._index)
                if staged.refusal is None:
                    self._begin_change(batch, staged, bases)
                elif isinstance(staged.change, ExtendUpload):
                    self._stopped.add(upload_name(staged.change.upload))
            empty = [s for s in batch.changes if not s.chunks and s.comes_whole({})]
            self._whole.create(batch, empty, {})
            batch.chunks = frozenset(batch.wanted)
            batch.promised = batch.chunks & promised
            self.reuse(batch, [chunk for chunk in batch.wanted if chunk not in promised])
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
            self._name(batch, staged)

    def _name(self, batch: StagedBatch, staged: StagedChange) -> bytes:
        """Return the name of a staged object of this batch alone, a new one if it has none."""
        if not staged.name:
            self._names += 1
            staged.name = b"%b-%d" % (self._run_name, self._names)
            batch.names.append(staged.name)
        return staged.name

    def _begin_file(self, batch: StagedBatch, staged: StagedChange, change: PutFile) -> None:
        if change.upload:
            staged.name = upload_name(change.upload)
            self._uploads.pop(staged.name, None)
            staged.refusal = NO_ROOM if staged.name in self._stopped else None
            return
        staged.chunks = change.chunks
        self._want(batch, staged)

    def _want(self, batch: StagedBatch, staged: StagedChange) -> None:
        offset = staged.offset
        sizes, wanted = batch.sizes, batch.wanted
        for chunk in staged.chunks:
            chunk_id, size = chunk.id, chunk.size
            if sizes.setdefault(chunk_id, size) != size:
                raise ProtocolError("a chunk is announced with two sizes", 422)
            wanted.setdefault(chunk_id, []).append((staged, offset))
            offset += size
        batch.content_bytes += offset - staged.offset

    def _extend(
        self, batch: StagedBatch, staged: StagedChange, change: ExtendUpload, base: int | None
    ) -> None:
        staged.name = upload_name(change.upload)
        staged.offset = change.offset
        try:
            staged.chunks = expand(
                change.runs, lambda start, count: self._index.manifest(base or 0, start, count)
            )
        except ProtocolError as error:
            # A damaged index may have lost a part of the base's manifest.
            raise UnknownBaseError([change.base]) from error
        batch.note_kept(staged, change)
        try:
            upload = self._upload(staged.name)
        except OSError as error:
            self._refuse(batch, staged, error)
            return
        if change.offset > upload.size_bytes and staged.name in self._stopped:
            staged.refusal = NO_ROOM
            return
        self._stopped.discard(staged.name)
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
            with self._old:
                self._clones.lay(staged, self._open_file(staged.name))
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
        known = batch.kept_chunks | self._index.known_chunks(
            [chunk for chunk in chunk_ids if chunk not in batch.kept_chunks]
        )
        held = [Chunk(chunk, batch.sizes[chunk]) for chunk in chunk_ids if chunk in known]
        missing: list[Chunk] = []
        for chunk in held:
            targets = batch.wanted[chunk.id]
            if all(self._is_in_place(staged, offset, chunk) for staged, offset in targets):
                del batch.wanted[chunk.id]
            else:
                missing.append(chunk)
        with self._old:
            for pieces in self._old.read_all(missing):
                self._write(batch, pieces)

    def _is_in_place(self, staged: StagedChange, offset: int, chunk: Chunk) -> bool:
        is_kept = offset < staged.offset + staged.kept_bytes
        if not is_kept and not is_laid(staged, offset, chunk.size):
            return False
        return self._open_file(staged.name).holds(offset, chunk)

    def store(
        self,
        batch: StagedBatch,
        chunks: Sequence[Chunk],
        contents: Sequence[bytes | memoryview],
    ) -> None:
        """Put chunks from the wire, with the bytes of each, where the batch wants them.

        Raises:
            ContentMismatchError: bytes do not hash to what was announced for them.
        """
        pieces: dict[bytes, bytes | memoryview] = {}
        wanted, sizes = batch.wanted, batch.sizes
        for chunk, data in zip(chunks, contents, strict=True):
            announced = chunk.id
            if announced not in wanted:
                continue
            if chunk.size != sizes[announced] or chunk_id(data) != announced:
                raise ContentMismatchError("the bytes of a chunk do not have the hash announced")
            pieces[announced] = data
        self._write(batch, pieces)
        if not batch.wanted:
            self.finish(batch)

    def build(self, batch: StagedBatch, recipes: Iterable[Recipe]) -> None:
        """Build chunks that the batch wants by checked recipes; where one fails it wants on.

        Raises:
            ProtocolError: a recipe is for a chunk of another size than announced.
        """
        pieces: dict[bytes, bytes | memoryview] = {}
        with self._old:
            wanted = [recipe for recipe in recipes if recipe.id in batch.wanted]
            for group in windows(wanted, lambda recipe: recipe.bases):
                self._old.fetch(base for recipe in group for base in recipe.bases)
                for recipe in group:
                    if recipe.size != batch.sizes[recipe.id]:
                        raise ProtocolError("a recipe is for another size than announced", 422)
                    data = built(recipe, self._old.read)
                    if data is not None:
                        pieces[recipe.id] = data
        self._write(batch, pieces)

    def _write(self, batch: StagedBatch, pieces: Mapping[bytes, bytes | memoryview]) -> None:
        """Put verified chunks into all the places that wait for them."""
        whole: dict[StagedChange, None] = {}
        partial: dict[StagedChange, list[tuple[int, bytes | memoryview]]] = {}
        for chunk, data in pieces.items():
            for staged, offset in batch.wanted.get(chunk, ()):
                if staged.refusal is not None or staged.inode or staged in whole:
                    continue
                if staged not in partial and staged.comes_whole(pieces):
                    whole[staged] = None
                else:
                    partial.setdefault(staged, []).append((offset, data))
        for staged, parts in partial.items():
            staged.is_begun = True
            try:
                self._open_file(self._name(batch, staged)).write(parts)
            except OSError as error:
                self._refuse(batch, staged, error)
        self._whole.create(batch, list(whole), pieces)
        for chunk in pieces:
            batch.wanted.pop(chunk, None)

    def _refuse(self, batch: StagedBatch, staged: StagedChange, error: OSError) -> None:
        """Leave a change out for which the system has no room; the others go on.

        Raises:
            OSError: ``error``, if it concerns more than this change.
        """
        staged.refusal = lack_of(error)
        if staged.refusal is None:
            raise error
        file = self._files.pop(staged.name, None)
        if file is not None:
            file.close()
        if isinstance(staged.change, ExtendUpload):
            self._uploads.pop(staged.name, None)
            self._stopped.add(staged.name)
        else:
            self._staging.discard([staged.name])
        batch.forget_wants_of_refused()

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
        """Let go of the batch's files: all bytes are there. Once is enough."""
        if batch.is_finished:
            return
        for staged in batch.changes:
            if staged.refusal is None and staged.chunks and not staged.inode:
                self._open_file(self._name(batch, staged)).extend(
                    staged.offset + sum(chunk.size for chunk in staged.chunks)
                )
        if self._files:
            for staged in batch.changes:
                file = self._files.pop(staged.name, None)
                if file is not None:
                    file.close()
        batch.is_finished = True

    def drop(self, batches: Iterable[StagedBatch]) -> None:
        """Throw away what was staged for batches that will not be committed."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._uploads.clear()
        self._stopped.clear()
        self._leftovers += [name for b in batches if not b.is_decided for name in b.names]
        try:
            self._staging.discard(self._leftovers)
        except OSError:
            return  # They are in nobody's way, and go with the next ones.
        self._leftovers = []
