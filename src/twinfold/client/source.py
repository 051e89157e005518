"""The source folder itself: is it there, and is it still the folder that it was."""

from __future__ import annotations

import os
import threading

from twinfold.client.state import State
from twinfold.client.tree import Directory, facts_of, open_root
from twinfold.core.paths import display
from twinfold.errors import SourceVanishedError


class Source:
    """One source folder and its remembered identity.

    The inode has to stay the same for ever; the device number only while the process runs,
    because some file systems get another one at every mount.
    """

    def __init__(self, path: bytes, state: State) -> None:
        self.path = path
        self._state = state
        self._identity: tuple[int, ...] | None = None

    def open(self) -> Directory:
        """Open the source.

        Raises:
            SourceVanishedError: it is not there, or another folder is.
        """
        try:
            root = open_root(self.path)
            identity = root.facts()[5:]
        except OSError as error:
            raise SourceVanishedError(
                f"the source {display(self.path)} cannot be opened"
                f" ({(error.strerror or str(error)).lower()}); nothing is deleted"
            ) from error
        try:
            self._check(identity)
        except BaseException:
            root.close()
            raise
        return root

    def is_same(self) -> bool:
        """Tell whether the path still leads to the folder that was opened."""
        try:
            return facts_of(os.stat(self.path))[5:] == self._identity
        except OSError:
            return False

    def _check(self, identity: tuple[int, ...]) -> None:
        dev, inode = identity
        known = self._state.number("root_inode")
        if (self._identity is not None and identity != self._identity) or known not in (0, inode):
            raise SourceVanishedError(
                f"another folder than before stands at the source {display(self.path)}; nothing"
                " is deleted. Is it unmounted? If the change is meant, remove the client's state"
                f" ({self._state.folder}) and start again"
            )
        if self._identity is None:
            self._identity = identity
            self._state.keep(root_dev=dev, root_inode=inode)


def count_files(path: bytes, stop: threading.Event) -> tuple[int, int]:
    """Return (files, bytes) below a folder, as far as it can be read; an estimate for a bar."""
    files = size_bytes = 0
    due = [os.fsdecode(path)]
    while due and not stop.is_set():
        try:
            with os.scandir(due.pop()) as listing:
                for entry in listing:
                    if entry.is_dir(follow_symlinks=False):
                        due.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        files += 1
                        size_bytes += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return files, size_bytes
