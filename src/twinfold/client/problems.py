"""What cannot be synchronised now, by path, and since when it was said."""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Iterable

from twinfold.client.events import Listener, Problem
from twinfold.client.refusals import Refusals
from twinfold.core.paths import join

MAX_LISTED = 10_000
"""Beyond so many, problems are only counted."""

MAX_UNSEEN = 100_000
"""Beyond so many directories that could not be looked into, any may be one of them."""


class Problems:
    """The list of problems; tells the listener of each new one once.

    Attributes:
        refusals: what the server refused, and is not sent again for now.
    """

    def __init__(self, listener: Listener) -> None:
        self.refusals = Refusals()
        self._listener = listener
        self._lock = threading.Lock()
        self._reasons: dict[bytes, str] = {}
        self._order: list[bytes] = []
        self._again: set[bytes] | None = None
        self._doubted: set[bytes] = set()
        self._unlisted = 0
        self._unseen: set[bytes] = set()
        self._lasting: set[bytes] = set()

    def __len__(self) -> int:
        with self._lock:
            return len(self._reasons) + self._unlisted

    def listed(self) -> list[Problem]:
        """Return the problems, in order of their paths."""
        with self._lock:
            return [Problem(path, self._reasons[path]) for path in self._order]

    def note(self, path: bytes, reason: str, *, lasting: bool = False) -> None:
        """There is a problem at this path; a lasting one stays until it is resolved, or gone."""
        with self._lock:
            known = self._reasons.get(path)
            if known is None and len(self._reasons) >= MAX_LISTED:
                self._unlisted += 1
                return
            self._doubted.discard(path)
            if lasting:
                self._lasting.add(path)
            if self._again is not None:
                self._again.add(path)
            if known == reason:
                return
            if known is None:
                insort(self._order, path)
            self._reasons[path] = reason
        self._listener(Problem(path, reason))

    def resolve(self, path: bytes) -> None:
        """A lasting problem is over."""
        with self._lock:
            if path in self._lasting:
                self._drop([path])

    def clear(self, path: bytes) -> None:
        """Whatever was wrong at this path is no longer, or will be noted again."""
        if self._reasons:
            with self._lock:
                self._drop([path])

    def clear_below(self, path: bytes) -> None:
        """Forget what was wrong below this path; what is wrong at the path itself stays."""
        if self._reasons:
            with self._lock:
                self._drop(self._below(path))

    def clear_absent(self, path: bytes, names: Iterable[bytes]) -> None:
        """Forget what was wrong at and below all names in a directory but these."""
        if self._reasons:
            present = set(names)
            start = len(join(path, b"x")) - 1
            with self._lock:
                below = self._below(path)
                self._drop([p for p in below if p[start:].split(b"/", 1)[0] not in present])

    def doubt(self, parent: bytes, names: Iterable[bytes]) -> None:
        """What was wrong at these names is so only if it is noted, or confirmed, from now on."""
        if self._reasons:
            with self._lock:
                paths = (join(parent, name) for name in names)
                self._doubted = {path for path in paths if path in self._reasons} - self._lasting

    def confirm(self, path: bytes) -> None:
        """What is wrong at this path, if anything, is so still."""
        with self._lock:
            self._doubted.discard(path)
            if self._again is not None and path in self._reasons:
                self._again.add(path)

    def clear_doubted(self) -> None:
        """Forget what was doubted and not noted again."""
        if self._doubted:
            with self._lock:
                self._drop(self._doubted)
                self._doubted = set()

    def note_unseen(self, path: bytes) -> None:
        """A scan could not look into this directory: nothing is known of what is below it."""
        if len(self._unseen) < MAX_UNSEEN:
            self._unseen.add(path)

    def note_seen(self, path: bytes) -> None:
        """A scan has listed this directory."""
        if len(self._unseen) < MAX_UNSEEN:
            self._unseen.discard(path)

    def is_unseen(self, path: bytes) -> bool:
        """Tell whether the directory may have changed below without having been looked into."""
        return path in self._unseen or len(self._unseen) >= MAX_UNSEEN

    def begin_full_scan(self) -> None:
        """From here to `end_full_scan` every problem that still exists is noted again."""
        with self._lock:
            self._again = set(self._lasting)
            self._unlisted = 0
            self._unseen = set()

    def end_full_scan(self) -> None:
        """Forget what was not noted again."""
        with self._lock:
            if self._again is not None:
                self._drop(self._reasons.keys() - self._again)
            self._again = None

    def _below(self, path: bytes) -> list[bytes]:
        if not path:
            return [known for known in self._order if known]
        # "0" is the byte after "/".
        first = bisect_left(self._order, path + b"/")
        return self._order[first : bisect_left(self._order, path + b"0", first)]

    def _drop(self, paths: Iterable[bytes]) -> None:
        for path in paths:
            self._lasting.discard(path)
            if self._reasons.pop(path, None) is not None:
                del self._order[bisect_left(self._order, path)]
