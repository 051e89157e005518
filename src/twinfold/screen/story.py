"""What a client's events add up to: the lines to print, and what goes on now.

Nothing here prints, and time is given, so that every screen can be tested by feeding events.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

import msgspec

from twinfold.client.events import (
    Applied,
    Comparing,
    Connected,
    Connecting,
    Counted,
    Drifted,
    Event,
    Held,
    InSync,
    Problem,
    Progress,
    Scanning,
    Waiting,
)
from twinfold.core.paths import display
from twinfold.screen.text import count, elapsed, size

LINES_A_SECOND = 10
"""More changes than this in a second are counted instead of shown."""

FIRST_LINES = 10
"""A first cycle of more changes than this shows none: its sum says it all."""

REMEMBERED_PROBLEMS = 1_000
FILE_WEIGHT_BYTES = 16 << 10
"""What a file costs beside its bytes, for the bar and the time left."""

Kind = Literal["change", "problem", "held", "done", "note", "more"]


class Line(msgspec.Struct, frozen=True):
    """A line that stays on the screen: ``text`` may be cut in its middle, the rest not."""

    kind: Kind
    label: str
    text: str
    detail: str = ""


class Pace:
    """Estimates work per second from what was done in the last few seconds."""

    def __init__(self, window_s: float = 6.0) -> None:
        self._window_s = window_s
        self._samples: deque[tuple[float, float]] = deque()

    def note(self, now_s: float, done: float) -> None:
        """Take in how much is done in all."""
        self._samples.append((now_s, done))
        while len(self._samples) > 2 and now_s - self._samples[0][0] > self._window_s:
            self._samples.popleft()

    def per_second(self) -> float | None:
        """Return the estimate; None while too little is known."""
        if len(self._samples) < 2:
            return None
        (began_s, before), (now_s, done) = self._samples[0], self._samples[-1]
        return (done - before) / (now_s - began_s) if now_s - began_s >= 0.2 else None


class Window:
    """Lets so many lines a second through and counts the rest."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._began_s = float("-inf")
        self._shown = 0
        self._hidden = 0

    def admit(self, line: Line, now_s: float) -> list[Line]:
        """Return the lines to print now."""
        lines = []
        if now_s - self._began_s >= 1.0:
            lines = self.flush()
            self._began_s = now_s
            self._shown = 0
        if self._shown < self._limit:
            self._shown += 1
            return [*lines, line]
        self._hidden += 1
        return lines

    def flush(self) -> list[Line]:
        """Return the line that says how many were not shown, if any were."""
        hidden, self._hidden = self._hidden, 0
        return [Line("more", "", f"{hidden:,} more")] if hidden else []


