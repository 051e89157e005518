"""What a client that runs once would do, found out without changing anything."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from twinfold.client.batch import Batch, BatchBuilder, Pending
from twinfold.client.board import applied
from twinfold.client.comparison import compare_entries, pulled
from twinfold.client.connection import Connection, RateLimit
from twinfold.client.events import EXIT_EQUAL, EXIT_INTERRUPTED, EXIT_NOT_EQUAL, Held, Listener
from twinfold.client.files import FilePlanner
from twinfold.client.guard import Allowance
from twinfold.client.ignore import IgnoreRules
from twinfold.client.moves import MoveFinder
from twinfold.client.place import place_of
from twinfold.client.problems import Problems
from twinfold.client.read import Reader
from twinfold.client.scan import Scan
from twinfold.client.shortage import Shortage
from twinfold.client.source import Source
from twinfold.client.state import State
from twinfold.client.state_file import copy_state, open_state
from twinfold.client.tools import Tools
from twinfold.client.uploads import Uploader
from twinfold.config import ClientSettings

_Result = TypeVar("_Result")


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
