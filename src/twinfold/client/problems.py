"""What cannot be synchronised now, by path, and since when it was said."""

from __future__ import annotations

import threading

from twinfold.client.events import Listener, Problem
from twinfold.core.paths import is_within

MAX_LISTED = 10_000
"""Beyond so many, problems are only counted."""


class Problems:
    """The list of problems; tells the listener of each new one once."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._lock = threading.Lock()
        self._reasons: dict[bytes, str] = {}
        self._seen: dict[bytes, str] | None = None
        self._unlisted = 0

    def __len__(self) -> int:
        with self._lock:
            return len(self._reasons) + self._unlisted

    def listed(self) -> list[Problem]:
        """Return the problems, in order of their paths."""
        with self._lock:
            return [Problem(path, reason) for path, reason in sorted(self._reasons.items())]

    def note(self, path: bytes, reason: str) -> None:
        """There is a problem at this path."""
        with self._lock:
            known = self._reasons.get(path)
            if self._seen is not None:
                self._seen[path] = reason
            if known == reason:
                return
            if known is None and len(self._reasons) >= MAX_LISTED:
                self._unlisted += 1
                return
            self._reasons[path] = reason
        self._listener(Problem(path, reason))

    def clear(self, path: bytes) -> None:
        """Whatever was wrong at this path is no longer, or will be noted again."""
        if self._reasons:
            with self._lock:
                self._reasons.pop(path, None)

    def clear_below(self, path: bytes) -> None:
        """Forget what was wrong at and below this path."""
        if self._reasons:
            with self._lock:
                gone = [known for known in self._reasons if is_within(known, path)]
                for known in gone:
                    del self._reasons[known]

    def begin_full_scan(self) -> None:
        """From here to `end_full_scan` every problem that still exists is noted again."""
        with self._lock:
            self._seen = {}
            self._unlisted = 0

    def end_full_scan(self) -> None:
        """Forget what was not noted again."""
        with self._lock:
            if self._seen is not None:
                self._reasons = {p: r for p, r in self._reasons.items() if p in self._seen}
            self._seen = None
