"""What the next scan has to look at."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from twinfold.client.dirty import Names
from twinfold.client.watch import Dirty
from twinfold.core.paths import join, split

FIRST_RETRY_S = 0.1
LAST_RETRY_S = 5.0
BUSY_AFTER_TRIES = 5
MAX_RETRIES = 10_000
"""Names that are tried again one by one; where there are more, everything is scanned."""
LAST_SCAN_RETRY_S = 30.0


class Agenda:
    """Gathers dirty names, and names that changed while they were read.

    Attributes:
        full: everything is to be scanned.
    """

    def __init__(self) -> None:
        self.full = True
        self._names: dict[bytes, set[bytes] | None] = {}
        self._trees: set[bytes] = set()
        self._tries: dict[bytes, int] = {}
        self._due_s: dict[bytes, float] = {}
        self._looked_at: set[bytes] = set()
        self._looked_at_all = False
        self._overflows = 0
        self._scan_due_s = float("inf")

    @property
    def is_due(self) -> bool:
        """Whether there is something to look at now."""
        return self.has_news or self.next_due_s() <= 0

    @property
    def has_news(self) -> bool:
        """Whether something was named that was not looked at since."""
        return bool(self.full or self._names or self._trees)

    @property
    def is_settling(self) -> bool:
        """Whether names are tried again that are not yet said to be busy."""
        if 0 < self._overflows < BUSY_AFTER_TRIES:
            return True
        return any(self._tries.get(path, 0) < BUSY_AFTER_TRIES for path in self._due_s)

    def next_due_s(self) -> float:
        """Return the seconds until the next name is to be tried again."""
        return min(self._scan_due_s, *self._due_s.values(), float("inf")) - time.monotonic()

    def add(self, dirty: Dirty) -> None:
        """Add what the watcher has collected."""
        self.full = self.full or dirty.lost
        for path, names in dirty.names.items():
            known = self._names.get(path, set())
            self._names[path] = None if names is None or known is None else known | names
        self._trees |= dirty.trees | dirty.moved

    def add_paths(self, paths: Iterable[bytes] | None) -> None:
        """Add single entries; None adds everything."""
        if paths is None:
            self.full = True
            return
        for path in paths:
            parent, name = split(path)
            names = self._names.setdefault(parent, set())
            if names is not None:
                names.add(name)

    def try_again(self, paths: Iterable[bytes]) -> None:
        """Look at these names at once; until then nothing is settled."""
        for path in paths:
            self._due_s[path] = time.monotonic()

    def take(self) -> Names | None:
        """Return the names to look at now, None for everything; they are off the agenda."""
        now_s = time.monotonic()
        everything = self._looked_at_all = self.full or self._scan_due_s <= now_s
        due = [path for path, at_s in self._due_s.items() if everything or at_s <= now_s]
        self._looked_at = set(due)
        for path in due:
            del self._due_s[path]
        if not everything:
            self._leave_to_their_time()
        self.add_paths(due)
        work = Names(self._names, self._trees)
        self._names, self._trees, self.full = {}, set(), False
        return None if everything else work

    def _leave_to_their_time(self) -> None:
        """Names that are to be tried again later are not looked at before, whatever is said."""
        for path in self._due_s:
            parent, name = split(path)
            names = self._names.get(parent)
            if names is not None and name in names:
                names.discard(name)
                if not names:
                    del self._names[parent]

    def settle(self, retry: Mapping[bytes, set[bytes]]) -> list[bytes]:
        """A scan has ended; plan the next try of what it could not read.

        Returns:
            The paths that were tried so often that they count as busy.
        """
        again = {join(parent, name) for parent, names in retry.items() for name in names}
        for path in self._looked_at - again:
            self._tries.pop(path, None)
        now_s = time.monotonic()
        if len(again) > MAX_RETRIES:
            self._overflows += 1
            wait_s = min(LAST_SCAN_RETRY_S, FIRST_RETRY_S * 2 ** min(self._overflows, 10))
            self._scan_due_s = now_s + wait_s
            return list(again) if self._overflows >= BUSY_AFTER_TRIES else []
        if self._looked_at_all:
            self._overflows, self._scan_due_s = 0, float("inf")
        for path in again:
            tries = self._tries[path] = self._tries.get(path, 0) + 1
            self._due_s[path] = now_s + min(LAST_RETRY_S, FIRST_RETRY_S * 2 ** min(tries - 1, 10))
        return [path for path in again if self._tries[path] >= BUSY_AFTER_TRIES]
