"""The scan of what the watcher named: the same comparison, for some names only."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from twinfold.client.levels import Child
from twinfold.client.scan import CHANGED_MEANWHILE, Scan
from twinfold.client.tools import Tools
from twinfold.client.tree import Directory, open_path
from twinfold.core.paths import join, split
from twinfold.core.planning import Facts, Known, differs_in_attributes

MAX_LINKS = 10_000


class Names(msgspec.Struct):
    """What to look at: names by directory (None: all of them), and directories with all below."""

    names: dict[bytes, set[bytes] | None]
    trees: set[bytes]


class DirtyScan(Scan):
    """A scan of some names; deletions and moves follow the same rules as in a full one."""

    def __init__(self, tools: Tools, work: Names) -> None:
        super().__init__(tools)
        self._names = work.names
        self._trees = work.trees
        self._visited: set[bytes] = set()
        self._walked: set[bytes] = set()
        self._linked: set[tuple[int, int]] = set()

    def scan_names(self) -> None:
        """Look at what was named, parents first, and hand on every batch."""
        for tree in self._trees:
            parent, name = split(tree)
            if tree:
                self._want(parent, name)
        self._climb_to_known()
        for path in sorted(self._names, key=lambda path: (path.count(b"/"), path)):
            self._scan_directory(path, self._names[path])
        self._scan_links()
        self.finish()

    def note_linked(self, facts: Facts) -> None:
        """The other names of this inode are looked at as well."""
        if len(self._linked) < MAX_LINKS:
            self._linked.add((facts.dev, facts.inode))

    def _want(self, parent: bytes, name: bytes) -> None:
        names = self._names.setdefault(parent, set())
        if names is not None:
            names.add(name)

    def _climb_to_known(self) -> None:
        """Where a directory is not known, its name is to be looked at in the one above."""
        for path in sorted(self._names, key=len, reverse=True):
            while path and self.tools.state.find(path) is None:
                path, name = split(path)
                self._want(path, name)

    def _scan_directory(self, path: bytes, names: set[bytes] | None) -> None:
        if path in self._visited or self._is_walked(path):
            return
        due = [(path, names)]
        while due:
            path, names = due.pop()
            known = self.tools.state.find(path)
            if known is not None and self.tools.pending.path_of(known.node) == path:
                self._visited.add(path)
                due += self._open_and_visit(path, known, names)
            elif path and not self._is_looked_at(path):
                # It was moved by this scan: what has its name now is to be found where that is.
                parent, name = split(path)
                due.append((parent, {name}))

    def _is_walked(self, path: bytes) -> bool:
        while path not in self._walked:
            if not path:
                return False
            path = split(path)[0]
        return True

    def _open_and_visit(
        self, path: bytes, known: Known, names: Iterable[bytes] | None, deletions: bool = True
    ) -> list[tuple[bytes, set[bytes] | None]]:
        name = split(path)[1]
        above = self.tools.state.place(known.node)
        try:
            directory = open_path(self.tools.root, path)
        except OSError as error:
            if not isinstance(error, CHANGED_MEANWHILE) or not self._is_looked_at(path):
                self.notes.unentered(path, error)
            return []
        with directory:
            child = Child(name, above[0] if above else 0, known.node, None, known)
            if deletions and self.tools.problems.is_unseen(path):
                self._walked.add(path)
                self.walk(directory, path, child)
                return []
            children = self.visit(directory, path, child, names, deletions)
            return [due for below in children for due in self._follow(directory, path, below)]

    def _is_looked_at(self, path: bytes) -> bool:
        """Tell whether this scan looks at the directory's name, or at one above it."""
        while path:
            path, name = split(path)
            names = self._names.get(path, set())
            if names is None or name in names or path in self._walked:
                return True
        return False

    def _follow(
        self, directory: Directory, parent: bytes, child: Child
    ) -> list[tuple[bytes, set[bytes] | None]]:
        path = join(parent, child.name)
        child = self.entries.as_it_is_now(path, child)
        known = child.known
        if known is None or path in self._trees or self._is_to_be_walked(path, child):
            self._walked.add(path)
            try:
                with directory.enter(child.name) as opened:
                    self.walk(opened, path, child)
            except OSError as error:
                self.notes.unentered(path, error)
        elif (
            child.listed is not None
            and differs_in_attributes(child.listed, known)
            and path not in self._visited
        ):
            return [(path, self._names.get(path))]
        return []

    def _is_to_be_walked(self, path: bytes, child: Child) -> bool:
        return child.moved or self.tools.problems.is_unseen(path) or _is_another(child)

    def _scan_links(self) -> None:
        state, pending = self.tools.state, self.tools.pending
        names: dict[bytes, set[bytes]] = {}
        for dev, inode in self._linked:
            for node, _, _ in state.with_inode(dev, inode):
                path = None if pending.is_touched(node) else pending.path_of(node)
                if path:
                    parent, name = split(path)
                    names.setdefault(parent, set()).add(name)
        for parent, wanted in names.items():
            known = state.find(parent)
            if known is not None and not self._is_walked(parent):
                self._open_and_visit(parent, known, wanted, deletions=False)


def _is_another(child: Child) -> bool:
    """Tell whether another directory has taken the place of the known one."""
    return (
        child.known is not None
        and child.listed is not None
        and child.listed[5:] != child.known.identity
    )
