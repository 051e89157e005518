"""The line between *what* the server keeps and *where* it is kept.

Everything that the server holds is a **node** in one forest with three roots: the
destination tree, the staging area (content on its way in) and the attic (what the tree
no longer shows). Whatever happens to an entry is a rename from one place of the forest to
another, so that a node, and with it the record of where chunks lie, outlives its place.

`Index` remembers the forest, the chunk places, the session and the intents; `Staging` and
`Forest` hold the bytes and perform the steps. Nothing above this line knows of SQL or files.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

from twinfold.core.room import Room
from twinfold.core.session import FolderSession
from twinfold.errors import DestinationError
from twinfold.model import Chunk, Entry, Kind

TREE = 1
STAGING = 2
ATTIC = 3
FIRST_FREE_NODE = 16
"""Ids of the three roots; ids below this one are never given to entries."""

UNREAD = b"unread"
"""Stands for the content of an entry of the attic that is still to be read."""

DOOMED_PREFIX = b"doomed-"
"""Objects of the attic with such names are no longer in the index, and are deleted."""


class DoubtfulIndexError(DestinationError):
    """The system failed while a transaction was being made durable.

    It did not take effect, but should this process end now, the next one may find that it did.
    """


class Node(msgspec.Struct, frozen=True, gc=False):
    """One entry of the forest.

    ``content`` and ``target`` as in `twinfold.model.Entry`. ``inode`` and ``ctime_ns``
    tell the physical object; they are how a node is recognised after a crash, and how
    an edit behind our back is noticed.
    """

    id: int
    parent: int
    name: bytes
    kind: Kind
    mode: int
    mtime_ns: int
    size: int
    content: bytes
    target: bytes
    inode: int
    ctime_ns: int


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a chunk lies: in the file of ``node``, from ``offset`` on."""

    node: int
    offset: int
    size: int


class Location(msgspec.Struct, frozen=True, array_like=True):
    """A name in a directory node."""

    directory: int
    name: bytes


