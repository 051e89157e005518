"""Watching on Linux, by inotify, which tells when its queue has overflowed.

inotify names a watched directory by a number. Which path that is, is kept as a tree of nodes, so
that the move of a directory is one change of a parent however much lies below it. The tree may
err only on the safe side:

- A directory's place is taken from the scan that has it open, and verified when it is recorded,
  after all events queued so far: the scan may have been overtaken by a move.
- A move is believed if both its halves arrive and the tree knows what was moved. Otherwise the
  destination is reported as a new tree, whose scan tells the place again.
- A directory whose place is unknown is adrift: what happens in it is kept until its place is
  known, and forgotten with its watches if that takes too long, since it has left the root or
  lies in a tree that was reported as new.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import threading
import time
from collections.abc import Callable

from twinfold.client import inotify_calls as calls
from twinfold.client.watch import Dirty, Gathering, directory_identity, joined
from twinfold.client.watched_tree import Node, NodeTree
from twinfold.model import RESERVED_ROOT_NAME

assert sys.platform == "linux"

# The second half of a move follows within microseconds, unless the machine is very busy.
ADRIFT_S = 1.0
# Each removal queues an event, and the queue must not overflow by our own doing.
REMOVALS_AT_ONCE = 1_000


class InotifyWatcher:
    """Watches every directory it is told of; every event so far is in each `collect`."""

    sees_everything_before_collect = True

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._prefix = os.path.realpath(root).rstrip(b"/") + b"/"
        self._identity = directory_identity(root)
        # Guards all below: the scan's thread and the event loop's both read the queue.
        self._lock = threading.Lock()
        self._tree = NodeTree()
        self._gathered: Gathering[Node] = Gathering()
        self._moved: set[Node] = set()
        self._moves: dict[int, Node] = {}
        self._adrift: dict[Node, float] = {}
        self._doubted: set[Node] = set()
        self._removals: list[int] = []
        self._failure: OSError | None = None
        self._root_gone = False
        self._overflowed = False
        self._ready = False
        self._closed = False
        self._wake: Callable[[], object] | None = None
        self._fd = calls.init()

    @property
    def incomplete(self) -> str | None:
        """Say in one line why some directories are not watched, or None if all are."""
        with self._lock:
            count = self._tree.unwatched
            if count:
                # What is adrift may well be outside of the root.
                count -= sum(n.wd < 0 for top in self._adrift for n in top.subtree())
        if not count:
            return None
        if self._failure is None:
            return f"{count} directories are not watched yet"
        if self._failure.errno == errno.ENOSPC:
            return (
                f"the limit of {calls.watch_limit()} watched directories "
                f"(fs.inotify.max_user_watches) is reached: {count} directories are not watched"
            )
        return f"{count} directories are not watched: {self._failure.strerror}"

    @property
    def root_gone(self) -> bool:
        """Whether the root was moved, deleted, unmounted or replaced since the start."""
        # inotify is silent about a deleted root that someone has open, and about its parents.
        return self._root_gone or directory_identity(self._root) != self._identity

    def watch_directory(self, path: bytes, fd: int | None) -> None:
        """Report from now on what happens in the directory; called before it is listed."""
        opened = None
        if fd is None:
            try:
                fd = opened = calls.open_below(self._root, path)
            except OSError:
                return
        try:
            with self._lock:
                if not self._closed:
                    self._watch(path, fd)
                    if self._ready and self._wake is not None:
                        self._wake()
        finally:
            if opened is not None:
                os.close(opened)

    def collect(self) -> Dirty:
        """Return and forget what is dirty, having read all that is queued."""
        with self._lock:
            if self._closed:
                return Dirty()
            self._drain()
            self._forget_adrift()
            return self._take()

    async def changed(self) -> None:
        """Return as soon as there is something to collect; for one task at a time."""
        while not self._has_news():
            await self._readable()

    def close(self) -> None:
        """End watching; called in the thread of the event loop. A waiting `changed` returns."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._wake is not None:
                asyncio.get_running_loop().remove_reader(self._fd)
                self._wake()
            os.close(self._fd)

    def _has_news(self) -> bool:
        with self._lock:
            if not self._closed:
                self._drain()
            return self._ready or self._closed

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        with self._lock:
            if self._ready or self._closed:
                return
            loop.add_reader(self._fd, woken.set)
            self._wake = lambda: loop.call_soon_threadsafe(woken.set)
        try:
            await woken.wait()
        finally:
            with self._lock:
                self._wake = None
                if not self._closed:
                    loop.remove_reader(self._fd)

    def _watch(self, path: bytes, fd: int) -> None:
        if not path and self._overflowed:
            self._sweep()
        self._drain()
        try:
            wd = calls.add_watch(self._fd, fd)
        except OSError as error:
            self._failure = error
            wd = -1
        node = self._tree.by_watch(wd)
        if node is not None and self._tree.path(node) == path:
            return
        place = self._whereabouts(path, fd)
        if place is None:
            if node is None and wd >= 0:
                self._removals.append(wd)
                self._drain()
        elif not place:
            self._settle_root(wd)
        elif node is not self._tree.root:
            self._settle(wd, place)
            if place != path:
                self._note_tree(self._tree.make(place))

    def _whereabouts(self, path: bytes, fd: int) -> bytes | None:
        """Return the path where the open directory is now, or None if it has none here."""
        try:
            real = os.readlink(calls.proc_path(fd))
        except OSError:
            real = b""
        told = not path or (real == self._prefix + path and not path.endswith(b" (deleted)"))
        if told or self._lies_at(path, fd):
            return path
        if real.startswith(self._prefix):
            if self._lies_at(real[len(self._prefix) :], fd):
                return real[len(self._prefix) :]
        elif calls.is_at(real, fd):
            # Outside of the root: if it comes back, that is an event of its own.
            return None
        if os.fstat(fd).st_nlink:
            self._lose()
        return None

    def _lies_at(self, path: bytes, fd: int) -> bool:
        try:
            found = calls.open_below(self._root, path)
        except OSError:
            return False
        try:
            return calls.is_at(calls.proc_path(found), fd)
        finally:
            os.close(found)

    def _settle_root(self, wd: int) -> None:
        root = self._tree.root
        if root.wd < 0:
            self._tree.set_watch(root, wd)
        elif wd >= 0:
            # Another directory stands where the root was.
            self._root_gone = self._ready = True

    def _settle(self, wd: int, path: bytes) -> None:
        """Record that the watch's directory is at this path."""
        node = self._tree.by_watch(wd)
        if node is not None:
            node.unplace()
            self._adrift.pop(node, None)
        above, _, name = path.rpartition(b"/")
        parent = self._tree.make(above)
        occupant = parent.child(name)
        if occupant is not None and (occupant.wd >= 0 or node is not None):
            self._set_adrift(occupant)
        if node is None:
            node = self._tree.make(path)
            self._tree.set_watch(node, wd)
        else:
            node.place(parent, name)
        if occupant is not None and occupant.wd >= 0:
            # A move that is still to be reported may be the occupant's, not this one's.
            self._doubted.add(node)

    def _sweep(self) -> None:
        """Forget the directories that were deleted while events were lost."""
        self._overflowed = False
        alive = calls.live_watches(self._fd)
        dead = [n for n in self._tree.root.subtree() if n.wd not in alive and n.parent is not None]
        for node in dead:
            if node.top() is self._tree.root:
                self._drop(node)

    def _drain(self) -> None:
        """Take in all that is queued now, and remove the watches that are of no use any more."""
        while True:
            left_bytes = calls.queued_bytes(self._fd)
            while left_bytes > 0:
                data = calls.read_queue(self._fd)
                left_bytes -= len(data)
                for wd, mask, cookie, name in calls.parse_events(data):
                    self._handle(wd, mask, cookie, name)
            if not self._removals:
                return
            for wd in self._removals[:REMOVALS_AT_ONCE]:
                calls.remove_watch(self._fd, wd)
            del self._removals[:REMOVALS_AT_ONCE]

    def _handle(self, wd: int, mask: int, cookie: int, name: bytes) -> None:
        if mask & calls.QUEUE_OVERFLOW:
            self._overflowed = True
            self._lose()
            return
        node = self._tree.by_watch(wd)
        # Without a node the watch was given up: nothing of it is below the root any more.
        if node is None or (node is self._tree.root and name == RESERVED_ROOT_NAME):
            return
        self._ready = True
        if name:
            self._gathered.note_name(node, name)
            if mask & calls.IS_DIRECTORY and mask & calls.NAME_EVENTS:
                self._handle_entry(node, mask, cookie, name)
        elif node is self._tree.root:
            self._handle_root(mask)
        else:
            self._handle_self(node, mask)

    def _handle_entry(self, parent: Node, mask: int, cookie: int, name: bytes) -> None:
        """A directory came to, or went from, a place in a watched one."""
        child = parent.child(name)
        if mask & calls.MOVED_FROM:
            if child is not None:
                self._leave(parent, child, cookie)
        elif mask & calls.DELETE:
            self._gathered.trees.discard((parent, name))
            if child is not None:
                self._drop(child)
        else:
            mover = self._moves.pop(cookie, None) if mask & calls.MOVED_TO else None
            if child is None and mover in self._adrift:
                del self._adrift[mover]
                mover.place(parent, name)
                self._moved.add(mover)
                return
            if child is not None:
                self._set_adrift(child)
            self._gathered.note_tree(parent, name)

    def _leave(self, parent: Node, child: Node, cookie: int) -> None:
        """A directory is moved away; where to is told by the event with the same cookie."""
        believed = child not in self._doubted and (parent, child.name) not in self._gathered.trees
        self._set_adrift(child)
        if believed:
            self._moves[cookie] = child

    def _handle_root(self, mask: int) -> None:
        if mask & (calls.SELF_EVENTS | calls.UNMOUNT | calls.IGNORED):
            self._root_gone = True
            if mask & calls.IGNORED:
                self._tree.set_watch(self._tree.root, -1)
        else:
            self._gathered.note_directory(self._tree.root)

    def _handle_self(self, node: Node, mask: int) -> None:
        if mask & calls.UNMOUNT:
            self._lose()
        if node.parent is not None:
            self._gathered.note_name(node.parent, node.name)
            if mask & calls.MOVE_SELF and node.parent.wd < 0:
                # Nobody could say where it went.
                self._lose()
                self._set_adrift(node)
        if mask & calls.IGNORED:
            self._tree.set_watch(node, -1)
            self._drop(node)

    def _set_adrift(self, node: Node) -> None:
        node.unplace()
        self._doubted.discard(node)
        self._adrift[node] = time.monotonic() + ADRIFT_S

    def _forget_adrift(self) -> None:
        if not self._adrift:
            return
        now = time.monotonic()
        for node in [node for node, until in self._adrift.items() if until <= now]:
            self._drop(node)
        self._moves = {cookie: n for cookie, n in self._moves.items() if n in self._adrift}
        self._drain()

    def _drop(self, top: Node) -> None:
        self._adrift.pop(top, None)
        for node in self._tree.drop(top):
            self._doubted.discard(node)
            if node.wd >= 0:
                self._removals.append(node.wd)

    def _lose(self) -> None:
        self._gathered.lose()
        self._ready = True

    def _note_tree(self, node: Node) -> None:
        if node.parent is not None:
            self._gathered.note_tree(node.parent, node.name)
            self._ready = True

    def _take(self) -> Dirty:
        gathered, self._gathered = self._gathered, Gathering()
        moved, self._moved = self._moved, set()
        self._ready = False
        dirty = Dirty(lost=gathered.lost)
        for node, names in gathered.names.items():
            path = self._tree.path(node)
            if path is not None:
                dirty.names[path] = names
            elif node.top() in self._adrift:
                self._gathered.names[node] = names
        for node, name in gathered.trees:
            path = self._tree.path(node)
            if path is not None:
                dirty.trees.add(joined(path, name))
            elif node.top() in self._adrift:
                self._gathered.note_tree(node, name)
        dirty.moved.update(p for p in map(self._tree.path, moved) if p is not None)
        return dirty
