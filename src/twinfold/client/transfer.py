"""Sending batches: several in flight, acknowledged into the state in their order."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterable
from typing import NamedTuple

from twinfold.client.batch import Batch, Pending
from twinfold.client.connection import LostPlaceError, UnknownBatchError
from twinfold.client.effects import Effect, Insert, Relocate, Remove
from twinfold.client.frames import FrameWriter
from twinfold.client.link import Link
from twinfold.client.pieces import Piece, Stretch, size_of
from twinfold.client.read import UnsettledError
from twinfold.client.state import State
from twinfold.errors import (
    ConnectionLostError,
    ProtocolError,
    ServerBusyError,
    SourceVanishedError,
)
from twinfold.protocol import BatchAnswer, Refusal

WINDOW_BATCHES = 6
"""Twice as many as the server commits together, so that it has some to stage meanwhile."""

WINDOW_BYTES = 24 * 1024 * 1024
"""So much content is kept for them: it is sent again after a break. The memory of a client."""

EAGER_BYTES = 256 * 1024
"""So much new content goes along with the header: asking first would cost a round trip."""

_WHOLE_BODY_BYTES = EAGER_BYTES + 64 * 1024
_POST_BYTES = 32 * 1024 * 1024
_MAX_ROUNDS = 6
_MAX_BUSY = 3
"""A server that cannot take a batch (no room, say) may take what the source is by now."""

Acknowledged = Callable[[Batch, BatchAnswer, int], None]
"""Called with a batch, its answer, and how many bytes of its content were sent."""


class _Recipes(NamedTuple):
    """A batch's recipes: their frames, their chunks and the size of these, and what they bring."""

    frames: bytes
    chunk_ids: frozenset[bytes]
    chunk_bytes: int
    literal_bytes: int


_NO_RECIPES = _Recipes(b"", frozenset(), 0, 0)


class Transfer:
    """The batches on their way in one session.

    Args:
        link: the session.
        state: advanced by each acknowledgement, in order.
        pending: is told of each acknowledgement.
        frames: writes the bodies.
        acknowledged: is called after each, in order.
        send_all: the server has nothing yet, so that all content goes along at once.
    """

    def __init__(
        self,
        link: Link,
        state: State,
        pending: Pending,
        frames: FrameWriter,
        acknowledged: Acknowledged,
        send_all: bool = False,
    ) -> None:
        self._link = link
        self._state = state
        self._pending = pending
        self._frames = frames
        self._acknowledged = acknowledged
        self._send_all = send_all
        self._window = _Window()
        self._last: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._refused_nodes: set[int] = set()

    async def send(self, batch: Batch) -> None:
        """Take a batch as soon as there is room in the window.

        Raises:
            TwinfoldError: an earlier batch failed for good.
        """
        await self._window.enter(batch.held_bytes)
        if self._failure is not None:
            self._window.leave(batch.held_bytes)
            raise self._failure
        number = self._link.next_number() if batch.changes else 0
        self._last = asyncio.create_task(self._run(batch, number, self._last))
        self._tasks.add(self._last)
        self._last.add_done_callback(self._ended)

    async def drain(self) -> None:
        """Return when every batch is acknowledged.

        Raises:
            TwinfoldError: one failed for good.
        """
        if self._tasks:
            # What comes after one that failed may be kept waiting by the server.
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        if self._failure is not None:
            raise self._failure

    async def close(self, failure: BaseException) -> None:
        """Give up what is not acknowledged; a `send` that waits raises ``failure``."""
        self._failure = self._failure or failure
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()

    async def _run(self, batch: Batch, number: int, previous: asyncio.Task[None] | None) -> None:
        try:
            answer, sent_bytes = BatchAnswer(), 0
            if batch.changes:
                answer, sent_bytes = await self._deliver(batch, number)
            if previous is not None:
                await asyncio.shield(previous)
            effects = self._accepted(batch, answer.refused)
            await asyncio.to_thread(
                self._state.acknowledge,
                effects,
                batch.pieces,
                answer.revision,
                batch.sub_blocks.items(),
            )
            self._pending.forget(batch)
            self._link.succeeded(answer.revision)
            self._acknowledged(batch, answer, sent_bytes)
        except BaseException as error:
            self._failure = self._failure or error
            raise
        finally:
            self._window.leave(batch.held_bytes)

    async def _deliver(self, batch: Batch, number: int) -> tuple[BatchAnswer, int]:
        recipes = _NO_RECIPES
        if batch.drafts or batch.recipes:
            recipes = await asyncio.to_thread(self._write_recipes, batch)
        eager_bytes = batch.held_bytes - recipes.chunk_bytes
        eager = self._send_all or eager_bytes <= EAGER_BYTES
        sent_bytes = forgotten = refusals = 0
        while True:
            generation = self._link.generation
            try:
                delivery = _Delivery(self._link, self._frames, batch, number, recipes)
                try:
                    return await delivery.exchange(eager), sent_bytes + delivery.content_bytes
                finally:
                    sent_bytes += delivery.content_bytes
            except UnknownBatchError as error:
                forgotten += 1
                if forgotten > _MAX_ROUNDS:
                    raise LostPlaceError(str(error)) from error
            except ConnectionLostError as error:
                if isinstance(error, ServerBusyError):
                    refusals += 1
                    if refusals > _MAX_BUSY:
                        raise LostPlaceError(str(error)) from error
                await self._link.recover(generation, error)
                eager = eager_bytes <= EAGER_BYTES

    def _write_recipes(self, batch: Batch) -> _Recipes:
        """Return the batch's recipes as they are sent: what is new in them is not kept twice."""
        batch.write_recipes(self._state)
        recipes = list(batch.recipes.values())
        batch.recipes.clear()
        return _Recipes(
            self._frames.recipes(recipes),
            frozenset(recipe.id for recipe in recipes),
            sum(recipe.size for recipe in recipes),
            sum(len(recipe.literal) for recipe in recipes),
        )

    def _accepted(self, batch: Batch, refused: Iterable[Refusal]) -> list[Effect]:
        """Return the effects of what the server did; nothing below a refused directory is.

        What was to be moved to where it was refused has left the destination's tree.
        """
        indexes = {refusal.index for refusal in refused}
        if not indexes and not self._refused_nodes:
            return [effect for _, effect in batch.effects]
        accepted: list[Effect] = []
        for index, effect in batch.effects:
            if index not in indexes and _parent(effect) not in self._refused_nodes:
                accepted.append(effect)
            elif isinstance(effect, Insert):
                self._refused_nodes.add(effect.node.id)
            elif isinstance(effect, Relocate):
                self._refused_nodes.add(effect.node)
                accepted.append(Remove(effect.node))
        return accepted


