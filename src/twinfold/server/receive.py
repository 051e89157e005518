"""Receiving batches: receive -> stage -> (missing?) -> commit -> ack.

Requests of several batches run at the same time; headers are taken up and batches are
committed in the order of their numbers. Staging and committing have a thread each.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from twinfold import protocol
from twinfold.core import session as rules
from twinfold.core.session import FolderSession
from twinfold.errors import DestinationError, LimitError, LostPlaceError
from twinfold.model import Change, Chunk, Recipe
from twinfold.protocol import Batch, BatchAnswer, OpenSession
from twinfold.server.commit import Committer
from twinfold.server.events import Listener, SessionOpened
from twinfold.server.pending import OutOfOrderError, PendingBatch, PendingBatches
from twinfold.server.room import RoomKeeper
from twinfold.server.stage import LostUploadError, Stager, UnknownBaseError
from twinfold.server.survey import Survey
from twinfold.server.validate import check_changes
from twinfold.storage.interface import Index


class ChunkFrame(NamedTuple):
    """Chunks as they came: what they are said to be, and the bytes of each."""

    chunks: list[Chunk]
    contents: Sequence[bytes | memoryview]


class RecipeFrame(NamedTuple):
    """Recipes of chunks, each checked by itself."""

    recipes: list[Recipe]


Frames = AsyncIterator[Batch | ChunkFrame | RecipeFrame]
"""A request's frames: at most one `Batch`, which comes first, then recipes and chunks."""


