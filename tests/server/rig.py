"""A destination with its stager and committer, driven without sockets."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import os
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from twinfold.core.chunking import chunk_id
from twinfold.core.manifest import content_id
from twinfold.model import Change, Chunk, Entry, ExtendUpload, PutFile, Run
from twinfold.protocol import OpenSession, Refusal
from twinfold.server.commit import Committer
from twinfold.server.events import Event, Message
from twinfold.server.stage import Stager
from twinfold.server.staged import StagedBatch
from twinfold.server.survey import Survey
from twinfold.storage.destination import Destination, open_destination
from twinfold.storage.interface import (
    DirectoryListing,
    Forest,
    Location,
    Looked,
    Opener,
    Performed,
    Source,
    Staging,
    Step,
)
from twinfold.storage.soundness import unsound

PIECE_BYTES = 40_000

Tree = dict[bytes, tuple[object, ...]]


def cut(data: bytes, size: int = PIECE_BYTES) -> list[bytes]:
    """Return the pieces that a test cuts content into."""
    return [data[at : at + size] for at in range(0, len(data), size)]


def chunks_of(data: bytes, size: int = PIECE_BYTES) -> list[Chunk]:
    """Return the chunks of content."""
    return [Chunk(chunk_id(piece), len(piece)) for piece in cut(data, size)]


def put(
    path: bytes, data: bytes, mode: int = 0o644, mtime_ns: int = 5, size: int = PIECE_BYTES
) -> PutFile:
    """Return the change that puts a file."""
    chunks = chunks_of(data, size)
    return PutFile(path, mode, mtime_ns, len(data), content_id(chunks), chunks)


def put_upload(path: bytes, data: bytes, upload: bytes, size: int = PIECE_BYTES) -> PutFile:
    """Return the change that puts a file whose content was uploaded before."""
    return PutFile(path, 0o644, 5, len(data), content_id(chunks_of(data, size)), [], upload)


def extend(upload: bytes, data: bytes, start: int, end: int, size: int = PIECE_BYTES) -> Change:
    """Return the change that uploads the chunks ``start`` to ``end`` of content."""
    chunks = chunks_of(data, size)
    offset = sum(chunk.size for chunk in chunks[:start])
    return ExtendUpload(upload, offset, b"", [Run(0, 0, chunks[start:end])])


class ForestWrapper:
    """A forest that passes everything on; tests override what is to fail."""

    def __init__(self, forest: Forest) -> None:
        self.forest = forest

    def opener(self, locate: Callable[[int], Location | None]) -> Opener:
        return self.forest.opener(locate)

    def open_source(self, root: int, names: Sequence[bytes]) -> Source:
        return self.forest.open_source(root, names)

    def look(self, root: int, names: Sequence[bytes]) -> DirectoryListing:
        return self.forest.look(root, names)

    def look_at(self, root: int, names: Sequence[bytes]) -> Looked | None:
        return self.forest.look_at(root, names)

    def rename_in_attic(self, name: bytes, new_name: bytes) -> None:
        self.forest.rename_in_attic(name, new_name)

    def set_aside(self, names: Sequence[bytes]) -> bytes:
        return self.forest.set_aside(names)

    def perform(
        self, steps: Sequence[Step], locate: Callable[[int], Location | None], *, again: bool
    ) -> Performed:
        return self.forest.perform(steps, locate, again=again)

    def purge(self, name: bytes) -> None:
        self.forest.purge(name)


class Rig:
    """What `twinfold.wiring` puts together for a server, without the sockets."""

    _runs = 0

    def __init__(
        self,
        path: Path,
        wrap: Callable[[Forest], Forest] | None = None,
        *,
        wrap_staging: Callable[[Staging], Staging] | None = None,
        adopt: bool = False,
        now_ns: int = 1_000,
    ) -> None:
        Rig._runs += 1
        self.path = path
        self.now_ns = now_ns
        self.messages: list[str] = []
        self.destination: Destination = open_destination(os.fsencode(path), adopt=adopt)
        self.index = self.destination.index
        self.staging: Staging = self.destination.staging
        self.forest: Forest = self.destination.tree
        if wrap is not None:
            self.forest = wrap(self.forest)
        if wrap_staging is not None:
            self.staging = wrap_staging(self.staging)
        self.lock = lock = threading.Lock()
        self.committer = Committer(self.index, self.staging, self.forest, lock, self.now)
        self.stager = Stager(self.index, self.staging, self.forest, lock, f"run{Rig._runs}")

    def now(self) -> int:
        """Return the time that the test says it is."""
        return self.now_ns

    def listen(self, event: Event) -> None:
        """Keep what the server says."""
        if isinstance(event, Message):
            self.messages.append(event.text)

    def survey(self) -> Survey:
        """Return the survey that a server would run if its index is new."""
        return Survey(self.index, self.forest, self.now_ns, self.listen)

    def start(self) -> None:
        """Do what a server does before it listens, and become the writer."""
        self.committer.recover()
        self.committer.discard_leftovers()
        if not self.index.is_surveyed:
            self.survey().run()
        self.survey().take_in_attic()
        self.committer.open_session(OpenSession(1, b"client", b"process", "name"), active=False)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the destination as a killed process would: nothing is tidied up."""
        for file in self.stager._files.values():
            file.close()
        self.stager._files.clear()
        with self.index._engine.connect() as connection:
            told = unsound(connection)
        self.destination.close()
        assert not told, told

    def stage(
        self, changes: Sequence[Change], contents: Iterable[bytes] = (), *, ahead: int = 0
    ) -> StagedBatch:
        """Stage a batch with all content that it needs; ``ahead`` others come before it."""
        number = self.index.session().committed + 1 + ahead
        batch = self.stager.begin(number, changes, frozenset())
        for data in contents:
            self.stager.store(batch, chunks_of(data), cut(data))
        return batch

    def commit(self, *batches: StagedBatch) -> dict[int, list[Refusal]]:
        """Commit staged batches as a group; return what was refused."""
        for batch in batches:
            assert not batch.wanted, "content is missing"
            self.stager.finish(batch)
        return self.committer.commit(batches)[1]

    def apply(
        self, changes: Sequence[Change], contents: Iterable[bytes] = ()
    ) -> dict[int, list[Refusal]]:
        """Stage and commit one batch."""
        return self.commit(self.stage(changes, contents))

    def entries(self) -> list[Entry]:
        """Return the tree as the index has it, without its root."""
        return [entry for group in self.index.entries() for entry in group if entry.path]

    def tree(self) -> Tree:
        """Return the tree as the disk has it."""
        return read_tree(self.path)

    def attic(self) -> Counter[bytes]:
        """Return the contents of all files and symlinks in the attic."""
        return read_attic(self.path)


