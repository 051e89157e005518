"""A destination in memory that applies changes strictly, and a client's scan to feed it."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from twinfold.client.batch import PATIENCE_S, Batch, BatchBuilder, Pending
from twinfold.client.dirty import DirtyScan, Names
from twinfold.client.files import FilePlanner
from twinfold.client.guard import Allowance
from twinfold.client.ignore import IgnoreRules
from twinfold.client.moves import MoveFinder
from twinfold.client.pieces import Stretch
from twinfold.client.problems import Problems
from twinfold.client.read import Reader
from twinfold.client.scan import Scan
from twinfold.client.shortage import Shortage
from twinfold.client.source import Source
from twinfold.client.state import State
from twinfold.client.state_file import open_state
from twinfold.client.tools import Tools
from twinfold.client.uploads import Uploader
from twinfold.core import manifest
from twinfold.core.paths import is_within, split
from twinfold.model import (
    Change,
    Chunk,
    Delete,
    ExtendUpload,
    MakeDirectory,
    MakeSymlink,
    Move,
    PutFile,
    SetAttributes,
)

Snapshot = dict[bytes, tuple[object, ...]]


def snapshot(root: Path) -> Snapshot:
    """Return type, bytes, mode, mtime or target of everything below a folder, and of itself."""
    found: Snapshot = {}
    due = [b""]
    while due:
        path = due.pop()
        place = os.path.join(os.fsencode(root), path)
        status = os.lstat(place)
        mode = status.st_mode & 0o777
        if stat.S_ISDIR(status.st_mode):
            found[path] = ("directory", mode, status.st_mtime_ns)
            due += [path + b"/" + name if path else name for name in os.listdir(place)]
        elif stat.S_ISLNK(status.st_mode):
            found[path] = ("symlink", os.readlink(place))
        elif stat.S_ISREG(status.st_mode):
            found[path] = ("file", mode, status.st_mtime_ns, Path(os.fsdecode(place)).read_bytes())
    return found


class Mirror:
    """What a server would hold; breaks with an AssertionError where a change does not fit."""

    def __init__(self) -> None:
        self.entries: Snapshot = {b"": ("directory", 0, 0)}
        self.chunks: dict[bytes, bytes] = {}
        self.manifests: dict[bytes, list[Chunk]] = {}
        self.uploads: dict[bytes, list[Chunk]] = {}
        self.changes: list[Change] = []
        self.received_bytes = 0

    def apply(self, batch: Batch) -> None:
        """Commit a batch."""
        for chunk_id, piece in batch.pieces.items():
            if not isinstance(piece, Stretch):
                assert blake3(piece).digest() == chunk_id
                self.chunks[chunk_id] = bytes(piece)
                self.received_bytes += len(piece)
        for change in batch.changes:
            self.changes.append(change)
            self._apply(change)

    def _apply(self, change: Change) -> None:
        if isinstance(change, ExtendUpload):
            chunks = self.uploads.setdefault(change.upload, [])
            assert sum(chunk.size for chunk in chunks) == change.offset
            base = self.manifests.get(change.base, [])
            chunks += manifest.expand(change.runs, lambda at, count: base[at : at + count])
        elif isinstance(change, PutFile):
            chunks = self.uploads.pop(change.upload) if change.upload else change.chunks
            assert manifest.content_id(chunks) == change.content
            data = b"".join(self.chunks[chunk.id] for chunk in chunks)
            assert len(data) == change.size
            self.manifests[change.content] = list(chunks)
            self._replace(change.path, ("file", change.mode, change.mtime_ns, data))
        elif isinstance(change, MakeDirectory):
            self._replace(change.path, ("directory", change.mode, change.mtime_ns))
        elif isinstance(change, MakeSymlink):
            self._replace(change.path, ("symlink", change.target))
        elif isinstance(change, Move):
            self._move(change.source, change.path)
        elif isinstance(change, Delete):
            assert change.path
            self._take(change.path)
        elif isinstance(change, SetAttributes):
            kind, _, _, *rest = self.entries[change.path]
            self.entries[change.path] = (kind, change.mode, change.mtime_ns, *rest)

    def _replace(self, path: bytes, entry: tuple[object, ...]) -> None:
        assert self.entries[split(path)[0]][0] == "directory"
        if path in self.entries:
            self._take(path)
        self.entries[path] = entry

    def _take(self, path: bytes) -> Snapshot:
        assert path in self.entries
        gone = [known for known in self.entries if is_within(known, path)]
        return {known: self.entries.pop(known) for known in gone}

    def _move(self, source: bytes, path: bytes) -> None:
        assert path not in self.entries
        assert not is_within(path, source)
        assert self.entries[split(path)[0]][0] == "directory"
        for known, entry in self._take(source).items():
            self.entries[path + known[len(source) :]] = entry


WAYS: dict[str, tuple[bool, float]] = {
    "acks-at-once": (False, PATIENCE_S),
    "acks-late": (True, PATIENCE_S),
    "no-patience": (False, 0.0),
}
"""By name, how a `ScannedSource` sends and acknowledges."""


class ScannedSource:
    """A source folder, its state, and a mirror that acknowledges at once or late.

    Args:
        folder: where everything lies.
        late: batches are acknowledged at the end of the scan only.
        patience_s: how long a directory's move waits for more in its batch.
    """

    def __init__(self, folder: Path, late: bool = False, patience_s: float = PATIENCE_S) -> None:
        self.root = folder / "source"
        self.root.mkdir(exist_ok=True)
        self.state: State = open_state(folder / "state.sqlite", os.fsencode(self.root))
        self.mirror = Mirror()
        self.told: list[object] = []
        self.problems = Problems(self.told.append)
        self.ignore = IgnoreRules([])
        self._source = Source(os.fsencode(self.root), self.state)
        self._pending = Pending(self.state)
        self._late = late
        self._patience_s = patience_s
        self.watch: Callable[[bytes, int | None], None] = lambda _path, _fd: None
        self._waiting: list[Batch] = []

    @property
    def root_path(self) -> bytes:
        """The source's path as the client has it."""
        return os.fsencode(self.root)

    def scan(self, names: Names | None = None, allowance: Allowance | None = None) -> Scan:
        """Scan everything, or some names, and let the mirror apply it."""
        builder = BatchBuilder(self.state, self._pending, self._send, patience_s=self._patience_s)
        reader = Reader(threading.Event())
        with self._source.open() as root:
            self.ignore.reload(root)
            moves = MoveFinder(root, self.state, self._pending)
            shortage = Shortage(self.problems)
            tools = Tools(
                root=root,
                state=self.state,
                pending=self._pending,
                builder=builder,
                files=FilePlanner(
                    self.state,
                    builder,
                    reader,
                    Uploader(self.state, builder, reader, shortage),
                    moves,
                    shortage,
                ),
                moves=moves,
                problems=self.problems,
                ignore=self.ignore,
                watch=self.watch,
                is_same_source=self._source.is_same,
                stop=threading.Event(),
                allowance=allowance or Allowance(),
            )
            if names is None:
                scan = Scan(tools)
                scan.scan_all()
            else:
                scan = dirty = DirtyScan(tools, names)
                dirty.scan_names()
        for batch in self._waiting:
            self._acknowledge(batch)
        self._waiting = []
        return scan

    def forget_changes(self) -> None:
        """Let the mirror's list of changes begin anew."""
        self.mirror.changes = []
        self.mirror.received_bytes = 0

    def _send(self, batch: Batch) -> None:
        self.mirror.apply(batch)
        if self._late:
            self._waiting.append(batch)
        else:
            self._acknowledge(batch)

    def _acknowledge(self, batch: Batch) -> None:
        self.state.acknowledge([effect for _, effect in batch.effects], batch.pieces, batch.serial)
        self._pending.forget(batch)