class Receiver:
    """The folder as its writer sees it: sessions and numbered batches."""

    def __init__(
        self,
        index: Index,
        stager: Stager,
        committer: Committer,
        pending: PendingBatches,
        rooms: RoomKeeper,
        listener: Listener,
    ) -> None:
        self._index = index
        self._stager = stager
        self._committer = committer
        self._pending = pending
        self._rooms = rooms
        self._listener = listener
        self._active_requests = 0
        self._is_stopping = False

    async def start(self, survey: Survey) -> asyncio.Task[None]:
        """Finish what a crash left undone, learn what is not known, and begin to commit.

        Returns:
            The task that commits; it ends only if it fails.

        Raises:
            OSError: the disk does not let us.
        """
        await self._pending.in_commit_thread(self._committer.recover)
        await self._pending.in_commit_thread(self._committer.discard_leftovers)
        if not self._index.is_surveyed:
            await self._pending.in_commit_thread(survey.run)
        await self._pending.in_commit_thread(survey.take_in_attic)
        return asyncio.create_task(self._pending.commit_forever())

    async def open_session(self, request: OpenSession, address: str = "") -> protocol.Session:
        """Make the client, which calls from ``address``, the folder's writer.

        Raises:
            RefusedError: another client is.
        """
        active = self._active_requests > 0
        async with self._pending.committing, self._pending.beginning:
            before = self._index.session()
            session = await self._pending.in_commit_thread(
                lambda: self._committer.open_session(request, address, active=active)
            )
            if session.epoch != before.epoch:
                await self._pending.drop(OutOfOrderError("another session began"))
                self._pending.begin_epoch()
        entries = await asyncio.to_thread(self._count_entries)
        is_other = before.client_id not in (b"", request.client_id)
        self._listener(SessionOpened(request.name, address, before.name if is_other else ""))
        return protocol.Session(session.epoch, session.revision, session.committed, entries)

    async def watch(self, epoch: int, wait_s: float) -> int:
        """Wait while nothing happens that the writer of this epoch has to know of.

        Returns:
            The folder's revision, when the time is up.

        Raises:
            DriftError: something else changed the destination.
            StaleEpochError: the client was fenced off.
            DestinationError: the server stops.
        """
        await self._pending.wait_for(
            lambda: self._is_stopping or self._index.session().epoch != epoch, wait_s
        )
        session = self._index.session()
        rules.check_epoch(session, epoch)
        if self._is_stopping:
            raise DestinationError("the server is stopping")
        return session.revision

    async def stop(self) -> None:
        """Let those go who wait for events."""
        self._is_stopping = True
        await self._pending.announce()

    async def settle(self) -> None:
        """Bring the index in line with what was done, refusals included.

        Raises:
            OSError: the disk does not let us.
        """
        await self._pending.in_commit_thread(self._committer.settle)

    def _count_entries(self) -> int:
        """Return how many entries there are to compare; 0 only if the server holds no content."""
        entries = self._index.count_entries() + len(self._index.staged())
        return entries or len(self._index.attic(None))

    async def receive(self, epoch: int, number: int, frames: Frames) -> BatchAnswer:
        """Take in a request of a batch; answer when it is committed or tell what is missing.

        Raises:
            StaleEpochError: the client was fenced off.
            ProtocolError: the request is malformed or does not fit; nothing of it is used.
            OSError: the disk does not let us.
        """
        self._active_requests += 1
        try:
            return await self._receive(epoch, number, frames)
        except UnknownBaseError as error:
            return BatchAnswer(unknown_bases=error.bases)
        except LostUploadError as error:
            forget = functools.partial(self._committer.forget_upload, error.node, error.name)
            await self._pending.in_commit_thread(forget)
            raise LostPlaceError("an upload was lost; it has to begin anew") from error
        finally:
            self._active_requests -= 1

    async def _receive(self, epoch: int, number: int, frames: Frames) -> BatchAnswer:
        self._check(epoch, number)
        async for frame in frames:
            if isinstance(frame, Batch):
                await self._begin(epoch, number, frame.changes)
            elif not rules.is_committed(self._check(epoch, number), number):
                await self._store(self._known(epoch, number), frame)
        session = self._check(epoch, number)
        pending = self._pending.get(number)
        if pending is None and rules.is_committed(session, number):
            await self._pending.in_commit_thread(self._committer.finish_steps)
            answer = self._pending.answer(number)
            if answer is None:
                raise LostPlaceError(f"batch {number} is done, its answer not known any more")
            return answer
        pending = self._known(epoch, number)
        missing = await self._complete(pending)
        if missing:
            return BatchAnswer(missing=missing)
        return await asyncio.shield(pending.answer)

    def _check(self, epoch: int, number: int) -> FolderSession:
        session = self._index.session()
        rules.check_epoch(session, epoch)
        if not 0 < number <= session.committed + protocol.MAX_PENDING_BATCHES:
            raise OutOfOrderError(f"batch {number} is out of order")
        return session

    def _known(self, epoch: int, number: int) -> PendingBatch:
        self._check(epoch, number)
        pending = self._pending.get(number)
        if pending is None:
            raise OutOfOrderError(f"batch {number} is not known here; send its header")
        return pending

    async def _begin(self, epoch: int, number: int, changes: list[Change]) -> None:
        """Take up a header when its turn comes; a repeated one changes nothing."""
        check_changes(changes)
        await self._pending.wait_until(
            lambda: self._pending.next_number() >= number or self._index.session().epoch != epoch
        )
        async with self._pending.beginning:
            session = self._check(epoch, number)
            there = self._pending.get(number)
            if there is not None and there.changes != changes:
                raise OutOfOrderError(f"batch {number} was announced with other changes")
            if there is not None or rules.is_committed(session, number):
                return
            if self._pending.next_number() != number:
                raise OutOfOrderError(f"batch {number} came before an earlier one")
            budget = await self._rooms.make_for(changes)
            promised = self._pending.promised_chunks()
            staged = await self._pending.in_stage_thread(
                lambda: self._stager.begin(number, changes, promised, budget)
            )
            await self._pending.add(PendingBatch(staged, changes))

    async def _store(self, pending: PendingBatch, frame: ChunkFrame | RecipeFrame) -> None:
        if pending.is_complete:
            return
        if isinstance(frame, RecipeFrame):
            await self._pending.in_stage_thread(
                lambda: self._stager.build(pending.staged, frame.recipes)
            )
        else:
            await self._pending.in_stage_thread(
                lambda: self._stager.store(pending.staged, frame.chunks, frame.contents)
            )

    async def _complete(self, pending: PendingBatch) -> list[bytes]:
        """Finish staging if all bytes are there; return the chunks to ask for.

        Chunks that an earlier batch brings are not asked for, but looked for once that
        batch is committed.
        """
        staged = pending.staged
        # A copy: another request of this batch may be storing chunks at this moment.
        missing = [chunk for chunk in list(staged.wanted) if chunk not in staged.promised]
        if missing or pending.is_complete:
            return missing
        if staged.wanted:
            await self._pending.wait_until(
                lambda: pending.answer.done() or self._pending.is_first(staged.number)
            )
            if pending.answer.done():
                return []
            await self._pending.in_stage_thread(
                lambda: self._stager.reuse(staged, list(staged.wanted))
            )
            staged.promised = frozenset()
            if staged.wanted:
                return list(staged.wanted)
        if not staged.is_finished:
            await self._pending.in_stage_thread(lambda: self._stager.finish(staged))
        lacking = [c.change for c in staged.changes if c.refusal is not None and c.refusal.again]
        if lacking:
            self._rooms.note_refused(lacking)
        pending.is_complete = True
        await self._pending.announce()
        return []


def check_number(text: str) -> int:
    """Return the number of a batch from an address.

    Raises:
        ProtocolError, LimitError: it is none.
    """
    if not text.isdecimal() or len(text) > 18:
        raise LimitError(f"{text[:20]!r} is not the number of a batch", 400)
    return int(text)