class Story:
    """The client so far; ``note`` takes each event and returns what to print for it."""

    def __init__(self) -> None:
        self.activity: Literal["connecting", "comparing", "scanning", "syncing", "live"] = (
            "connecting"
        )
        self.waiting: Waiting | None = None
        self.retry_at_s = 0.0
        self.comparing = 0
        self.counted: Counted | None = None
        self.progress = Progress(0, 0, 0, 0)
        self.last: InSync | None = None
        self.last_at_s = 0.0
        self.held: Held | None = None
        self.changes = 0
        self.pace = Pace()
        self.work_pace = Pace()
        self._first: list[Line] = []
        self._changes = Window(LINES_A_SECOND)
        self._problems = Window(LINES_A_SECOND)
        self._reported: set[Problem] = set()

    def note(self, event: Event, now_s: float) -> list[Line]:
        """Take in an event; ``now_s`` is in seconds since 1970."""
        if isinstance(event, Applied):
            return self._applied(event, now_s)
        if not isinstance(event, Waiting | Connecting):
            self.waiting = None
        match event:
            case Progress():
                self._progressed(event, now_s)
            case Problem():
                return self._problem(event, now_s)
            case InSync():
                return self._in_sync(event, now_s)
            case Held():
                return self._hold(event)
            case Drifted():
                return [Line("note", "drift", one_line(event.reason))]
            case _:
                self._begin(event, now_s)
        return []

    def _begin(self, event: Event, now_s: float) -> None:
        match event:
            case Connecting():
                self.activity = "connecting"
                self.retry_at_s = now_s
            case Waiting():
                self.waiting = event
                self.retry_at_s = now_s + event.retry_in_s
            case Connected():
                if self.last is not None:
                    self.activity = "syncing" if self.changes else "live"
            case Comparing():
                self.activity = "comparing"
                self.comparing = event.entries
            case Scanning() if self.last is None:
                # Later scans that find nothing leave what is said of the last one true.
                self.activity = "scanning"
            case Counted():
                self.counted = event

    def _applied(self, event: Applied, now_s: float) -> list[Line]:
        self.changes += 1
        self.activity = "syncing"
        if self.last is not None:
            return self._changes.admit(change_line(event), now_s)
        if self.changes <= FIRST_LINES:
            self._first.append(change_line(event))
        return []

    def _progressed(self, event: Progress, now_s: float) -> None:
        if self.activity != "scanning" or event.files:
            self.activity = "syncing"
        self.progress = event
        self.pace.note(now_s, event.size_bytes)
        self.work_pace.note(now_s, _work(event.files, event.size_bytes))

    def _problem(self, event: Problem, now_s: float) -> list[Line]:
        if event in self._reported:
            return []
        if len(self._reported) >= REMEMBERED_PROBLEMS:
            self._reported.clear()
        self._reported.add(event)
        line = Line("problem", "problem", display(event.path) or ".", one_line(event.reason))
        return self._problems.admit(line, now_s)

    def _hold(self, event: Held) -> list[Line]:
        if event == self.held:
            return []
        self.held = event
        number = count(event.deletions, "deletion")
        return [Line("held", "held", number, one_line(event.reason))]

    def _in_sync(self, event: InSync, now_s: float) -> list[Line]:
        lines = self._first if self.changes <= FIRST_LINES else []
        lines = [*lines, *self._changes.flush(), *self._problems.flush()]
        if self.last is None:
            lines.append(Line("done", "in sync", done_text(event)))
        self._settle(event, now_s)
        return lines

    def _settle(self, event: InSync, now_s: float) -> None:
        self.activity = "live"
        self.last, self.last_at_s = event, now_s
        self.counted, self.progress = None, Progress(0, 0, 0, 0)
        self.pace, self.work_pace = Pace(), Pace()
        self.changes, self._first = 0, []
        if event.problems == 0:
            self._reported.clear()
        self.held = None

    @property
    def fraction(self) -> float | None:
        """How much of a counted first sync is done, 0 to 1; None if nobody counted."""
        if self.counted is None:
            return None
        total = _work(self.counted.files, self.counted.size_bytes)
        done = _work(self.progress.files, self.progress.size_bytes)
        return min(1.0, done / total) if total else 1.0

    @property
    def left_s(self) -> float | None:
        """How long a counted first sync is likely to take from now; None if unknown."""
        speed = self.work_pace.per_second()
        if self.counted is None or not speed:
            return None
        total = _work(self.counted.files, self.counted.size_bytes)
        return max(0.0, total - _work(self.progress.files, self.progress.size_bytes)) / speed


def done_text(event: InSync) -> str:
    """Return what a cycle came to: files, size, bytes sent and saved, time."""
    parts = [count(event.files, "file"), size(event.size_bytes), f"{size(event.sent_bytes)} sent"]
    if event.reused_bytes:
        parts.append(f"{size(event.reused_bytes)} saved")
    parts.append(elapsed(event.seconds))
    if event.problems:
        parts.append(count(event.problems, "problem"))
    return ", ".join(parts)


def _work(files: int, size_bytes: int) -> int:
    return size_bytes + files * FILE_WEIGHT_BYTES


def change_line(event: Applied) -> Line:
    """Return the line for a change, its paths safe for a terminal."""
    path = display(event.path) or "."
    if event.source is not None:
        path = f"{display(event.source)} -> {path}"
    return Line("change", event.verb, path)


def one_line(text: str) -> str:
    """Return ``text`` on one line, nothing in it acts on a terminal."""
    return display(text.encode("utf-8", "surrogateescape"))
