"""Staging files that come whole: those of a new directory in it, with one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from twinfold.model import MakeDirectory, PutFile
from twinfold.server.staged import StagedBatch, StagedChange
from twinfold.storage.interface import NewFile, Staging


class WholeFiles:
    """Creates staged files all of whose content is there.

    Args:
        staging: where they go to.
        name: gives a file that is staged by itself a name.
        refuse: leaves out a file that the system has no room for, or raises its error.
    """

    def __init__(
        self,
        staging: Staging,
        name: Callable[[StagedBatch, StagedChange], bytes],
        refuse: Callable[[StagedBatch, StagedChange, OSError], None],
    ) -> None:
        self._staging = staging
        self._name = name
        self._refuse = refuse

    def create(
        self,
        batch: StagedBatch,
        files: Sequence[StagedChange],
        pieces: Mapping[bytes, bytes | memoryview],
    ) -> None:
        """Stage files whose chunks all are among the pieces.

        Raises:
            OSError: the disk does not let us.
        """
        by_directory: dict[StagedChange | None, list[StagedChange]] = {}
        for staged in files:
            by_directory.setdefault(staged.directory, []).append(staged)
        alone = by_directory.pop(None, [])
        for directory, inside in by_directory.items():
            assert directory is not None
            alone += inside[self._create_inside(directory, inside, pieces) :]
        while alone:
            new = [_new_file(_put(staged), self._name(batch, staged), pieces) for staged in alone]
            identities, error = self._staging.create_files(new)
            for staged, identity in zip(alone, identities, strict=False):
                staged.inode, staged.ctime_ns = identity
            if error is None:
                return
            self._refuse(batch, alone[len(identities)], error)
            alone = alone[len(identities) + 1 :]

    def _create_inside(
        self,
        directory: StagedChange,
        files: Sequence[StagedChange],
        pieces: Mapping[bytes, bytes | memoryview],
    ) -> int:
        """Stage files in their new directory; return how many.

        The next one is hindered by something. That is judged where it is staged by itself.
        """
        if directory.refusal is not None:
            return 0
        assert isinstance(directory.change, MakeDirectory)
        above_bytes = len(directory.change.path) + 1
        puts = [_put(staged) for staged in files]
        new = [_new_file(put, put.path[above_bytes:], pieces) for put in puts]
        try:
            if not directory.inode:
                directory.inode = self._staging.create_directory(directory.name)
            identities, _ = self._staging.create_files(new, directory.name)
        except OSError:
            return 0
        for staged, identity in zip(files, identities, strict=False):
            staged.inode, staged.ctime_ns = identity
            staged.is_in_directory = True
        directory.is_filled = directory.is_filled or bool(identities)
        return len(identities)


def _put(staged: StagedChange) -> PutFile:
    assert isinstance(staged.change, PutFile)
    return staged.change


def _new_file(change: PutFile, name: bytes, pieces: Mapping[bytes, bytes | memoryview]) -> NewFile:
    parts = tuple([pieces[chunk.id] for chunk in change.chunks])
    return name, change.mode, change.mtime_ns, parts
