"""A server from start to end: open, recover, listen, stop."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from twinfold.config import ServerAddress
from twinfold.errors import DestinationError
from twinfold.server.collect import Collector
from twinfold.server.drift import DriftChecker
from twinfold.server.events import Listener, Message
from twinfold.server.lack import OUT_OF_DESCRIPTORS, advice
from twinfold.server.pending import PendingBatches
from twinfold.server.receive import Receiver
from twinfold.server.room import RoomKeeper
from twinfold.server.routes import Routes
from twinfold.server.survey import Survey

_STOP_WITHIN_S = 3.0
_HANDSHAKE_TIMEOUT_S = 20.0
_FIRST_CHECK_S = 20.0
"""A first check that takes longer goes on while clients are served."""


async def serve(
    *,
    routes: Routes,
    receiver: Receiver,
    pending: PendingBatches,
    collector: Collector,
    rooms: RoomKeeper,
    drift: DriftChecker,
    survey: Survey,
    address: ServerAddress,
    tls: ssl.SSLContext | None,
    announce: Callable[[ServerAddress], None],
    listener: Listener,
    stop: asyncio.Event,
    failed: asyncio.Future[None],
) -> None:
    """Serve until ``stop`` is set; what ``failed`` gets as its exception ends it as well.

    Raises:
        DestinationError: the address cannot be listened on.
        OSError: what a crash left undone cannot be finished.
    """
    asyncio.get_running_loop().set_exception_handler(_teller(listener))
    runner = web.AppRunner(routes.application(), shutdown_timeout=_STOP_WITHIN_S)
    await runner.setup()
    listening: asyncio.Server | None = None
    tasks: list[asyncio.Future[Any]] = [failed]
    try:
        tasks.append(await receiver.start(survey))
        tasks.append(asyncio.create_task(drift.run_forever()))
        await _first_check(drift, stop, tasks)
        tasks.append(asyncio.create_task(collector.run_forever()))
        tasks.append(asyncio.create_task(rooms.keep_forever()))
        listening = await _listen(routes, runner, address, tls)
        port = listening.sockets[0].getsockname()[1]
        announce(msgspec.structs.replace(address, port=port))
        await _until_stopped(stop, tasks)
    finally:
        if listening is not None:
            listening.close()
        routes.admission.close()
        await receiver.stop()
        await drift.stop()
        await pending.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await runner.cleanup()


def _teller(
    listener: Listener,
) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """Return what says that no connection can be taken up now; all else is told as usual."""

    def tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in OUT_OF_DESCRIPTORS:
            listener(Message(advice(error)))
        else:
            loop.default_exception_handler(context)

    return tell


async def _until_stopped(stop: asyncio.Event, tasks: list[asyncio.Future[Any]]) -> None:
    """Wait for ``stop``; a task that ends before has failed, and its error is raised."""
    stopping = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    for task in done:
        task.result()


async def _first_check(
    drift: DriftChecker, stop: asyncio.Event, tasks: list[asyncio.Future[Any]]
) -> None:
    """Wait for the first check, so that no client is told that all is well before; not for ever.

    Raises:
        DestinationError: a task has failed.
    """
    checked = [asyncio.create_task(drift.first_check.wait()), asyncio.create_task(stop.wait())]
    done, _ = await asyncio.wait(
        [*checked, *tasks], timeout=_FIRST_CHECK_S, return_when=asyncio.FIRST_COMPLETED
    )
    for waiting in checked:
        waiting.cancel()
    for task in done.intersection(tasks):
        task.result()


async def _listen(
    routes: Routes, runner: web.AppRunner, address: ServerAddress, tls: ssl.SSLContext | None
) -> asyncio.Server:
    server = runner.server
    assert server is not None
    try:
        return await asyncio.get_running_loop().create_server(
            lambda: routes.admission.meet(server),
            address.host,
            address.port,
            ssl=tls,
            backlog=routes.admission.backlog,
            ssl_handshake_timeout=_HANDSHAKE_TIMEOUT_S if tls else None,
        )
    except OSError as error:
        raise DestinationError(
            f"cannot listen on {address.host}:{address.port} ({error.strerror}); "
            "is another server running there? Choose another one with --listen"
        ) from error
