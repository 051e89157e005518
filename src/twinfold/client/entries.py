"""Planning what is in one directory: each name that is new, changed, moved or replaced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from twinfold.client.effects import Relocate, Remove
from twinfold.client.guard import Absences, Taken
from twinfold.client.levels import Child
from twinfold.client.notes import Notes
from twinfold.client.prefetch import Prefetcher
from twinfold.client.read import UnsettledError, check_stop, windows
from twinfold.client.tools import Tools
from twinfold.client.tree import Directory
from twinfold.core.paths import MAX_PATH_BYTES, join, split
from twinfold.core.planning import (
    DIRECTORY,
    SYMLINK,
    Facts,
    Known,
    ListedEntry,
    compare_directory,
)
from twinfold.model import Move


class EntryPlanner:
    """Plans the entries of the directories that one scan comes to.

    Args:
        tools: what the scan works with.
        notes: is told of what cannot be looked at.
        absences: is told of what vanished, or lost its place.
        prefetcher: is woken where the disk had to be waited for.
    """

    def __init__(
        self, tools: Tools, notes: Notes, absences: Absences, prefetcher: Prefetcher
    ) -> None:
        self._tools = tools
        self._notes = notes
        self._absences = absences
        self._prefetcher = prefetcher

    def plan(
        self,
        directory: Directory,
        path: bytes,
        node: int,
        entries: list[ListedEntry],
        known: dict[bytes, Known],
        deletions: bool,
    ) -> list[Child]:
        """Plan what is new or changed in a directory; return the directories in it."""
        differences = compare_directory(entries, self._without_left(path, known))
        children: list[Child] = []
        for name in differences.others:
            self._tools.problems.clear_below(join(path, name))
            self._notes.problem(join(path, name), "is a FIFO, socket or device")
        for window in self._windows(directory, differences.fresh):
            self._plan_fresh_window(directory, path, node, window, children)
        for name, facts, before in differences.replaced:
            self._tools.problems.clear_below(join(path, name))
            if before.kind == DIRECTORY and self._tools.state.count_below(before.node) > 1:
                self._absences.taken.append(Taken(node, name, before.node))
                continue
            gone = () if self._has_left(before.node, path, name) else (Remove(before.node),)
            self.plan_fresh(directory, path, node, name, facts, children, gone)
        listed = [(name, *facts) for name, facts, _ in differences.changed]
        changed = chain.from_iterable(self._windows(directory, listed))
        for _, (name, facts, before) in zip(changed, differences.changed, strict=True):
            if self._has_left(before.node, path, name):
                self.plan_fresh(directory, path, node, name, facts, children)
            else:
                self._plan_changed(directory, path, node, name, facts, before)
        for name, facts, before in differences.directories:
            if self._has_left(before.node, path, name):
                self.plan_fresh(directory, path, node, name, facts, children)
            else:
                children.append(Child(name, node, before.node, facts, before))
        if deletions:
            self._absences.add_gone(before.node for before in differences.vanished)
        return children

    def _windows(
        self, directory: Directory, files: Sequence[ListedEntry]
    ) -> Iterator[Sequence[ListedEntry]]:
        """Yield the files in windows; those of a window that are small are read together before."""
        for window in windows(files):
            if self._tools.files.read_ahead(directory, window):
                self._prefetcher.wake()
            yield window

    def _plan_fresh_window(
        self,
        directory: Directory,
        path: bytes,
        node: int,
        window: Sequence[ListedEntry],
        children: list[Child],
    ) -> None:
        """Plan what is new: file by file only where the straight way stops."""
        done = 0
        while done < len(window):
            check_stop(self._tools.stop)
            if self._tools.problems.refusals.is_empty:
                done += self._tools.files.plan_straight(path, node, window[done:])
            if done < len(window):
                name, *facts = window[done]
                self.plan_fresh(directory, path, node, name, Facts._make(facts), children)
                done += 1

    def plan_fresh(
        self,
        directory: Directory,
        parent: bytes,
        node: int,
        name: bytes,
        facts: Facts,
        children: list[Child],
        replacing: tuple[Remove, ...] = (),
    ) -> None:
        """Plan one name that was not there before, or takes another entry's place."""
        check_stop(self._tools.stop)
        path = join(parent, name)
        refusal = self._tools.problems.refusals.reason(path, facts)
        if refusal is not None:
            self._notes.problem(path, refusal)
            return
        try:
            if len(path) > MAX_PATH_BYTES:
                self._notes.problem(path, "has a path too long to be sent")
            elif facts.kind == DIRECTORY:
                children.append(self._place_directory(path, node, name, facts, replacing))
            elif facts.kind == SYMLINK:
                self._tools.files.plan_fresh_link(directory, path, node, name, facts, replacing)
            else:
                self._tools.files.plan_fresh(directory, path, node, name, facts, replacing)
        except (OSError, UnsettledError) as error:
            self._notes.error(parent, name, error)

    def _plan_changed(
        self,
        directory: Directory,
        parent: bytes,
        node: int,
        name: bytes,
        facts: Facts,
        known: Known,
    ) -> None:
        check_stop(self._tools.stop)
        path = join(parent, name)
        try:
            if facts.kind == SYMLINK:
                self._tools.files.plan_changed_link(directory, path, node, name, facts, known)
            else:
                self._tools.files.plan_changed(directory, path, node, name, facts, known)
        except (OSError, UnsettledError) as error:
            self._notes.error(parent, name, error)

    def _place_directory(
        self, path: bytes, parent: int, name: bytes, facts: Facts, replacing: tuple[Remove, ...]
    ) -> Child:
        origin = None if replacing else self._tools.moves.find(facts, path)
        if origin is None:
            fresh = self._tools.state.allocate_node()
            return Child(name, parent, fresh, facts, None, replacing=replacing)
        node = origin.known.node
        self._tools.moves.moved.add(node)
        self._tools.builder.make_room(0)
        move = Move(origin.path, path)
        self._tools.builder.add(move, Relocate(node, parent, name), header_bytes=2 * len(path))
        # The move is sent before all that is in the directory has been looked at.
        self._tools.builder.hurry()
        return Child(name, parent, node, facts, origin.known, moved=True)

    def as_it_is_now(self, path: bytes, child: Child) -> Child:
        """Return a directory still to be visited, as what was found elsewhere since leaves it.

        The known one may turn out to have been moved: then another one has its name.
        """
        if child.listed is None or child.moved or child.known is None:
            return child
        if not self._has_left(child.node, *split(path)):
            return child
        return self._place_directory(path, child.parent, child.name, child.listed, ())

    def _without_left(self, path: bytes, known: dict[bytes, Known]) -> dict[bytes, Known]:
        """Leave out what was found elsewhere: another hard link may have its name here."""
        if not self._tools.moves.moved:
            return known
        return {
            name: entry
            for name, entry in known.items()
            if not self._has_left(entry.node, path, name)
        }

    def _has_left(self, node: int, parent: bytes, name: bytes) -> bool:
        """Tell whether an entry that was known here was found elsewhere by this scan."""
        tools = self._tools
        return node in tools.moves.moved and tools.pending.path_of(node) != join(parent, name)
