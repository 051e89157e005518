"""Batches between their header and their acknowledgement, and the loop that commits them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from twinfold import protocol
from twinfold.errors import DestinationError, LostPlaceError, ProtocolError
from twinfold.model import Change
from twinfold.protocol import BatchAnswer
from twinfold.server.commit import Committer
from twinfold.server.events import Committed, Listener, Message
from twinfold.server.lack import advice
from twinfold.server.stage import Stager
from twinfold.server.staged import StagedBatch
from twinfold.storage.interface import Index

_GROUP_BATCHES = 3
"""Half of what a client has on its way: the others are staged while these are committed."""

_SETTLE_AFTER_S = 1.0
_TURN_TIMEOUT_S = 300.0

_Result = TypeVar("_Result")


class OutOfOrderError(ProtocolError):
    """A batch does not fit where the folder is; its header has to come again."""

    status = 409


class PendingBatch:
    """A batch that is being staged or waits to be committed."""

    def __init__(self, staged: StagedBatch, changes: Sequence[Change]) -> None:
        self.staged = staged
        self.changes = changes
        self.is_complete = False
        self.answer: asyncio.Future[BatchAnswer] = asyncio.get_running_loop().create_future()


class PendingBatches:
    """The batches under way, by number, and the two threads that work on them.

    Two locks keep their table in order: ``beginning`` while a header is taken up,
    ``committing`` while a group is committed. Whoever drops batches holds both.
    """

    def __init__(
        self, index: Index, stager: Stager, committer: Committer, listener: Listener
    ) -> None:
        self._index = index
        self._stager = stager
        self._committer = committer
        self._listener = listener
        self._stage_thread = ThreadPoolExecutor(1, "stage")
        self._commit_thread = ThreadPoolExecutor(1, "commit")
        self._batches: dict[int, PendingBatch] = {}
        self._answers: dict[int, BatchAnswer] = {}
        self._complaint = ""
        self._is_closed = False
        self._changed = asyncio.Condition()
        self.beginning = asyncio.Lock()
        self.committing = asyncio.Lock()

    async def in_commit_thread(self, work: Callable[[], _Result]) -> _Result:
        """Run something that writes to the index or the forest.

        Raises:
            DestinationError: the server stops.
        """
        return await self._in(self._commit_thread, work)

    async def in_stage_thread(self, work: Callable[[], _Result]) -> _Result:
        """Run something that fills staged files.

        Raises:
            DestinationError: the server stops.
        """
        return await self._in(self._stage_thread, work)

    async def _in(self, thread: ThreadPoolExecutor, work: Callable[[], _Result]) -> _Result:
        if self._is_closed:
            raise DestinationError("the server is stopping")
        return await asyncio.get_running_loop().run_in_executor(thread, work)

    @property
    def is_busy(self) -> bool:
        """Tell whether batches are under way."""
        return bool(self._batches)

    def get(self, number: int) -> PendingBatch | None:
        """Return the batch of this number, if it is under way."""
        return self._batches.get(number)

    def answer(self, number: int) -> BatchAnswer | None:
        """Return what a batch committed lately was answered, if it is known."""
        return self._answers.get(number)

    def next_number(self) -> int:
        """Return the number of the batch whose header is due."""
        return max(self._batches, default=self._index.session().committed) + 1

    def is_first(self, number: int) -> bool:
        """Tell whether no earlier batch is under way."""
        return min(self._batches, default=number) >= number

    def promised_chunks(self) -> frozenset[bytes]:
        """Return all chunks that batches under way bring or use."""
        return frozenset[bytes]().union(*(b.staged.chunks for b in self._batches.values()))

    async def add(self, pending: PendingBatch) -> None:
        """Take a batch in."""
        self._batches[pending.staged.number] = pending
        await self.announce()

    async def announce(self) -> None:
        """Wake whoever waits for a change."""
        async with self._changed:
            self._changed.notify_all()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition over the batches holds.

        Raises:
            OutOfOrderError: it does not for too long.
        """
        async with self._changed:
            try:
                async with asyncio.timeout(_TURN_TIMEOUT_S):
                    await self._changed.wait_for(condition)
            except TimeoutError as error:
                raise OutOfOrderError("an earlier batch did not come") from error

    async def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Wait until a condition that `announce` is called for holds, or the time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(condition)

    async def drop(self, error: Exception) -> None:
        """Give up all batches that are not committed; called with both locks held."""
        batches, self._batches = self._batches, {}
        for pending in batches.values():
            if not pending.answer.done():
                pending.answer.set_exception(error)
                pending.answer.exception()
        await self.in_stage_thread(
            lambda: self._stager.drop([pending.staged for pending in batches.values()])
        )
        await self.announce()

    def begin_epoch(self) -> None:
        """Forget the answers of an earlier epoch."""
        self._answers.clear()

    async def commit_forever(self) -> None:
        """Commit what is complete, group by group; settle when it stays quiet.

        Raises:
            Exception: something unforeseen; all batches under way have been failed.
        """
        try:
            while True:
                is_ready = await self._wait_for_work()
                async with self.committing:
                    if is_ready:
                        await self._commit(self._ready())
                    else:
                        await self._settle()
        except Exception:
            async with self.committing, self.beginning:
                await self.drop(DestinationError("the server failed and is stopping"))
            raise

    async def _wait_for_work(self) -> bool:
        """Wait for a batch that can be committed; False if it stays quiet for a while."""
        timeout_s = None if self._committer.is_settled else _SETTLE_AFTER_S
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: bool(self._ready()))
        except TimeoutError:
            return False
        return True

    def _ready(self) -> list[PendingBatch]:
        ready: list[PendingBatch] = []
        number = self._index.session().committed + 1
        while len(ready) < _GROUP_BATCHES:
            pending = self._batches.get(number)
            if pending is None or not pending.is_complete:
                break
            ready.append(pending)
            number += 1
        return ready

    async def _settle(self) -> None:
        try:
            await self.in_commit_thread(self._committer.settle)
            self._complain("")
        except (OSError, DestinationError) as error:
            self._complain(error)
            await asyncio.sleep(_SETTLE_AFTER_S)

    def _complain(self, error: Exception | str) -> None:
        """Say what keeps the destination from being written; once, and when it is over."""
        text = advice(error) if isinstance(error, OSError) else str(error)
        if text != self._complaint:
            self._complaint = text
            self._listener(Message(text or "the destination can be written again"))

    async def _commit(self, group: list[PendingBatch]) -> None:
        if not group:
            return
        try:
            before, refused = await self.in_commit_thread(
                lambda: self._committer.commit([b.staged for b in group])
            )
        except (ProtocolError, OSError, DestinationError) as error:
            if len(group) > 1 and isinstance(error, ProtocolError):
                await self._commit(group[:1])
                return
            async with self.beginning:
                told = _to_client(error)
                await self.drop(told)
                await self._drop_suspects()
            if not isinstance(told, ProtocolError):
                self._complain(error)
            return
        self._complain("")
        for revision, pending in enumerate(group, before + 1):
            staged = self._batches.pop(pending.staged.number).staged
            answer = BatchAnswer(revision=revision, refused=refused.get(staged.number, []))
            self._answers[staged.number] = answer
            self._answers.pop(staged.number - protocol.MAX_PENDING_BATCHES, None)
            pending.answer.set_result(answer)
            self._listener(Committed(revision, len(staged.changes), staged.content_bytes))
        await self.announce()

    async def _drop_suspects(self) -> None:
        try:
            await self.in_commit_thread(self._committer.drop_suspects)
        except (OSError, DestinationError) as error:
            self._complain(error)

    async def close(self) -> None:
        """Finish the commit under way, drop the rest, and let go of the threads; once."""
        if self._is_closed:
            return
        async with self.committing, self.beginning:
            await self.drop(DestinationError("the server is stopping"))
        await self._settle()
        self._is_closed = True
        self._stage_thread.shutdown()
        self._commit_thread.shutdown()


def _to_client(error: Exception) -> Exception:
    """Return what a client is told: a staged file that is gone means starting over."""
    if isinstance(error, FileNotFoundError):
        return LostPlaceError("content staged for this batch is gone; it has to come again")
    return error
