"""The way down into the source: directories that are open, and those still to be visited."""

from __future__ import annotations

import msgspec

from twinfold.client.effects import Remove
from twinfold.client.tree import Directory, open_path
from twinfold.core.planning import Facts, Known


class Child(msgspec.Struct):
    """A directory to go down into: known at its place, moved there (also known), or new."""

    name: bytes
    parent: int
    node: int
    listed: Facts | None
    known: Known | None
    moved: bool = False
    replacing: tuple[Remove, ...] = ()
    fetched: bool = False


class Level:
    """A directory on the way down, and the directories in it that are still to be visited."""

    def __init__(self, directory: Directory, path: bytes, children: list[Child]) -> None:
        self.path = path
        self.children = children
        self._directory = directory
        self._identity = _identity(directory)
        self._closed = False

    def opened(self, root: Directory) -> Directory:
        """Return the directory, opened again if it was closed to save descriptors.

        Raises:
            FileNotFoundError: another directory stands in its place now.
        """
        if self._closed:
            self._directory = open_path(root, self.path)
            self._closed = False
            if not self._identity or _identity(self._directory) != self._identity:
                raise FileNotFoundError(2, "was replaced during the scan")
        return self._directory

    def close(self) -> None:
        """Close the directory; `opened` opens it again."""
        if not self._closed:
            self._directory.close()
            self._closed = True


def _identity(directory: Directory) -> tuple[int, ...]:
    """Return device and inode; nothing, which equals no other, where they cannot be told."""
    try:
        return directory.facts()[5:]
    except OSError:
        return ()
