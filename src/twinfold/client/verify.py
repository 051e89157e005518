"""``verify``: both ends read all content again.

The source's files are compared with what was acknowledged, the destination's (by the server)
with what it recorded, and the two records with each other. Live changes go on meanwhile: what
changes while it is looked at is left to the scan, which reads it anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Awaitable, Callable

import msgspec

from twinfold.client.comparison import differing_entries
from twinfold.client.events import Differing, Status, Verified, VerifyProgress
from twinfold.client.link import Link
from twinfold.client.read import Reader, ScanStoppedError, UnsettledError
from twinfold.client.source import Source
from twinfold.client.state import ROOT_NODE, State
from twinfold.client.tree import Directory, open_path
from twinfold.core.paths import join
from twinfold.core.planning import DIRECTORY, FILE, Facts, Known
from twinfold.errors import ConnectionLostError
from twinfold.protocol import Difference

_READS = 3
"""So often a file has to read wrong, without having changed, before it is said."""

_LOOK_EVERY_S = 1.0
_PATIENCE_S = 10.0

SOURCE_CHANGED = (
    "changed at the source without a new modification time (a failing disk?); the destination "
    "keeps what it has until the file is written or touched"
)
HEALED = "what was found is in the attic; the source's is sent again"
SET_RIGHT = "set right"
UNREADABLE = "cannot be read at the destination"
RECORDS = "the server's records said otherwise; compared again"

Told = Callable[[VerifyProgress], None]


class Verification:
    """One run of ``verify``.

    Args:
        source, state, link: the client's.
        wait_for_all: returns when all that was changed before is durable.
        distrust: has the state compared with the server's entries before anything else.
        status: what the client does now.
    """

    def __init__(
        self,
        source: Source,
        state: State,
        link: Link,
        wait_for_all: Callable[[], Awaitable[bool]],
        distrust: Callable[[], None],
        status: Callable[[], Status],
    ) -> None:
        self._source = source
        self._state = state
        self._link = link
        self._wait_for_all = wait_for_all
        self._distrust = distrust
        self._status = status
        self._stop = threading.Event()
        self._reader = Reader(self._stop)
        self._progress = VerifyProgress()
        self._found: list[Differing] = []

    async def run(self, told: Told) -> Verified:
        """Verify; ``told`` learns how far both ends are.

        Raises:
            TwinfoldError: it cannot be done.
        """
        began_s = time.monotonic()
        await self._settle()
        reading = asyncio.create_task(asyncio.to_thread(self._read_source))
        telling = asyncio.create_task(self._tell(told))
        try:
            await self._read_destination()
            await reading
        finally:
            self._stop.set()
            telling.cancel()
            await asyncio.gather(reading, telling, return_exceptions=True)
        arrived = await self._settle()
        if await self._differing_records():
            arrived = await self._settle()
            differing = await self._differing_records()
            if differing:
                self._found += [Differing(p, "destination", w, RECORDS) for p, w in differing]
                self._distrust()
                arrived = await self._settle()
        return Verified(
            msgspec.structs.replace(self._status(), in_sync=arrived),
            sorted(self._found, key=lambda differing: differing.path),
            self._progress.source_files,
            self._progress.source_bytes,
            time.monotonic() - began_s,
        )

    async def _settle(self) -> bool:
        """Return when all that was changed before is durable; False if deletions are held.

        Raises:
            ConnectionLostError: the server is away.
        """
        settling = asyncio.ensure_future(self._wait_for_all())
        away = 0
        try:
            while not settling.done():
                await asyncio.wait([settling], timeout=_LOOK_EVERY_S)
                status = self._status()
                away = away + 1 if status.activity in ("waiting", "connecting") else 0
                if away * _LOOK_EVERY_S >= _PATIENCE_S and not settling.done():
                    raise ConnectionLostError(status.detail or "the server is away")
            return settling.result()
        finally:
            settling.cancel()

    async def _tell(self, told: Told) -> None:
        while True:
            told(self._progress)
            await asyncio.sleep(0.5)

    async def _read_destination(self) -> None:
        async for told in self._link.connection.verify(self._link.session.epoch):
            if isinstance(told, list):
                self._found += [_at_destination(difference) for difference in told]
            else:
                self._progress = msgspec.structs.replace(
                    self._progress, destination_files=told.files, destination_bytes=told.size_bytes
                )

    async def _differing_records(self) -> list[tuple[bytes, list[str]]]:
        """Return what the server records otherwise than was acknowledged."""
        differing: list[tuple[bytes, list[str]]] = []
        count = 0
        async for group in self._link.connection.entries():
            if isinstance(group, list):
                count += len(group)
                differing += await asyncio.to_thread(differing_entries, self._state, group)
        if not differing and count != self._state.entries + 1:
            differing.append((b"", ["missing"]))
        return differing

    def _read_source(self) -> None:
        """Read every file that is as it was when it was acknowledged."""
        with self._source.open() as root, contextlib.suppress(ScanStoppedError):
            due = [(b"", ROOT_NODE)]
            while due:
                path, node = due.pop()
                known = self._state.children(node)
                due += [
                    (join(path, name), child.node)
                    for name, child in known.items()
                    if child.kind == DIRECTORY
                ]
                files = {name: child for name, child in known.items() if child.kind == FILE}
                with contextlib.suppress(OSError), open_path(root, path) as directory:
                    for name, child in files.items():
                        self._read_file(directory, join(path, name), name, child)

    def _read_file(self, directory: Directory, path: bytes, name: bytes, known: Known) -> None:
        """Note the file if it reads otherwise each time although nothing says that it changed.

        What cannot be read, or changes, is the scan's to report.
        """
        for _ in range(_READS):
            seen = directory.look(name)
            if seen is None or seen[0] != known.facts:
                return
            try:
                if self._identify(directory, name, seen[0]) == known.content:
                    self._count(known.size)
                    return
            except (OSError, UnsettledError):
                return
            if self._state.node(known.node) != known:
                return
        self._count(known.size)
        self._found.append(Differing(path, "source", ["content"], SOURCE_CHANGED))

    def _identify(self, directory: Directory, name: bytes, facts: Facts) -> bytes:
        fd, now = self._reader.open(directory, name, facts)
        try:
            return self._reader.identify(fd, now)
        finally:
            os.close(fd)

    def _count(self, size_bytes: int) -> None:
        self._progress = msgspec.structs.replace(
            self._progress,
            source_files=self._progress.source_files + 1,
            source_bytes=self._progress.source_bytes + size_bytes,
        )


def _at_destination(difference: Difference) -> Differing:
    what = difference.what
    if what == ["unreadable"]:
        reason = UNREADABLE
    elif set(what) <= {"mode", "mtime"}:
        reason = SET_RIGHT
    elif what == ["extra"]:
        reason = "moved to the attic"
    elif what == ["missing"]:
        reason = "sent again"
    else:
        reason = HEALED
    return Differing(difference.path, "destination", what, reason)
