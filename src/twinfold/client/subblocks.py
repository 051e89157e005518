"""What the client keeps of the sub-blocks of chunks that it sent, and the recipes made of it.

The rows are kept in the state by the chunk, whichever files it is in; those of what changed
last push out the oldest.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from twinfold.client.read import Cut
from twinfold.client.state import State
from twinfold.core.chunking import sub_blocks_of_each
from twinfold.core.planning import Known
from twinfold.core.recipes import MAX_BASES, NewChunk, write_recipes
from twinfold.model import Recipe, Run

_LEAST_BYTES = 2 * 1024
"""Of a chunk that is smaller nothing is kept: a recipe for it costs about as much as it."""

_MOST_OLD_CHUNKS = 160
_AROUND_CHUNKS = 2
_DRAFTS_TOGETHER = 64


class NewRows(Mapping[bytes, bytes]):
    """The rows to keep of a batch's new chunks, by id; of many at once, when one is asked for.

    Args:
        pieces: has the bytes of each of these chunks, among others.
    """

    def __init__(self, pieces: Mapping[bytes, object]) -> None:
        self._pieces = pieces
        self._rows: dict[bytes, bytes] = {}
        self._awaited: tuple[list[bytes], list[bytes]] = ([], [])

    def add(self, chunk_id: bytes, size_bytes: int, *, fine: bool, rows: bytes = b"") -> None:
        """Keep rows of a chunk if they are worth it: these, or those that are to be found.

        ``fine`` for a file that is read as a whole: of a source file a large part changes, and by
        single lines; of a huge one, rows for each line would drive out those of all others.
        """
        if size_bytes >= _LEAST_BYTES:
            self._rows[chunk_id] = rows
            if not rows:
                self._awaited[fine].append(chunk_id)

    def items(self) -> ItemsView[bytes, bytes]:
        """Return (id, rows) of all."""
        self._find_awaited()
        return self._rows.items()

    def __getitem__(self, chunk_id: bytes) -> bytes:
        """Return the rows of a chunk."""
        self._find_awaited()
        return self._rows[chunk_id]

    def __contains__(self, chunk_id: object) -> bool:
        """Tell whether rows of a chunk are kept, without finding them."""
        return chunk_id in self._rows

    def __iter__(self) -> Iterator[bytes]:
        """Yield the chunks' ids."""
        return iter(self._rows)

    def __len__(self) -> int:
        """Return of how many chunks rows are kept."""
        return len(self._rows)

    def _find_awaited(self) -> None:
        for fine, awaited in enumerate(self._awaited):
            if awaited:
                pieces = (self._pieces[chunk_id] for chunk_id in awaited)
                chunks = [data for data in pieces if isinstance(data, bytes | memoryview)]
                rows = sub_blocks_of_each(chunks, fine=bool(fine))
                self._rows.update(zip(awaited, rows, strict=True))
                awaited.clear()


class Draft(NamedTuple):
    """New chunks of a file, by id, and what the file was: the chunk or manifest of its content."""

    new: list[bytes]
    content: bytes
    manifest: int


def draft_for(known: Known, cuts: Iterable[Cut], rows: Mapping[bytes, bytes]) -> Draft | None:
    """Return what recipes for the new chunks of a file may be made of, if there are any.

    Args:
        known: what the file was; its first chunks are those to copy out of.
        cuts: the file's chunks, new ones and others.
        rows: of the new ones.
    """
    new = [chunk.id for chunk, _ in cuts if chunk.id in rows]
    return Draft(new, known.content, known.manifest) if new and known.content else None


def with_old_rows(
    state: State, drafts: Sequence[Draft]
) -> Iterator[tuple[Draft, list[tuple[bytes, bytes]]]]:
    """Yield drafts with (id, rows) of the old chunks, which are looked up many at once."""
    for start in range(0, len(drafts), _DRAFTS_TOGETHER):
        group = drafts[start : start + _DRAFTS_TOGETHER]
        old_ids = [_chunk_ids(state, draft) for draft in group]
        rows = dict(state.sub_blocks(list(chain.from_iterable(old_ids))))
        for draft, ids in zip(group, old_ids, strict=True):
            yield draft, [(chunk_id, rows[chunk_id]) for chunk_id in ids if chunk_id in rows]


def _chunk_ids(state: State, draft: Draft) -> list[bytes]:
    if draft.manifest:
        return state.manifest_ids(draft.manifest, 0, _MOST_OLD_CHUNKS)
    return [draft.content]


class BaseCursor:
    """Follows where in its base a big file is that is read from start to end.

    Args:
        state: keeps the base's manifest.
        manifest: of the base.
    """

    def __init__(self, state: State, manifest: int) -> None:
        self._state = state
        self._manifest = manifest
        self._next = 0

    def recipes(
        self, cuts: Sequence[Cut], runs: Iterable[Run], rows: Mapping[bytes, bytes]
    ) -> list[Recipe]:
        """Return recipes for the next stretch of the file; ``rows`` are those of its new chunks."""
        recipes: list[Recipe] = []
        at = 0
        for run in runs:
            if run.keep_count:
                self._next = run.keep_start + run.keep_count
                at += run.keep_count
            fresh = cuts[at : at + len(run.chunks)]
            at += len(fresh)
            if fresh:
                recipes += self._recipes(fresh, rows)
        return recipes

    def _recipes(self, fresh: Sequence[Cut], rows: Mapping[bytes, bytes]) -> list[Recipe]:
        start = max(0, self._next - _AROUND_CHUNKS)
        count = self._next - start + len(fresh) + MAX_BASES
        old_ids = self._state.manifest_ids(self._manifest, start, count)
        new = [
            NewChunk(chunk.id, data, rows[chunk.id]) for chunk, data in fresh if chunk.id in rows
        ]
        recipes = write_recipes(self._state.sub_blocks(old_ids), new) if new else []
        used = {base.id for recipe in recipes for base in recipe.bases}
        last = max((n for n, old in enumerate(old_ids) if old in used), default=None)
        self._next = start + last + 1 if last is not None else self._next + len(fresh)
        return recipes
