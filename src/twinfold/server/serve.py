"""A server from start to end: open, recover, listen, stop."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from aiohttp import web

from twinfold.config import ServerAddress
from twinfold.errors import DestinationError
from twinfold.server.collect import Collector
from twinfold.server.receive import Receiver
from twinfold.server.routes import Routes
from twinfold.server.survey import Survey

_STOP_WITHIN_S = 3.0


async def serve(
    *,
    routes: Routes,
    receiver: Receiver,
    collector: Collector,
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
    await receiver.start(survey)
    collecting = asyncio.create_task(collector.run_forever())
    try:
        await _listen(site, address)
        port = runner.addresses[0][1]
        announce(ServerAddress(address.host, port, address.tls, address.token, address.fingerprint))
        await stop.wait()
    finally:
        collecting.cancel()
        await site.stop() if site in runner.sites else None
        await receiver.stop()
        await runner.cleanup()


async def _listen(site: web.TCPSite, address: ServerAddress) -> None:
    try:
        await site.start()
    except OSError as error:
        raise DestinationError(
            f"cannot listen on {address.host}:{address.port} ({error.strerror}); "
            "is another server running there? Choose another one with --listen"
        ) from error
