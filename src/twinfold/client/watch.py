"""The watcher: turns operating-system events into dirty names.

It is a hint for speed only; correctness is the scan's. What it must never do is lose an event
silently: whatever may have been missed is said, as `Dirty.lost` or as `Watcher.incomplete`.

Directories are named by their path relative to the root, as bytes: components joined by ``/``, the
root itself is empty. What the program keeps for itself at the root is never reported.
"""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

# Beyond these, saying "all of it" is cheaper for both sides than naming everything.
MAX_NAMES_PER_DIRECTORY = 10_000
MAX_NAMES = 500_000

Key = TypeVar("Key")


@dataclass(slots=True)
class Dirty:
    """What has to be looked at again, by the paths that were valid when it was collected.

    Attributes:
        names: the changed names in a directory; None means that it has to be listed again.
            The directory's own attributes may have changed as well, even if the set is empty.
        trees: directories that appeared (created or moved in), to be scanned with all below them.
        moved: directories that were moved within the root, by their new path. The move itself
            changed nothing below them, but what a caller had still to examine under the old path
            (or did not find there), it has to examine under the new one.
        lost: events may be missing, so a full rescan is due.
    """

    names: dict[bytes, set[bytes] | None] = field(default_factory=dict)
    trees: set[bytes] = field(default_factory=set)
    moved: set[bytes] = field(default_factory=set)
    lost: bool = False

    def __bool__(self) -> bool:
        return bool(self.names or self.trees or self.moved or self.lost)


class Watcher(Protocol):
    """Gathers what changes below a root directory until it is collected."""

    @property
    def sees_everything_before_collect(self) -> bool:
        """Whether `collect` answers with every change that was made before it was called."""
        ...

    @property
    def incomplete(self) -> str | None:
        """Say in one line why some directories are not watched, or None if all are."""
        ...

    @property
    def root_gone(self) -> bool:
        """Whether the root was moved, deleted, unmounted or replaced since the start."""
        ...

    def watch_directory(self, path: bytes, fd: int | None) -> None:
        """Report from now on what happens in the directory; called before it is listed.

        May be called from another thread and as often as wanted; every scan calls it for every
        directory it lists, a full one for the root first, and so repairs what lost events broke.

        Args:
            path: where the caller found the directory.
            fd: the directory as the caller has it open; None where it has no descriptor.
        """
        ...

    def collect(self) -> Dirty:
        """Return and forget what is dirty, without waiting."""
        ...

    async def changed(self) -> None:
        """Return as soon as there is something to collect; for one task at a time."""
        ...

    def close(self) -> None:
        """End watching; called in the thread of the event loop. A waiting `changed` returns."""
        ...


class Gathering(Generic[Key]):
    """Dirty names by directory, bounded in size: what grows too large becomes a coarser word."""

    def __init__(self) -> None:
        self.names: dict[Key, set[bytes] | None] = {}
        self.trees: set[tuple[Key, bytes]] = set()
        self.lost = False
        self._size = 0

    def note_directory(self, directory: Key) -> None:
        """The attributes of the directory itself changed."""
        self.names.setdefault(directory, set())

    def note_name(self, directory: Key, name: bytes) -> None:
        """The name in the directory changed in any way."""
        names = self.names.setdefault(directory, set())
        if names is None or name in names:
            return
        names.add(name)
        self._grow()
        if len(names) > MAX_NAMES_PER_DIRECTORY:
            self.names[directory] = None

    def note_tree(self, directory: Key, name: bytes) -> None:
        """A directory appeared under this name."""
        self.trees.add((directory, name))
        self._grow()

    def lose(self) -> None:
        """Events may have been missed."""
        self.lost = True

    def _grow(self) -> None:
        self._size += 1
        if self._size > MAX_NAMES:
            self.names.clear()
            self.trees.clear()
            self._size = 0
            self.lose()


def joined(directory: bytes, name: bytes) -> bytes:
    """Return the path of a name in a directory."""
    return directory + b"/" + name if directory else name


def directory_identity(path: bytes) -> tuple[int, int] | None:
    """Return what tells the directory at this path from any other, None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISDIR(found.st_mode) else None


def open_watcher(root: bytes) -> Watcher:
    """Return this platform's watcher for the tree below an existing directory."""
    # The platforms' modules import this one, and each exists on its own platform only.
    if sys.platform == "linux":
        from twinfold.client.inotify import InotifyWatcher

        return InotifyWatcher(root)
    from twinfold.client.watch_portable import PortableWatcher

    return PortableWatcher(root)
