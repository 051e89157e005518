"""What accepted batches make of a folder, said with a dictionary; and what stands on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blake3 import blake3

from tests.e2e.trees import Node, snapshot
from twinfold.model import (
    Change,
    Delete,
    ExtendUpload,
    MakeDirectory,
    MakeSymlink,
    Move,
    PutFile,
    SetAttributes,
)


class ImpossibleError(Exception):
    """A change builds on what is not there: no server may take it."""


class Folder:
    """A tree as the server has to have it; ``known`` are the chunks that exist, by their ids."""

    def __init__(self, known: dict[bytes, bytes]) -> None:
        self.known = known
        self.nodes: dict[bytes, Node] = {b"": Node("directory", 0, 0, b"")}
        self.uploads: dict[bytes, bytes] = {}

    def copy(self) -> Folder:
        folder = Folder(self.known)
        folder.nodes = dict(self.nodes)
        folder.uploads = dict(self.uploads)
        return folder

    def after(self, changes: Sequence[Change], refused: set[int]) -> Folder:
        """Return the folder after a batch.

        Raises:
            ImpossibleError: it cannot be.
        """
        folder = self.copy()
        for index, change in enumerate(changes):
            if index not in refused:
                folder._apply(change)
        return folder

    def _apply(self, change: Change) -> None:
        if not all(is_proper(path) for path in paths_of(change)):
            raise ImpossibleError
        if isinstance(change, ExtendUpload):
            kept = self.uploads.get(change.upload, b"")[: change.offset]
            if len(kept) != change.offset or any(run.keep_count for run in change.runs):
                raise ImpossibleError
            chunks = [one.id for run in change.runs for one in run.chunks]
            self.uploads[change.upload] = kept + self._content(chunks)
        elif isinstance(change, SetAttributes):
            node = self.nodes.get(change.path)
            if node is None:
                raise ImpossibleError
            if node.kind == "symlink":
                return
            self.nodes[change.path] = node._replace(mode=change.mode, mtime_ns=change.mtime_ns)
        elif isinstance(change, Delete):
            above = self.nodes.get(change.path.rpartition(b"/")[0])
            if above is None or above.kind != "directory":
                raise ImpossibleError
            if change.path in self.nodes:
                self._take(change.path)
        elif isinstance(change, Move):
            taken = self._take(change.source)
            self._place(change.path)
            self.nodes |= {change.path + below: node for below, node in taken.items()}
        else:
            self._make(change)

    def _make(self, change: PutFile | MakeDirectory | MakeSymlink) -> None:
        there = self.nodes.get(change.path)
        if isinstance(change, MakeDirectory):
            if there is None or there.kind != "directory":
                self._place(change.path)
            self.nodes[change.path] = Node("directory", change.mode, change.mtime_ns, b"")
            return
        if isinstance(change, MakeSymlink):
            node = Node("symlink", 0, 0, change.target)
        else:
            content = self._content([one.id for one in change.chunks])
            if change.upload:
                if change.upload not in self.uploads:
                    raise ImpossibleError
                content = self.uploads.pop(change.upload)
            if len(content) != change.size:
                raise ImpossibleError
            digest = blake3(content).digest()
            node = Node("file", change.mode, change.mtime_ns, digest)
        self._place(change.path)
        self.nodes[change.path] = node

    def _content(self, ids: Sequence[bytes]) -> bytes:
        if any(one not in self.known for one in ids):
            raise ImpossibleError
        return b"".join(self.known[one] for one in ids)

    def _place(self, path: bytes) -> None:
        """Make room at a path in a directory that is there."""
        above = self.nodes.get(path.rpartition(b"/")[0])
        if above is None or above.kind != "directory" or not path:
            raise ImpossibleError
        if path in self.nodes:
            self._take(path)

    def _take(self, path: bytes) -> dict[bytes, Node]:
        if path not in self.nodes or not path:
            raise ImpossibleError
        below = [p for p in self.nodes if p == path or p.startswith(path + b"/")]
        return {p[len(path) :]: self.nodes.pop(p) for p in below}


def paths_of(change: Change) -> list[bytes]:
    """Return the paths that a change names, but for the root where it may be named."""
    if isinstance(change, ExtendUpload):
        return []
    if isinstance(change, SetAttributes) and not change.path:
        return []
    return [change.path, change.source] if isinstance(change, Move) else [change.path]


def is_proper(path: bytes) -> bool:
    """Tell whether a path may be an entry's."""
    names = path.split(b"/")
    if any(name in (b"", b".", b"..") or len(name) > 255 or b"\0" in name for name in names):
        return False
    return names[0] != b".twinfold" and len(names) <= 4_096


def compared(nodes: dict[bytes, Node]) -> dict[bytes, Node]:
    """Return what has to be equal: times of directories and of the root are given at last."""
    return {
        path: node._replace(mtime_ns=0) if node.kind == "directory" else node
        for path, node in nodes.items()
        if path
    }


def on_disk(folder: Path) -> dict[bytes, Node]:
    """Return what stands in the destination."""
    return compared(snapshot(folder))


class Canary:
    """What stands beside the destination and must not change in any way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "deep").mkdir(parents=True)
        for name in ("a", "b", "file", "deep/a", "deep/b", "deep/file"):
            (folder / name).write_bytes(b"canary " + name.encode())
        self._before = self._look()

    def _look(self) -> dict[str, tuple[object, ...]]:
        def facts(path: Path) -> tuple[object, ...]:
            status = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            return status.st_ino, status.st_mode, status.st_mtime_ns, status.st_ctime_ns, content

        return {str(path): facts(path) for path in [self.folder, *self.folder.rglob("*")]}

    def check(self) -> None:
        assert self._look() == self._before, "something outside of the destination was touched"
