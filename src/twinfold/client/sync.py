"""The client's cycle: watch -> scan -> chunk -> plan -> transfer -> ack, again and again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from twinfold.client.agenda import Agenda
from twinfold.client.batch import Batch, BatchBuilder, Pending
from twinfold.client.board import Board
from twinfold.client.comparison import compare_entries, pulled
from twinfold.client.connection import Connection, DriftedError, LostPlaceError
from twinfold.client.dirty import DirtyScan, Names
from twinfold.client.events import (
    EXIT_EQUAL,
    EXIT_NOT_EQUAL,
    Comparing,
    Counted,
    Drifted,
    Scanning,
    Status,
    Verified,
    Waiting,
)
from twinfold.client.files import FilePlanner
from twinfold.client.follow import Follower
from twinfold.client.frames import FrameWriter
from twinfold.client.guard import Guard
from twinfold.client.ignore import IgnoreRules
from twinfold.client.link import Link
from twinfold.client.lookout import Lookout
from twinfold.client.moves import MoveFinder
from twinfold.client.pieces import Stretch
from twinfold.client.read import Reader, UnsettledError, read_again
from twinfold.client.scan import Scan
from twinfold.client.source import Source, count_files
from twinfold.client.state import State
from twinfold.client.tools import Tools
from twinfold.client.transfer import Transfer
from twinfold.client.tree import Directory
from twinfold.client.uploads import Uploader
from twinfold.client.verify import Told, Verification
from twinfold.client.waiters import Waiters
from twinfold.config import ClientSettings
from twinfold.core.compression import CompressionChooser
from twinfold.errors import (
    ConnectionLostError,
    DamagedStateError,
    DescriptorsError,
    ProtocolError,
    SourceReplacedError,
    SourceVanishedError,
    StaleEpochError,
    StateError,
)
from twinfold.model import ROOT_PATH, Entry
from twinfold.protocol import BatchAnswer

COALESCE_S = 0.005
SOURCE_RETRY_S = 1.0
FAILURE_DELAY_S = 5.0

_LOSSES_BEFORE_COMPARING = 2
"""Batches in a row that did not fit what the server has, although both are at one revision."""


class Synchroniser:
    """Keeps the server's folder equal to the source, once or for ever.

    Args:
        settings: what the user asked for.
        state: what was acknowledged.
        link: the session with the server.
        board: is told of everything.
        waiters: those who wait until all that was changed before is durable.

    Attributes:
        board: the one that was given.
    """

    def __init__(
        self,
        settings: ClientSettings,
        state: State,
        link: Link,
        board: Board,
        waiters: Waiters,
    ) -> None:
        self._settings = settings
        self._state = state
        self._link = link
        self.board = board
        self._source = Source(settings.source, state)
        self._ignore = IgnoreRules(settings.ignore)
        self._pending = Pending(state)
        self._agenda = Agenda()
        self._guard = Guard(settings.max_delete)
        self._lookout = Lookout(settings.source, self._agenda, board.problems)
        self._follower = Follower(link)
        self._worker = ThreadPoolExecutor(1, "scan")
        self._stop = threading.Event()
        self._reader = Reader(self._stop)
        self._chooser = CompressionChooser(settings.compress)
        self._frames = FrameWriter(self._chooser, self._read_again)
        self._serial = 0
        self._use_bases = True
        self._losses = 0
        self._is_lost = False
        self._waiters = waiters
        self._untold_batches = 0
        self._is_distrusted = False

    async def run(self) -> int:
        """Synchronise; return the exit code if that ends.

        Raises:
            TwinfoldError: it cannot go on.
        """
        try:
            await self._begin()
            while True:
                await self._safely(self._cycle)
                if self._settings.once and not self._agenda.full and not self._agenda.is_settling:
                    return EXIT_EQUAL if self.board.is_equal else EXIT_NOT_EQUAL
                await self._safely(self._next_work)
        finally:
            self._stop.set()
            await self._follower.stop()
            self._lookout.close()
            await asyncio.to_thread(self._worker.shutdown)

    @property
    def connection(self) -> Connection:
        """What has to be entered before `run`."""
        return self._link.connection

    def status(self) -> Status:
        """Return what is done now."""
        return self.board.status()

    async def release(self, deletions: int) -> bool:
        """Let pass, once, what is held: so many deletions, and what looks unmounted.

        Returns when that is durable at the server; False if something is held again.
        """
        self._guard.release(deletions)
        if self._source.is_replaced:
            self._source.accept_other()
        return await self._waiters.wait()

    async def verify(self, told: Told) -> Verified:
        """Have both ends read all content again, while live changes go on.

        Raises:
            TwinfoldError: it cannot be done.
        """
        verification = Verification(
            self._source,
            self._state,
            self._link,
            self._waiters.wait,
            self._distrust,
            self.board.status,
        )
        return await verification.run(told)

    def _distrust(self) -> None:
        self._is_distrusted = True
        self._waiters.asked.set()

    async def _begin(self) -> None:
        try:
            with self._source.open():
                pass
            if not self._settings.once:
                self._lookout.open()
        except SourceReplacedError as error:
            if self._settings.once:
                raise
            await self._await_source(error)
        await self._find_place()
        if self._settings.count_first and not self._state.entries:
            self._counting = asyncio.create_task(self._count())

    async def _safely(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do some work; what breaks it is said, and everything is looked at again."""
        try:
            if self._is_lost:
                await self._find_place()
                self._is_lost = False
            await work()
            return
        except DriftedError as error:
            self.board.tell(Drifted(str(error)))
        except StaleEpochError as error:
            await self._link.reassure(error)
        except LostPlaceError as error:
            self._use_bases = not error.avoid_bases
            await self._pause(str(error), min(FAILURE_DELAY_S, 0.05 * 2**self._losses))
            self._losses = min(self._losses + 1, 10)
        except SourceVanishedError as error:
            if self._settings.once:
                raise
            await self._await_source(error)
        except (ProtocolError, StateError, DescriptorsError) as error:
            if self._settings.once or isinstance(error, DamagedStateError):
                raise
            await self._pause(str(error), FAILURE_DELAY_S)
        self._is_lost = self._agenda.full = True

    async def _pause(self, reason: str, duration_s: float) -> None:
        self.board.tell(Waiting(reason, duration_s))
        await asyncio.sleep(duration_s)

    async def _cycle(self) -> None:
        """Scan what is due, send what differs, and see whether that was all."""
        if self._is_distrusted:
            await self._compare()
            self._is_distrusted = False
            self._agenda.full = True
        is_asked = self._waiters.begin_cycle()
        if is_asked or self.board.held_deletions:
            self._agenda.full = True
        self._lookout.collect()
        work = self._agenda.take()
        self.board.begin_work()
        self.board.shortage.begin_cycle(everything=work is None)
        if work is None:
            self.board.tell(Scanning())
        try:
            scan, batches = await self._scan_and_send(work)
            if is_asked or self._settings.once:
                await self._follower.check()
        except BaseException:
            self._waiters.fail_cycle()
            raise
        for path in self._agenda.settle(scan.retry):
            self.board.problems.note(path, "is busy: it changes while it is read")
        self.board.shortage.end_cycle()
        self._agenda.try_again(self.board.problems.refusals.release(self._state))
        if work is None:
            self._use_bases = True
        self._guard.spend(scan.tools.allowance)
        self._lookout.plan_rescan(was_full=work is None)
        if work is None or scan.held_deletions:
            self.board.hold(scan.held_deletions)
        self._say_if_in_sync(batches)
        self._losses = 0
        self._waiters.end_cycle(
            is_settling=self._agenda.is_settling, is_equal=not self.board.held_deletions
        )

    def _say_if_in_sync(self, batches: int) -> None:
        self._lookout.collect()
        self._untold_batches += batches
        agenda, board = self._agenda, self.board
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
        serial, in_vain = self._serial, self.board.vain_batches
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
        return scan, self._serial - serial - (self.board.vain_batches - in_vain)

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
        shortage = self.board.shortage
        uploader = Uploader(self._state, builder, self._reader, shortage, self._use_bases)
        return Tools(
            root=root,
            state=self._state,
            pending=self._pending,
            builder=builder,
            files=FilePlanner(self._state, builder, self._reader, uploader, moves, shortage),
            moves=moves,
            problems=self.board.problems,
            ignore=self._ignore,
            watch=self._lookout.watch,
            is_same_source=self._source.is_same,
            stop=self._stop,
            allowance=self._guard.allowance,
        )

    def _acknowledged(self, batch: Batch, answer: BatchAnswer, content_bytes: int) -> None:
        self.board.count_sent(self._link.connection.sent_bytes)
        self.board.acknowledged(batch, answer, content_bytes)

    def _read_again(self, chunk_id: bytes, piece: Stretch) -> bytes:
        try:
            with self._source.open() as root:
                return read_again(root, piece.path, piece.offset, piece.size, chunk_id)
        except OSError as error:
            raise UnsettledError from error

    async def _find_place(self) -> None:
        """Open a session of our own; if the folder has moved on, compare; then scan everything."""
        self._agenda.full = True
        self.board.problems.refusals.clear()
        await self._follower.stop()
        while True:
            session = await self._link.begin()
            self._remember_settings()
            same_server = self._state.blob("server_id") == self._link.server_id
            same_revision = same_server and self._state.revision == session.revision
            if same_revision and self._losses < _LOSSES_BEFORE_COMPARING:
                return
            if session.entries == self._state.entries == 0:
                await self._take_over([session.revision])
                return
            self.board.tell(Comparing(session.entries))
            try:
                await self._compare()
                return
            except ConnectionLostError as error:
                await self._link.wait(error)

    def _remember_settings(self) -> None:
        """Keep the server and what is ignored, for a `verify` without a running client."""
        values = {
            "server": self._settings.address.invite,
            "ignore": "\n".join(self._settings.ignore),
        }
        if any(self._state.text(key) != value for key, value in values.items()):
            self._state.keep(**values)

    async def _compare(self) -> None:
        stream = self._link.connection.entries()
        await self._take_over(pulled(stream, asyncio.get_running_loop(), self._stop))

    async def _take_over(self, groups: Iterable[list[Entry] | int]) -> None:
        """Make the state equal to what the server has."""
        await asyncio.get_running_loop().run_in_executor(
            self._worker, lambda: compare_entries(self._state, groups, self._link.server_id)
        )

    async def _next_work(self) -> None:
        """Wait until something is due: events, a retry, a question, the regular rescan.

        Raises:
            LostPlaceError, RefusedError: the folder moved on without this client.
        """
        while not self._agenda.is_due and not self._waiters:
            self._waiters.asked.clear()
            following = self._follower.task
            watching = [
                asyncio.create_task(self._waiters.asked.wait()),
                *self._lookout.changed(),
            ]
            due_s = min(self._lookout.next_due_s(), self.board.shortage.next_due_s())
            try:
                done, _ = await asyncio.wait(
                    [*watching, following],
                    timeout=max(0.0, due_s),
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                for task in watching:
                    task.cancel()
            await self._follower.react()
            if done:
                await asyncio.sleep(COALESCE_S)
            if self.board.shortage.next_due_s() <= 0:
                self._agenda.add_paths(self.board.shortage.take())
            self._lookout.collect()

    async def _await_source(self, error: SourceVanishedError) -> None:
        """Return when the source is back; its watcher is a new one then."""
        self._lookout.close()
        self.board.problems.note(ROOT_PATH, str(error))
        while True:
            self.board.hold_source(str(error) if self._source.is_replaced else "")
            await self._pause(str(error), SOURCE_RETRY_S)
            try:
                with self._source.open():
                    self.board.hold_source("")
                    break
            except SourceVanishedError as again:
                error = again
        self._lookout.open()

    async def _count(self) -> None:
        counted = await asyncio.to_thread(count_files, self._settings.source, self._stop)
        self.board.tell(Counted(*counted))


def _as_failure(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else ConnectionLostError("the client stops")
