"""What a scan may plan: nothing for what stayed as it was, moves for moves, no byte twice."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import os
import stat
from pathlib import Path
from typing import NamedTuple

from twinfold.client.batch import Batch
from twinfold.client.pieces import Stretch
from twinfold.client.state import ROOT_NODE, State
from twinfold.core.chunking import chunk_id, cut_lengths
from twinfold.core.manifest import content_id
from twinfold.core.paths import is_within, join, split
from twinfold.core.planning import DIRECTORY, FILE, SYMLINK
from twinfold.model import Change, Chunk, Delete, MakeDirectory, MakeSymlink, Move, PutFile


class Row(NamedTuple):
    """An entry: as acknowledged, or as it is; ``inode`` is 0 where that is not known.

    ``content`` is a file's content id or a symlink's text, ``links`` 0 of what is acknowledged.
    """

    kind: int
    inode: int
    content: bytes
    links: int = 0

    def is_same(self, now: Row | None) -> bool:
        """Tell whether the entry is still this one, with the same content."""
        return (
            now is not None
            and (self.kind, self.content) == (now.kind, now.content)
            and self.inode in (0, now.inode)
        )


class Plan:
    """The changes of one scan, checked for content that is sent in vain."""

    def __init__(self, acknowledged: set[bytes]) -> None:
        self.changes: list[Change] = []
        self._had = acknowledged

    def add(self, batch: Batch) -> None:
        """Take note of a batch."""
        self.changes += batch.changes
        for chunk, piece in batch.pieces.items():
            if not isinstance(piece, Stretch):
                assert chunk not in self._had, "content is sent that the server has"
                self._had.add(chunk)


def rows_of(state: State) -> dict[bytes, Row]:
    """Return what is acknowledged, by path."""
    found: dict[bytes, Row] = {}
    due = [(ROOT_NODE, b"")]
    while due:
        node, path = due.pop()
        for name, known in state.children(node).items():
            below = join(path, name)
            inode = known.identity[1]
            found[below] = Row(known.kind, inode, known.content or known.target)
            if known.kind == DIRECTORY:
                due.append((known.node, below))
    return found


def rows_at(root: Path) -> dict[bytes, Row]:
    """Return what there is in a folder, by path."""
    found: dict[bytes, Row] = {}
    due = [b""]
    while due:
        path = due.pop()
        for name in os.listdir(os.path.join(os.fsencode(root), path)):
            below = join(path, name)
            at = os.path.join(os.fsencode(root), below)
            status = os.lstat(at)
            kind, content = _look_into(at, status.st_mode)
            found[below] = Row(kind, status.st_ino, content, status.st_nlink)
            if kind == DIRECTORY:
                due.append(below)
    return found


def _look_into(at: bytes, mode: int) -> tuple[int, bytes]:
    if stat.S_ISDIR(mode):
        return DIRECTORY, b""
    if stat.S_ISLNK(mode):
        return SYMLINK, os.readlink(at)
    data = memoryview(Path(os.fsdecode(at)).read_bytes())
    chunks, start = [], 0
    for length in cut_lengths(data, True):
        chunks.append(Chunk(chunk_id(data[start : start + length]), length))
        start += length
    return FILE, content_id(chunks)


def check_plan(plan: Plan, before: dict[bytes, Row], root: Path, *, all_is_seen: bool) -> int:
    """Check a plan that led from what was acknowledged to what there is.

    Returns:
        How many moves it had to find.
    """
    now = rows_at(root)
    staying = {path for path in before if _stays(path, before, now)}
    for change in plan.changes:
        if isinstance(change, PutFile | MakeSymlink | MakeDirectory | Delete | Move):
            assert change.path not in staying, f"{change} although it stays what it is"
        if isinstance(change, Move):
            assert change.source not in staying, f"{change} although it stays where it is"
    if not all_is_seen:
        return 0
    moves = {change.path for change in plan.changes if isinstance(change, Move)}
    demanded = {path for path in now if _is_move(path, before, now, staying)}
    assert demanded <= moves, f"no moves to {demanded - moves}: {plan.changes}"
    return len(demanded)


def _stays(path: bytes, before: dict[bytes, Row], now: dict[bytes, Row]) -> bool:
    while path:
        if path not in before or not before[path].is_same(now.get(path)):
            return False
        path = split(path)[0]
    return True


def _is_move(
    path: bytes, before: dict[bytes, Row], now: dict[bytes, Row], staying: set[bytes]
) -> bool:
    """Tell whether what is at a path can only have come by a rename from where it is gone."""
    row = now[path]
    origins = [old for old in before if before[old].inode == row.inode]
    if path in before or row.kind == SYMLINK or len(origins) != 1:
        return False
    if row.kind == FILE and row.links > 1:
        return False
    origin = origins[0]
    above = split(origin)[0]
    return (
        before[origin].is_same(row)
        and origin not in now
        and not is_within(path, origin)
        and (not above or above in staying)
        and _is_place_clear(split(path)[0], before, now, staying)
    )


def _is_place_clear(
    path: bytes, before: dict[bytes, Row], now: dict[bytes, Row], staying: set[bytes]
) -> bool:
    """Tell whether a directory is the one that it was, or a new one in such a directory."""
    inodes = {row.inode for row in before.values()}
    while path and path not in staying:
        if path in before or now[path].inode in inodes:
            return False
        path = split(path)[0]
    return True
