"""A real server and real clients in the test's own event loop."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from twinfold import wiring
from twinfold.client.events import Event, InSync
from twinfold.client.run import run_client
from twinfold.config import ClientSettings, ServerAddress, ServerSettings
from twinfold.server.events import Listening

WITHIN_S = float(os.environ.get("TEST_LIMIT_S", "30"))

_Event = TypeVar("_Event")


@asynccontextmanager
async def running_server(folder: Path, port: int = 0) -> AsyncIterator[ServerAddress]:
    """Serve ``folder/destination`` for as long as the block lasts."""
    if sys.platform == "win32":
        pytest.skip("there is no such thing on Windows")
    stop = asyncio.Event()
    listening: asyncio.Future[Listening] = asyncio.get_running_loop().create_future()
    settings = ServerSettings(
        destination=os.fsencode(folder / "destination"), state_dir=folder / "server", port=port
    )
    (folder / "destination").mkdir(exist_ok=True)
    serving = asyncio.create_task(
        wiring.serve_destination(settings, listening.set_result, lambda _event: None, stop)
    )
    serving.add_done_callback(lambda _task: listening.cancel())
    try:
        yield (await listening).address
    finally:
        stop.set()
        await serving


class RunningClient:
    """A client and everything that it told."""

    def __init__(self, settings: ClientSettings) -> None:
        self.settings = settings
        self.events: list[Event] = []
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(run_client(settings, self._listen, self._stop))

    async def result(self) -> int:
        """Return the exit code when it ends by itself."""
        async with asyncio.timeout(WITHIN_S):
            return await self._task

    async def stop(self) -> int:
        """Ask it to stop, and return its exit code."""
        self._stop.set()
        return await self.result()

    async def kill(self) -> None:
        """End it without asking."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def told(self, kind: type[_Event], count: int = 1) -> _Event:
        """Return the ``count``-th event of a kind as soon as there is one."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                found = [event for event in self.events if isinstance(event, kind)]
                if len(found) >= count:
                    return found[count - 1]
                if self._task.done():
                    raise AssertionError(f"it ended: {self._task}")
                await asyncio.sleep(0.005)

    async def told_exactly(self, event: Event) -> None:
        """Return as soon as this event was told."""
        async with asyncio.timeout(WITHIN_S):
            while event not in self.events:
                if self._task.done():
                    raise AssertionError(f"it ended: {self._task}")
                await asyncio.sleep(0.005)

    async def in_sync_again(self) -> InSync:
        """Return the next `InSync` that is told from now on."""
        count = sum(isinstance(event, InSync) for event in self.events)
        return await self.told(InSync, count + 1)

    def _listen(self, event: Event) -> None:
        self.events.append(event)


def client_settings(folder: Path, address: ServerAddress, **more: object) -> ClientSettings:
    """Return settings for ``folder/source``."""
    (folder / "source").mkdir(exist_ok=True)
    values = {
        "source": os.fsencode(folder / "source"),
        "address": address,
        "state_dir": folder / "client",
        **more,
    }
    return ClientSettings(**values)  # type: ignore[arg-type]
