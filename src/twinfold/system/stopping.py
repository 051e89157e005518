"""Waiting that ends when the program is to stop."""

from __future__ import annotations

import asyncio
import contextlib


async def wait_or_stop(duration_s: float, stop: asyncio.Event) -> None:
    """Wait so long, or until ``stop`` is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(duration_s):
            await stop.wait()