def read_tree(root: Path) -> Tree:
    """Return every entry below a root, but the server's own: type, bytes, mode, mtime."""
    found: Tree = {}
    base = os.fsencode(root)

    def visit(path: bytes) -> None:
        full = os.path.join(base, path) if path else base
        status = os.lstat(full)
        if stat.S_ISLNK(status.st_mode):
            found[path] = ("link", os.readlink(full))
        elif stat.S_ISDIR(status.st_mode):
            if path:
                found[path] = ("dir", stat.S_IMODE(status.st_mode), status.st_mtime_ns)
            for name in os.listdir(full):
                if path or name != b".twinfold":
                    visit(path + b"/" + name if path else name)
        elif not stat.S_ISREG(status.st_mode):
            found[path] = ("special", None)
        else:
            found[path] = (
                "file",
                Path(os.fsdecode(full)).read_bytes(),
                stat.S_IMODE(status.st_mode),
                status.st_mtime_ns,
            )

    visit(b"")
    return found


def read_attic(root: Path) -> Counter[bytes]:
    """Return the contents of all files and symlinks in the attic of a destination."""
    entries = read_tree(root / ".twinfold" / "attic").values()
    return Counter(bytes(entry[1]) for entry in entries if isinstance(entry[1], bytes))


def staged_names(root: Path) -> list[str]:
    """Return what lies in the staging area of a destination."""
    return sorted(os.listdir(root / ".twinfold" / "staging"))
