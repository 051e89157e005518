"""The straight way of new files in which nothing is in question: most of a first sync.

It plans what `FilePlanner.plan_fresh` would, many files of a directory in one loop: the dozen
calls that it takes for each of them are most of the time that the interpreter has a first sync.
"""

from __future__ import annotations

from collections.abc import Sequence

from blake3 import blake3

from twinfold.client.batch import BatchBuilder
from twinfold.client.effects import Effect, Insert, Node
from twinfold.client.moves import MoveFinder
from twinfold.client.pieces import FoundChunk
from twinfold.client.read import Reader, content_of
from twinfold.client.shortage import Shortage
from twinfold.client.state import State, segment_of
from twinfold.core.chunking import MIN_SIZE_BYTES
from twinfold.core.paths import MAX_NAME_BYTES, MAX_PATH_BYTES, join
from twinfold.core.planning import ListedEntry
from twinfold.model import Chunk, PutFile


class StraightPlanner:
    """Puts new files that were read ahead, as long as none of them can be more than that."""

    def __init__(
        self,
        state: State,
        builder: BatchBuilder,
        reader: Reader,
        moves: MoveFinder,
        shortage: Shortage,
    ) -> None:
        self._state = state
        self._builder = builder
        self._reader = reader
        self._moves = moves
        self._shortage = shortage

    def plan(self, path: bytes, parent: int, files: Sequence[ListedEntry]) -> int:
        """Put new files of a directory, from the first one on; return how many.

        The first that is left has to be planned for itself: it was not read ahead, the batch has
        no room for it, or it may be one that was moved, or is too much for the destination.
        """
        prefix = join(path, b"")
        if self._is_in_question(prefix):
            return 0
        builder, allocate = self._builder, self._state.allocate_node
        index = builder.next_index
        changes: list[PutFile] = []
        effects: list[tuple[int, Effect]] = []
        names: list[bytes] = []
        small: list[FoundChunk] = []
        most, most_bytes = builder.room(len(prefix) + MAX_NAME_BYTES)
        for file, data in self._reader.take_all(files[:most], most_bytes):
            name, _, mode, size_bytes, mtime_ns, _, _, _ = file
            file_path, manifest = prefix + name, 0
            if 0 < size_bytes <= MIN_SIZE_BYTES:
                content = blake3(data).digest()
                chunks = [Chunk(content, size_bytes)]
                small.append((content, data, file_path, 0))
            else:
                builder.add_chunks(small)
                small.clear()
                content, cuts = content_of(data)
                chunks = [chunk for chunk, _ in cuts]
                builder.add_content(cuts, file_path)
                builder.let_go_of(cuts)
                segment = segment_of(self._state, chunks)
                if segment is not None:
                    manifest = segment.manifest
                    effects.append((index, segment))
            changes.append(PutFile(file_path, mode, mtime_ns, size_bytes, content, chunks))
            node = Node(allocate(), parent, *file, content, b"", manifest)
            effects.append((index, Insert(node)))
            names.append(name)
            index += 1
        builder.add_chunks(small)
        paths_bytes = len(prefix) * len(names) + sum(map(len, names))
        builder.add_files(changes, effects, parent, names, paths_bytes)
        return len(names)

    def _is_in_question(self, prefix: bytes) -> bool:
        return (
            self._moves.may_find
            or self._shortage.is_noted
            or len(prefix) + MAX_NAME_BYTES > MAX_PATH_BYTES
        )
