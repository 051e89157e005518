"""Manifests: the list of chunks that a file consists of, their identity and differences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from struct import Struct

from blake3 import blake3

from twinfold.errors import ProtocolError
from twinfold.model import CHUNK_ID_SIZE_BYTES, Chunk, Run

_CONTEXT = "twinfold 2026-11 content id v1"

_ID_AND_SIZE = Struct(f"<{CHUNK_ID_SIZE_BYTES}sQ")

EMPTY_CONTENT = blake3(derive_key_context=_CONTEXT).digest()
"""The content id of an empty file."""


class ContentHasher:
    """Computes a content id from a manifest that arrives piece by piece.

    The content id of a file of one chunk is the chunk's id; otherwise BLAKE3 in its key
    derivation mode over the concatenated chunk ids and sizes (8 bytes, little-endian).
    """

    def __init__(self) -> None:
        self._hasher = blake3(derive_key_context=_CONTEXT)
        self._only: bytes | None = None
        self._count = 0

    def add(self, chunks: Sequence[Chunk]) -> None:
        """Append chunks to the manifest."""
        if not chunks:
            return
        self._count += len(chunks)
        self._only = chunks[0].id if self._count == 1 else None
        pack = _ID_AND_SIZE.pack
        self._hasher.update(b"".join([pack(chunk.id, chunk.size) for chunk in chunks]))

    def content_id(self) -> bytes:
        """Return the 32-byte content id of the chunks added so far."""
        return self._only if self._only is not None else self._hasher.digest()


def content_id(chunks: Sequence[Chunk]) -> bytes:
    """Return the content id of a whole manifest."""
    if len(chunks) == 1:
        return chunks[0].id
    hasher = ContentHasher()
    hasher.add(chunks)
    return hasher.content_id()


def expand(runs: Iterable[Run], base_chunks: Callable[[int, int], Sequence[Chunk]]) -> list[Chunk]:
    """Return the chunks that ``runs`` stand for.

    Args:
        runs: a difference to a base manifest.
        base_chunks: given (start, count), returns that stretch of the base manifest.

    Raises:
        ProtocolError: a run keeps chunks that the base does not have.
    """
    chunks: list[Chunk] = []
    for run in runs:
        if run.keep_count:
            kept = base_chunks(run.keep_start, run.keep_count)
            if len(kept) != run.keep_count:
                raise ProtocolError("a difference keeps chunks beyond the end of its base", 422)
            chunks += kept
        chunks += run.chunks
    return chunks


class Differ:
    """Writes a stream of chunks as a difference to a base manifest, in bounded memory.

    After a mismatch the base is searched for the new chunk within a window of
    ``WINDOW_CHUNKS`` ahead of (and as many behind) the place reached so far.
    """

    WINDOW_CHUNKS = 8_192

    def __init__(self, base_ids: Callable[[int, int], Sequence[bytes]]) -> None:
        self._base_ids = base_ids
        self._next = 0
        self._window_start = 0
        self._window: Sequence[bytes] = ()
        self._places: dict[bytes, int] = {}

    def difference(self, chunks: Sequence[Chunk]) -> list[Run]:
        """Return the runs for the next stretch of the new manifest."""
        if self._goes_on(chunks):
            self._next += len(chunks)
            return [Run(self._next - len(chunks), len(chunks), [])]
        runs: list[Run] = []
        keep_start = keep_count = 0
        fresh: list[Chunk] = []
        for chunk in chunks:
            place = self._find(chunk.id)
            if place is None:
                fresh.append(chunk)
                continue
            if fresh or place != keep_start + keep_count:
                if keep_count or fresh:
                    runs.append(Run(keep_start, keep_count, fresh))
                keep_start, keep_count, fresh = place, 0, []
            keep_count += 1
            self._next = place + 1
        if keep_count or fresh:
            runs.append(Run(keep_start, keep_count, fresh))
        return runs

    def _goes_on(self, chunks: Sequence[Chunk]) -> bool:
        """Tell whether these are the next chunks of the base: most stretches of an edit are."""
        if not self._covers(self._next):
            self._load()
        at = self._next - self._window_start
        return bool(chunks) and self._window[at : at + len(chunks)] == [c.id for c in chunks]

    def _find(self, chunk_id: bytes) -> int | None:
        if not self._covers(self._next):
            self._load()
        at = self._next - self._window_start
        if at < len(self._window) and self._window[at] == chunk_id:
            return self._next
        return self._places.get(chunk_id)

    def _covers(self, index: int) -> bool:
        return bool(self._window) and index - self._window_start < self.WINDOW_CHUNKS * 3 // 2

    def _load(self) -> None:
        self._window_start = max(0, self._next - self.WINDOW_CHUNKS)
        self._window = self._base_ids(self._window_start, 2 * self.WINDOW_CHUNKS)
        self._places = {
            chunk_id: self._window_start + index
            for index, chunk_id in reversed(list(enumerate(self._window)))
        }
