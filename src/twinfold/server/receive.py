"""Receiving batches: receive -> stage -> (missing?) -> commit -> ack.

Requests of several batches run at the same time; headers are taken up and batches are
committed in the order of their numbers. Staging and committing have a thread each.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from twinfold import protocol
from twinfold.core import session as rules
from twinfold.core.session import FolderSession
from twinfold.errors import DestinationError, LimitError, ProtocolError
from twinfold.model import Change, Chunk
from twinfold.protocol import Batch, BatchAnswer, OpenSession
from twinfold.server.commit import Committer
from twinfold.server.events import Committed, Listener, SessionOpened
from twinfold.server.stage import StagedBatch, Stager, UnknownBaseError
from twinfold.server.survey import Survey
from twinfold.server.validate import check_changes
from twinfold.storage.interface import Index

_GROUP_BATCHES = 8
_SETTLE_AFTER_S = 1.0
_TURN_TIMEOUT_S = 300.0

_Result = TypeVar("_Result")


class ChunkFrame(NamedTuple):
    """Chunks as they came: what they are said to be, and their bytes one after the other."""

    chunks: list[Chunk]
    payload: bytes


Frames = AsyncIterator[Batch | ChunkFrame]
"""A request's frames: at most one `Batch`, which comes first, then chunks."""


class OutOfOrderError(ProtocolError):
    """A batch does not fit where the folder is; the client has to look again."""

    status = 409


class PendingBatch:
    """A batch between its header and its acknowledgement."""

    def __init__(self, staged: StagedBatch, changes: Sequence[Change]) -> None:
        self.staged = staged
        self.changes = changes
        self.is_complete = False
        self.revision: asyncio.Future[int] = asyncio.get_running_loop().create_future()


