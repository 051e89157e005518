"""Asking a running client."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from twinfold.client.control import Control, NotRunningError, ask_wait
from twinfold.client.events import Status, Verified
from twinfold.client.place import place_of

STATUS = Status("source", "url", 1, "live", "", 0, 0, 0, 0, [], None, False)


def test_a_client_that_ends_while_it_is_asked(tmp_path: Path) -> None:
    """Who waits learns that it is gone; the client shows nothing of it."""
    place = place_of(tmp_path, b"source")
    place.folder.mkdir(parents=True)
    unhandled: list[dict[str, Any]] = []
    asked: asyncio.Task[Status]

    async def run() -> None:
        nonlocal asked
        is_asked = asyncio.Event()

        async def wait() -> bool:
            is_asked.set()
            await asyncio.Event().wait()
            return True

        async def release(_deletions: int) -> bool:
            return True

        async def verify(_told: object) -> Verified:
            return Verified(STATUS, [], 0, 0, 0.0)

        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: unhandled.append(context))
        async with Control(place, lambda: STATUS, wait, release, verify):
            asked = asyncio.create_task(ask_wait(tmp_path, b"source", None))
            await is_asked.wait()

    with asyncio.Runner() as runner:
        runner.run(run())
    assert not unhandled
    assert asked.cancelled() or isinstance(asked.exception(), NotRunningError)
