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
from twinfold.server.pending import PendingBatches
from twinfold.server.receive import Receiver
from twinfold.server.routes import Routes
from twinfold.server.survey import Survey

_STOP_WITHIN_S = 3.0
_FIRST_CHECK_S = 20.0
"""A first check that takes longer goes on while clients are served."""


async def serve(
    *,
    routes: Routes,
    receiver: Receiver,
    pending: PendingBatches,
    collector: Collector,
    drift: DriftChecker,
    survey: Survey,
    address: ServerAddress,
    tls: ssl.SSLContext | None,
    announce: Callable[[ServerAddress], None],
    stop: asyncio.Event,
) -> None:
    """Serve until ``stop`` is set.

    Raises:
        DestinationError: the address cannot be listened on.
        OSError: what a crash left undone cannot be finished.
    """
    runner = web.AppRunner(routes.application(), shutdown_timeout=_STOP_WITHIN_S)
    await runner.setup()
    site = web.TCPSite(runner, address.host, address.port, ssl_context=tls)
    tasks: list[asyncio.Task[Any]] = []
    try:
        tasks.append(await receiver.start(survey))
        tasks.append(asyncio.create_task(drift.run_forever()))
        await _first_check(drift, stop, tasks)
        tasks.append(asyncio.create_task(collector.run_forever()))
        await _listen(site, address)
        port = runner.addresses[0][1]
        announce(msgspec.structs.replace(address, port=port))
        await _until_stopped(stop, tasks)
    finally:
        if site in runner.sites:
            await site.stop()
        await receiver.stop()
        await drift.stop()
        await pending.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await runner.cleanup()


async def _until_stopped(stop: asyncio.Event, tasks: list[asyncio.Task[Any]]) -> None:
    """Wait for ``stop``; a task that ends before has failed, and its error is raised."""
    stopping = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    for task in done:
        task.result()


async def _first_check(
    drift: DriftChecker, stop: asyncio.Event, tasks: list[asyncio.Task[Any]]
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


async def _listen(site: web.TCPSite, address: ServerAddress) -> None:
    try:
        await site.start()
    except OSError as error:
        raise DestinationError(
            f"cannot listen on {address.host}:{address.port} ({error.strerror}); "
            "is another server running there? Choose another one with --listen"
        ) from error