class Receiver:
    """The folder as its writer sees it: sessions and numbered batches."""

    def __init__(
        self,
        index: Index,
        stager: Stager,
        committer: Committer,
        listener: Listener,
    ) -> None:
        self._index = index
        self._stager = stager
        self._committer = committer
        self._listener = listener
        self._stage_thread = ThreadPoolExecutor(1, "stage")
        self._commit_thread = ThreadPoolExecutor(1, "commit")
        self._pending: dict[int, PendingBatch] = {}
        self._changed = asyncio.Condition()
        self._begin_lock = asyncio.Lock()
        self._active_requests = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, survey: Survey) -> None:
        """Finish what a crash left undone, learn what is not known, and begin to commit.

        Raises:
            OSError: the disk does not let us.
        """
        await self.in_commit_thread(self._committer.recover)
        await self.in_commit_thread(self._committer.discard_leftovers)
        if not self._index.is_surveyed:
            await self.in_commit_thread(survey.run)
        self._tasks = [asyncio.create_task(self._commit_forever())]

    async def stop(self) -> None:
        """Stop after the commit that is under way; nothing is torn."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        async with self._begin_lock:
            await self._drop_pending(DestinationError("the server is stopping"))
        with contextlib.suppress(OSError):
            await self.in_commit_thread(self._committer.settle)
        self._stage_thread.shutdown()
        self._commit_thread.shutdown()

    async def in_commit_thread(self, work: Callable[[], _Result]) -> _Result:
        """Run something that writes to the index or the forest."""
        return await asyncio.get_running_loop().run_in_executor(self._commit_thread, work)

    async def _in_stage_thread(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._stage_thread, work)

    async def open_session(self, request: OpenSession) -> protocol.Session:
        """Make the client the folder's writer.

        Raises:
            RefusedError: another client is.
        """
        async with self._begin_lock:
            before = self._index.session()
            session = rules.open_session(
                before,
                request.client_id,
                request.instance,
                request.name,
                take_over=request.take_over,
                active=self._active_requests > 0,
            )
            if session != before:
                await self._drop_pending(OutOfOrderError("another session began"))
                await self.in_commit_thread(lambda: self._committer.save_session(session))
            entries = await asyncio.to_thread(self._index.count_entries)
        self._listener(SessionOpened(request.name))
        return protocol.Session(session.epoch, session.revision, session.committed, entries)

    async def receive(self, epoch: int, number: int, frames: Frames) -> BatchAnswer:
        """Take in a request of a batch; answer when it is committed or tell what is missing.

        Raises:
            StaleEpochError: the client was fenced off.
            ProtocolError: the request is malformed or does not fit; nothing of it is used.
            OSError: the disk does not let us.
        """
        session = self._check(epoch, number)
        if rules.is_committed(session, number):
            async for _ in frames:
                pass
            await self.in_commit_thread(self._committer.finish_steps)
            return BatchAnswer(revision=session.revision - session.committed + number)
        self._active_requests += 1
        try:
            return await self._receive(epoch, number, frames)
        except UnknownBaseError as error:
            return BatchAnswer(unknown_bases=error.bases)
        finally:
            self._active_requests -= 1

    def _check(self, epoch: int, number: int) -> FolderSession:
        session = self._index.session()
        rules.check_epoch(session, epoch)
        if not 0 < number <= session.committed + protocol.MAX_PENDING_BATCHES:
            raise OutOfOrderError(f"batch {number} is out of order")
        return session

    async def _receive(self, epoch: int, number: int, frames: Frames) -> BatchAnswer:
        async for frame in frames:
            if isinstance(frame, Batch):
                await self._begin(epoch, number, frame.changes)
            else:
                await self._store(self._known(epoch, number), frame)
        pending = self._known(epoch, number)
        if not pending.is_complete:
            missing = await self._complete(pending)
            if missing:
                return BatchAnswer(missing=missing)
        return BatchAnswer(revision=await asyncio.shield(pending.revision))

    def _known(self, epoch: int, number: int) -> PendingBatch:
        rules.check_epoch(self._index.session(), epoch)
        pending = self._pending.get(number)
        if pending is None:
            raise OutOfOrderError(f"batch {number} is not known here; send its header")
        return pending

    async def _begin(self, epoch: int, number: int, changes: list[Change]) -> None:
        """Take up a header when its turn comes; a repeated one changes nothing."""
        check_changes(changes)
        await self._wait_until(lambda: self._next_number() >= number)
        async with self._begin_lock:
            session = self._check(epoch, number)
            there = self._pending.get(number)
            if there is not None and there.changes != changes:
                raise OutOfOrderError(f"batch {number} was announced with other changes")
            if there is not None or rules.is_committed(session, number):
                return
            promised = frozenset[bytes]().union(*(b.staged.chunks for b in self._pending.values()))
            staged = await self._in_stage_thread(
                lambda: self._stager.begin(number, changes, promised)
            )
            self._pending[number] = PendingBatch(staged, changes)
        await self._announce()

    def _next_number(self) -> int:
        return max(self._pending, default=self._index.session().committed) + 1

    async def _store(self, pending: PendingBatch, frame: ChunkFrame) -> None:
        if not pending.is_complete:
            await self._in_stage_thread(
                lambda: self._stager.store(pending.staged, frame.chunks, frame.payload)
            )

    async def _complete(self, pending: PendingBatch) -> list[bytes]:
        """Finish staging if all bytes are there; return the chunks to ask for.

        Chunks that an earlier batch brings are not asked for, but looked for once that
        batch is committed.
        """
        staged = pending.staged
        missing = [chunk for chunk in staged.wanted if chunk not in staged.promised]
        if missing:
            return missing
        if staged.wanted:
            await self._wait_until(lambda: min(self._pending, default=0) >= staged.number)
            await self._in_stage_thread(lambda: self._stager.reuse(staged, list(staged.wanted)))
            staged.promised = frozenset()
            if staged.wanted:
                return list(staged.wanted)
        if not pending.is_complete:
            await self._in_stage_thread(lambda: self._stager.finish(staged))
            pending.is_complete = True
            await self._announce()
        return []

    async def _announce(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        async with self._changed:
            try:
                async with asyncio.timeout(_TURN_TIMEOUT_S):
                    await self._changed.wait_for(condition)
            except TimeoutError as error:
                raise OutOfOrderError("an earlier batch did not come") from error

    async def _commit_forever(self) -> None:
        while True:
            group = await self._next_group()
            if group:
                await self._commit(group)
            elif not self._committer.is_settled:
                with contextlib.suppress(OSError):
                    await self.in_commit_thread(self._committer.settle)

    async def _next_group(self) -> list[PendingBatch]:
        """Wait for batches that can be committed; none if it stays quiet for a while."""
        try:
            async with (
                asyncio.timeout(None if self._committer.is_settled else _SETTLE_AFTER_S),
                self._changed,
            ):
                await self._changed.wait_for(lambda: bool(self._ready()))
        except TimeoutError:
            return []
        return self._ready()

    def _ready(self) -> list[PendingBatch]:
        ready: list[PendingBatch] = []
        number = self._index.session().committed + 1
        while number in self._pending and self._pending[number].is_complete:
            ready.append(self._pending[number])
            number += 1
            if len(ready) == _GROUP_BATCHES:
                break
        return ready

    async def _commit(self, group: list[PendingBatch]) -> None:
        try:
            before = await self.in_commit_thread(
                lambda: self._committer.commit([b.staged for b in group])
            )
        except (ProtocolError, OSError, DestinationError) as error:
            if len(group) > 1 and isinstance(error, ProtocolError):
                await self._commit(group[:1])
                return
            async with self._begin_lock:
                await self._drop_pending(error)
            return
        for index, pending in enumerate(group, 1):
            del self._pending[pending.staged.number]
            pending.revision.set_result(before + index)
            staged = pending.staged
            self._listener(Committed(before + index, len(staged.changes), staged.content_bytes))
        await self._announce()

    async def _drop_pending(self, error: Exception) -> None:
        """Give up all batches that are not committed; the client sends them again.

        Called with the lock on beginnings held, so that none is half begun meanwhile.
        """
        batches, self._pending = self._pending, {}
        for pending in batches.values():
            if not pending.revision.done():
                pending.revision.set_exception(error)
                pending.revision.exception()
        await self._in_stage_thread(
            lambda: self._stager.drop([pending.staged for pending in batches.values()])
        )
        await self._announce()


def check_number(text: str) -> int:
    """Return the number of a batch from an address.

    Raises:
        ProtocolError, LimitError: it is none.
    """
    if not text.isdecimal() or len(text) > 18:
        raise LimitError(f"{text[:20]!r} is not the number of a batch", 400)
    return int(text)
