"""Two receivers that keep the protocol: one in memory, and the real one over a destination."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

from tests.client.mirror import Mirror, Snapshot, snapshot
from tests.server.forest_model import entry_of
from tests.server.rig import read_attic
from tests.server.test_receive import Service, serving
from twinfold.client.batch import Batch as ClientBatch
from twinfold.core.manifest import content_id
from twinfold.errors import LostPlaceError, StaleEpochError
from twinfold.model import (
    Change,
    Chunk,
    Entry,
    ExtendUpload,
    Kind,
    MakeDirectory,
    PutFile,
    SetAttributes,
)
from twinfold.protocol import Batch, BatchAnswer
from twinfold.server.receive import ChunkFrame

SERVER_ID = b"the server"


class Place(NamedTuple):
    """What opening a session tells."""

    epoch: int
    revision: int


class Receiver(Protocol):
    """What the client's side of the test needs of a server."""

    def open_session(self, instance: bytes) -> Place:
        """Begin an epoch."""
        ...

    def receive(
        self, epoch: int, number: int, changes: Sequence[Change], pieces: Mapping[bytes, bytes]
    ) -> BatchAnswer:
        """Take a header with chunks.

        Raises:
            StaleEpochError, LostPlaceError: see there.
        """
        ...

    def restart(self) -> None:
        """End and begin again; what was not committed is gone."""
        ...

    def entries(self) -> list[Entry]:
        """Return what it holds, parents first, the root included."""
        ...

    def kept(self) -> set[bytes]:
        """Return the content of every file that it holds, in the tree or in the attic."""
        ...

    def snapshot(self) -> Snapshot:
        """Return the tree as the source's is looked at."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


class _Attic(Mirror):
    """A mirror that keeps what it replaces, and takes parts of uploads again."""

    def __init__(self) -> None:
        super().__init__()
        self.contents: set[bytes] = set()

    def _take(self, path: bytes) -> Snapshot:
        taken = super()._take(path)
        self.contents |= _contents(taken)
        return taken

    def _apply(self, change: Change) -> None:
        if isinstance(change, ExtendUpload):
            self._rewind(change)
        if isinstance(change, MakeDirectory):
            there = self.entries.get(change.path)
            if there is not None and there[0] == "directory":
                change = SetAttributes(change.path, change.mode, change.mtime_ns)
        super()._apply(change)

    def _rewind(self, change: ExtendUpload) -> None:
        """Drop what an earlier attempt at the upload sent from here on."""
        chunks = self.uploads.get(change.upload, [])
        reached = count = 0
        while count < len(chunks) and reached < change.offset:
            reached += chunks[count].size
            count += 1
        del chunks[count:]


class ModelReceiver:
    """The protocol said once more, in memory."""

    def __init__(self) -> None:
        self._mirror = _Attic()
        self._epoch = self._revision = self._committed = 0
        self._answers: dict[int, BatchAnswer] = {}
        self._staged: dict[int, dict[bytes, bytes]] = {}

    def open_session(self, instance: bytes) -> Place:
        self._epoch += 1
        self._committed = 0
        self._answers, self._staged = {}, {}
        return Place(self._epoch, self._revision)

    def receive(
        self, epoch: int, number: int, changes: Sequence[Change], pieces: Mapping[bytes, bytes]
    ) -> BatchAnswer:
        if epoch != self._epoch:
            raise StaleEpochError("an old epoch")
        if number <= self._committed:
            if number not in self._answers:
                raise LostPlaceError("the answer is not known any more")
            return self._answers[number]
        staged = self._staged.setdefault(number, {})
        staged.update(pieces)
        bases = {c.base for c in changes if isinstance(c, ExtendUpload) and c.base}
        unknown = [base for base in bases if base not in self._mirror.manifests]
        if unknown:
            return BatchAnswer(unknown_bases=unknown)
        there = staged.keys() | self._mirror.chunks.keys()
        missing = [chunk for chunk in chunks_of(changes) if chunk not in there]
        if missing:
            return BatchAnswer(missing=missing)
        assert number == self._committed + 1, "the test sends headers in their order"
        batch = ClientBatch(number)
        batch.changes, batch.pieces = list(changes), dict(staged)
        self._mirror.apply(batch)
        self._committed, self._revision = number, self._revision + 1
        self._answers[number] = BatchAnswer(revision=self._revision)
        return self._answers[number]

    def restart(self) -> None:
        self._answers, self._staged = {}, {}

    def entries(self) -> list[Entry]:
        ids = {content_of(chunks): chunks for chunks in self._mirror.manifests.values()}
        by_data = {b"".join(self._mirror.chunks[c.id] for c in v): k for k, v in ids.items()}
        return [_entry(path, self._mirror.entries[path], by_data) for path in self._sorted()]

    def _sorted(self) -> list[bytes]:
        return sorted(self._mirror.entries, key=lambda path: (path.count(b"/"), path))

    def kept(self) -> set[bytes]:
        return self._mirror.contents | _contents(self._mirror.entries)

    def snapshot(self) -> Snapshot:
        return self._mirror.entries

    def close(self) -> None:
        pass


class RealReceiver:
    """The server without its addresses: the real index, staging, forest and batch machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runner = asyncio.Runner()
        self._begin()

    def _begin(self) -> None:
        self._serving: AbstractAsyncContextManager[Service] = serving(self._folder)
        self._service = self._runner.run(self._serving.__aenter__())

    def open_session(self, instance: bytes) -> Place:
        session = self._runner.run(self._service.open_as(b"client", instance))
        return Place(session.epoch, session.revision)

    def receive(
        self, epoch: int, number: int, changes: Sequence[Change], pieces: Mapping[bytes, bytes]
    ) -> BatchAnswer:
        async def request() -> AsyncIterator[Batch | ChunkFrame]:
            yield Batch(list(changes))
            chunks = [Chunk(chunk, len(data)) for chunk, data in pieces.items()]
            yield ChunkFrame(chunks, list(pieces.values()))

        receiver = self._service.receiver
        return self._runner.run(receiver.receive(epoch, number, request()))

    def restart(self) -> None:
        self._end()
        self._begin()

    def _end(self) -> None:
        self._runner.run(self._serving.__aexit__(None, None, None))

    def entries(self) -> list[Entry]:
        self._runner.run(self._service.receiver.settle())
        return [entry for group in self._service.rig.index.entries() for entry in group]

    def kept(self) -> set[bytes]:
        return _contents(self.snapshot()) | set(read_attic(self._folder))

    def snapshot(self) -> Snapshot:
        found = snapshot(self._folder)
        own = (b".twinfold", b".twinfold/")
        return {p: e for p, e in found.items() if p != own[0] and not p.startswith(own[1])}

    def close(self) -> None:
        self._end()
        self._runner.close()