class Rename(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Give the object ``inode`` of ``node`` another location.

    ``replaces`` says that the target held something, which an earlier step set aside;
    otherwise an object found there is not ours and must not be lost.
    """

    node: int
    kind: Kind
    inode: int
    source: Location
    target: Location
    replaces: bool = False


class SetAside(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Keep what stands at ``source`` in the attic under ``name``, and let it be replaced.

    ``inode`` is the object's, ``successor`` that of the one which comes next.
    """

    node: int
    inode: int
    source: Location
    name: bytes
    successor: int


class Attributes(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Give an object its permission bits and mtime (a symlink has none)."""

    node: int
    kind: Kind
    location: Location
    mode: int
    mtime_ns: int


Step = Rename | SetAside | Attributes


class Found(msgspec.Struct, frozen=True):
    """An object that stood in the destination unknown to the index; now in the attic."""

    name: bytes
    location: Location


class Refused(msgspec.Struct, frozen=True):
    """An entry that the file system does not take, and why.

    ``other`` is the name in the same directory that the file system takes for the entry's,
    if that is the reason. ``kept_as`` is what the attic calls the entry's object.
    """

    node: int
    reason: str
    other: bytes
    kept_as: bytes


class Performed(msgspec.Struct, frozen=True):
    """What performing steps told: identities as they are now, and what was in the way."""

    identities: list[tuple[int, int, int]]
    """(node, inode, ctime_ns) of every file renamed or given attributes."""
    found: list[Found]
    refused: list[Refused]


class Looked(msgspec.Struct, frozen=True):
    """What physically stands under a name; ``kind`` is None for what is never synchronised."""

    name: bytes
    kind: Kind | None
    mode: int
    mtime_ns: int
    size: int
    target: bytes
    inode: int
    ctime_ns: int


class DirectoryListing(msgspec.Struct, frozen=True):
    """A directory itself, and what stands in it, by name."""

    itself: Looked
    children: list[Looked]


class IndexTransaction(Protocol):
    """All changes of one commit; durable when the context ends without an error.

    Reads see what the transaction wrote.
    """

    def look_up(self, parent: int, names: Sequence[bytes]) -> None:
        """Look names up together that `child` will be asked for: many at once take less time."""

    def child(self, parent: int, name: bytes) -> Node | None:
        """Return the node of that name, if there is one."""

    def node(self, node_id: int) -> Node | None:
        """Return the node with this id, if there is one."""

    def new_id(self) -> int:
        """Return an id that no node has or had."""

    def save(self, node: Node, moved: bool) -> None:
        """Insert or replace a node; ``moved`` if its parent or name differ from before."""

    def add_places(self, node_id: int, position: int, offset: int, chunks: Sequence[Chunk]) -> None:
        """Record that ``chunks`` lie one after the other in the node's file from ``offset``.

        ``position`` is the first one's number in the file's manifest.
        """

    def cut_places(self, node_id: int, position: int) -> None:
        """Forget the node's chunk places from this number of its manifest on."""

    def manifest(self, node_id: int, position: int, count: int) -> list[Chunk]:
        """Return a stretch of the node's manifest."""

    def add_to_attic(self, node_id: int, path: bytes, removed_ns: int) -> None:
        """Record what a node of the attic was called, and when it left the tree."""

    def add_intents(self, steps: Sequence[Step]) -> None:
        """Record steps that will happen from this commit on."""

    def clear_intents(self) -> None:
        """Forget the intents recorded so far: they are done and durable on the disk."""

    def set_identities(self, identities: Iterable[tuple[int, int, int]]) -> None:
        """Record (node, inode, ctime_ns) as found after steps."""

    def forget(self, node_id: int) -> None:
        """Forget a node, all below it, and their chunk places and attic records."""

    def save_session(self, session: FolderSession) -> None:
        """Record the folder's session: epoch, revision, last batch."""


class Index(Protocol):
    """The server's memory. Writing is for one thread at a time, reading for any."""

    def transaction(self) -> AbstractContextManager[IndexTransaction]:
        """Begin a durable change."""

    @property
    def is_surveyed(self) -> bool:
        """Tell whether the index was ever brought in line with the files."""

    def session(self) -> FolderSession:
        """Return the folder's session as last committed."""

    def known_chunks(self, chunk_ids: Collection[bytes]) -> set[bytes]:
        """Return those of the chunks that some file held when it was last looked at."""

    def places(self, chunk_id: bytes) -> list[Place]:
        """Return places that may hold the chunk; its bytes must be verified there."""

    def some_places(self, chunk_ids: Sequence[bytes]) -> dict[bytes, tuple[Place, Location]]:
        """Return a place of each chunk that `places` may find, and where its file is.

        Maybe not of all of them: one query has only so many rows.
        """

    def node(self, node_id: int) -> Node | None:
        """Return the node with this id, if there is one."""

    def child(self, parent: int, name: bytes) -> Node | None:
        """Return the node of that name, if there is one."""

    def children(self, parent: int) -> list[Node]:
        """Return the nodes in a directory, by name."""

    def location(self, node_id: int) -> Location | None:
        """Return the directory and name of a node, if it is known."""

    def neighbours(self, directory: int, found: bytes, inode: int) -> list[bytes]:
        """Return the names in a directory node that are ``found`` or have this inode."""

    def locate(self, node_id: int) -> tuple[int, list[bytes]] | None:
        """Return (root, names from the root down) of a node, if it is known."""

    def find_content(self, content: bytes) -> int | None:
        """Return a file node with this content id, if one is known."""

    def find_upload(self, name: bytes) -> Node | None:
        """Return the staged node of an upload, if one is known."""

    def manifest(self, node_id: int, position: int, count: int) -> list[Chunk]:
        """Return a stretch of a file's manifest."""

    def intents(self) -> list[Step]:
        """Return the steps not yet known to be durable, in order."""

    def entries(self) -> Iterator[list[Entry]]:
        """Yield the tree's entries in groups, parents before children, the root first."""

    def count_entries(self) -> int:
        """Return how many entries the tree has, without its root."""

    def attic(
        self, removed_before_ns: int | None, most: int | None = None
    ) -> list[tuple[int, bytes]]:
        """Return (node, name) of what left the tree before then, oldest first."""

    def size_below(self, node_id: int) -> tuple[int, int]:
        """Return (entries, bytes) of a node with all below it."""

    def staged(self, extended_before_ns: int | None = None) -> list[tuple[int, bytes]]:
        """Return (node, name) of the uploads in staging that were last extended before then."""

    def close(self) -> None:
        """Let go of the index."""


class Space(Protocol):
    """The room that the destination's file system has, and a part of it that is held back."""

    is_held: bool
    """Whether the reserve is held."""

    def measure(self) -> Room:
        """Return what the file system has for this process."""

    def hold(self) -> bool:
        """Take hold of the reserve unless that is so already; False if there is no room for it."""

    def release(self) -> None:
        """Give the reserve up, for the index to write in."""


class StagedFile(Protocol):
    """A staged file being filled; its bytes come in any order."""

    def write(self, pieces: Iterable[tuple[int, bytes | memoryview]]) -> None:
        """Put verified bytes where they belong; each piece is (offset, bytes)."""

    def clone(self, source: Source, source_offset: int, offset: int, size_bytes: int) -> range:
        """Put bytes of a file at ``offset``, unverified, as blocks that both files share.

        Returns:
            where they lie in this file: the whole blocks of these bytes, maybe none.

        Raises:
            OSError: these files cannot share blocks, or not these.
        """

    def truncate(self, size_bytes: int) -> None:
        """Drop what lies beyond ``size_bytes``."""

    def extend(self, size_bytes: int) -> None:
        """Make sure that the file is at least this long: a hole may be at its end."""

    def holds(self, offset: int, chunk: Chunk) -> bool:
        """Tell whether the chunk lies at ``offset`` already, reading it now."""

    def close(self) -> None:
        """Let go of the file."""


NewFile = tuple[bytes, int, int, tuple[bytes | memoryview, ...]]
"""Name, mode, mtime in ns, and the content in parts of a whole file to stage."""


class Staging(Protocol):
    """Content on its way in; nothing of it can be seen in the tree."""

    def create_files(
        self, files: Sequence[NewFile], directory: bytes = b""
    ) -> tuple[list[tuple[int, int]], OSError | None]:
        """Stage whole small files, by themselves or in a staged directory.

        Returns:
            (inode, ctime_ns) of each, and what hindered the next one.
        """

    def open_file(self, name: bytes, size_bytes: int) -> StagedFile:
        """Stage a file to be filled, or reopen one that has ``size_bytes`` already.

        Raises:
            FileNotFoundError: it is gone, or shorter than that.
        """

    def finish_file(self, name: bytes, size_bytes: int, mode: int, mtime_ns: int) -> int:
        """Give a filled file its attributes; return its inode.

        Raises:
            FileNotFoundError: it is gone, or does not have that size.
        """

    def create_directory(self, name: bytes) -> int:
        """Stage an empty directory; return its inode."""

    def create_symlink(self, name: bytes, target: bytes) -> int:
        """Stage a symlink; return its inode."""

    def discard(self, names: Iterable[bytes]) -> None:
        """Drop staged objects that no commit has taken over, with all in them."""

    def names(self) -> list[bytes]:
        """Return the names of all staged objects."""

    def flush(self, files: Sequence[bytes], filled: Sequence[bytes], others: int) -> bool:
        """Make staged files, directories with all in them, and so many ``others`` durable.

        Returns:
            True if with them all that was done before is durable, renames included.

        Raises:
            OSError: the system could not write; the staged objects are not to be trusted.
        """

    def flush_all(self) -> None:
        """Make all that was done before durable, renames included."""


class Source(Protocol):
    """An open file of the forest that chunks are read from."""

    def fileno(self) -> int:
        """Return its descriptor."""

    def looked(self) -> Looked:
        """Return what the file itself is now; its name is empty."""

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Return up to so many bytes from ``offset`` on."""

    def read_into(self, room: memoryview, offset: int) -> int:
        """Fill ``room`` from ``offset`` on, as far as there is something; return with how much."""

    def fetch(self, offset: int, size_bytes: int) -> None:
        """Have the system bring so many bytes into memory, where it takes such hints."""

    def close(self) -> None:
        """Let go of the file."""


class Opener(Protocol):
    """Opens files of the forest by node; the directories on the way stay open meanwhile.

    For one thread, which sees to it that no step is under way while a file is opened.
    """

    def open_source(self, node_id: int, location: Location | None = None) -> Source:
        """Open the regular file of a node for reading.

        Args:
            node_id: of the file.
            location: where the index had it a moment ago, if it was asked.

        Raises:
            OSError: it is not known, not there, or cannot be read.
        """

    def close(self) -> None:
        """Let go of the directories; they are opened again if more files are."""


class Forest(Protocol):
    """The physical forest."""

    def opener(self, locate: Callable[[int], Location | None]) -> Opener:
        """Return what opens files by node; ``locate`` tells where the index has a node."""

    def open_source(self, root: int, names: Sequence[bytes]) -> Source:
        """Open the regular file at the end of ``names`` for reading.

        Raises:
            OSError: it is not there, or cannot be read.
        """

    def look(self, root: int, names: Sequence[bytes]) -> DirectoryListing:
        """Return what physically stands in a directory; ``.twinfold`` is left out.

        Raises:
            OSError: it is not there, or cannot be read.
        """

    def look_at(self, root: int, names: Sequence[bytes]) -> Looked | None:
        """Return what physically stands under one name (a root itself for none), if anything.

        Raises:
            OSError: it cannot be told.
        """

    def rename_in_attic(self, name: bytes, new_name: bytes) -> None:
        """Give an object of the attic another name."""

    def set_aside(self, names: Sequence[bytes]) -> bytes:
        """Take an object that cannot be synchronised from the tree to the attic.

        Returns:
            Its name there.
        """

    def perform(
        self, steps: Sequence[Step], locate: Callable[[int], Location | None], *, again: bool
    ) -> Performed:
        """Do the steps in order; ``again`` if some may have been done before a crash.

        Args:
            steps: what to do.
            locate: tells where the index has a directory node that no step moves.
            again: steps whose object is not where it was are taken as done.

        Raises:
            DestinationError: an object that a step needs is gone (never with ``again``).
        """

    def purge(self, name: bytes) -> None:
        """Delete an object of the attic with all below it, if it is there.

        Raises:
            OSError: something of it could not be deleted; calling again goes on.
        """