def _parent(effect: Effect) -> int | None:
    """Return the directory that an effect puts an entry into."""
    if isinstance(effect, Insert):
        return effect.node.parent
    return effect.parent if isinstance(effect, Relocate) else None


class _Window:
    """Room for `WINDOW_BATCHES` that keep `WINDOW_BYTES` of content, or for one of any size."""

    def __init__(self) -> None:
        self._batches = self._bytes = 0
        self._left = asyncio.Event()

    async def enter(self, size_bytes: int) -> None:
        """Wait for room and take it; the window is entered by one at a time."""
        while self._batches and (
            self._batches >= WINDOW_BATCHES or self._bytes + size_bytes > WINDOW_BYTES
        ):
            self._left.clear()
            await self._left.wait()
        self._batches += 1
        self._bytes += size_bytes

    def leave(self, size_bytes: int) -> None:
        """Give room back."""
        self._batches -= 1
        self._bytes -= size_bytes
        self._left.set()


class _Delivery:
    """One attempt at bringing a batch to its commit."""

    def __init__(
        self, link: Link, frames: FrameWriter, batch: Batch, number: int, recipes: _Recipes
    ) -> None:
        self._connection = link.connection
        self._epoch = link.session.epoch
        self._frames = frames
        self._batch = batch
        self._number = number
        self._recipes = recipes
        self.content_bytes = 0

    async def exchange(self, eager: bool) -> BatchAnswer:
        """Send the header, then what is missing, until the server has committed."""
        batch = self._batch
        header = self._frames.header(batch.changes) + self._recipes.frames
        self.content_bytes += self._recipes.literal_bytes
        pieces: list[tuple[bytes, Piece]] = []
        if eager:
            pieces = [
                (chunk_id, piece)
                for chunk_id, piece in batch.pieces.items()
                if not isinstance(piece, Stretch) and chunk_id not in self._recipes.chunk_ids
            ]
        answer = await self._post(header, pieces)
        rounds = 0
        while answer.revision is None:
            if answer.unknown_bases:
                raise LostPlaceError("the server lacks an earlier content", avoid_bases=True)
            rounds += 1
            if not answer.missing or rounds > _MAX_ROUNDS:
                raise ProtocolError("the server does not say what it is waiting for")
            answer = await self._send_missing(answer.missing)
        if any(refusal.index >= len(batch.changes) for refusal in answer.refused):
            raise LostPlaceError("the server refuses a change that it was not sent")
        return answer

    async def _send_missing(self, missing: list[bytes]) -> BatchAnswer:
        group: list[tuple[bytes, Piece]] = []
        size_bytes = 0
        answer = BatchAnswer()
        for chunk_id in missing:
            piece = self._batch.pieces.get(chunk_id)
            if piece is None:
                raise LostPlaceError("the server lacks kept content", avoid_bases=True)
            group.append((chunk_id, piece))
            size_bytes += size_of(piece)
            if size_bytes >= _POST_BYTES:
                answer = await self._post(b"", group)
                group, size_bytes = [], 0
        return await self._post(b"", group) if group else answer

    async def _post(self, header: bytes, pieces: list[tuple[bytes, Piece]]) -> BatchAnswer:
        size_bytes = sum(size_of(piece) for _, piece in pieces)
        unsettled: list[Exception] = []
        is_whole = size_bytes + len(header) <= _WHOLE_BODY_BYTES
        body = self._frames.body(header, pieces, is_streamed=not is_whole)
        frames = _noting(body.frames, unsettled)
        post = functools.partial(self._connection.post_batch, self._epoch, self._number)
        try:
            if is_whole:
                answer = await post(b"".join([frame async for frame in frames]))
            else:
                answer = await post(frames, body.size_bytes)
        except Exception:
            # The HTTP library wraps what a body raises into an error of its own.
            if not unsettled:
                raise
            raise LostPlaceError("a file changed before its content was sent") from unsettled[0]
        self.content_bytes += size_bytes
        return answer


async def _noting(frames: AsyncIterator[bytes], unsettled: list[Exception]) -> AsyncIterator[bytes]:
    try:
        async for frame in frames:
            yield frame
    except (UnsettledError, SourceVanishedError) as error:
        unsettled.append(error)
        raise
