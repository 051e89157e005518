"""What a file, a mebibyte and a live change cost, counted; and the most that each may cost.

A count does not depend on the machine's speed or load, so that a slip shows anywhere. Bounds are
a little above what was counted when they were set; a change that needs more raises its bound,
and says why.
"""

from __future__ import annotations

import sys

assert sys.platform != "win32"

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.counting.round_trips import count_round_trips
from tests.counting.session import Session, build_copies, run_session

_FEW_FILES, _MANY_FILES = 200, 600
_EDITED = 200
_SMALL_MIB, _BIG_MIB = 16, 48


class Measure(NamedTuple):
    """Something counted: what for, by whom, how often, and how often at most."""

    what: str
    side: str
    counted: float
    most: float

    @property
    def is_over(self) -> bool:
        """Tell whether it is more than it may be."""
        return self.counted > self.most

    def __str__(self) -> str:
        told = f"{self.what:40} {self.side:7} {self.counted:8.2f} of {self.most:5.1f}"
        return f"{told}  OVER" if self.is_over else told


def measured(base: Path) -> Iterator[Measure]:
    """Count everything, in pairs that live in an empty folder.

    What starting and stopping cost is left out: each count is the difference of two sessions.
    """
    few = run_session(base / "few", files=_FEW_FILES, by_strace=True)
    many = run_session(base / "many", files=_MANY_FILES, by_strace=True)
    edited = run_session(base / "edited", files=_MANY_FILES, edited=_EDITED, by_strace=True)
    yield from _small_files(few, many)
    yield from _edited_files(many, edited)
    yield from _big_files(base)
    trips = count_round_trips(base / "trips", _MANY_FILES)
    yield Measure("requests for a batch of a first sync", "client", trips.a_batch, 1)
    yield Measure("requests of a first sync, its batches left out", "client", trips.first, 3)
    yield Measure("requests of a sync that finds nothing", "client", trips.nothing, 3)
    yield Measure("requests that bring a live change", "client", trips.a_change, 1)
    yield Measure("requests for events, a live change", "client", trips.events_a_change, 1.2)


def _small_files(few: Session, many: Session) -> Iterator[Measure]:
    files = _MANY_FILES - _FEW_FILES
    server, client = many.server.minus(few.server), many.first.minus(few.first)
    for side, did, calls, statements in (
        ("client", client, 7.2, 2.3),
        ("server", server, 6.2, 2.3),
    ):
        yield Measure("file calls, a new file", side, did.file_calls / files, calls)
        yield Measure("socket calls, a new file", side, did.socket_calls / files, 0.2)
        yield Measure("statements, a new file", side, did.statements.total() / files, statements)
    again = many.second.minus(few.second)
    yield Measure("file calls, an unchanged file", "client", again.file_calls / files, 2.0)
    yield Measure("statements, an unchanged file", "client", again.statements.total() / files, 0.1)


def _edited_files(before: Session, after: Session) -> Iterator[Measure]:
    server, client = after.server.minus(before.server), after.second.minus(before.second)
    for side, did, calls, statements in (
        ("client", client, 8.0, 3.5),
        ("server", server, 10.0, 6.6),
    ):
        yield Measure("file calls, an edited file", side, did.file_calls / _EDITED, calls)
        total = did.statements.total() / _EDITED
        yield Measure("statements, an edited file", side, total, statements)


def _big_files(base: Path) -> Iterator[Measure]:
    small = run_session(base / "small", big_bytes=_SMALL_MIB << 20, by_strace=True)
    big = run_session(base / "big", big_bytes=_BIG_MIB << 20, by_strace=True)
    copies = build_copies(base)
    small_copies = run_session(base / "small copies", big_bytes=_SMALL_MIB << 20, copies=copies)
    big_copies = run_session(base / "big copies", big_bytes=_BIG_MIB << 20, copies=copies)
    mib = _BIG_MIB - _SMALL_MIB
    server, client = big.server.minus(small.server), big.first.minus(small.first)
    yield Measure("file calls, a MiB of a big file", "client", client.file_calls / mib, 20)
    yield Measure("file calls, a MiB of a big file", "server", server.file_calls / mib, 16)
    server, client = (
        big_copies.server.minus(small_copies.server),
        big_copies.first.minus(small_copies.first),
    )
    yield Measure("copies of a byte", "client", client.copied_bytes / (mib << 20), 1.5)
    yield Measure("copies of a byte", "server", server.copied_bytes / (mib << 20), 1.8)
