"""Where a new name comes from: an inode known at a path that no longer leads to it."""

from __future__ import annotations

from typing import NamedTuple

from twinfold.client.batch import Pending
from twinfold.client.state import State
from twinfold.client.tree import Directory, open_path
from twinfold.core.paths import is_within, split
from twinfold.core.planning import Facts, Known

MAX_MOVES = 100_000
"""Moves in one scan; what is beyond is sent as a new file, whose content the server has."""


class Origin(NamedTuple):
    """An acknowledged entry that has lost its old name; ``path`` is where the server has it."""

    known: Known
    path: bytes


class MoveFinder:
    """Finds origins, and remembers which entries one scan has moved."""

    def __init__(self, root: Directory, state: State, pending: Pending) -> None:
        self._root = root
        self._state = state
        self._pending = pending
        self._has_origins = state.entries > 0
        self.moved: set[int] = set()

    @property
    def may_find(self) -> bool:
        """Whether anything was acknowledged before the scan: else nothing can have been moved."""
        return self._has_origins

    def find(self, facts: Facts, path: bytes) -> Origin | None:
        """Return the entry that may have been moved to the new ``path``.

        Never one that a batch on its way changes, nor one whose old path still leads to the
        same inode (a hard link), nor one that would be moved into itself.
        """
        if not self._has_origins or len(self.moved) >= MAX_MOVES:
            return None
        for node, _, _ in self._state.with_inode(facts.dev, facts.inode):
            origin = self._origin(node, facts)
            if origin is not None and not is_within(path, origin.path):
                return origin
        return None

    def count_leaving(self, gone: set[int]) -> int:
        """Return how many entries the moves on their way take out from below these nodes."""
        with self._state.lock:
            return sum(
                self._state.count_below(node)
                for node in self.moved
                if self._pending.is_touched(node) and self._leaves(node, gone)
            )

    def _leaves(self, node: int, gone: set[int]) -> bool:
        """Tell whether the node is acknowledged below one of these, and not moved along."""
        place = self._state.place(node)
        while place is not None:
            above = place[0]
            if above in gone:
                return True
            if above in self.moved and self._pending.is_touched(above):
                return False
            place = self._state.place(above)
        return False

    def _origin(self, node: int, facts: Facts) -> Origin | None:
        if node in self.moved or self._pending.is_touched(node):
            return None
        known = self._state.node(node)
        path = self._pending.path_of(node)
        if known is None or not path or known.kind != facts.kind:
            return None
        return None if self._leads_to(path, facts) else Origin(known, path)

    def _leads_to(self, path: bytes, facts: Facts) -> bool:
        parent, name = split(path)
        try:
            with open_path(self._root, parent) as directory:
                seen = directory.look(name)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True
        return seen is not None and seen[0][5:] == facts[5:]
