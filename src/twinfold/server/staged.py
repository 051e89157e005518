"""What is known of a batch while its content comes in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twinfold.model import Change, Chunk, PutFile


class StagedChange:
    """One change with what was staged for it.

    Attributes:
        name: of the staged object, empty if the change needs none.
        inode: of the staged object, once it is there as a whole.
        is_begun: some of its content is staged.
        chunks: the content that this change brings, in order.
        offset: where the chunks begin in the file.
        position: number of the first chunk in the file's manifest.
        kept: so many leading chunks an earlier attempt at the upload recorded there.
        kept_bytes: their size.
    """

    __slots__ = (
        "change",
        "chunks",
        "inode",
        "is_begun",
        "kept",
        "kept_bytes",
        "name",
        "offset",
        "position",
    )

    def __init__(self, change: Change) -> None:
        self.change = change
        self.name = b""
        self.inode = 0
        self.is_begun = False
        self.chunks: Sequence[Chunk] = ()
        self.offset = 0
        self.position = 0
        self.kept = 0
        self.kept_bytes = 0

    def comes_whole(self, pieces: Mapping[bytes, object]) -> bool:
        """Tell whether all of a file is among these chunks, so that one call stages it."""
        return (
            not self.is_begun
            and isinstance(self.change, PutFile)
            and not self.change.upload
            and all(chunk.id in pieces for chunk in self.chunks)
        )


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
