"""A client from its settings to its exit code."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twinfold.client.batch import Batch, BatchBuilder, Pending
from twinfold.client.board import Board, applied
from twinfold.client.comparison import compare_entries, pulled
from twinfold.client.connection import Connection, RateLimit
from twinfold.client.control import Control
from twinfold.client.events import Listener
from twinfold.client.files import FilePlanner
from twinfold.client.ignore import IgnoreRules
from twinfold.client.link import Link
from twinfold.client.moves import MoveFinder
from twinfold.client.place import ClientPlace, place_of
from twinfold.client.problems import Problems
from twinfold.client.read import Reader
from twinfold.client.scan import Scan, Tools
from twinfold.client.source import Source
from twinfold.client.state import State
from twinfold.client.state_file import copy_state, open_state
from twinfold.client.sync import EXIT_EQUAL, EXIT_NOT_EQUAL, Synchroniser
from twinfold.client.uploads import Uploader
from twinfold.config import ClientSettings
from twinfold.core.paths import display
from twinfold.system.locks import FolderLock

EXIT_INTERRUPTED = 130
"""A client that was to run once was stopped before it was through."""


async def run_client(settings: ClientSettings, listener: Listener, stop: asyncio.Event) -> int:
    """Synchronise until done, or until ``stop`` is set; return the exit code.

    Raises:
        TwinfoldError: it cannot be done; the text says why.
    """
    place = place_of(settings.state_dir, settings.source)
    with _opened_state(settings, place) as state:
        connection = Connection(settings.address, RateLimit(settings.limit_bytes_per_s))
        board = Board(settings.source, connection.url, state, listener)
        link = Link(
            connection,
            state.blob("client_id"),
            _name(settings.source),
            board.tell,
            take_over=settings.take_over,
            patient=not settings.once,
        )
        synchroniser = Synchroniser(settings, state, link, board)
        async with connection, Control(place, board.status, synchroniser.wait_for_all):
            return await _run_until(synchroniser, stop, settings.once)


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


@contextmanager
def _opened_state(settings: ClientSettings, place: ClientPlace) -> Iterator[State]:
    place.create()
    subject = f"{display(settings.source)} is already being synchronised"
    with FolderLock(place.lock, subject):
        state = open_state(place.state, settings.source)
        try:
            yield state
        finally:
            state.close()


def _name(source: bytes) -> str:
    """Return what the server calls this client: the same after its state was lost."""
    return f"{socket.gethostname()}:{display(os.path.realpath(source))}"


async def dry_run(settings: ClientSettings, listener: Listener) -> int:
    """Tell what ``--once`` would do; sends nothing, and changes nothing, not even the state.

    Raises:
        TwinfoldError: it cannot be found out.
    """
    with tempfile.TemporaryDirectory(prefix="twinfold-") as scratch:
        copy = Path(scratch) / "state.sqlite"
        kept = place_of(settings.state_dir, settings.source).state
        is_known = kept.exists()
        if is_known:
            copy_state(kept, copy)
        state = open_state(copy, settings.source)
        try:
            if not is_known:
                await _learn_entries(settings, state)
            return await asyncio.to_thread(_scan_dry, settings, state, listener)
        finally:
            state.close()


async def _learn_entries(settings: ClientSettings, state: State) -> None:
    async with Connection(settings.address, RateLimit(None)) as connection:
        hello = await connection.hello()
        groups = pulled(connection.entries(), asyncio.get_running_loop())
        await asyncio.to_thread(compare_entries, state, groups, hello.server_id)


def _scan_dry(settings: ClientSettings, state: State, listener: Listener) -> int:
    def tell(batch: Batch) -> None:
        for change in batch.changes:
            event = applied(change)
            if event is not None:
                listener(event)
        state.acknowledge([effect for _, effect in batch.effects], batch.pieces, None)
        pending.forget(batch)

    stop = threading.Event()
    pending, problems = Pending(state), Problems(listener)
    source = Source(settings.source, state)
    ignore = IgnoreRules(settings.ignore)
    builder, reader = BatchBuilder(state, pending, tell), Reader(stop)
    with source.open() as root:
        ignore.reload(root)
        moves = MoveFinder(root, state, pending)
        uploader = Uploader(state, builder, reader)
        files = FilePlanner(state, builder, reader, uploader, moves)
        Scan(
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
                settings.max_delete,
            )
        ).scan_all()
    return EXIT_NOT_EQUAL if len(problems) else EXIT_EQUAL
