"""Batches as they are filled by the scan and wait for their acknowledgement."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from twinfold.client.effects import Effect, Insert, Relocate, Remove, Update
from twinfold.client.pieces import FoundChunk, Piece, Stretch
from twinfold.client.read import Cut
from twinfold.client.sieve import ChunkSieve
from twinfold.client.state import ROOT_NODE, State
from twinfold.client.subblocks import Draft, NewRows, with_old_rows
from twinfold.core.planning import DIRECTORY
from twinfold.core.recipes import NewChunk, with_packed_literal, write_recipes
from twinfold.model import CHUNK_ID_SIZE_BYTES, Change, Chunk, PutFile, Recipe

MAX_CHANGES = 1_000
MAX_CONTENT_BYTES = 8 * 1024 * 1024
MAX_HEADER_BYTES = 2 * 1024 * 1024
MAX_CHUNKS = 16_384
"""Chunks that a batch names, kept ones included; the server takes several times as many."""

MAX_KEPT_BYTES = 192 * 1024 * 1024
"""Content that a batch brings, kept bytes included: the server works on that while we read on."""

PATIENCE_S = 0.02

_TOGETHER_BYTES = 128 * 1024
"""So much that is new in recipes is packed together; less, each by what it copies."""

_NO_ROWS: Mapping[bytes, bytes] = {}
_CHUNK_HEADER_BYTES = CHUNK_ID_SIZE_BYTES + 8
_CHANGE_HEADER_BYTES = 96


class Batch:
    """Changes that are committed together, and what it takes to send and to acknowledge them.

    Attributes:
        serial: counts the client's batches, sent or not.
        changes: what the server is asked to do, in order.
        effects: per effect the index of its change, or -1, and the effect.
        pieces: per chunk id its bytes, or where to read them should the server lack them.
        recipes: per chunk id how the server may build it out of what it has.
        drafts: what further recipes are to be made of, by `write_recipes`.
        sub_blocks: per chunk id the rows to keep of a new chunk.
        held_bytes: content that is kept in memory.
        content_bytes: content that the changes bring, wherever the server takes it from.
        chunks: how many chunks that content consists of.
    """

    def __init__(self, serial: int) -> None:
        self.serial = serial
        self.changes: list[Change] = []
        self.effects: list[tuple[int, Effect]] = []
        self.pieces: dict[bytes, Piece] = {}
        self.recipes: dict[bytes, Recipe] = {}
        self.drafts: list[Draft] = []
        self.sub_blocks = NewRows(self.pieces)
        self.held_bytes = 0
        self.content_bytes = 0
        self.header_bytes = 0
        self.chunks = 0

    def is_full_for(self, size_bytes: int) -> bool:
        """Tell whether a change with so much new content belongs into the next batch."""
        return bool(self.effects or self.chunks) and (
            len(self.changes) >= MAX_CHANGES
            or self.held_bytes + size_bytes > MAX_CONTENT_BYTES
            or self.header_bytes > MAX_HEADER_BYTES
            or self.chunks >= MAX_CHUNKS
            or self.content_bytes >= MAX_KEPT_BYTES
            or len(self.effects) >= 4 * MAX_CHANGES
        )

    def write_recipes(self, state: State) -> None:
        """Make recipes of the drafts, ready to be sent: work that the scan need not wait for."""
        for draft, old in with_old_rows(state, self.drafts):
            new = [
                NewChunk(chunk_id, piece, self.sub_blocks[chunk_id])
                for chunk_id in draft.new
                if not isinstance(piece := self.pieces[chunk_id], Stretch)
            ]
            self.recipes.update((recipe.id, recipe) for recipe in write_recipes(old, new))
        self.drafts.clear()
        if sum(len(recipe.literal) for recipe in self.recipes.values()) < _TOGETHER_BYTES:
            for chunk_id, recipe in self.recipes.items():
                piece = self.pieces[chunk_id]
                if not isinstance(piece, Stretch):
                    self.recipes[chunk_id] = with_packed_literal(recipe, piece)


class Pending:
    """What batches on their way will have changed: the state does not say it yet."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._places: dict[int, tuple[int, int, bytes]] = {}
        self._touched: dict[int, int] = {}
        self._removed: dict[int, int] = {}
        self._arriving: dict[int, dict[int, set[bytes]]] = defaultdict(lambda: defaultdict(set))
        self._bringing: dict[int, Mapping[bytes, Piece]] = {}

    def note_files(self, serial: int, parent: int, names: Iterable[bytes]) -> None:
        """Remember new files in a directory that wait for their acknowledgement."""
        self._arriving[serial][parent].update(names)

    def note(self, serial: int, effect: Effect) -> None:
        """Remember an effect that waits for its acknowledgement."""
        if isinstance(effect, Insert):
            node = effect.node
            self._arriving[serial][node.parent].add(node.name)
            if node.kind != DIRECTORY:
                return
            with self._state.lock:
                self._places[node.id] = (serial, node.parent, node.name)
                self._touched[node.id] = serial
        elif isinstance(effect, Relocate):
            self._arriving[serial][effect.parent].add(effect.name)
            with self._state.lock:
                self._places[effect.node] = (serial, effect.parent, effect.name)
                self._touched[effect.node] = serial
        elif isinstance(effect, Update):
            with self._state.lock:
                self._touched[effect.node.id] = serial
        elif isinstance(effect, Remove):
            with self._state.lock:
                self._removed[effect.node] = serial

    def arriving(self, parent: int) -> set[bytes]:
        """Return the names that batches on their way put into a directory.

        A name that is no longer among them is one that the state knows, if it is asked afterwards.
        """
        batches = list(self._arriving.values())
        return set().union(*(batch[parent] for batch in batches if parent in batch))

    def note_sent(self, batch: Batch) -> None:
        """Remember that a batch is on its way with its chunks."""
        self._bringing[batch.serial] = batch.pieces

    def brings_chunk(self, chunk_id: bytes) -> bool:
        """Tell whether a batch on its way brings this chunk.

        Not locked: a chunk that arrives meanwhile is but asked for in vain.
        """
        return any(chunk_id in pieces for pieces in list(self._bringing.values()))

    def is_touched(self, node: int) -> bool:
        """Tell whether a batch on its way changes the entry itself."""
        return node in self._touched or node in self._removed

    def path_of(self, node: int) -> bytes | None:
        """Return where the entry will be when all batches on their way are applied.

        None if it, or a directory above it, will be gone.
        """
        names: list[bytes] = []
        with self._state.lock:
            while node != ROOT_NODE:
                if node in self._removed:
                    return None
                place = self._places.get(node)
                found = place[1:] if place else self._state.place(node)
                if found is None:
                    return None
                node, name = found
                names.append(name)
        return b"/".join(reversed(names))

    def forget(self, batch: Batch) -> None:
        """The batch is acknowledged: the state says it now."""
        serial = batch.serial
        with self._state.lock:
            self._places = {n: p for n, p in self._places.items() if p[0] != serial}
            self._touched = {n: s for n, s in self._touched.items() if s != serial}
            self._removed = {n: s for n, s in self._removed.items() if s != serial}
            self._arriving.pop(serial, None)
            self._bringing.pop(serial, None)

    def clear(self) -> None:
        """Nothing is on its way any more."""
        with self._state.lock:
            self._places.clear()
            self._touched.clear()
            self._removed.clear()
            self._arriving.clear()
            self._bringing.clear()


