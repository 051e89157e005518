"""The client's cycle: watch -> scan -> chunk -> plan -> transfer -> ack, again and again."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from twinfold.client.agenda import Agenda
from twinfold.client.batch import Batch, BatchBuilder, Pending, Piece
from twinfold.client.board import Board
from twinfold.client.comparison import compare_entries, pulled
from twinfold.client.connection import LostPlaceError
from twinfold.client.dirty import DirtyScan, Names
from twinfold.client.events import Comparing, Counted, Scanning, Waiting
from twinfold.client.files import FilePlanner
from twinfold.client.frames import FrameWriter
from twinfold.client.guard import Guard
from twinfold.client.ignore import IGNORE_FILE, IgnoreRules
from twinfold.client.link import Link
from twinfold.client.moves import MoveFinder
from twinfold.client.read import Reader, UnsettledError, read_again
from twinfold.client.scan import Scan
from twinfold.client.source import Source, count_files
from twinfold.client.state import State
from twinfold.client.tools import Tools
from twinfold.client.transfer import Transfer
from twinfold.client.tree import Directory
from twinfold.client.uploads import Uploader
from twinfold.client.waiters import Waiters
from twinfold.client.watch import Watcher, open_watcher
from twinfold.config import ClientSettings
from twinfold.core.compression import CompressionChooser
from twinfold.errors import (
    ConnectionLostError,
    DescriptorsError,
    ProtocolError,
    SourceReplacedError,
    SourceVanishedError,
    StateError,
)
from twinfold.model import ROOT_PATH
from twinfold.protocol import BatchAnswer

COALESCE_S = 0.005
RESCAN_EVERY_S = 3_600.0
UNWATCHED_RESCAN_EVERY_S = 60.0
SOURCE_RETRY_S = 1.0
FAILURE_DELAY_S = 5.0

WATCHING = b"."
"""The path under which it is said that the watcher does not see everything; no entry has it."""

EXIT_EQUAL = 0
EXIT_NOT_EQUAL = 3


class Synchroniser:
    """Keeps the server's folder equal to the source, once or for ever.

    Args:
        settings: what the user asked for.
        state: what was acknowledged.
        link: the session with the server.
        board: is told of everything.

    Attributes:
        waiters: those who wait until all that was changed before is durable.
    """

    def __init__(self, settings: ClientSettings, state: State, link: Link, board: Board) -> None:
        self._settings = settings
        self._state = state
        self._link = link
        self._board = board
        self._source = Source(settings.source, state)
        self._ignore = IgnoreRules(settings.ignore)
        self._pending = Pending(state)
        self._agenda = Agenda()
        self._guard = Guard(settings.max_delete)
        self._watcher: Watcher | None = None
        self._watch_failure: str | None = None
        self._worker = ThreadPoolExecutor(1, "scan")
        self._stop = threading.Event()
        self._reader = Reader(self._stop)
        self._chooser = CompressionChooser(settings.compress)
        self._frames = FrameWriter(self._chooser, self._read_again)
        self._serial = 0
        self._use_bases = True
        self._losses = 0
        self._is_lost = False
        self.waiters = Waiters()
        self._untold_batches = 0
        self._rescan_at_s = 0.0

    async def run(self) -> int:
        """Synchronise; return the exit code if that ends.

        Raises:
            TwinfoldError: it cannot go on.
        """
        try:
            await self._begin()
            while True:
                await self._work_safely()
                if self._settings.once and not self._agenda.full and not self._agenda.is_settling:
                    return EXIT_EQUAL if self._board.is_equal else EXIT_NOT_EQUAL
                await self._next_work()
        finally:
            self._stop.set()
            self._close_watcher()
            await asyncio.to_thread(self._worker.shutdown)

    async def release(self, deletions: int) -> bool:
        """Let pass, once, what is held: so many deletions, and what looks unmounted.

        Returns when that is durable at the server; False if something is held again.
        """
        self._guard.release(deletions)
        if self._source.is_replaced:
            self._source.accept_other()
        return await self.waiters.wait()

    async def _begin(self) -> None:
        try:
            with self._source.open():
                pass
            if not self._settings.once:
                self._open_watcher()
        except SourceReplacedError as error:
            if self._settings.once:
                raise
            await self._await_source(error)
        await self._find_place()
        if self._settings.count_first and not self._state.entries:
            self._counting = asyncio.create_task(self._count())

    async def _work_safely(self) -> None:
        """Do one cycle; what breaks it is said, and everything is looked at again."""
        try:
            if self._is_lost:
                await self._find_place()
                self._is_lost = False
            await self._cycle()
            self._losses = 0
            return
        except LostPlaceError as error:
            self._use_bases = not error.avoid_bases
            await self._pause(str(error), min(FAILURE_DELAY_S, 0.05 * 2**self._losses))
            self._losses = min(self._losses + 1, 10)
        except SourceVanishedError as error:
            if self._settings.once:
                raise
            await self._await_source(error)
        except (ProtocolError, StateError, DescriptorsError) as error:
            if self._settings.once:
                raise
            await self._pause(str(error), FAILURE_DELAY_S)
        self._is_lost = self._agenda.full = True

    async def _pause(self, reason: str, duration_s: float) -> None:
        self._board.tell(Waiting(reason, duration_s))
        await asyncio.sleep(duration_s)

    async def _cycle(self) -> None:
        """Scan what is due, send what differs, and see whether that was all."""
        if self.waiters.begin_cycle() or self._board.held_deletions:
            self._agenda.full = True
        self._collect()
        work = self._agenda.take()
        self._board.begin_work()
        self._board.shortage.begin_cycle(everything=work is None)
        if work is None:
            self._board.tell(Scanning())
        try:
            scan, batches = await self._scan_and_send(work)
        except BaseException:
            self.waiters.fail_cycle()
            raise
        for path in self._agenda.settle(scan.retry):
            self._board.problems.note(path, "is busy: it changes while it is read")
        self._board.shortage.end_cycle()
        self._agenda.try_again(self._board.problems.refusals.release(self._state))
        if work is None:
            self._use_bases = True
        self._guard.spend(scan.tools.allowance)
        self._plan_rescan(was_full=work is None)
        if work is None or scan.held_deletions:
            self._board.hold(scan.held_deletions)
        self._say_if_in_sync(batches)
        self.waiters.end_cycle(
            is_settling=self._agenda.is_settling, is_equal=not self._board.held_deletions
        )

    def _plan_rescan(self, *, was_full: bool) -> None:
        """Scan everything now and then; soon, and say so, where events may be missing."""
        unwatched = self._watch_failure or (self._watcher and self._watcher.incomplete)
        if unwatched:
            self._board.problems.note(
                WATCHING,
                f"{unwatched}; it is scanned every {UNWATCHED_RESCAN_EVERY_S:.0f} s instead",
            )
        now_s = time.monotonic()
        every_s = UNWATCHED_RESCAN_EVERY_S if unwatched else RESCAN_EVERY_S
        self._rescan_at_s = now_s + every_s if was_full else min(self._rescan_at_s, now_s + every_s)

    def _say_if_in_sync(self, batches: int) -> None:
        self._collect()
        self._untold_batches += batches
        agenda, board = self._agenda, self._board
        if agenda.has_news or agenda.is_settling or board.held_deletions:
            return
        news = self._untold_batches or board.has_other_problems or board.owes_in_sync
        if news or self._settings.once:
            self._untold_batches = 0
            board.count_sent(self._link.connection.sent_bytes)
            board.reach_sync()
        else:
            board.remain_in_sync()

    async def _scan_and_send(self, work: Names | None) -> tuple[Scan, int]:
        """Scan in the worker's thread, send meanwhile; return when all is acknowledged."""
        is_first = self._serial == self._state.entries == self._link.session.entries == 0
        transfer = Transfer(
            self._link,
            self._state,
            self._pending,
            self._frames,
            self._acknowledged,
            send_all=is_first,
        )
        serial, in_vain = self._serial, self._board.vain_batches
        loop = asyncio.get_running_loop()
        scanning = loop.run_in_executor(
            self._worker, lambda: self._scan(work, transfer, loop, is_first)
        )
        try:
            scan = await asyncio.shield(scanning)
            await transfer.drain()
        except BaseException as error:
            self._stop.set()
            await transfer.close(_as_failure(error))
            await asyncio.gather(scanning, return_exceptions=True)
            raise
        finally:
            self._stop.clear()
            self._pending.clear()
        return scan, self._serial - serial - (self._board.vain_batches - in_vain)

    def _scan(
        self,
        work: Names | None,
        transfer: Transfer,
        loop: asyncio.AbstractEventLoop,
        is_first: bool,
    ) -> Scan:
        def send(batch: Batch) -> None:
            asyncio.run_coroutine_threadsafe(transfer.send(batch), loop).result()

        with self._source.open() as root:
            self._ignore.reload(root)
            builder = BatchBuilder(self._state, self._pending, send, self._serial, is_first)
            tools = self._tools(root, builder)
            if work is None:
                scan = Scan(tools)
                scan.scan_all()
            else:
                scan = names_scan = DirtyScan(tools, work)
                names_scan.scan_names()
            self._serial = builder.serial
            return scan

    def _tools(self, root: Directory, builder: BatchBuilder) -> Tools:
        moves = MoveFinder(root, self._state, self._pending)
        shortage = self._board.shortage
        uploader = Uploader(self._state, builder, self._reader, shortage, self._use_bases)
        return Tools(
            root=root,
            state=self._state,
            pending=self._pending,
            builder=builder,
            files=FilePlanner(self._state, builder, self._reader, uploader, moves, shortage),
            moves=moves,
            problems=self._board.problems,
            ignore=self._ignore,
            watch=self._watcher.watch_directory if self._watcher else _watch_nothing,
            is_same_source=self._source.is_same,
            stop=self._stop,
            allowance=self._guard.allowance,
        )

    def _acknowledged(self, batch: Batch, answer: BatchAnswer, content_bytes: int) -> None:
        self._board.count_sent(self._link.connection.sent_bytes)
        self._board.acknowledged(batch, answer, content_bytes)

    def _read_again(self, chunk_id: bytes, piece: Piece) -> bytes:
        if isinstance(piece, bytes):
            return piece
        try:
            with self._source.open() as root:
                return read_again(root, piece.path, piece.offset, piece.size, chunk_id)
        except OSError as error:
            raise UnsettledError from error

    async def _find_place(self) -> None:
        """Open a session of our own; if the folder has moved on, compare; then scan everything."""
        self._agenda.full = True
        self._board.problems.refusals.clear()
        while True:
            session = await self._link.begin()
            same_server = self._state.blob("server_id") == self._link.server_id
            if same_server and self._state.revision == session.revision:
                return
            self._board.tell(Comparing(session.entries))
            try:
                await self._compare()
                return
            except ConnectionLostError as error:
                await self._link.wait(error)

    async def _compare(self) -> None:
        loop = asyncio.get_running_loop()
        stream = self._link.connection.entries()
        await loop.run_in_executor(
            self._worker,
            lambda: compare_entries(
                self._state, pulled(stream, loop, self._stop), self._link.server_id
            ),
        )

    async def _next_work(self) -> None:
        """Wait until something is due: events, a retry, a question, the regular rescan."""
        while not self._agenda.is_due and not self.waiters:
            self.waiters.asked.clear()
            watching: list[asyncio.Task[Any]] = [asyncio.create_task(self.waiters.asked.wait())]
            if self._watcher is not None:
                watching.append(asyncio.create_task(self._watcher.changed()))
            rescan_s = self._rescan_at_s - time.monotonic()
            room_s = self._board.shortage.next_due_s()
            timeout_s = max(0.0, min(rescan_s, room_s, self._agenda.next_due_s()))
            try:
                done, _ = await asyncio.wait(
                    watching, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                for task in watching:
                    task.cancel()
            if done:
                await asyncio.sleep(COALESCE_S)
            if time.monotonic() >= self._rescan_at_s:
                self._agenda.full = True
            if self._board.shortage.next_due_s() <= 0:
                self._agenda.add_paths(self._board.shortage.take())
            self._collect()

    def _collect(self) -> None:
        if self._watcher is None:
            return
        if self._watcher.root_gone:
            self._agenda.full = True
            self._close_watcher()
            self._open_watcher()
            return
        dirty = self._watcher.collect()
        if dirty.trees or dirty.moved:
            soon_s = time.monotonic() + UNWATCHED_RESCAN_EVERY_S
            self._rescan_at_s = min(self._rescan_at_s, soon_s)
        self._agenda.add(dirty)
        if IGNORE_FILE in (dirty.names.get(b"") or ()):
            self._agenda.full = True

    async def _await_source(self, error: SourceVanishedError) -> None:
        """Return when the source is back; its watcher is a new one then."""
        self._close_watcher()
        self._board.problems.note(ROOT_PATH, str(error))
        while True:
            self._board.hold_source(str(error) if self._source.is_replaced else "")
            await self._pause(str(error), SOURCE_RETRY_S)
            try:
                with self._source.open():
                    self._board.hold_source("")
                    break
            except SourceVanishedError as again:
                error = again
        self._open_watcher()

    def _open_watcher(self) -> None:
        self._watch_failure = None
        try:
            self._watcher = open_watcher(self._settings.source)
        except OSError as error:
            self._watch_failure = f"cannot be watched ({error.strerror or error})"

    def _close_watcher(self) -> None:
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None

    async def _count(self) -> None:
        counted = await asyncio.to_thread(count_files, self._settings.source, self._stop)
        self._board.tell(Counted(*counted))


def _as_failure(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else ConnectionLostError("the client stops")


def _watch_nothing(path: bytes, fd: int | None) -> None:
    """In place of a watcher, for a client that runs once."""
