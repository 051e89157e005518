"""What the destination has no room for: offered again now and then, and not read in vain."""

from __future__ import annotations

import threading
import time

from twinfold.client.problems import MAX_LISTED, Problems

FIRST_RETRY_S = 2.0
LAST_RETRY_S = 15.0
PROBES = 64
"""So many of those that wait are offered again; if one of them is taken, all the others are."""


class NoRoomError(Exception):
    """The destination has no room for the file that is being read."""


class Shortage:
    """The entries that the destination refused for want of room, until they are there.

    Names are kept up to `MAX_LISTED`; where there are more, everything is scanned instead.
    Used by the scan's thread and the event loop.
    """

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._lock = threading.Lock()
        self._waiting: dict[bytes, None] = {}
        self._overflows = False
        self._tried: set[bytes] = set()
        self._refused: set[bytes] = set()
        self._least_bytes: int | None = None
        self._reason = ""
        self._due_s = float("inf")
        self._delay_s = FIRST_RETRY_S
        self._all_are_due = False

    def begin_cycle(self, *, everything: bool) -> None:
        """A scan begins; everything that waits is offered again, or what `take` has named."""
        with self._lock:
            if everything:
                self._tried = set(self._waiting)
                self._overflows = False
            self._refused = set()
            self._least_bytes = None

    @property
    def is_noted(self) -> bool:
        """Whether anything was refused since the scan began."""
        return self._least_bytes is not None

    def is_short_of(self, size_bytes: int) -> bool:
        """Tell whether something as small was refused since the scan began."""
        return self._least_bytes is not None and size_bytes >= self._least_bytes

    def note(self, path: bytes, size_bytes: int, reason: str = "") -> None:
        """There is no room for so many bytes at this path; without a reason it is the last one."""
        with self._lock:
            self._reason = reason or self._reason
            least = self._least_bytes
            self._least_bytes = size_bytes if least is None else min(least, size_bytes)
            self._refused.add(path)
            # What was refused last is offered again last.
            self._waiting.pop(path, None)
            if len(self._waiting) < MAX_LISTED:
                self._waiting[path] = None
            else:
                self._overflows = True
        self._problems.note(path, self._reason, lasting=True)

    def note_part(self, size_bytes: int, reason: str) -> None:
        """There is no room for a file of so many bytes that is on its way in parts."""
        with self._lock:
            self._reason = reason
            least = self._least_bytes
            self._least_bytes = size_bytes if least is None else min(least, size_bytes)

    def end_cycle(self) -> None:
        """All that the scan offered is answered: plan the next try."""
        with self._lock:
            taken = self._tried - self._refused
            for path in taken:
                self._waiting.pop(path, None)
            self._tried = set()
            now_s = time.monotonic()
            if not self._waiting and not self._overflows:
                self._due_s, self._delay_s = float("inf"), FIRST_RETRY_S
            elif taken:
                self._due_s, self._delay_s = now_s, FIRST_RETRY_S
                self._all_are_due = True
            elif self._refused or self._due_s <= now_s:
                self._due_s = now_s + self._delay_s
                self._delay_s = min(LAST_RETRY_S, 2 * self._delay_s)
        for path in taken:
            self._problems.resolve(path)

    def next_due_s(self) -> float:
        """Return the seconds until something is to be offered again."""
        return self._due_s - time.monotonic()

    def take(self) -> list[bytes] | None:
        """Return the paths to be offered again now, None for everything."""
        with self._lock:
            self._due_s = time.monotonic() + LAST_RETRY_S
            if self._overflows:
                return None
            paths = list(self._waiting)
            if not self._all_are_due:
                paths = paths[:PROBES]
            self._all_are_due = False
            self._tried = set(paths)
            return paths