class BatchBuilder:
    """Fills batches and hands each on as soon as it is full.

    Args:
        state: tells which chunks the server has had.
        pending: is told what each batch will change.
        send: takes a full batch; may wait for room.
        serial: the last batch's number.
        all_new: the server had nothing when the scan began, so that only chunks which
            this scan has met need to be looked up.
        patience_s: how long a batch waits for more after `hurry`.
    """

    def __init__(
        self,
        state: State,
        pending: Pending,
        send: Callable[[Batch], None],
        serial: int = 0,
        all_new: bool = False,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._state = state
        self._pending = pending
        self._send = send
        self._met = ChunkSieve() if all_new else None
        self._patience_s = patience_s
        self._due_s: float | None = None
        self._batch = Batch(serial + 1)

    @property
    def serial(self) -> int:
        """The number of the last batch that was handed on."""
        return self._batch.serial - 1

    def is_full_for(self, size_bytes: int) -> bool:
        """Tell whether so much more content belongs into the next batch."""
        return self._batch.is_full_for(size_bytes)

    def make_room(self, size_bytes: int) -> None:
        """Hand the batch on if it has no room for so much more content."""
        if self._batch.is_full_for(size_bytes):
            self.flush()

    def room(self, path_bytes: int) -> tuple[int, int]:
        """Return (files, content in bytes) that the batch surely has room for.

        Args:
            path_bytes: what the path of each file takes at most.
        """
        batch = self._batch
        if batch.is_full_for(0):
            return 0, 0
        header_bytes = path_bytes + _CHANGE_HEADER_BYTES + _CHUNK_HEADER_BYTES
        left_header_bytes = MAX_HEADER_BYTES - batch.header_bytes
        files = min(MAX_CHANGES - len(batch.changes), left_header_bytes // header_bytes)
        return files, MAX_CONTENT_BYTES - batch.held_bytes

    @property
    def next_index(self) -> int:
        """The index that the next change gets in its batch."""
        return len(self._batch.changes)

    def add_files(
        self,
        changes: Sequence[PutFile],
        effects: Iterable[tuple[int, Effect]],
        parent: int,
        names: Iterable[bytes],
        header_bytes: int,
    ) -> None:
        """Append what puts new files into a directory; each effect with the index of its change."""
        batch = self._batch
        batch.changes += changes
        batch.header_bytes += header_bytes + _CHANGE_HEADER_BYTES * len(changes)
        batch.effects += effects
        self._pending.note_files(batch.serial, parent, names)

    def add(self, change: Change | None, *effects: Effect, header_bytes: int = 0) -> None:
        """Append a change and its effects; without a change only the state advances.

        The content that the change refers to was added before, without `make_room` in between.
        """
        batch = self._batch
        index = -1
        if change is not None:
            index = len(batch.changes)
            batch.changes.append(change)
            batch.header_bytes += header_bytes + _CHANGE_HEADER_BYTES
        for effect in effects:
            batch.effects.append((index, effect))
            self._pending.note(batch.serial, effect)

    def add_content(
        self,
        cuts: Sequence[Cut],
        path: bytes,
        offset: int = 0,
        *,
        is_part: bool = False,
        rows: Mapping[bytes, bytes] = _NO_ROWS,
    ) -> None:
        """Keep chunks' bytes, or only their place if the server is believed to have them.

        Args:
            cuts: chunks of a file, one after the other.
            path: of the file.
            offset: where in it they begin.
            is_part: whether the file comes in parts.
            rows: those of the chunks' sub-blocks that were found already.
        """
        found: list[FoundChunk] = []
        for chunk, data in cuts:
            found.append((chunk.id, data, path, offset))
            offset += len(data)
        self.add_chunks(found, is_part=is_part, rows=rows)

    def add_chunks(
        self,
        chunks: Sequence[FoundChunk],
        *,
        is_part: bool = False,
        rows: Mapping[bytes, bytes] = _NO_ROWS,
    ) -> None:
        """Do what `add_content` does, for chunks of any files."""
        batch, met = self._batch, self._met
        pieces, add_rows = batch.pieces, batch.sub_blocks.add
        held_bytes = content_bytes = 0
        for chunk_id, data, path, offset in chunks:
            size_bytes = len(data)
            content_bytes += size_bytes
            if chunk_id in pieces:
                continue
            if (met is None or met.meet(chunk_id)) and self._server_may_have(chunk_id):
                pieces[chunk_id] = Stretch(path, offset, size_bytes)
                continue
            pieces[chunk_id] = data
            held_bytes += size_bytes
            add_rows(chunk_id, size_bytes, fine=not is_part, rows=rows.get(chunk_id, b""))
        batch.held_bytes += held_bytes
        batch.content_bytes += content_bytes
        batch.chunks += len(chunks)
        batch.header_bytes += _CHUNK_HEADER_BYTES * len(chunks)

    @property
    def new_rows(self) -> Mapping[bytes, bytes]:
        """The rows of those chunks whose bytes the batch has, by id."""
        return self._batch.sub_blocks

    def draft_recipes(self, draft: Draft) -> None:
        """Have recipes written for chunks of `new_rows` before the batch is sent."""
        self._batch.drafts.append(draft)

    def add_recipes(self, recipes: Iterable[Recipe]) -> None:
        """Offer recipes for chunks of `new_rows`; their bytes stay for where one fails."""
        self._batch.recipes.update((recipe.id, recipe) for recipe in recipes)

    def let_go_of(self, cuts: Sequence[Cut]) -> None:
        """Copy what is kept of these chunks, which were read at once, unless it is most of it.

        A view keeps all that was read in memory.
        """
        if len(cuts) < 2:
            return
        pieces = self._batch.pieces
        kept = [(chunk.id, data) for chunk, data in cuts if pieces.get(chunk.id) is data]
        if 2 * sum(len(data) for _, data in kept) < sum(len(data) for _, data in cuts):
            for chunk_id, data in kept:
                pieces[chunk_id] = bytes(data)

    def _server_may_have(self, chunk_id: bytes) -> bool:
        return self._pending.brings_chunk(chunk_id) or self._state.knows_chunk(chunk_id)

    def count_kept(self, chunks: int, size_bytes: int) -> None:
        """Count content that a change refers to as a stretch of what the server has."""
        self._batch.chunks += chunks
        self._batch.content_bytes += size_bytes

    def add_places(self, chunks: Sequence[Chunk], path: bytes, offset: int) -> None:
        """Remember where chunks are, one behind the other, that the server has as well."""
        pieces, start = self._batch.pieces, offset
        for chunk in chunks:
            if chunk.id not in pieces:
                pieces[chunk.id] = Stretch(path, offset, chunk.size)
            offset += chunk.size
        self.count_kept(len(chunks), offset - start)

    def hurry(self) -> None:
        """What was added is not to wait until the batch is full, or the scan at its end."""
        if self._due_s is None:
            self._due_s = time.monotonic() + self._patience_s

    def flush_due(self) -> None:
        """Hand on what has waited for long enough; called between changes."""
        if self._due_s is not None and time.monotonic() >= self._due_s:
            self.flush()

    def flush(self) -> None:
        """Hand on what there is."""
        batch = self._batch
        self._due_s = None
        if batch.effects or batch.changes:
            self._batch = Batch(batch.serial + 1)
            self._pending.note_sent(batch)
            self._send(batch)
