"""The data that both ends speak of: entries, chunks, changes.

Paths are ``bytes``, relative to the folder, components joined by ``/``; the folder itself
is ``b""``. Times are integers in nanoseconds since 1970, sizes integers in bytes.

What there is one of a file or more is out of the garbage collector's sight (``gc=False``): it is
in no cycle.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

import msgspec

ROOT_PATH = b""

CHUNK_ID_SIZE_BYTES = 32
"""A chunk's identity is its BLAKE3-256 digest."""

UPLOAD_ID_SIZE_BYTES = 16

PERMISSION_BITS = 0o777

RESERVED_ROOT_NAME = b".twinfold"
"""The server's own folder in the destination; never an entry of a source's root."""


Natural = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Int64 = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
"""What the client's state can keep; anything else from the wire is malformed."""


class Kind(IntEnum):
    """The types of entry that are synchronised."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3


class Chunk(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A piece of a file: the BLAKE3-256 digest of its bytes, and how many there are."""

    id: bytes
    size: int


class Copy(msgspec.Struct, frozen=True, array_like=True):
    """A part of a recipe: ``size`` bytes from ``offset`` of the recipe's ``base``-th base on."""

    base: int
    offset: int
    size: int


class Recipe(msgspec.Struct, frozen=True, array_like=True):
    """How to build a chunk out of other chunks.

    Each of ``parts`` in order is so many bytes of ``literal``, or a copy. ``literal`` is plain
    if it is as long as these together; otherwise it is packed as one zstd frame, whose
    dictionary (raw content) is what the copies give, one after the other.
    """

    id: bytes
    size: int
    bases: list[Chunk]
    parts: list[int | Copy]
    literal: bytes


class Run(msgspec.Struct, frozen=True, array_like=True):
    """A stretch of a manifest written as a difference to a base content.

    First ``keep_count`` chunks of the base from index ``keep_start`` on, then ``chunks``.
    """

    keep_start: int
    keep_count: int
    chunks: list[Chunk]


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One name in a folder, as it is compared.

    ``content`` is a file's content id, ``target`` a symlink's text; both empty otherwise.
    """

    path: bytes
    kind: Kind
    mode: Natural
    mtime_ns: Int64
    size: Natural
    content: bytes
    target: bytes


class PutFile(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """Make ``path`` a regular file with this content, replacing whatever is there.

    The content is ``chunks`` in order, or, where ``upload`` is not empty, what the
    changes `ExtendUpload` gathered under that id; ``content`` is the content id.
    """

    path: bytes
    mode: int
    mtime_ns: int
    size: int
    content: bytes
    chunks: list[Chunk]
    upload: bytes = b""


class ExtendUpload(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Append to an upload, the staged content of a file too large for one batch.

    ``offset`` is where this part begins in the file, in bytes; what an earlier attempt
    left beyond it is dropped unless it is the same. ``base`` is the content id that the
    kept chunks of ``runs`` are taken from (empty if none are kept). ``left_bytes`` is about
    what the file takes on a disk from ``offset`` to its end (0 if that is not known), so that
    one that does not fit can be refused before it is sent.
    """

    upload: bytes
    offset: int
    base: bytes
    runs: list[Run]
    left_bytes: int = 0


class MakeDirectory(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Make ``path`` a directory, replacing whatever else is there."""

    path: bytes
    mode: int
    mtime_ns: int


class MakeSymlink(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Make ``path`` a symbolic link whose text is ``target``, replacing what is there."""

    path: bytes
    target: bytes


class Move(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Give the entry at ``source``, with all below it, the name ``path``."""

    source: bytes
    path: bytes


class Delete(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Take away the entry at ``path``, with all below it."""

    path: bytes


class SetAttributes(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Give the file or directory at ``path`` these permission bits and this mtime."""

    path: bytes
    mode: int
    mtime_ns: int


Change = PutFile | ExtendUpload | MakeDirectory | MakeSymlink | Move | Delete | SetAttributes
