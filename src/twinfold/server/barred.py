"""What has to be refused because something else was."""

from __future__ import annotations

from twinfold.core.paths import split
from twinfold.model import Change, ExtendUpload, MakeDirectory, Move, PutFile, SetAttributes
from twinfold.server.lack import NO_ROOM, Lack


class Barred:
    """Directories and uploads that were refused, so that what builds on them has to be, too.

    They are open again once they themselves have been taken.
    """

    def __init__(self) -> None:
        self._paths: set[bytes] = set()
        self._uploads: set[bytes] = set()

    @property
    def is_any(self) -> bool:
        """Whether anything is barred."""
        return bool(self._paths or self._uploads)

    def clear(self) -> None:
        """Another client's work begins."""
        self._paths.clear()
        self._uploads.clear()

    def add(self, change: Change) -> None:
        """The change was refused."""
        if isinstance(change, MakeDirectory | Move):
            self._paths.add(change.path)
        elif isinstance(change, ExtendUpload):
            self._uploads.add(change.upload)

    def discard(self, change: Change) -> None:
        """The change is taken."""
        if isinstance(change, ExtendUpload):
            self._uploads.discard(change.upload)
        elif not isinstance(change, SetAttributes):
            self._paths.discard(change.path)

    def lack_of(self, change: Change, is_restart: bool) -> Lack | None:
        """Return why a change has to be refused, if so; ``is_restart`` of an upload's part."""
        if isinstance(change, ExtendUpload):
            return NO_ROOM if change.upload in self._uploads and not is_restart else None
        if isinstance(change, PutFile) and change.upload in self._uploads:
            return NO_ROOM
        if not self._paths:
            return None
        is_below = self._is_below(split(change.path)[0] if change.path else b"")
        if isinstance(change, Move):
            is_below = is_below or self._is_below(change.source)
        if isinstance(change, SetAttributes):
            is_below = is_below or change.path in self._paths
        return NO_ROOM if is_below else None

    def _is_below(self, path: bytes) -> bool:
        while path:
            if path in self._paths:
                return True
            path = split(path)[0]
        return False
