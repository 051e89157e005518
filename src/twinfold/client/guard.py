"""The guard: how much a scan may take for deleted, and what a person lets pass."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from twinfold.client.moves import MoveFinder
from twinfold.client.state import State
from twinfold.core.planning import DeletionLimit, deletions_held


class Allowance(msgspec.Struct, frozen=True):
    """What one scan may do; with ``trusts_mounts`` a directory may be on another file system."""

    limit: DeletionLimit = DeletionLimit()
    trusts_mounts: bool = False


class Guard:
    """Gives each scan its allowance; what is released goes for one scan that comes to its end."""

    def __init__(self, limit: DeletionLimit) -> None:
        self._usual = Allowance(limit)
        self._released: Allowance | None = None

    @property
    def allowance(self) -> Allowance:
        """What the next scan may do."""
        return self._released or self._usual

    def release(self, deletions: int) -> None:
        """Let so many deletions pass once; with 0 those that need no release."""
        limit = DeletionLimit(count=deletions) if deletions else self._usual.limit
        self._released = Allowance(limit, trusts_mounts=True)

    def spend(self, used: Allowance) -> None:
        """A scan has ended: what was released for it is used up."""
        if used is self._released:
            self._released = None


class Taken(NamedTuple):
    """A name where a file or symlink stands now, and the directory that is known there."""

    parent: int
    name: bytes
    node: int


class Absences:
    """What a scan has missed: judged, and acted upon, only when it has seen everything.

    Attributes:
        taken: names at which something else has taken a directory's place.
    """

    def __init__(self, state: State, moves: MoveFinder) -> None:
        self.taken: list[Taken] = []
        self._gone = array("q")
        self._state = state
        self._moves = moves
        self._entries_before = state.entries

    def add_gone(self, nodes: Iterable[int]) -> None:
        """These entries have no name any more where they were."""
        self._gone.extend(nodes)

    def gone(self) -> list[int]:
        """Return the entries that were not found anywhere else."""
        return [node for node in self._gone if not self.is_moved(node)]

    def is_moved(self, node: int) -> bool:
        """Tell whether the entry was found under another name."""
        return node in self._moves.moved

    def count_held(self, limit: DeletionLimit) -> int:
        """Return how many entries would vanish, if that is more than the limit; else 0."""
        gone = self.gone()
        taken = [taken.node for taken in self.taken if not self.is_moved(taken.node)]
        with self._state.lock:
            deletions = sum(self._state.count_below(node) for node in gone)
            deletions += sum(self._state.count_below(node) - 1 for node in taken)
            deletions -= self._moves.count_leaving({*gone, *taken})
        return deletions if deletions_held(deletions, self._entries_before, limit) else 0
