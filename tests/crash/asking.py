"""Asking a client that may end, or wait for a server that has ended."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from tests.e2e.harness import Pair
from twinfold.client.control import NotRunningError, ask_wait

_WAIT_S = 5.0
_PAUSE_S = 0.01


async def says_in_sync(pair: Pair, meanwhile: Callable[[], object] = lambda: None) -> bool:
    """Ask until there is an answer or a side has ended."""
    question = ask_wait(pair.client_state, os.fsencode(pair.source), _WAIT_S)
    asking = asyncio.ensure_future(question)
    while not asking.done():
        await asyncio.wait([asking], timeout=_PAUSE_S)
        meanwhile()
        if not (pair.server.alive and pair.client.alive):
            asking.cancel()
            await asyncio.wait([asking])
            return False
    try:
        status = asking.result()
    except NotRunningError:
        return False
    return status.in_sync and not status.problems
