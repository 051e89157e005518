"""The scan: compares the source with the state, directory by directory, and fills batches.

Memory: one directory's listing, not the tree. Deletions are collected and left to the end: each
is planned only if its directory was listed without an error, and sent only if the source is
still the folder that it was.
"""

from __future__ import annotations

from collections.abc import Iterable

from twinfold.client.effects import Effect, Insert, Node, Remove, Update
from twinfold.client.entries import EntryPlanner
from twinfold.client.guard import Absences, Taken
from twinfold.client.ignore import IGNORE_FILE
from twinfold.client.levels import Child, Level
from twinfold.client.notes import Notes
from twinfold.client.prefetch import Prefetcher
from twinfold.client.read import check_stop
from twinfold.client.source import UNMOUNTED, Mounts
from twinfold.client.state import ROOT_NODE
from twinfold.client.tools import Tools
from twinfold.client.tree import Directory, by_name, list_settled, open_path
from twinfold.core.paths import MAX_DEPTH, MAX_PATH_BYTES, join
from twinfold.core.planning import (
    DIRECTORY,
    FILE,
    SYMLINK,
    Facts,
    Known,
    ListedEntry,
    differs_in_attributes,
    names_not_kept,
)
from twinfold.core.times import TIME_NOT_KEPT
from twinfold.errors import SourceError, SourceVanishedError
from twinfold.model import (
    RESERVED_ROOT_NAME,
    ROOT_PATH,
    Change,
    Delete,
    MakeDirectory,
    SetAttributes,
)

_OPEN_LEVELS = 128
"""So many directories of the way down are kept open; those above are opened again."""

CHANGED_MEANWHILE = (FileNotFoundError, NotADirectoryError)


