"""The scan: compares the source with the state, directory by directory, and fills batches.

Memory: one directory's listing, not the tree. Deletions are collected and left to the end: each
is planned only if its directory was listed without an error, and sent only if the source is
still the folder that it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from twinfold.client.effects import Effect, Insert, Node, Relocate, Remove, Update
from twinfold.client.guard import Absences, Taken
from twinfold.client.ignore import IGNORE_FILE
from twinfold.client.levels import Child, Level
from twinfold.client.prefetch import Prefetcher
from twinfold.client.read import (
    SWAPPED,
    ScanStoppedError,
    UnsettledError,
    check_descriptors,
    windows,
)
from twinfold.client.source import UNMOUNTED, Mounts
from twinfold.client.state import ROOT_NODE
from twinfold.client.tools import Tools
from twinfold.client.tree import Directory, by_name, list_settled, open_path
from twinfold.core.paths import MAX_DEPTH, MAX_PATH_BYTES, join, split
from twinfold.core.planning import (
    DIRECTORY,
    FILE,
    SYMLINK,
    Facts,
    Known,
    ListedEntry,
    compare_directory,
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
    Move,
    SetAttributes,
)

_OPEN_LEVELS = 128
"""So many directories of the way down are kept open; those above are opened again."""

CHANGED_MEANWHILE = (FileNotFoundError, NotADirectoryError)


class Scan:
    """One pass over the source, whole or in part; used once.

    Attributes:
        retry: names, by directory, that changed while they were looked at.
        held_deletions: how many deletions the guard holds back.
    """

    def __init__(self, tools: Tools) -> None:
        self.tools = tools
        self.retry: dict[bytes, set[bytes]] = {}
        self.held_deletions = 0
        self._absences = Absences(tools.state, tools.moves)
        self._mounts = Mounts(tools.root, tools.state)
        self._prefetcher = Prefetcher()

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
            self.note_problem(IGNORE_FILE, self.tools.ignore.problem)
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
            self.note_problem(path, "is nested too deep")
            return None
        try:
            above = level.opened(self.tools.root)
            directory = above.enter(child.name)
            self._prefetcher.look_ahead(above, level.children)
        except OSError as error:
            self.note_unentered(path, error)
            return None
        child = self.as_it_is_now(path, child)
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
        self._check_stop()
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
                self.note_problem(join(path, name), TIME_NOT_KEPT)
            children = self._plan_entries(directory, path, child.node, kept, known, deletions)
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
            self.note_unentered(path, error)
            return None
        listed, known = self._to_compare(child, entries)
        if (
            child.known
            and not self.tools.allowance.trusts_mounts
            and self._mounts.seem_changed(child.known, facts, by_name(listed), known)
        ):
            self.note_problem(path, UNMOUNTED)
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

    def _check_stop(self) -> None:
        if self.tools.stop.is_set():
            raise ScanStoppedError

    def note_linked(self, facts: Facts) -> None:
        """A name that was looked at has hard links; a scan of everything sees them anyway."""

    def note_retry(self, parent: bytes, name: bytes) -> None:
        """The name is to be looked at again when it has settled."""
        self.retry.setdefault(parent, set()).add(name)
        self.tools.problems.confirm(join(parent, name))

    def note_problem(self, path: bytes, reason: str) -> None:
        """The entry cannot be synchronised."""
        self.tools.problems.note(path, reason)

    def note_error(self, parent: bytes, name: bytes, error: Exception) -> None:
        """Looking at the name failed: it changes just now, or is a problem."""
        check_descriptors(error)
        if isinstance(error, OSError) and error.errno not in SWAPPED:
            self.note_problem(join(parent, name), reason_of(error))
        else:
            self.note_retry(parent, name)

    def note_unentered(self, path: bytes, error: OSError) -> None:
        """A directory could not be looked into: when it can be, all below it is compared."""
        check_descriptors(error)
        self.tools.problems.note_unseen(path)
        if path:
            self.note_error(*split(path), error)
        else:
            self.note_problem(path, reason_of(error))

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

    def _plan_entries(
        self,
        directory: Directory,
        path: bytes,
        node: int,
        entries: list[ListedEntry],
        known: dict[bytes, Known],
        deletions: bool,
    ) -> list[Child]:
        differences = compare_directory(entries, self._without_left(path, known))
        children: list[Child] = []
        for name in differences.others:
            self.tools.problems.clear_below(join(path, name))
            self.note_problem(join(path, name), "is a FIFO, socket or device")
        for window in self._windows(directory, differences.fresh):
            self._plan_fresh_window(directory, path, node, window, children)
        for name, facts, before in differences.replaced:
            self.tools.problems.clear_below(join(path, name))
            if before.kind == DIRECTORY and self.tools.state.count_below(before.node) > 1:
                self._absences.taken.append(Taken(node, name, before.node))
                continue
            gone = () if self._has_left(before.node, path, name) else (Remove(before.node),)
            self._plan_fresh(directory, path, node, name, facts, children, gone)
        listed = [(name, *facts) for name, facts, _ in differences.changed]
        changed = chain.from_iterable(self._windows(directory, listed))
        for _, (name, facts, before) in zip(changed, differences.changed, strict=True):
            if self._has_left(before.node, path, name):
                self._plan_fresh(directory, path, node, name, facts, children)
            else:
                self._plan_changed(directory, path, node, name, facts, before)
        for name, facts, before in differences.directories:
            if self._has_left(before.node, path, name):
                self._plan_fresh(directory, path, node, name, facts, children)
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
            if self.tools.files.read_ahead(directory, window):
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
            self._check_stop()
            if self.tools.problems.refusals.is_empty:
                done += self.tools.files.plan_straight(path, node, window[done:])
            if done < len(window):
                name, *facts = window[done]
                self._plan_fresh(directory, path, node, name, Facts._make(facts), children)
                done += 1

    def _plan_fresh(
        self,
        directory: Directory,
        parent: bytes,
        node: int,
        name: bytes,
        facts: Facts,
        children: list[Child],
        replacing: tuple[Remove, ...] = (),
    ) -> None:
        self._check_stop()
        path = join(parent, name)
        refusal = self.tools.problems.refusals.reason(path, facts)
        if refusal is not None:
            self.note_problem(path, refusal)
            return
        try:
            if len(path) > MAX_PATH_BYTES:
                self.note_problem(path, "has a path too long to be sent")
            elif facts.kind == DIRECTORY:
                children.append(self._place_directory(path, node, name, facts, replacing))
            elif facts.kind == SYMLINK:
                self.tools.files.plan_fresh_link(directory, path, node, name, facts, replacing)
            else:
                self.tools.files.plan_fresh(directory, path, node, name, facts, replacing)
        except (OSError, UnsettledError) as error:
            self.note_error(parent, name, error)

    def _plan_changed(
        self,
        directory: Directory,
        parent: bytes,
        node: int,
        name: bytes,
        facts: Facts,
        known: Known,
    ) -> None:
        self._check_stop()
        path = join(parent, name)
        try:
            if facts.kind == SYMLINK:
                self.tools.files.plan_changed_link(directory, path, node, name, facts, known)
            else:
                self.tools.files.plan_changed(directory, path, node, name, facts, known)
        except (OSError, UnsettledError) as error:
            self.note_error(parent, name, error)

    def _place_directory(
        self, path: bytes, parent: int, name: bytes, facts: Facts, replacing: tuple[Remove, ...]
    ) -> Child:
        origin = None if replacing else self.tools.moves.find(facts, path)
        if origin is None:
            fresh = self.tools.state.allocate_node()
            return Child(name, parent, fresh, facts, None, replacing=replacing)
        node = origin.known.node
        self.tools.moves.moved.add(node)
        self._add(Move(origin.path, path), Relocate(node, parent, name), header_bytes=2 * len(path))
        # The move is sent before all that is in the directory has been looked at.
        self.tools.builder.hurry()
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
        if not self.tools.moves.moved:
            return known
        return {
            name: entry
            for name, entry in known.items()
            if not self._has_left(entry.node, path, name)
        }

    def _has_left(self, node: int, parent: bytes, name: bytes) -> bool:
        """Tell whether an entry that was known here was found elsewhere by this scan."""
        tools = self.tools
        return node in tools.moves.moved and tools.pending.path_of(node) != join(parent, name)

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
                    self.note_retry(parent, taken.name)
                else:
                    self._plan_fresh(directory, parent, taken.parent, taken.name, seen[0], [], gone)
        except OSError as error:
            self.note_error(parent, taken.name, error)

    def _add(self, change: Change | None, *effects: Effect, header_bytes: int) -> None:
        self.tools.builder.make_room(0)
        self.tools.builder.add(change, *effects, header_bytes=header_bytes)


def reason_of(error: OSError) -> str:
    """Return an operating-system error in a few words."""
    return (error.strerror or str(error)).lower()
