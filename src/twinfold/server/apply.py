"""Turning the changes of a batch into nodes of the index and steps for the forest.

Nothing is touched here but the index's transaction. What a change replaces or deletes
keeps its node, which goes to the attic with all below it.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from contextlib import suppress

import msgspec

from twinfold.core.manifest import ContentHasher
from twinfold.core.paths import display, is_within, split
from twinfold.errors import ContentMismatchError, LostPlaceError
from twinfold.model import (
    ROOT_PATH,
    Delete,
    ExtendUpload,
    Kind,
    MakeDirectory,
    MakeSymlink,
    Move,
    PutFile,
    SetAttributes,
)
from twinfold.protocol import Refusal
from twinfold.server.barred import Barred
from twinfold.server.lack import Lack
from twinfold.server.staged import StagedBatch, StagedChange, upload_name
from twinfold.storage.interface import (
    ATTIC,
    DOOMED_PREFIX,
    STAGING,
    TREE,
    Attributes,
    IndexTransaction,
    Location,
    Node,
    Refused,
    Rename,
    SetAside,
    Step,
)

_MANIFEST_PAGE = 4_096
_SYMLINK_MODE = 0o777
_FILE = Kind.FILE
"""Looked up once: Python 3.11 takes a quarter of a microsecond to find it in its class."""


class Application:
    """Applies changes in order to one index transaction, and gathers their steps.

    ``refused`` are directories that the file system did not take: what is to come below one
    is refused as well, until the directory is made again. ``unused`` are staged objects that
    turned out not to be needed.
    """

    def __init__(
        self,
        work: IndexTransaction,
        now_ns: int,
        barred: Barred,
        refused: MutableMapping[bytes, None],
    ) -> None:
        self._work = work
        self._barred = barred
        self._now_ns = now_ns
        self._refused = refused
        self._refusals: dict[int, list[Refusal]] = {}
        self._directories: dict[bytes, int] = {ROOT_PATH: TREE}
        self._touched: dict[int, None] = {}
        self._steps: list[Step] = []
        self._emptied: list[StagedChange] = []
        self.unused: list[bytes] = []
        self._origins: dict[int, tuple[tuple[int, int], bytes]] = {}
        self._change = (0, 0)

    def apply(self, batch: StagedBatch) -> None:
        """Apply all changes of a batch.

        Raises:
            LostPlaceError, ProtocolError: a change cannot be applied to what is there.
        """
        self._look_up(batch)
        for index, staged in enumerate(batch.changes):
            self._change = (batch.number, index)
            if staged.refusal is None and not self._barred.is_any and not self._refused:
                self._apply(staged)
            else:
                self._apply_unless_refused(staged)

    def _apply_unless_refused(self, staged: StagedChange) -> None:
        lack = staged.refusal
        if lack is None and self._barred.is_any:
            lack = self._barred.lack_of(staged.change, self._restarts(staged))
        if lack is not None:
            self._refuse(staged, lack)
        elif not self._refused or not self._is_refused(staged):
            self._barred.discard(staged.change)
            self._apply(staged)

    def _look_up(self, batch: StagedBatch) -> None:
        """Have the index look up together what stands where files are replaced or touched."""
        names: dict[bytes, list[bytes]] = {}
        for staged in batch.changes:
            change = staged.change
            if isinstance(change, PutFile | SetAttributes) and staged.directory is None:
                parent, name = split(change.path)
                names.setdefault(parent, []).append(name)
        for path, inside in names.items():
            if len(inside) > 1:
                # A directory that an earlier change of the batch brings is not there yet.
                with suppress(LostPlaceError):
                    self._work.look_up(self._directory(path), inside)

    def _apply(self, staged: StagedChange) -> None:
        change = staged.change
        if isinstance(change, PutFile):
            self._put_file(staged, change)
        elif isinstance(change, SetAttributes):
            self._set_attributes(change)
        elif isinstance(change, MakeDirectory):
            self._make_directory(staged, change)
        elif isinstance(change, MakeSymlink):
            self._make_symlink(staged, change)
        elif isinstance(change, Delete):
            self._delete(change)
        elif isinstance(change, Move):
            self._move(change)
        else:
            self._extend_upload(staged, change)

    def _restarts(self, staged: StagedChange) -> bool:
        """Tell whether a part of an upload builds on nothing but what is there."""
        change = staged.change
        if not isinstance(change, ExtendUpload):
            return False
        node = self._work.child(STAGING, staged.name)
        return change.offset + staged.kept_bytes <= (node.size if node else 0)

    def _refuse(self, staged: StagedChange, lack: Lack) -> None:
        number, index = self._change
        self._refusals.setdefault(number, []).append(Refusal(index, lack.reason, lack.again))
        self._barred.add(staged.change)
        is_kept = staged.name and self._work.child(STAGING, staged.name) is not None
        if staged.name and not is_kept:
            self.unused.append(staged.name)

    def steps(self) -> list[Step]:
        """Return the steps of all changes so far; directories get their attributes last."""
        endings: list[Step] = []
        for node_id in self._touched:
            node = self._work.node(node_id)
            if node is not None:
                location = Location(node.parent, node.name)
                endings.append(
                    Attributes(node.id, Kind.DIRECTORY, location, node.mode, node.mtime_ns)
                )
        return self._steps + [_doom(staged) for staged in self._emptied] + endings

    def refusals(self, refused: Iterable[Refused]) -> dict[int, list[Refusal]]:
        """Return, by number of a batch, its changes that did not take effect."""
        by_batch = {number: list(refusals) for number, refusals in self._refusals.items()}
        for entry in refused:
            if entry.node in self._origins:
                (number, index), _ = self._origins[entry.node]
                refusal = Refusal(index, entry.reason, other=entry.other)
                by_batch.setdefault(number, []).append(refusal)
        return by_batch

    def refused_directories(self, refused: Iterable[Refused]) -> list[bytes]:
        """Return the paths of those of the nodes refused that may be directories."""
        return [
            self._origins[entry.node][1]
            for entry in refused
            if entry.node in self._origins and not entry.kept_as.startswith(DOOMED_PREFIX)
        ]

    def _is_refused(self, staged: StagedChange) -> bool:
        """Tell whether a change puts something below a directory that was refused."""
        change = staged.change
        if not isinstance(change, PutFile | MakeDirectory | MakeSymlink | Move):
            return False
        above = split(change.path)[0]
        while above and above not in self._refused:
            above = split(above)[0]
        if not above:
            self._refused.pop(change.path, None)
            return False
        number, index = self._change
        reason = f"{display(above)} could not be made at the destination"
        self._refusals.setdefault(number, []).append(Refusal(index, reason))
        if isinstance(change, Move):
            self._delete(Delete(change.source))
        else:
            self._drop(staged)
        return True

    def _drop(self, staged: StagedChange) -> None:
        if not staged.name:
            return  # It goes where the new directory goes that it was staged in.
        self.unused.append(staged.name)
        node = self._work.child(STAGING, staged.name)
        if node is not None:
            self._work.forget(node.id)

    def _directory(self, path: bytes) -> int:
        known = self._directories.get(path)
        return known if known is not None else self._find_directory(path)

    def _find_directory(self, path: bytes) -> int:
        below: list[bytes] = []
        ancestor = path
        while ancestor not in self._directories:
            below.append(ancestor)
            ancestor = split(ancestor)[0]
        node_id = self._directories[ancestor]
        for path_below in reversed(below):
            node = self._work.child(node_id, split(path_below)[1])
            if node is None or node.kind is not Kind.DIRECTORY:
                raise LostPlaceError(f"{display(path_below)} is no directory at the destination")
            node_id = self._directories[path_below] = node.id
        return node_id

    def _find(self, path: bytes) -> Node:
        parent, name = split(path)
        node = self._work.child(self._directory(parent), name)
        if node is None:
            raise LostPlaceError(f"{display(path)} is not at the destination")
        return node

    def _forget_directories(self, path: bytes) -> None:
        for known in [known for known in self._directories if is_within(known, path)]:
            del self._directories[known]

    def _put_file(self, staged: StagedChange, change: PutFile) -> None:
        parent, name = split(change.path)
        directory = self._directory(parent)
        node_id = self._uploaded(change) if change.upload else self._work.new_id()
        node = Node(
            node_id,
            directory,
            name,
            _FILE,
            change.mode,
            change.mtime_ns,
            change.size,
            change.content,
            b"",
            staged.inode,
            staged.ctime_ns if staged.is_in_directory else 0,
        )
        if staged.chunks:
            self._work.add_places(node_id, 0, 0, staged.chunks)
        if staged.is_in_directory and _lies_in(staged, directory):
            # It has no step of its own, and nothing can have been there in its way.
            self._work.save(node, moved=True)
            return
        self._place(node, _source_of(node, staged), change.path)

    def _uploaded(self, change: PutFile) -> int:
        node = self._work.child(STAGING, upload_name(change.upload))
        if node is None or node.size != change.size:
            raise LostPlaceError(f"the upload of {display(change.path)} is not complete")
        hasher = ContentHasher()
        position = 0
        while page := self._work.manifest(node.id, position, _MANIFEST_PAGE):
            hasher.add(page)
            position += len(page)
        if hasher.content_id() != change.content:
            raise ContentMismatchError(f"{display(change.path)} has another content than its parts")
        return node.id

    def _make_directory(self, staged: StagedChange, change: MakeDirectory) -> None:
        parent, name = split(change.path)
        directory = self._directory(parent)
        there = self._work.child(directory, name)
        if there is not None and there.kind is Kind.DIRECTORY:
            self._set_directory_attributes(there, change.mode, change.mtime_ns)
            if staged.is_filled:
                # Its files are renamed out of it first.
                staged.node = self._work.new_id()
                self._emptied.append(staged)
            else:
                self.unused.append(staged.name)
            return
        node = Node(
            self._work.new_id(),
            directory,
            name,
            Kind.DIRECTORY,
            change.mode,
            change.mtime_ns,
            0,
            b"",
            b"",
            staged.inode,
            0,
        )
        staged.node = node.id
        self._place(node, Location(STAGING, staged.name), change.path)
        self._directories[change.path] = node.id
        self._touched[node.id] = None

    def _make_symlink(self, staged: StagedChange, change: MakeSymlink) -> None:
        parent, name = split(change.path)
        node = Node(
            self._work.new_id(),
            self._directory(parent),
            name,
            Kind.SYMLINK,
            _SYMLINK_MODE,
            0,
            len(change.target),
            b"",
            change.target,
            staged.inode,
            0,
        )
        self._place(node, Location(STAGING, staged.name), change.path)

    def _place(self, node: Node, source: Location, path: bytes) -> None:
        """Bring a node from ``source`` to the location it says, whatever is there now."""
        there = self._work.child(node.parent, node.name)
        replaces = False
        if there is not None and there.id != node.id:
            replaces = Kind.DIRECTORY not in (there.kind, node.kind)
            self._put_in_attic(there, path, node.inode if replaces else None)
        self._work.save(node, moved=True)
        self._origins[node.id] = self._change, path
        target = Location(node.parent, node.name)
        if source != target:
            self._steps.append(Rename(node.id, node.kind, node.inode, source, target, replaces))
        self._touched[node.parent] = None

    def _put_in_attic(self, node: Node, path: bytes, successor: int | None) -> None:
        """Send a node to the attic; with a ``successor`` its name is never absent."""
        name = b"%d" % node.id
        source = Location(node.parent, node.name)
        if successor is not None:
            self._steps.append(SetAside(node.id, node.inode, source, name, successor))
        else:
            target = Location(ATTIC, name)
            self._steps.append(Rename(node.id, node.kind, node.inode, source, target))
        if node.kind is Kind.DIRECTORY:
            self._forget_directories(path)
        self._work.save(msgspec.structs.replace(node, parent=ATTIC, name=name), moved=True)
        self._work.add_to_attic(node.id, path, self._now_ns)

    def _delete(self, change: Delete) -> None:
        parent, name = split(change.path)
        node = self._work.child(self._directory(parent), name)
        if node is None:
            return
        self._touched[node.parent] = None
        self._put_in_attic(node, change.path, None)

    def _move(self, change: Move) -> None:
        node = self._find(change.source)
        parent, name = split(change.path)
        directory = self._directory(parent)
        self._touched[node.parent] = None
        source = Location(node.parent, node.name)
        if node.kind is Kind.DIRECTORY:
            self._forget_directories(change.source)
            self._touched[node.id] = None
        moved = msgspec.structs.replace(node, parent=directory, name=name)
        self._place(moved, source, change.path)

    def _set_attributes(self, change: SetAttributes) -> None:
        if change.path == ROOT_PATH:
            node = self._work.node(TREE)
            assert node is not None
        else:
            node = self._find(change.path)
        if node.kind is Kind.DIRECTORY:
            self._set_directory_attributes(node, change.mode, change.mtime_ns)
        elif node.kind is Kind.FILE:
            changed = msgspec.structs.replace(node, mode=change.mode, mtime_ns=change.mtime_ns)
            self._work.save(changed, moved=False)
            location = Location(node.parent, node.name)
            self._steps.append(
                Attributes(node.id, Kind.FILE, location, change.mode, change.mtime_ns)
            )

    def _set_directory_attributes(self, node: Node, mode: int, mtime_ns: int) -> None:
        self._work.save(msgspec.structs.replace(node, mode=mode, mtime_ns=mtime_ns), moved=False)
        self._touched[node.id] = None

    def _extend_upload(self, staged: StagedChange, change: ExtendUpload) -> None:
        node = self._work.child(STAGING, staged.name)
        fresh = staged.chunks[staged.kept :]
        if node is not None and not fresh:
            return
        size_bytes = change.offset + sum(chunk.size for chunk in staged.chunks)
        begin = change.offset + staged.kept_bytes
        if begin > (node.size if node else 0):
            raise LostPlaceError("an upload goes on beyond its end")
        if node is None:
            node = Node(
                self._work.new_id(), STAGING, staged.name, Kind.FILE, 0, 0, 0, b"", b"", 0, 0
            )
        elif begin < node.size:
            self._work.cut_places(node.id, staged.position + staged.kept)
        self._work.add_places(node.id, staged.position + staged.kept, begin, fresh)
        node = msgspec.structs.replace(node, size=size_bytes, mtime_ns=self._now_ns)
        self._work.save(node, moved=False)


def _lies_in(staged: StagedChange, directory: int) -> bool:
    """Tell whether a file was staged in what has become this directory."""
    return staged.directory is not None and staged.directory.node == directory


def _source_of(node: Node, staged: StagedChange) -> Location:
    """Return where a new file was staged."""
    if not staged.is_in_directory:
        return Location(STAGING, staged.name)
    if staged.directory is None or not staged.directory.node:
        raise LostPlaceError("a file was staged in a directory that was not made")
    return Location(staged.directory.node, node.name)


def _doom(staged: StagedChange) -> Rename:
    """Return the step that takes away a staged directory which was emptied."""
    source = Location(STAGING, staged.name)
    target = Location(ATTIC, DOOMED_PREFIX + b"%d" % staged.node)
    return Rename(staged.node, Kind.DIRECTORY, staged.inode, source, target)
