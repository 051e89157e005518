"""A client from its settings to its exit code."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from twinfold.client.batch import Batch, BatchBuilder, Pending
from twinfold.client.board import Board, applied
from twinfold.client.comparison import compare_entries, pulled
from twinfold.client.connection import Connection, RateLimit
from twinfold.client.control import Control
from twinfold.client.events import Held, Listener, Verified, Waiting
from twinfold.client.files import FilePlanner
from twinfold.client.guard import Allowance
from twinfold.client.identity import Identity
from twinfold.client.ignore import IgnoreRules
from twinfold.client.link import Link
from twinfold.client.moves import MoveFinder
from twinfold.client.place import place_of
from twinfold.client.problems import Problems
from twinfold.client.read import OUT_OF_DESCRIPTORS, Reader
from twinfold.client.scan import Scan
from twinfold.client.shortage import Shortage
from twinfold.client.source import Source
from twinfold.client.state import State
from twinfold.client.state_file import copy_state, kept_texts, open_state
from twinfold.client.sync import EXIT_EQUAL, EXIT_NOT_EQUAL, Synchroniser
from twinfold.client.tools import Tools
from twinfold.client.uploads import Uploader
from twinfold.client.verify import Told
from twinfold.config import ClientSettings
from twinfold.core.paths import display
from twinfold.core.relapse import Relapses, Remedy
from twinfold.errors import DamagedStateError, RefusedError, StateError
from twinfold.system.locks import FolderLock
from twinfold.system.stopping import wait_or_stop

_Result = TypeVar("_Result")

EXIT_INTERRUPTED = 130
"""A client that was to run once was stopped before it was through."""


async def run_client(settings: ClientSettings, listener: Listener, stop: asyncio.Event) -> int:
    """Synchronise until done, or until ``stop`` is set; return the exit code.

    Raises:
        TwinfoldError: it cannot be done; the text says why.
    """
    loop = asyncio.get_running_loop()
    relapses, remedy = Relapses(), Remedy(renew=False, pause_s=0.0)
    async with _reachable(settings) as control:
        while True:
            began_s = loop.time()
            tell = listener
            try:
                async with _assembled(
                    settings, control, listener, patient=not settings.once, renew=remedy.renew
                ) as synchroniser:
                    tell = synchroniser.board.tell
                    return await _run_until(synchroniser, stop, settings.once)
            except DamagedStateError as error:
                remedy = relapses.note(loop.time() - began_s)
                if settings.once and remedy.pause_s:
                    raise
                tell(Waiting(str(error), remedy.pause_s))
            await wait_or_stop(remedy.pause_s, stop)
            if stop.is_set():
                return EXIT_INTERRUPTED if settings.once else EXIT_EQUAL


@asynccontextmanager
async def _reachable(settings: ClientSettings) -> AsyncIterator[Control]:
    """Keep other clients off the source; whoever asks for its client is heard meanwhile."""
    place = place_of(settings.state_dir, settings.source)
    asyncio.get_running_loop().set_exception_handler(_tell_unforeseen)
    lock = FolderLock(place.lock, f"{display(settings.source)} is already being synchronised")
    async with AsyncExitStack() as stack:
        try:
            place.create()
            lock.acquire()
            stack.callback(lock.release)
            control = await stack.enter_async_context(Control(place))
        except OSError as error:
            folder = display(os.fsencode(place.lock.parent))
            raise StateError(
                f"the client's state folder {folder} cannot be used ({error.strerror or error});"
                " make room there, or name another one with TWINFOLD_STATE_DIR"
            ) from error
        yield control


@asynccontextmanager
async def _assembled(
    settings: ClientSettings,
    control: Control,
    listener: Listener,
    *,
    patient: bool,
    renew: bool = False,
) -> AsyncIterator[Synchroniser]:
    """Put a client together, which answers what is asked."""
    place = place_of(settings.state_dir, settings.source)
    with closing(open_state(place.state, settings.source, renew=renew)) as state:
        connection = Connection(settings.address, RateLimit(settings.limit_bytes_per_s))
        board = Board(settings.source, connection.url, state, listener)
        link = Link(
            connection,
            Identity(state),
            _name(settings.source),
            board.tell,
            take_over=settings.take_over,
            patient=patient,
        )
        made = Synchroniser(settings, state, link, board, control.waiters)
        async with connection:
            try:
                with control.answered_by(made):
                    yield made
            except RefusedError as error:
                if error.code != "copied":
                    raise
                raise RefusedError(error.code, f"{error} (it is in {place.folder})") from error


def _tell_unforeseen(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Show what nobody else tells of.

    That no more files can be opened is said by the scan; who asks for the status meanwhile is
    answered when it is over: the loop tries again. A body whose connection broke fails its
    request as well, which is then told.
    """
    error = context.get("exception")
    is_told = isinstance(error, ConnectionError)
    if not (is_told or (isinstance(error, OSError) and error.errno in OUT_OF_DESCRIPTORS)):
        loop.default_exception_handler(context)


