"""A client from its settings to its exit code."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from twinfold.client.control import Control
from twinfold.client.events import EXIT_EQUAL, EXIT_INTERRUPTED, Listener, Verified, Waiting
from twinfold.client.place import place_of
from twinfold.client.read import OUT_OF_DESCRIPTORS
from twinfold.client.state_file import kept_texts, open_state
from twinfold.config import ClientSettings
from twinfold.core.paths import display
from twinfold.core.relapse import Relapses, Remedy
from twinfold.errors import DamagedStateError, RefusedError, StateError
from twinfold.system.authorities import without_authorities
from twinfold.system.locks import FolderLock
from twinfold.system.stopping import wait_or_stop

if TYPE_CHECKING:
    from twinfold.client.sync import Synchroniser
    from twinfold.client.verify import Told

_SIDE_THREADS = 3
"""They compress, write recipes and keep acknowledgements; more would only take more memory."""


async def run_client(settings: ClientSettings, listener: Listener, stop: asyncio.Event) -> int:
    """Synchronise until done, or until ``stop`` is set; return the exit code.

    Raises:
        TwinfoldError: it cannot be done; the text says why.
    """
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(_SIDE_THREADS, "side"))
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
    loop = asyncio.get_running_loop()
    with without_authorities(unless=settings.address.needs_authorities):
        opening = loop.run_in_executor(
            None, lambda: open_state(place.state, settings.source, renew=renew)
        )
        # Loaded meanwhile: what speaks to a server takes as long as the look at the state.
        from twinfold.client.assembly import assemble
    with closing(await opening) as state:
        made = assemble(settings, state, control.waiters, listener, patient=patient)
        async with made.connection:
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
