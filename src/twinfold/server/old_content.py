"""Chunks that the destination holds already: found, fetched ahead, verified as they are read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from typing import NamedTuple, TypeVar

from twinfold.core.chunking import chunk_id
from twinfold.model import Chunk
from twinfold.server.lack import OUT_OF_DESCRIPTORS
from twinfold.storage.interface import Forest, Index, Location, Place, Source

Data = bytes | memoryview
_Item = TypeVar("_Item")

_OPEN_SOURCES = 64
_WINDOW_CHUNKS = 32
_WINDOW_BYTES = 1024 * 1024
"""What is read at once stays in the processor's cache until it is hashed and written."""


class _Opened(NamedTuple):
    """A file, and whether no steps were under way when it was opened."""

    source: Source
    is_sure: bool


class OldContent:
    """Reads chunks out of the files that the index says they are in.

    Files and their directories stay open until `close`: many chunks lie in few of them. They are
    opened while batches are committed; only what is then not as the index says is opened again
    when no steps are under way.

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
        self._opener = forest.opener(index.location)
        self._forest_lock = forest_lock
        self._suspect = suspect
        self._sources: OrderedDict[int, _Opened] = OrderedDict()
        self._expected: dict[bytes, tuple[Place, Location]] = {}
        self._locations: dict[int, Location] = {}
        self._after: tuple[int, int] | None = None
        self._in_a_row = 1
        self._room = memoryview(bytearray(_WINDOW_BYTES))

    def __enter__(self) -> OldContent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read_all(self, chunks: Sequence[Chunk]) -> Iterator[dict[bytes, Data]]:
        """Yield the bytes of those of the chunks that are found, by id, some at a time.

        They are good until the next ones are asked for.

        Raises:
            OSError: no more files can be opened.
        """
        for window in windows(chunks, lambda chunk: [chunk]):
            found: dict[bytes, Data] = {}
            room = self._room
            at = 0
            is_fetched = False
            while at < len(window):
                was_in_a_row = self._in_a_row > 1
                count, size_bytes = self._read_on(window[at:], room, found)
                at, room = at + count, room[size_bytes:]
                if at == len(window):
                    break
                # Behind a gap in a row the row goes on: only that place is looked up.
                if not is_fetched and not was_in_a_row:
                    self.fetch(window[at:])
                    is_fetched = True
                data = self.read(window[at])
                if data is not None:
                    found[window[at].id] = data
                at += 1
            yield found

    def source_of(self, place: Place) -> Source | None:
        """Return the file that a place is in, open until `close`; None if it cannot be read.

        Raises:
            OSError: no more files can be opened.
        """
        try:
            return self._source(place.node)
        except OSError as error:
            if error.errno in OUT_OF_DESCRIPTORS:
                raise
            return None

    def fetch(self, chunks: Iterable[Chunk]) -> None:
        """Have the system read what `read` will be asked for: a window, no more.

        Raises:
            OSError: no more files can be opened.
        """
        self._expected = self._index.some_places(list({chunk.id: None for chunk in chunks}))
        self._locations = {place.node: location for place, location in self._expected.values()}
        for place, _ in self._expected.values():
            self._fetch_place(place)

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
        expected = self._expected.get(chunk.id)
        if expected is not None:
            data = self._read_place(chunk, expected[0], lambda _node: None)
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
        is_suspect = False
        # A batch that is being committed may have brought something else to where it was opened.
        for is_sure in (False, True):
            try:
                data = self._source(place.node, is_sure).read(place.offset, place.size)
            except OSError as error:
                if error.errno in OUT_OF_DESCRIPTORS:
                    raise
                is_suspect = not isinstance(error, PermissionError)
                continue
            if len(data) == chunk.size and chunk_id(data) == chunk.id:
                self._after = place.node, place.offset + place.size
                return data
            is_suspect = True
        if is_suspect:
            suspect(place.node)
        return None

    def _read_on(
        self, chunks: Sequence[Chunk], room: memoryview, found: dict[bytes, Data]
    ) -> tuple[int, int]:
        """Read what lies behind the last chunk; return how many of the chunks, and bytes, that is.

        A guess: most of a changed file is as it was, and to look each chunk up takes longer. As
        many are read at once as it was right for before: where it is wrong, little is in vain.
        """
        count = total_bytes = 0
        while self._after is not None and count < len(chunks):
            node, offset = self._after
            opened = self._sources.get(node)
            if opened is None:
                break
            group = chunks[count : count + self._in_a_row]
            data = room[total_bytes:][: sum(chunk.size for chunk in group)]
            read_bytes = 0
            with suppress(OSError):
                read_bytes = opened.source.read_into(data, offset)
            right, size_bytes = _verified(group, data[:read_bytes], found)
            count, total_bytes = count + right, total_bytes + size_bytes
            self._after = (node, offset + size_bytes) if right else None
            if right < len(group):
                self._in_a_row = 1
                break
            self._in_a_row = min(2 * self._in_a_row, _WINDOW_CHUNKS)
        return count, total_bytes

    def _source(self, node: int, is_sure: bool = False) -> Source:
        opened = self._sources.get(node)
        if opened is not None and (opened.is_sure or not is_sure):
            self._sources.move_to_end(node)
            return opened.source
        try:
            source = self._open(node, is_sure)
        except OSError as error:
            if error.errno not in OUT_OF_DESCRIPTORS:
                raise
            # What is open ahead must not be what we lack.
            self._close_files()
            source = self._open(node, is_sure)
        self._let_go_of(node)
        self._sources[node] = _Opened(source, is_sure)
        if len(self._sources) > _OPEN_SOURCES:
            self._let_go_of(next(iter(self._sources)))
        return source

    def _open(self, node: int, is_sure: bool) -> Source:
        if not is_sure:
            return self._opener.open_source(node, self._locations.get(node))
        # What the index says and where the file is must not change in between.
        with self._forest_lock:
            self._opener.close()
            return self._opener.open_source(node)

    def _let_go_of(self, node: int) -> None:
        opened = self._sources.pop(node, None)
        if opened is not None:
            opened.source.close()

    def close(self) -> None:
        """Let go of all files, and of what is known about them."""
        self._close_files()
        self._expected = {}
        self._locations = {}
        self._after = None
        self._in_a_row = 1

    def _close_files(self) -> None:
        for node in list(self._sources):
            self._let_go_of(node)
        self._opener.close()


def _verified(
    chunks: Sequence[Chunk], data: memoryview, found: dict[bytes, Data]
) -> tuple[int, int]:
    """Take chunks out of what was read, up to the first that is another; return count and bytes."""
    count = at = 0
    for chunk in chunks:
        piece = data[at : at + chunk.size]
        if len(piece) != chunk.size or chunk_id(piece) != chunk.id:
            break
        found[chunk.id] = piece
        at += chunk.size
        count += 1
    return count, at


def windows(
    items: Iterable[_Item], chunks_of: Callable[[_Item], Sequence[Chunk]]
) -> Iterator[list[_Item]]:
    """Yield the items in groups whose chunks may be fetched together."""
    window: list[_Item] = []
    count = size_bytes = 0
    for item in items:
        sizes = [chunk.size for chunk in chunks_of(item)]
        count += len(sizes)
        size_bytes += sum(sizes)
        if window and (count > _WINDOW_CHUNKS or size_bytes > _WINDOW_BYTES):
            yield window
            window, count, size_bytes = [], len(sizes), sum(sizes)
        window.append(item)
    if window:
        yield window
