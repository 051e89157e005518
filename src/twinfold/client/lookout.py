"""What the watcher saw, put on the agenda; and the regular scans that do without it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from twinfold.client.agenda import Agenda
from twinfold.client.ignore import IGNORE_FILE
from twinfold.client.problems import Problems
from twinfold.client.watch import Watcher, open_watcher

RESCAN_EVERY_S = 3_600.0
UNWATCHED_RESCAN_EVERY_S = 60.0

WATCHING = b"."
"""The path under which it is said that the watcher does not see everything; no entry has it."""


class Lookout:
    """The source's watcher, opened and closed as the source comes and goes.

    Args:
        source: the path.
        agenda: gets what is to be looked at.
        problems: are told when not everything is seen.
    """

    def __init__(self, source: bytes, agenda: Agenda, problems: Problems) -> None:
        self._source = source
        self._agenda = agenda
        self._problems = problems
        self._watcher: Watcher | None = None
        self._failure: str | None = None
        self._rescan_at_s = 0.0

    @property
    def watch(self) -> Callable[[bytes, int | None], None]:
        """What a scan calls for each directory that it is in."""
        return self._watcher.watch_directory if self._watcher else _watch_nothing

    def open(self) -> None:
        """Begin to watch; a failure is said with the next plan."""
        self._failure = None
        try:
            self._watcher = open_watcher(self._source)
        except OSError as error:
            self._failure = f"cannot be watched ({error.strerror or error})"

    def close(self) -> None:
        """Stop watching."""
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None

    def plan_rescan(self, *, was_full: bool) -> None:
        """Scan everything now and then; soon, and say so, where events may be missing."""
        unwatched = self._failure or (self._watcher and self._watcher.incomplete)
        if unwatched:
            self._problems.note(
                WATCHING,
                f"{unwatched}; it is scanned every {UNWATCHED_RESCAN_EVERY_S:.0f} s instead",
            )
        now_s = time.monotonic()
        every_s = UNWATCHED_RESCAN_EVERY_S if unwatched else RESCAN_EVERY_S
        self._rescan_at_s = now_s + every_s if was_full else min(self._rescan_at_s, now_s + every_s)

    def collect(self) -> None:
        """Put what was seen so far, and a scan that is due, on the agenda."""
        if time.monotonic() >= self._rescan_at_s > 0:
            self._agenda.full = True
        if self._watcher is None:
            return
        if self._watcher.root_gone:
            self._agenda.full = True
            self.close()
            self.open()
            return
        dirty = self._watcher.collect()
        if dirty.trees or dirty.moved:
            soon_s = time.monotonic() + UNWATCHED_RESCAN_EVERY_S
            self._rescan_at_s = min(self._rescan_at_s, soon_s)
        self._agenda.add(dirty)
        if IGNORE_FILE in (dirty.names.get(b"") or ()):
            self._agenda.full = True

    def next_due_s(self) -> float:
        """Return the seconds until something is due that no event tells of."""
        rescan_s = self._rescan_at_s - time.monotonic()
        return max(0.0, min(rescan_s, self._agenda.next_due_s()))

    def changed(self) -> list[asyncio.Task[Any]]:
        """Return a task that ends when there is something to collect; none if nobody watches."""
        return [asyncio.create_task(self._watcher.changed())] if self._watcher else []


def _watch_nothing(path: bytes, fd: int | None) -> None:
    """In place of a watcher, for a client that runs once."""
