"""Chunks that the destination holds already: found, fetched ahead, verified as they are read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress

from twinfold.core.chunking import chunk_id
from twinfold.model import Chunk
from twinfold.server.lack import OUT_OF_DESCRIPTORS
from twinfold.storage.interface import Forest, Index, Place, Source

Data = bytes | memoryview

_OPEN_SOURCES = 64
_WINDOW_CHUNKS = 32
_WINDOW_BYTES = 2 * 1024 * 1024


class OldContent:
    """Reads chunks out of the files that the index says they are in.

    Files stay open until `close`, so that a stretch of chunks opens each once.

    Args:
        index, forest, forest_lock: what to read from.
        suspect: is told of nodes whose bytes were other than the index says.
    """

    def __init__(
        self,
        index: Index,
        forest: Forest,
        forest_lock: AbstractContextManager[object],
        suspect: Callable[[int], None],
    ) -> None:
        self._index = index
        self._forest = forest
        self._forest_lock = forest_lock
        self._suspect = suspect
        self._sources: OrderedDict[int, Source] = OrderedDict()
        self._expected: dict[bytes, list[Place]] = {}
        self._after: tuple[int, int] | None = None

    def __enter__(self) -> OldContent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read_all(self, chunks: Sequence[Chunk]) -> Iterator[dict[bytes, Data]]:
        """Yield the bytes of those of the chunks that are found, by id, some at a time.

        Raises:
            OSError: no more files can be opened.
        """
        for window in _windows(chunks):
            found: dict[bytes, Data] = {}
            at = fetched = 0
            while at < len(window):
                at += self._read_on(window[at:], found)
                if at == len(window):
                    break
                if at >= fetched:
                    self.fetch(window[at:])
                    fetched = len(window)
                data = self.read(window[at])
                if data is not None:
                    found[window[at].id] = data
                at += 1
            yield found

    def fetch(self, chunks: Iterable[Chunk]) -> None:
        """Have the system read what `read` will be asked for.

        Raises:
            OSError: no more files can be opened.
        """
        self._expected.clear()
        for chunk in list(chunks)[:_OPEN_SOURCES]:
            places = self._expected[chunk.id] = self._index.places(chunk.id)
            if places:
                self._fetch_place(places[0])

    def _fetch_place(self, place: Place) -> None:
        try:
            self._source(place.node).fetch(place.offset, place.size)
        except OSError as error:
            # Whatever else it is, whoever reads is told.
            if error.errno in OUT_OF_DESCRIPTORS:
                raise

    def read(self, chunk: Chunk) -> bytes | None:
        """Return the verified bytes of a chunk, None if they are nowhere.

        Raises:
            OSError: no more files can be opened.
        """
        # It may have moved since it was fetched: that is no ground for suspicion.
        expected = self._expected.pop(chunk.id, [])[:1]
        for place in expected:
            data = self._read_place(chunk, place, lambda _node: None)
            if data is not None:
                return data
        for place in self._index.places(chunk.id):
            data = self._read_place(chunk, place, self._suspect)
            if data is not None:
                return data
        return None

    def _read_place(
        self, chunk: Chunk, place: Place, suspect: Callable[[int], None]
    ) -> bytes | None:
        try:
            data = self._source(place.node).read(place.offset, place.size)
        except OSError as error:
            if error.errno in OUT_OF_DESCRIPTORS:
                raise
            if not isinstance(error, PermissionError):
                suspect(place.node)
            return None
        if len(data) == chunk.size and chunk_id(data) == chunk.id:
            self._after = place.node, place.offset + place.size
            return data
        suspect(place.node)
        return None

    def _read_on(self, chunks: Sequence[Chunk], found: dict[bytes, Data]) -> int:
        """Read what lies behind the last chunk; return how many of the chunks that is.

        A guess: most of a changed file is as it was, and to look each chunk up takes longer.
        """
        count = 0
        # The first by itself: where the guess is wrong there, no more is read.
        for group in (chunks[:1], chunks[1:]):
            if self._after is None or not group:
                break
            node, offset = self._after
            source = self._sources.get(node)
            if source is None:
                break
            data: Data = b""
            with suppress(OSError):
                data = memoryview(source.read(offset, sum(chunk.size for chunk in group)))
            at = 0
            for chunk in group:
                piece = data[at : at + chunk.size]
                if len(piece) != chunk.size or chunk_id(piece) != chunk.id:
                    break
                found[chunk.id] = piece
                at += chunk.size
                count += 1
            self._after = (node, offset + at) if at else None
            if count < len(group):
                break
        return count

    def _source(self, node: int) -> Source:
        source = self._sources.get(node)
        if source is not None:
            self._sources.move_to_end(node)
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

    def close(self) -> None:
        """Let go of all files, and of what is known about them."""
        for source in self._sources.values():
            source.close()
        self._sources.clear()
        self._expected.clear()
        self._after = None


def _windows(chunks: Sequence[Chunk]) -> Iterator[Sequence[Chunk]]:
    start = size_bytes = 0
    for end, chunk in enumerate(chunks):
        if end - start == _WINDOW_CHUNKS or (
            end > start and size_bytes + chunk.size > _WINDOW_BYTES
        ):
            yield chunks[start:end]
            start, size_bytes = end, 0
        size_bytes += chunk.size
    if start < len(chunks):
        yield chunks[start:]
