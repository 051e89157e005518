"""The client where output is no terminal: calm lines without colour, for people and logs."""

from __future__ import annotations

import threading
import time

from twinfold.client.events import (
    Applied,
    Comparing,
    Connecting,
    Counted,
    Event,
    InSync,
    Scanning,
    Waiting,
)
from twinfold.output import tell_line, write_line
from twinfold.screen.story import Line, Story, change_line, done_text, one_line
from twinfold.screen.text import clock, count, size

PROGRESS_EVERY_S = 10.0


class PlainScreen:
    """Writes a line for what is worth one; a listener that any thread may call."""

    def __init__(self) -> None:
        self._story = Story()
        self._lock = threading.Lock()
        self._progress_at_s = time.time()
        self._last_note = ""

    def __call__(self, event: Event) -> None:
        """Take in an event."""
        now_s = time.time()
        with self._lock:
            first = self._story.last is None
            for line in self._story.note(event, now_s):
                tell_line(f"{clock(now_s)} {line_text(line)}")
            self._write_note(self._note_text(event, first, now_s), now_s)

    def _write_note(self, text: str | None, now_s: float) -> None:
        if text and text != self._last_note:
            self._last_note = text
            tell_line(f"{clock(now_s)} {text}")

    def _note_text(self, event: Event, first: bool, now_s: float) -> str | None:
        match event:
            case Waiting():
                return f"waiting for the server: {one_line(event.reason)}"
            case Connecting() if first and not self._last_note:
                return f"connecting to {event.url}"
            case Comparing():
                return f"comparing with {count(event.entries, 'entry', 'entries')} of the server"
            case Scanning() if first:
                return "scanning"
            case Counted():
                return f"found {count(event.files, 'file')}, {size(event.size_bytes)}"
            case InSync() if not first:
                return f"in sync: {done_text(event)}"
            case _:
                return self._progress_text(now_s)

    def _progress_text(self, now_s: float) -> str | None:
        progress = self._story.progress
        if now_s - self._progress_at_s < PROGRESS_EVERY_S or not progress.files:
            return None
        self._progress_at_s = now_s
        done = f"{count(progress.files, 'file')}, {size(progress.size_bytes)} done"
        fraction = self._story.fraction
        return done if fraction is None else f"{done} ({fraction:.0%})"


class DryRunScreen:
    """Lists every change that would be made, none left out; a listener for ``--dry-run``."""

    def __init__(self) -> None:
        self._story = Story()
        self.changes = 0

    def __call__(self, event: Event) -> None:
        """Take in an event."""
        if isinstance(event, Applied):
            self.changes += 1
            write_line(line_text(change_line(event)))
        elif not isinstance(event, InSync):
            for line in self._story.note(event, time.time()):
                write_line(line_text(line))

    def finish(self) -> None:
        """Say how many changes there were."""
        write_line(f"{count(self.changes, 'change')} would be made; nothing was sent or changed")


def line_text(line: Line) -> str:
    """Return a line as it stands where nothing is coloured or cut."""
    text = f"{line.label:<11}{line.text}"
    return f"{text}: {line.detail}" if line.detail else text
