"""Old content that is kept where it lies: laid under a new file as blocks that both share.

An edited file of a gigabyte is then not written again. Only some file systems can do that (Btrfs,
XFS), only for whole blocks, and only where the old bytes lie as far within their block as the new
ones. Whatever is laid counts no more than what an interrupted upload has left: each chunk is read
where it now lies, and verified, before it is taken for being there.
"""

from __future__ import annotations

import errno
from bisect import bisect_right

from twinfold.model import Chunk, ExtendUpload
from twinfold.server.old_content import OldContent
from twinfold.server.staged import StagedChange
from twinfold.storage.interface import Index, StagedFile

_LEAST_BYTES = 256 * 1024
"""Less is written: each piece that is shared makes both files more scattered."""

_NEVER = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOTTY, errno.ENOSYS})
"""The file system, or the system, cannot do it at all."""


class Clones:
    """Lays old content under parts of uploads."""

    def __init__(self, index: Index, old: OldContent) -> None:
        self._index = index
        self._old = old
        self._is_possible = True

    def lay(self, staged: StagedChange, file: StagedFile) -> None:
        """Lay what a part of an upload keeps of its base under it, as far as that can be.

        Raises:
            OSError: no more files can be opened.
        """
        assert isinstance(staged.change, ExtendUpload)
        at, offset = 0, staged.offset
        for run in staged.change.runs:
            kept = staged.chunks[at : at + run.keep_count]
            size_bytes = sum(chunk.size for chunk in kept)
            is_new = offset >= staged.offset + staged.kept_bytes
            if self._is_possible and is_new and size_bytes >= _LEAST_BYTES:
                self._lay_run(staged, file, kept[0], offset, size_bytes)
            at += run.keep_count + len(run.chunks)
            offset += size_bytes + sum(chunk.size for chunk in run.chunks)

    def _lay_run(
        self, staged: StagedChange, file: StagedFile, first: Chunk, offset: int, size_bytes: int
    ) -> None:
        for place in self._index.places(first.id):
            source = self._old.source_of(place)
            if source is None:
                continue
            try:
                laid = file.clone(source, place.offset, offset, size_bytes)
            except OSError as error:
                if error.errno in _NEVER:
                    self._is_possible = False
                    return
                continue
            if laid:
                staged.laid.append(laid)
                return


def is_laid(staged: StagedChange, offset: int, size_bytes: int) -> bool:
    """Tell whether old content was laid under all of these bytes of a part of an upload."""
    at = bisect_right(staged.laid, offset, key=lambda laid: laid.start) - 1
    return at >= 0 and offset + size_bytes <= staged.laid[at].stop
