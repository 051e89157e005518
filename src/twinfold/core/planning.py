"""What a directory's listing says, compared with what was acknowledged: pure decisions.

The order in which the differences are acted upon is part of the plan: names that are new come
first (one of them may be what another name held until now, and is moved away before that other
name is written), then names whose content is to be read again, then directories to go down into.
What vanished is only collected: it is taken away when the whole scan has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from twinfold.core.times import FIRST_TIME_NS, LAST_TIME_NS
from twinfold.model import Kind

OTHER = 0
"""The kind of what is not synchronised: FIFOs, sockets, devices."""

FILE = int(Kind.FILE)
DIRECTORY = int(Kind.DIRECTORY)
SYMLINK = int(Kind.SYMLINK)

UNSETTLED_CTIME_NS = -1
"""Stands in the state for a ctime that proves nothing: the entry is read at the next scan."""

GUARDED_DELETIONS = 1_000
GUARDED_PERCENT = 50


class Facts(NamedTuple):
    """What lstat says of an entry, as far as it is compared; all but files have size 0."""

    kind: int
    mode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    dev: int
    inode: int


ListedEntry = tuple[bytes, int, int, int, int, int, int, int]
"""A name, and the facts of what it is."""


class Known(NamedTuple):
    """What the state holds of a name: its facts when it was read, and what was in it."""

    node: int
    facts: tuple[int, ...]
    content: bytes
    target: bytes
    manifest: int

    @property
    def kind(self) -> int:
        """The acknowledged kind."""
        return self.facts[0]

    @property
    def mode(self) -> int:
        """The acknowledged permission bits."""
        return self.facts[1]

    @property
    def size(self) -> int:
        """The acknowledged size in bytes."""
        return self.facts[2]

    @property
    def mtime_ns(self) -> int:
        """The acknowledged mtime."""
        return self.facts[3]

    @property
    def identity(self) -> tuple[int, ...]:
        """Device and inode."""
        return self.facts[5:]


class Differences(NamedTuple):
    """A directory's listing against the state, in the order in which it is acted upon."""

    fresh: list[ListedEntry]
    replaced: list[tuple[bytes, Facts, Known]]
    changed: list[tuple[bytes, Facts, Known]]
    directories: list[tuple[bytes, Facts, Known]]
    others: list[bytes]
    vanished: list[Known]


def compare_directory(entries: Sequence[ListedEntry], known: Mapping[bytes, Known]) -> Differences:
    """Return how what is listed differs from what is known; equal files and symlinks are left out.

    Every known directory that is still one is in ``directories``, changed or not. A name of a
    kind that is not synchronised counts as vanished.
    """
    others = [entry[0] for entry in entries if entry[1] == OTHER]
    fresh = [entry for entry in entries if entry[0] not in known and entry[1] != OTHER]
    result = Differences(fresh, [], [], [], others, [])
    if known:
        there = {entry[0]: Facts._make(entry[1:]) for entry in entries if entry[1] != OTHER}
        for name, facts in there.items():
            if name in known:
                _compare(name, facts, known[name], result)
        result.vanished.extend(before for name, before in known.items() if name not in there)
    return result


def _compare(name: bytes, facts: Facts, before: Known, result: Differences) -> None:
    kind = facts[0]
    if before.facts[0] != kind:
        result.replaced.append((name, facts, before))
    elif kind == DIRECTORY:
        result.directories.append((name, facts, before))
    elif before.facts != facts:
        result.changed.append((name, facts, before))


def names_not_kept(entries: Iterable[ListedEntry]) -> list[bytes]:
    """Return the names of those whose mtime is not the file's own, but the nearest that is kept."""
    return [entry[0] for entry in entries if not FIRST_TIME_NS < entry[4] < LAST_TIME_NS]


def differs_in_attributes(facts: Facts, known: Known) -> bool:
    """Tell whether mode or mtime have to be sent; a symlink has neither."""
    if facts.kind == SYMLINK:
        return False
    return facts.mode != known.mode or facts.mtime_ns != known.mtime_ns


def is_racy(ctime_ns: int, now_ns: int, granularity_ns: int) -> bool:
    """Tell whether a write after ``now_ns`` could leave the same ctime."""
    return now_ns - ctime_ns < granularity_ns


class DeletionLimit(msgspec.Struct, frozen=True):
    """How many entries one scan may delete: so many, or such a part of all; else the default."""

    count: int | None = None
    percent: int | None = None


def deletions_held(deletions: int, entries: int, limit: DeletionLimit) -> bool:
    """Tell whether so many entries would vanish in one scan that a person has to look first."""
    if limit.count is not None:
        return deletions > limit.count
    if limit.percent is not None:
        return deletions * 100 > entries * limit.percent
    return deletions > GUARDED_DELETIONS and deletions * 100 > entries * GUARDED_PERCENT
