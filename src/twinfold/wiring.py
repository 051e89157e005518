"""The only place that names concrete parts and puts them together."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from twinfold.client.events import Listener as ClientListener
from twinfold.client.events import Status, Verified, VerifyProgress
from twinfold.config import ClientSettings, ServerAddress, ServerSettings, is_loopback
from twinfold.core.relapse import Relapses
from twinfold.core.retention import SteadyClock
from twinfold.errors import DestinationError, UsageError
from twinfold.server.events import Listener as ServerListener
from twinfold.server.events import Listening, Message
from twinfold.system.authorities import without_authorities
from twinfold.system.heap import share_heap
from twinfold.system.stopping import wait_or_stop

if TYPE_CHECKING:
    import ssl

    from twinfold.client.run import KnownSettings

    if sys.platform != "win32":
        from twinfold.storage.destination import Destination

EXIT_INTERRUPTED = 130

_GARBAGE_THRESHOLD = 100_000
_SWITCH_INTERVAL_S = 0.0005

_REOPEN_S = 5.0

_DEEPEST_TREE = 20_000
"""Frames that finding a directory takes in the deepest tree that the protocol allows."""


def run_server(
    settings: ServerSettings, announce: Callable[[Listening], None], listener: ServerListener
) -> int:
    """Serve a destination until told to stop; return the exit code.

    Raises:
        TwinfoldError: it cannot be served.
    """
    if sys.platform != "win32":
        return _run(lambda stop: serve_destination(settings, announce, listener, stop))
    raise UsageError("the server does not run on Windows yet; run it on Linux or macOS")


def run_client(settings: ClientSettings, listener: ClientListener) -> int:
    """Keep a server's folder equal to a source; return the exit code.

    Raises:
        TwinfoldError: it cannot be done.
    """
    from twinfold.client.run import run_client as run

    _raise_descriptor_limit()
    return _run(lambda stop: run(settings, listener, stop))


def dry_run(settings: ClientSettings, listener: ClientListener) -> int:
    """Tell what a client that runs once would do; return the exit code.

    Raises:
        TwinfoldError: it cannot be found out.
    """
    with without_authorities(unless=settings.address.needs_authorities):
        from twinfold.client.dry_run import dry_run as run

    return _run(lambda stop: run(settings, listener, stop))


def status(state_dir: Path, source: bytes | None) -> list[Status]:
    """Return what the running clients of this user do now, or the one of ``source``."""
    from twinfold.client.control import list_clients

    found = asyncio.run(list_clients(state_dir))
    if source is None:
        return found
    return [client for client in found if os.fsencode(client.source) == source]


def wait(state_dir: Path, source: bytes, timeout_s: float | None) -> Status:
    """Return when all that changed in ``source`` before is durable, or the time is up.

    Raises:
        TwinfoldError: no client is running for it.
    """
    from twinfold.client.control import ask_wait

    return asyncio.run(ask_wait(state_dir, source, timeout_s))


def release(state_dir: Path, source: bytes, deletions: int) -> Status:
    """Let pass, once, what the client of ``source`` holds; return when that is durable.

    Raises:
        TwinfoldError: no client is running for it.
    """
    from twinfold.client.control import ask_release

    return asyncio.run(ask_release(state_dir, source, deletions))


def verify(
    state_dir: Path,
    source: bytes,
    settings: Callable[[KnownSettings], ClientSettings],
    told: Callable[[VerifyProgress], None],
) -> Verified | None:
    """Have both ends of a source read everything again; None if it was interrupted.

    Args:
        state_dir: of this user.
        source: the folder.
        settings: given how it was synchronised last, returns a client's settings; called where
            no client is running.
        told: learns how far both ends are.

    Raises:
        TwinfoldError: it cannot be done.
    """
    from twinfold.client.control import NotRunningError, ask_verify
    from twinfold.client.run import known_settings, verify_alone

    with contextlib.suppress(NotRunningError):
        return asyncio.run(ask_verify(state_dir, source, told))
    _raise_descriptor_limit()
    alone = settings(known_settings(state_dir, source))
    found: list[Verified | None] = [None]

    async def run(stop: asyncio.Event) -> int:
        found[0] = await verify_alone(alone, told, stop)
        return 0

    _run(run)
    return found[0]


def _run(main: Callable[[asyncio.Event], Awaitable[int]]) -> int:
    """Run until done, or until SIGTERM (0) or Ctrl-C (130) asks to stop."""
    interrupted: list[int] = []
    _tune_interpreter()

    async def run() -> int:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def ask_to_stop(number: int) -> None:
            interrupted.append(number)
            stop.set()

        if sys.platform != "win32":
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, ask_to_stop, number)
        return await main(stop)

    try:
        code = asyncio.run(run())
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return EXIT_INTERRUPTED if signal.SIGINT in interrupted else code


def _tune_interpreter() -> None:
    """Suit the interpreter to many small objects and to threads that wait for the disk.

    A thread that comes back from a system call waits for the interpreter's lock up to the
    switch interval (5 ms by default) whenever another one computes.
    """
    share_heap()
    gc.freeze()
    gc.enable()
    gc.set_threshold(_GARBAGE_THRESHOLD, 20, 100)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)


if sys.platform != "win32":

    async def serve_destination(
        settings: ServerSettings,
        announce: Callable[[Listening], None],
        listener: ServerListener,
        stop: asyncio.Event,
    ) -> int:
        """Serve a destination until ``stop`` is set; return the exit code."""
        from twinfold.storage.destination import open_destination
        from twinfold.storage.index import DamagedIndexError

        os.umask(0)
        _raise_descriptor_limit()
        sys.setrecursionlimit(_DEEPEST_TREE)
        heard: list[Listening] = []

        def announce_once(listening: Listening) -> None:
            if not heard:
                announce(listening)
            heard.append(listening)

        loop = asyncio.get_running_loop()
        relapses = Relapses()
        reopened: Destination | None = open_destination(settings.destination, adopt=settings.adopt)
        while reopened is not None:
            destination = reopened
            opened_s = loop.time()
            try:
                await _serve_opened(destination, settings, announce_once, listener, stop)
                return 0
            except DamagedIndexError as error:
                remedy = relapses.note(loop.time() - opened_s)
                way = "set aside and made anew from the files" if remedy.renew else "opened again"
                listener(Message(f"{error}; it is {way}"))
            finally:
                destination.close()
            if heard:
                settings = msgspec.structs.replace(settings, port=heard[0].address.port)
            await wait_or_stop(remedy.pause_s, stop)
            reopened = await _reopened(settings, remedy.renew, listener, stop)
        return 0

    async def _reopened(
        settings: ServerSettings, renew_index: bool, listener: ServerListener, stop: asyncio.Event
    ) -> Destination | None:
        """Open a destination again, however long it takes; None if it is to stop before."""
        from twinfold.storage.destination import open_destination

        while not stop.is_set():
            try:
                return open_destination(
                    settings.destination, adopt=settings.adopt, renew_index=renew_index
                )
            except DestinationError as error:
                listener(Message(f"{error}; the next try is in {_REOPEN_S:.0f} s"))
            # What was in the way of a new index is set aside by now, or can wait for the next time.
            renew_index = False
            await wait_or_stop(_REOPEN_S, stop)
        return None

    async def _serve_opened(
        destination: Destination,
        settings: ServerSettings,
        announce: Callable[[Listening], None],
        listener: ServerListener,
        stop: asyncio.Event,
    ) -> None:
        with without_authorities():
            from twinfold.server.collect import Collector
            from twinfold.server.commit import Committer
            from twinfold.server.drift import DriftChecker
            from twinfold.server.heal import Healer
            from twinfold.server.pending import PendingBatches
            from twinfold.server.receive import Receiver
            from twinfold.server.room import RoomKeeper
            from twinfold.server.routes import Routes
            from twinfold.server.serve import serve
            from twinfold.server.stage import Stager
            from twinfold.server.survey import Survey

        if destination.untold:
            told = ", ".join(destination.untold)
            listener(Message(f"the destination's file system does not tell these apart: {told}"))
        token = settings.token or destination.identity.token
        server_id = bytes.fromhex(destination.identity.id)
        address, tls = _listen_address(settings, destination.own_folder, token)
        clock = SteadyClock(time.time_ns(), time.monotonic_ns())

        def now_ns() -> int:
            return clock.at(time.monotonic_ns())

        loop = asyncio.get_running_loop()
        failed: asyncio.Future[None] = loop.create_future()

        def fail(error: Exception) -> None:
            if not failed.done():
                failed.set_exception(error)

        index, staging, tree = destination.index, destination.staging, destination.tree
        index.on_damage = lambda error: loop.call_soon_threadsafe(fail, error)
        lock = threading.Lock()
        check_place = destination.check_place
        committer = Committer(index, staging, tree, lock, now_ns, check_place)
        suspected: set[int] = set()
        stager = Stager(index, staging, tree, lock, secrets.token_hex(4), suspected.add)
        pending = PendingBatches(index, stager, committer, listener)
        healer = Healer(index, tree, committer, now_ns)
        rooms = RoomKeeper(destination.space, index, tree, committer, pending, now_ns, listener)
        receiver = Receiver(index, stager, committer, pending, rooms, listener)
        drift = DriftChecker(index, tree, lock, pending, healer, suspected, check_place, listener)
        await serve(
            routes=Routes(receiver, drift, index, server_id, token),
            receiver=receiver,
            pending=pending,
            collector=Collector(index, tree, committer, pending, settings.keep_s, now_ns, listener),
            rooms=rooms,
            drift=drift,
            survey=Survey(index, tree, now_ns(), listener),
            address=address,
            tls=tls,
            announce=lambda bound: announce(Listening(bound, destination.path, server_id)),
            listener=listener,
            stop=stop,
            failed=failed,
        )


def _raise_descriptor_limit() -> None:
    """Allow ourselves as many descriptors as we may: deep trees take one a level."""
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _listen_address(
    settings: ServerSettings, own_folder: Path, token: str
) -> tuple[ServerAddress, ssl.SSLContext | None]:
    given = settings.tls_cert is not None or settings.tls_key is not None
    if is_loopback(settings.host) and not given:
        return ServerAddress(settings.host, settings.port, tls=False, token=token), None
    from twinfold.server.certificate import ensure_own_certificate, load_tls

    if settings.tls_cert is not None and settings.tls_key is not None:
        files = settings.tls_cert, settings.tls_key
    elif given:
        raise UsageError("--tls-cert and --tls-key go together")
    else:
        files = ensure_own_certificate(own_folder)
    tls, fingerprint = load_tls(*files)
    address = ServerAddress(settings.host, settings.port, True, token, fingerprint)
    return address, tls
