"""Files and symlinks: read stably, compared with what was acknowledged, put into batches."""

from __future__ import annotations

import os
from collections.abc import Sequence

from twinfold.client.batch import BatchBuilder
from twinfold.client.effects import Effect, Insert, Node, Relocate, Update
from twinfold.client.moves import MoveFinder, Origin
from twinfold.client.read import WHOLE_BYTES, Cut, Reader, content_of, settled
from twinfold.client.shortage import NoRoomError, Shortage
from twinfold.client.state import State, segment_of
from twinfold.client.straight import StraightPlanner
from twinfold.client.subblocks import draft_for
from twinfold.client.tree import Directory
from twinfold.client.uploads import Uploader
from twinfold.core.planning import Facts, Known, ListedEntry, differs_in_attributes
from twinfold.model import Change, MakeSymlink, Move, PutFile, SetAttributes


class FilePlanner:
    """Turns new and changed files and symlinks into changes.

    Its methods raise `UnsettledError` where the file is to be tried again later, and OSError
    where it cannot be read.
    """

    def __init__(
        self,
        state: State,
        builder: BatchBuilder,
        reader: Reader,
        uploader: Uploader,
        moves: MoveFinder,
        shortage: Shortage,
    ) -> None:
        self._state = state
        self._builder = builder
        self._reader = reader
        self._uploader = uploader
        self._moves = moves
        self._shortage = shortage
        self._straight = StraightPlanner(state, builder, reader, moves, shortage)

    def read_ahead(self, directory: Directory, files: Sequence[ListedEntry]) -> bool:
        """Read small files together that will be put next; tell whether the disk was slow."""
        return self._reader.read_ahead(directory, files)

    def plan_straight(self, path: bytes, parent: int, files: Sequence[ListedEntry]) -> int:
        """Put new files of a directory that were read ahead; return how many, from the first on.

        The one after these is for `plan_fresh`, or no file.
        """
        return self._straight.plan(path, parent, files)

    def plan_fresh(
        self,
        directory: Directory,
        path: bytes,
        parent: int,
        name: bytes,
        facts: Facts,
        replacing: tuple[Effect, ...] = (),
    ) -> None:
        """Put a name that was not there before: a move if its content comes along, else a file."""
        origin = None if replacing else self._moves.find(facts, path)
        expected = origin.known if origin else None
        is_short = origin is None and self._shortage.is_short_of(facts[2])
        read = None if is_short else self._read(directory, path, name, facts, expected)
        if read is None:
            self._shortage.note(path, facts[2])
            return
        now, content, cuts, manifest, upload, effects = read
        if origin is not None and _has_content(origin.known, now, content):
            self._move(origin, path, parent, name, now)
            return
        node = _node(self._state.allocate_node(), parent, name, now, content, manifest)
        self._put(path, now, content, cuts, upload, expected, *replacing, *effects, Insert(node))

    def plan_changed(
        self,
        directory: Directory,
        path: bytes,
        parent: int,
        name: bytes,
        facts: Facts,
        known: Known,
    ) -> None:
        """Read a file that may have changed, and send what did: content, attributes, nothing."""
        is_short = self._shortage.is_short_of(facts[2])
        read = None if is_short else self._read(directory, path, name, facts, known)
        if read is None:
            self._shortage.note(path, facts[2])
            return
        now, content, cuts, manifest, upload, effects = read
        if not _has_content(known, now, content):
            node = _node(known.node, parent, name, now, content, manifest)
            self._put(path, now, content, cuts, upload, known, *effects, Update(node))
            return
        self._builder.make_room(0)
        node = _node(known.node, parent, name, now, content, known.manifest)
        self._builder.add(_attributes(path, now, known), Update(node))

    def plan_fresh_link(
        self,
        directory: Directory,
        path: bytes,
        parent: int,
        name: bytes,
        facts: Facts,
        replacing: tuple[Effect, ...] = (),
    ) -> None:
        """Put a symlink that was not there before."""
        target = directory.read_link(name)
        row = Node(self._state.allocate_node(), parent, name, *facts, target=target)
        self._add_link(MakeSymlink(path, target), *replacing, Insert(row))

    def plan_changed_link(
        self,
        directory: Directory,
        path: bytes,
        parent: int,
        name: bytes,
        facts: Facts,
        known: Known,
    ) -> None:
        """Put a symlink again if it leads elsewhere now."""
        target = directory.read_link(name)
        change = MakeSymlink(path, target) if target != known.target else None
        self._add_link(change, Update(Node(known.node, parent, name, *facts, target=target)))

    def _add_link(self, change: MakeSymlink | None, *effects: Effect) -> None:
        size_bytes = len(change.path) + len(change.target) if change else 0
        self._builder.make_room(0)
        self._builder.add(change, *effects, header_bytes=size_bytes)

    def _read(
        self,
        directory: Directory,
        path: bytes,
        name: bytes,
        facts: Facts,
        expected: Known | None,
    ) -> tuple[Facts, bytes, list[Cut], int, bytes, list[Effect]] | None:
        """Return (settled facts, content id, chunks, manifest, upload, its effects) of a file.

        None if the destination has no room for it.
        """
        ahead = self._reader.take((name, *facts))
        if ahead is not None:
            content, cuts = content_of(ahead)
            return facts, content, cuts, *self._manifest_of(cuts)
        fd, now = self._reader.open(directory, name, facts)
        try:
            if now.size <= WHOLE_BYTES:
                content, cuts = self._reader.whole(fd, now)
                return settled(now), content, cuts, *self._manifest_of(cuts)
            uploaded = self._uploader.upload(fd, now, path, expected)
        except NoRoomError:
            return None
        finally:
            os.close(fd)
        now = settled(now)
        return now, uploaded.content, [], uploaded.manifest, uploaded.upload, uploaded.effects

    def _manifest_of(self, cuts: list[Cut]) -> tuple[int, bytes, list[Effect]]:
        """Return (manifest, no upload, effects) of a file that comes as a whole."""
        segment = segment_of(self._state, [chunk for chunk, _ in cuts])
        return (segment.manifest, b"", [segment]) if segment else (0, b"", [])

    def _move(self, origin: Origin, path: bytes, parent: int, name: bytes, facts: Facts) -> None:
        known = origin.known
        self._moves.moved.add(known.node)
        self._builder.make_room(0)
        self._builder.add(
            Move(origin.path, path), Relocate(known.node, parent, name), header_bytes=2 * len(path)
        )
        node = _node(known.node, parent, name, facts, known.content, known.manifest)
        self._builder.add(_attributes(path, facts, known), Update(node))

    def _put(
        self,
        path: bytes,
        facts: Facts,
        content: bytes,
        cuts: list[Cut],
        upload: bytes,
        before: Known | None,
        *effects: Effect,
    ) -> None:
        builder = self._builder
        builder.make_room(0 if upload else facts[2])
        builder.add_content(cuts, path)
        builder.let_go_of(cuts)
        if cuts and before is not None:
            draft = draft_for(before, cuts, builder.new_rows)
            if draft is not None:
                builder.draft_recipes(draft)
        chunks = [chunk for chunk, _ in cuts]
        change = PutFile(path, facts[1], facts[3], facts[2], content, chunks, upload)
        builder.add(change, *effects, header_bytes=len(path))


def _node(node: int, parent: int, name: bytes, facts: Facts, content: bytes, manifest: int) -> Node:
    return Node(node, parent, name, *facts, content, b"", manifest)


def _attributes(path: bytes, facts: Facts, known: Known) -> Change | None:
    if differs_in_attributes(facts, known):
        return SetAttributes(path, facts.mode, facts.mtime_ns)
    return None


def _has_content(known: Known, facts: Facts, content: bytes) -> bool:
    return known.content == content and known.size == facts.size
