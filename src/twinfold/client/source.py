"""The source folder itself: is it there, and is it still the folder that it was."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping

from twinfold.client.state import ROOT_NODE, State
from twinfold.client.tree import Directory, by_name, facts_of, open_root, signed
from twinfold.core.paths import display
from twinfold.core.planning import Facts, Known
from twinfold.errors import SourceReplacedError, SourceVanishedError
from twinfold.system.file_systems import file_system_id

UNMOUNTED = (
    "is on another file system than before, and names in it are gone: unmounted? Nothing is"
    " deleted; if it is meant: twinfold release SOURCE"
)


class Source:
    """One source folder and its remembered identity.

    The inode has to stay the same for ever; the device number only while the process runs,
    because some file systems get another one at every mount. Where the file system's own id is
    another one, some name at the top has to lead to the same entry as before.

    Attributes:
        is_replaced: another folder stood here when it was opened last.
    """

    def __init__(self, path: bytes, state: State) -> None:
        self.path = path
        self.is_replaced = False
        self._state = state
        self._identity: tuple[int, ...] | None = None
        self._accepts_other = False

    def open(self) -> Directory:
        """Open the source.

        Raises:
            SourceVanishedError: it is not there, or another folder is (`SourceReplacedError`).
        """
        try:
            root = open_root(self.path)
            identity = root.facts()[5:]
            own_id = signed(file_system_id(self.path))
        except OSError as error:
            raise SourceVanishedError(
                f"the source {display(self.path)} cannot be opened"
                f" ({(error.strerror or str(error)).lower()}); nothing is deleted"
            ) from error
        try:
            self._check(root, identity, own_id)
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

    def accept_other(self) -> None:
        """Take the folder that stands here now for the source, whichever it is."""
        self._accepts_other = True

    def _check(self, root: Directory, identity: tuple[int, ...], own_id: int) -> None:
        self.is_replaced = self._is_other(root, identity, own_id)
        if self.is_replaced and not self._accepts_other:
            raise SourceReplacedError(
                f"another folder than before stands at the source {display(self.path)}; nothing"
                " is deleted. Is it unmounted? If the change is meant: twinfold release SOURCE,"
                " while a client is live there"
            )
        if self._identity is None or self.is_replaced:
            self._identity = identity
            self._state.keep(root_dev=identity[0], root_inode=identity[1], root_fs=own_id)
        self.is_replaced = self._accepts_other = False

    def _is_other(self, root: Directory, identity: tuple[int, ...], own_id: int) -> bool:
        if self._identity is not None:
            return identity != self._identity
        if self._state.number("root_inode") not in (0, identity[1]):
            return True
        if self._state.number("root_fs") in (0, own_id):
            return False
        known, listing = self._state.children(ROOT_NODE), by_name(root.listing().entries)
        return bool(known) and not any(
            name in listing and _is_same(listing[name], known[name]) for name in known
        )


class Mounts:
    """Tells where one may see another file system than the one that was scanned before."""

    def __init__(self, root: Directory, state: State) -> None:
        known = state.node(ROOT_NODE)
        try:
            self._root = (known.facts[5] if known else 0, root.facts().dev)
        except OSError:
            self._root = (0, 0)

    def seem_changed(
        self,
        before: Known,
        now: Facts,
        listing: Mapping[bytes, Facts],
        known: Mapping[bytes, Known],
    ) -> bool:
        """Tell whether names are missing because a file system was mounted, or is no longer.

        Not so where the device's number changed together with the root's, or where a name that
        is left is the very entry that it was: some file systems get a number at every mount.
        """
        devices = before.facts[5], now.dev
        if devices[0] in (0, now.dev) or devices == self._root or known.keys() <= listing.keys():
            return False
        return not any(name in listing and _is_same(listing[name], known[name]) for name in known)


def _is_same(now: Facts, before: Known) -> bool:
    kind, _, size, mtime_ns, _, _, inode = before.facts
    return (now.kind, now.size, now.mtime_ns, now.inode) == (kind, size, mtime_ns, inode)


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