class Scan:
    """One pass over the source, whole or in part; used once.

    Attributes:
        notes: what could not be looked at.
        entries: plans what is in a directory.
        held_deletions: how many deletions the guard holds back.
    """

    def __init__(self, tools: Tools) -> None:
        self.tools = tools
        self.held_deletions = 0
        self._absences = Absences(tools.state, tools.moves)
        self._mounts = Mounts(tools.root, tools.state)
        self._prefetcher = Prefetcher()
        self.notes = Notes(tools.problems)
        self.entries = EntryPlanner(tools, self.notes, self._absences, self._prefetcher)

    @property
    def retry(self) -> dict[bytes, set[bytes]]:
        """Names, by directory, that changed while they were looked at."""
        return self.notes.retry

    def scan_all(self) -> None:
        """Compare the whole source and hand on every batch."""
        tools = self.tools
        tools.problems.begin_full_scan()
        root = Child(b"", 0, ROOT_NODE, None, tools.state.node(ROOT_NODE))
        self.walk(tools.root, ROOT_PATH, root)
        self.finish()
        tools.problems.end_full_scan()

    def finish(self) -> None:
        """Send the deletions that are due, and the last batch."""
        if self.tools.ignore.problem:
            self.notes.problem(IGNORE_FILE, self.tools.ignore.problem)
        self._act_on_absences()
        self.tools.builder.flush()

    def walk(self, directory: Directory, path: bytes, child: Child) -> None:
        """Compare a directory and everything below it; ``directory`` is left open."""
        levels = [Level(directory, path, self.visit(directory, path, child))]
        try:
            while levels:
                level = levels[-1]
                if level.children:
                    below = self._go_down(level, len(levels))
                    if below is not None:
                        levels.append(below)
                    if len(levels) > _OPEN_LEVELS + 1:
                        levels[-_OPEN_LEVELS].close()
                else:
                    levels.pop()
                    if levels:
                        level.close()
        finally:
            self._prefetcher.close()
            for level in levels[1:]:
                level.close()

    def _go_down(self, level: Level, depth: int) -> Level | None:
        child = level.children.pop()
        path = join(level.path, child.name)
        if depth > MAX_DEPTH or len(path) > MAX_PATH_BYTES:
            self.notes.problem(path, "is nested too deep")
            return None
        try:
            above = level.opened(self.tools.root)
            directory = above.enter(child.name)
            self._prefetcher.look_ahead(above, level.children)
        except OSError as error:
            self.notes.unentered(path, error)
            return None
        child = self.entries.as_it_is_now(path, child)
        try:
            children = self.visit(directory, path, child)
        except BaseException:
            directory.close()
            raise
        if children:
            return Level(directory, path, children)
        directory.close()
        return None

    def visit(
        self,
        directory: Directory,
        path: bytes,
        child: Child,
        names: Iterable[bytes] | None = None,
        deletions: bool = True,
    ) -> list[Child]:
        """Compare one directory, or only some names in it; return the directories in it.

        Where one of ``names`` is no longer there, or the directory is another, all of it is
        listed, so that no deletion rests on one failed look. Without ``deletions`` it is a second
        look at files only: neither what vanished nor the directory's own attributes are planned.
        """
        tools = self.tools
        check_stop(tools.stop)
        tools.builder.flush_due()
        tools.watch(path, directory.fd)
        tools.problems.doubt(path, names or ())
        arriving = tools.pending.arriving(child.node)
        found = self._list(directory, path, child, names, deletions)
        if found is None:
            return []
        entries, known, facts = found
        if not path and any(entry[0] == RESERVED_ROOT_NAME for entry in entries):
            raise SourceError(
                "the source has an entry .twinfold, which is the server's own name; "
                "rename it, or take another folder as the source"
            )
        if deletions:
            self._plan_directory(path, child, facts)
        if arriving:
            # This scan was here before, and found it: the state does not say so yet.
            entries = [entry for entry in entries if entry[0] not in arriving]
            known = {name: before for name, before in known.items() if name not in arriving}
        children: list[Child] = []
        if entries or known:
            kept = tools.ignore.without_ignored(path, entries)
            for name in names_not_kept(kept):
                self.notes.problem(join(path, name), TIME_NOT_KEPT)
            children = self.entries.plan(directory, path, child.node, kept, known, deletions)
        tools.problems.clear_doubted()
        return children

    def _list(
        self,
        directory: Directory,
        path: bytes,
        child: Child,
        names: Iterable[bytes] | None,
        deletions: bool,
    ) -> tuple[list[ListedEntry], dict[bytes, Known], Facts] | None:
        """Return (entries, what is known, the directory's facts), None if it cannot be told."""
        problems = self.tools.problems
        try:
            if names is not None:
                listing, known = self._look(directory, path, child.node, names)
                facts = directory.facts()
                is_same = child.known is not None and child.known.identity == facts[5:]
                if not deletions or (is_same and known.keys() <= listing.keys()):
                    if deletions and path:
                        problems.clear(path)
                    for name in names:
                        if name not in listing:
                            problems.clear_below(join(path, name))
                    return [(name, *found) for name, found in listing.items()], known, facts
            entries, facts = list_settled(directory)
        except OSError as error:
            self.notes.unentered(path, error)
            return None
        listed, known = self._to_compare(child, entries)
        if (
            child.known
            and not self.tools.allowance.trusts_mounts
            and self._mounts.seem_changed(child.known, facts, by_name(listed), known)
        ):
            self.notes.problem(path, UNMOUNTED)
            problems.note_unseen(path)
            return None
        # What is noted at the root may concern the whole source: the end of a full scan clears it.
        if path or problems.is_unseen(path):
            problems.clear(path)
        problems.clear_absent(path, (entry[0] for entry in entries))
        problems.note_seen(path)
        return listed, known, facts

    def _to_compare(
        self, child: Child, entries: list[ListedEntry]
    ) -> tuple[list[ListedEntry], dict[bytes, Known]]:
        """Return what is listed and known in a directory: only its directories if all is equal."""
        tools = self.tools
        if child.known is None:
            return entries, {}
        if tools.ignore.keeps_all and not tools.moves.moved:
            known = tools.state.directories_if_only(child.node, entries)
            if known is not None:
                return [entry for entry in entries if entry[1] == DIRECTORY], known
        return entries, tools.state.children(child.node)

    def note_linked(self, facts: Facts) -> None:
        """A name that was looked at has hard links; a scan of everything sees them anyway."""

    def _look(
        self, directory: Directory, path: bytes, node: int, names: Iterable[bytes]
    ) -> tuple[dict[bytes, Facts], dict[bytes, Known]]:
        listing: dict[bytes, Facts] = {}
        known: dict[bytes, Known] = {}
        for name in names:
            before = self.tools.state.child(node, name)
            if before is not None:
                known[name] = before
            seen = directory.look(name)
            if seen is not None:
                listing[name] = seen[0]
                if seen[1] > 1 and seen[0].kind != DIRECTORY:
                    self.note_linked(seen[0])
        return listing, known

    def _plan_directory(self, path: bytes, child: Child, facts: Facts) -> None:
        node = Node(child.node, child.parent, child.name, *facts)
        change: Change | None = None
        effect: Effect = Update(node)
        if child.known is None:
            change = MakeDirectory(path, facts.mode, facts.mtime_ns)
            effect = Insert(node)
        elif differs_in_attributes(facts, child.known):
            change = SetAttributes(path, facts.mode, facts.mtime_ns)
        elif child.known.facts == facts:
            return
        # What had the name when its directory was listed may have been found elsewhere since.
        gone = [old for old in child.replacing if old.node not in self.tools.moves.moved]
        self._add(change, *gone, effect, header_bytes=len(path))

    def _act_on_absences(self) -> None:
        """Delete what vanished, and put what stands where a directory was; or hold all that."""
        tools, absences = self.tools, self._absences
        gone = absences.gone()
        if not gone and not absences.taken:
            return
        if not tools.is_same_source():
            raise SourceVanishedError("the source went away during the scan; nothing is deleted")
        self.held_deletions = absences.count_held(tools.allowance.limit)
        for taken in absences.taken:
            if not self.held_deletions or absences.is_moved(taken.node):
                self._take_place(taken)
        if self.held_deletions:
            return
        for node in gone:
            path = tools.pending.path_of(node)
            if path:
                self._add(Delete(path), Remove(node), header_bytes=len(path))

    def _take_place(self, taken: Taken) -> None:
        parent = self.tools.pending.path_of(taken.parent)
        if parent is None:
            return
        gone = () if self._absences.is_moved(taken.node) else (Remove(taken.node),)
        try:
            with open_path(self.tools.root, parent) as directory:
                seen = directory.look(taken.name)
                if seen is None or seen[0].kind not in (FILE, SYMLINK):
                    self.notes.retry_later(parent, taken.name)
                else:
                    self.entries.plan_fresh(
                        directory, parent, taken.parent, taken.name, seen[0], [], gone
                    )
        except OSError as error:
            self.notes.error(parent, taken.name, error)

    def _add(self, change: Change | None, *effects: Effect, header_bytes: int) -> None:
        self.tools.builder.make_room(0)
        self.tools.builder.add(change, *effects, header_bytes=header_bytes)
