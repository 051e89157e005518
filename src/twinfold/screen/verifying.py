"""``twinfold verify`` for people: how far both ends are, then what differs."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from twinfold.client.events import Differing, Verified, VerifyProgress
from twinfold.core.paths import display
from twinfold.output import write_line
from twinfold.screen.story import one_line
from twinfold.screen.table import problem_text
from twinfold.screen.text import count, elapsed, size

TOLD_EVERY_S = 10.0


class VerifyScreen:
    """Shows progress: on a terminal one line that changes, elsewhere a line now and then."""

    def __init__(self, terminal: bool, *, quiet: bool) -> None:
        self._terminal = terminal
        self._quiet = quiet
        self._told_s = time.monotonic()
        self._width = 0

    def __enter__(self) -> VerifyScreen:
        """Begin to show."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Take the line that changes away."""
        if self._width:
            sys.stdout.write("\r" + " " * self._width + "\r")
            sys.stdout.flush()

    def __call__(self, progress: VerifyProgress) -> None:
        """Take in how far it is."""
        text = progress_text(progress)
        if self._quiet:
            return
        if self._terminal:
            sys.stdout.write("\r" + text.ljust(self._width))
            sys.stdout.flush()
            self._width = len(text)
        elif time.monotonic() - self._told_s >= TOLD_EVERY_S:
            self._told_s = time.monotonic()
            write_line(text)

    def show(self, verified: Verified) -> None:
        """List what differs, and say what it comes to."""
        for differing in verified.differences:
            write_line(difference_text(differing))
        for problem in verified.status.problems:
            write_line(problem_text(problem))
        write_line(sum_text(verified))


def progress_text(progress: VerifyProgress) -> str:
    """Return how much each end has read."""
    return (
        f"read {size(progress.source_bytes)} in {count(progress.source_files, 'file')} at the "
        f"source, {size(progress.destination_bytes)} in "
        f"{count(progress.destination_files, 'file')} at the destination"
    )


def difference_text(differing: Differing) -> str:
    """Return a difference on one line."""
    path = display(differing.path) or "."
    return f"{path}: {', '.join(differing.what)}: {one_line(differing.reason)}"


def sum_text(verified: Verified) -> str:
    """Return what a verification comes to."""
    found = count(len(verified.differences), "difference")
    what = found if verified.differences else "both ends are equal"
    if verified.status.problems:
        what += f", {count(len(verified.status.problems), 'problem')}"
    if not verified.status.in_sync:
        what += f", not in sync: {verified.status.activity}"
    read = f"{count(verified.files, 'file')}, {size(verified.size_bytes)}"
    return f"verified {read} in {elapsed(verified.seconds)}: {what}"