async def verify_alone(
    settings: ClientSettings, told: Told, stop: asyncio.Event
) -> Verified | None:
    """Verify with a client that lives for this only; None if ``stop`` was set before.

    Raises:
        TwinfoldError: it cannot be done.
    """
    async with (
        _reachable(settings) as control,
        _assembled(settings, control, lambda _event: None, patient=False) as synchroniser,
    ):
        running = asyncio.create_task(synchroniser.run())
        verifying = asyncio.create_task(synchroniser.verify(told))
        stopping = asyncio.create_task(stop.wait())
        tasks: list[asyncio.Task[Any]] = [running, verifying, stopping]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            return verifying.result() if verifying.done() else None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class KnownSettings(NamedTuple):
    """How a source was synchronised last; the invite is None if it never was."""

    invite: str | None
    ignore: tuple[str, ...]


def known_settings(state_dir: Path, source: bytes) -> KnownSettings:
    """Return how a source was synchronised last.

    Raises:
        StateError: the client's state cannot be read.
    """
    texts = kept_texts(place_of(state_dir, source).state, ["server", "ignore"])
    ignore = texts.get("ignore", "")
    return KnownSettings(texts.get("server"), tuple(line for line in ignore.split("\n") if line))


async def _run_until(synchroniser: Synchroniser, stop: asyncio.Event, once: bool) -> int:
    running = asyncio.create_task(synchroniser.run())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            return running.result()
        return EXIT_INTERRUPTED if once else EXIT_EQUAL
    finally:
        for task in (running, stopping):
            task.cancel()
        await asyncio.gather(running, stopping, return_exceptions=True)


def _name(source: bytes) -> str:
    """Return what the server calls this client: the same after its state was lost."""
    return f"{socket.gethostname()}:{display(os.path.realpath(source))}"


async def dry_run(
    settings: ClientSettings, listener: Listener, stop: asyncio.Event | None = None
) -> int:
    """Tell what ``--once`` would do; sends nothing, and changes nothing, not even the state.

    Raises:
        TwinfoldError: it cannot be found out.
    """
    halt = threading.Event()
    running = asyncio.create_task(_dry_run(settings, listener, halt))
    stopping = asyncio.create_task((stop or asyncio.Event()).wait())
    try:
        await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        return running.result() if running.done() else EXIT_INTERRUPTED
    finally:
        halt.set()
        for task in (running, stopping):
            task.cancel()
        await asyncio.gather(running, stopping, return_exceptions=True)


async def _dry_run(settings: ClientSettings, listener: Listener, halt: threading.Event) -> int:
    with tempfile.TemporaryDirectory(prefix="twinfold-") as scratch:
        copy = Path(scratch) / "state.sqlite"
        kept = place_of(settings.state_dir, settings.source).state
        if kept.exists():
            copy_state(kept, copy)
        state = open_state(copy, settings.source)
        try:
            if state.revision < 0:
                await _learn_entries(settings, state, halt)
            return await _in_thread(lambda: _scan_dry(settings, state, listener, halt))
        finally:
            state.close()


async def _in_thread(work: Callable[[], _Result]) -> _Result:
    """Do the work in a thread, and leave none behind: also a cancelled call waits for its end."""
    working = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.gather(working, return_exceptions=True)
        raise


async def _learn_entries(settings: ClientSettings, state: State, halt: threading.Event) -> None:
    async with Connection(settings.address, RateLimit(None)) as connection:
        hello = await connection.hello()
        groups = pulled(connection.entries(), asyncio.get_running_loop(), halt)
        await _in_thread(lambda: compare_entries(state, groups, hello.server_id))


def _scan_dry(
    settings: ClientSettings, state: State, listener: Listener, stop: threading.Event
) -> int:
    def tell(batch: Batch) -> None:
        for change in batch.changes:
            event = applied(change)
            if event is not None:
                listener(event)
        state.acknowledge([effect for _, effect in batch.effects], batch.pieces, None)
        pending.forget(batch)

    entries = state.entries
    pending, problems = Pending(state), Problems(listener)
    source = Source(settings.source, state)
    ignore = IgnoreRules(settings.ignore)
    builder, reader = BatchBuilder(state, pending, tell), Reader(stop)
    with source.open() as root:
        ignore.reload(root)
        moves = MoveFinder(root, state, pending)
        shortage = Shortage(problems)
        uploader = Uploader(state, builder, reader, shortage)
        files = FilePlanner(state, builder, reader, uploader, moves, shortage)
        scan = Scan(
            Tools(
                root,
                state,
                pending,
                builder,
                files,
                moves,
                problems,
                ignore,
                lambda _path, _fd: None,
                source.is_same,
                stop,
                Allowance(settings.max_delete),
            )
        )
        scan.scan_all()
    held = scan.held_deletions
    if held:
        reason = (
            f"{held:,} of {entries:,} entries vanished at once; nothing would be deleted"
            f" without --max-delete {held}"
        )
        listener(Held(reason, held))
    return EXIT_NOT_EQUAL if held or len(problems) else EXIT_EQUAL
