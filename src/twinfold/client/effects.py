"""What an acknowledged change does to the client's state."""

from __future__ import annotations

import msgspec


class Node(msgspec.Struct, frozen=True, gc=False):
    """One row of the state: an entry as it was acknowledged, and what it was read from.

    ``manifest`` numbers the stored manifest of a big file, 0 where none is kept.
    """

    id: int
    parent: int
    name: bytes
    kind: int
    mode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    dev: int
    inode: int
    content: bytes = b""
    target: bytes = b""
    manifest: int = 0


class Insert(msgspec.Struct, frozen=True, gc=False):
    """A new entry."""

    node: Node


class Update(msgspec.Struct, frozen=True, gc=False):
    """An entry has new content or attributes; its kind and its place are the same."""

    node: Node


class Relocate(msgspec.Struct, frozen=True):
    """An entry, with all below it, has another name or parent."""

    node: int
    parent: int
    name: bytes


class Remove(msgspec.Struct, frozen=True):
    """An entry is gone, with all below it."""

    node: int


class SaveSegment(msgspec.Struct, frozen=True):
    """A stretch of a big file's manifest: concatenated chunk ids."""

    manifest: int
    index: int
    chunk_ids: bytes


Effect = Insert | Update | Relocate | Remove | SaveSegment
