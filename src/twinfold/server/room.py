"""Room for what comes: the attic gives way, oldest first, before anything is refused."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Sequence

from twinfold.core.room import Room
from twinfold.errors import DestinationError
from twinfold.model import Change, ExtendUpload
from twinfold.server.commit import Committer
from twinfold.server.events import AtticGaveWay, Listener, Message
from twinfold.server.pending import PendingBatches
from twinfold.server.staged import room_for
from twinfold.storage.interface import Forest, Index, Space

LOOK_EVERY_S = 10.0
_FRESH_NS = 60 * 1_000_000_000
"""What left the tree so lately goes only where content would be refused otherwise."""

_IDLE_UPLOAD_NS = 3_600 * 1_000_000_000
"""An upload that rested for so long gives way after the attic, and begins anew."""

_GROUP = 64
_RELIEVED_AFTER_S = 30.0
_EMPTY_HANDED = (OSError, DestinationError)


class RoomKeeper:
    """Keeps the low-water mark and the reserve, and tells how much content may come in."""

    def __init__(
        self,
        space: Space,
        index: Index,
        forest: Forest,
        committer: Committer,
        pending: PendingBatches,
        now_ns: Callable[[], int],
        listener: Listener,
    ) -> None:
        self._space = space
        self._index = index
        self._forest = forest
        self._committer = committer
        self._pending = pending
        self._now_ns = now_ns
        self._listener = listener
        self._lock = asyncio.Lock()
        self._demand_bytes = 0
        self._is_refusing = False
        self._refused_at_s = 0.0

    async def keep_forever(self) -> None:
        """Look now and then: others use the file system, too."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self._make(0, 0)

    async def make_for(self, changes: Sequence[Change]) -> Room | None:
        """Make room for a batch if need be; return what content may take, None if all fits."""
        size_bytes, files = self._needs(changes)
        if not size_bytes and not files:
            return None
        await self._make(size_bytes, files)
        budget = self._budget()
        return None if budget.holds(size_bytes, files) else budget

    def note_refused(self, changes: Sequence[Change]) -> None:
        """The system had no room for these; it may know more than it says (a quota, say)."""
        self._demand_bytes = max(self._demand_bytes, self._needs(changes)[0])
        self._refused_at_s = time.monotonic()
        if not self._is_refusing:
            self._is_refusing = True
            self._listener(
                Message("the destination has no room for new content; free some, it goes on then")
            )

    def _budget(self) -> Room:
        room = self._space.measure()
        if not self._space.hold():
            return Room(room.total_bytes, 0, room.total_files, room.free_files)
        return room.budget

    async def _make(self, size_bytes: int, files: int) -> None:
        self._end_refusing()
        room = self._space.measure()
        is_calm = self._space.is_held and not self._demand_bytes
        if is_calm and not room.is_low_with(size_bytes, files):
            return
        async with self._lock:
            if room.free_bytes < room.reserve_bytes:
                self._space.release()
            try:
                await self._thin(size_bytes, files)
            except _EMPTY_HANDED as error:
                self._listener(Message(f"the attic could not give way: {error}"))
            self._space.hold()

    def _end_refusing(self) -> None:
        if self._is_refusing and time.monotonic() > self._refused_at_s + _RELIEVED_AFTER_S:
            self._is_refusing = False
            self._listener(Message("the destination has room again"))

    async def _thin(self, size_bytes: int, files: int) -> None:
        demand_bytes, self._demand_bytes = self._demand_bytes, 0
        gone = gone_bytes = 0
        try:
            while gone_bytes < demand_bytes or self._space.measure().is_low_with(size_bytes, files):
                is_pressing = not self._space.measure().budget.holds(size_bytes, files)
                before_ns = self._now_ns() - (0 if is_pressing or demand_bytes else _FRESH_NS)
                oldest = await asyncio.to_thread(self._index.attic, before_ns, _GROUP)
                if not oldest:
                    break
                entries, freed_bytes = await self._purge(oldest, size_bytes or demand_bytes)
                gone, gone_bytes = gone + entries, gone_bytes + freed_bytes
        finally:
            if gone:
                self._listener(AtticGaveWay(gone, gone_bytes))
        if not self._space.measure().budget.holds(size_bytes, files):
            await self._drop_idle_uploads()

    async def _purge(self, oldest: list[tuple[int, bytes]], need_bytes: int) -> tuple[int, int]:
        """Delete the oldest of these for good, as many as may be needed."""
        group: list[tuple[int, bytes]] = []
        entries = size_bytes = 0
        for kept in oldest:
            below, below_bytes = await asyncio.to_thread(self._index.size_below, kept[0])
            group.append(kept)
            entries, size_bytes = entries + below, size_bytes + below_bytes
            if size_bytes > need_bytes:
                break
        purge = functools.partial(self._committer.begin_purge, group)
        for doomed in await self._pending.in_commit_thread(purge):
            await asyncio.to_thread(self._forest.purge, doomed)
        return entries, size_bytes

    async def _drop_idle_uploads(self) -> None:
        before_ns = self._now_ns() - _IDLE_UPLOAD_NS
        for node, name in await asyncio.to_thread(self._index.staged, before_ns):
            await self._pending.in_commit_thread(
                functools.partial(self._committer.forget_upload, node, name)
            )

    def _needs(self, changes: Sequence[Change]) -> tuple[int, int]:
        """Return (bytes, inodes) that a batch takes; of each upload what it still is to take."""
        uploads: dict[bytes, int] = {}
        size_bytes = files = 0
        for change in changes:
            change_bytes, change_files = room_for(change, self._index)
            files += change_files
            if isinstance(change, ExtendUpload):
                uploads[change.upload] = max(uploads.get(change.upload, 0), change_bytes)
            else:
                size_bytes += change_bytes
        return size_bytes + sum(uploads.values()), files
