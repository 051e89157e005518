"""Learning what an object of the attic holds, so that none of it has to be sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from twinfold.core.chunking import Chunker, chunk_id
from twinfold.core.manifest import ContentHasher
from twinfold.model import Chunk, Kind
from twinfold.storage.interface import ATTIC, Forest, IndexTransaction, Looked, Node, Source

_READ_BYTES = 1 << 20
_RECORDS_A_GROUP = 1_000


class Stretch(NamedTuple):
    """Chunks that lie one after the other in a file, from ``offset`` on."""

    position: int
    offset: int
    chunks: list[Chunk]


def read_chunks(source: Source, hasher: ContentHasher) -> Iterator[Stretch]:
    """Yield where the chunks of an open file lie; ``hasher`` knows its content id then."""
    chunker = Chunker()
    offset = written = position = 0
    while True:
        data = source.read(offset, _READ_BYTES)
        offset += len(data)
        pieces = chunker.feed(data) if data else chunker.finish()
        chunks = [Chunk(chunk_id(piece), len(piece)) for piece in pieces]
        hasher.add(chunks)
        yield Stretch(position, written, chunks)
        position += len(chunks)
        written += sum(chunk.size for chunk in chunks)
        if not data:
            return


class Record(NamedTuple):
    """Something to be recorded: a node, or chunks of one.

    Nodes below the first are numbered from -1 down until they get an id.
    """

    node: Node
    stretch: Stretch | None = None


def read_object(forest: Forest, top: Node, breathe: Callable[[], None]) -> Iterator[list[Record]]:
    """Yield what an object of the attic holds, in groups to be recorded one after the other.

    What cannot be read is left out. ``breathe`` is called every now and then.
    """
    group: list[Record] = []
    last = 0
    due: list[tuple[Node, list[bytes]]] = [(top, [top.name])]
    while due:
        node, names = due.pop()
        if node.kind is Kind.FILE:
            for record in _read_file(forest, node, names):
                breathe()
                group.append(record)
                if len(group) >= _RECORDS_A_GROUP:
                    yield group
                    group = []
            continue
        for child in _children(forest, names):
            breathe()
            last -= 1
            below = _node(last, node.id, child)
            group.append(Record(below))
            if child.kind in (Kind.FILE, Kind.DIRECTORY):
                due.append((below, [*names, child.name]))
    if top.kind is Kind.DIRECTORY:
        group.append(Record(msgspec.structs.replace(top, content=b"")))
    yield group


def _children(forest: Forest, names: list[bytes]) -> list[Looked]:
    try:
        return forest.look(ATTIC, names).children
    except OSError:
        return []


def _read_file(forest: Forest, node: Node, names: list[bytes]) -> Iterator[Record]:
    try:
        source = forest.open_source(ATTIC, names)
    except OSError:
        return
    hasher = ContentHasher()
    size_bytes = 0
    try:
        for stretch in read_chunks(source, hasher):
            size_bytes = stretch.offset + sum(chunk.size for chunk in stretch.chunks)
            yield Record(node, stretch)
    except OSError:
        return
    finally:
        source.close()
    yield Record(msgspec.structs.replace(node, size=size_bytes, content=hasher.content_id()))


def _node(node_id: int, parent: int, looked: Looked) -> Node:
    kind = looked.kind or Kind.FILE
    size_bytes = looked.size if looked.kind is Kind.FILE else 0
    return Node(
        node_id,
        parent,
        looked.name,
        kind,
        looked.mode,
        looked.mtime_ns,
        size_bytes,
        b"",
        looked.target,
        looked.inode,
        0,
    )


def record(work: IndexTransaction, records: list[Record], ids: dict[int, int]) -> None:
    """Write a group into the index; ``ids`` is kept from one group to the next.

    What was taken out of the attic meanwhile is left out.
    """
    for node, stretch in records:
        node_id = ids.get(node.id, node.id)
        known = work.node(node_id) if node_id > 0 else None
        if stretch is not None:
            if known is not None:
                work.add_places(node_id, stretch.position, stretch.offset, stretch.chunks)
        elif known is not None:
            work.save(
                msgspec.structs.replace(known, size=node.size, content=node.content), moved=False
            )
        else:
            parent = ids.get(node.parent, node.parent)
            if node_id < 0 and parent > 0 and work.node(parent) is not None:
                ids[node.id] = work.new_id()
                work.save(msgspec.structs.replace(node, id=ids[node.id], parent=parent), moved=True)