def chunks_of(changes: Iterable[Change]) -> list[bytes]:
    """Return the chunks that changes bring, each once."""
    found: dict[bytes, None] = {}
    for change in changes:
        if isinstance(change, PutFile):
            found.update(dict.fromkeys(chunk.id for chunk in change.chunks))
        elif isinstance(change, ExtendUpload):
            found.update(dict.fromkeys(c.id for run in change.runs for c in run.chunks))
    return list(found)


def content_of(chunks: Sequence[Chunk]) -> bytes:
    """Return the content id of a file of these chunks."""
    return content_id(chunks)


def _contents(entries: Snapshot) -> set[bytes]:
    return {bytes(e[3]) for e in entries.values() if e[0] == "file" and isinstance(e[3], bytes)}


def _entry(path: bytes, entry: tuple[object, ...], by_data: Mapping[bytes, bytes]) -> Entry:
    kind, *rest = entry
    if kind == "symlink":
        return entry_of(path, ("link", rest[0]))
    mode, mtime_ns, *data = rest
    assert isinstance(mode, int)
    assert isinstance(mtime_ns, int)
    if not data:
        return Entry(path, Kind.DIRECTORY, mode, mtime_ns, 0, b"", b"")
    assert isinstance(data[0], bytes)
    return Entry(path, Kind.FILE, mode, mtime_ns, len(data[0]), by_data[data[0]], b"")
