"""Asking a running client."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from twinfold.client.control import (
    Control,
    NotRunningError,
    ask_release,
    ask_status,
    ask_verify,
    ask_wait,
)
from twinfold.client.events import Status, Verified, VerifyProgress
from twinfold.client.place import place_of
from twinfold.client.verify import Told
from twinfold.errors import TwinfoldError

STATUS = Status("source", "url", 1, "live", "", 0, 0, 0, 0, [], None, False)


class Answering:
    """A client that is never through with a verification."""

    def status(self) -> Status:
        return STATUS

    async def release(self, deletions: int) -> bool:
        return deletions > 0

    async def verify(self, told: Told) -> Verified:
        told(VerifyProgress(0, 0))
        await asyncio.Event().wait()
        return Verified(STATUS, [], 0, 0, 0.0)


def test_a_client_that_ends_while_it_is_asked(tmp_path: Path) -> None:
    """Who waits learns that it is gone; the client shows nothing of it."""
    place = place_of(tmp_path, b"source")
    place.folder.mkdir(parents=True)
    unhandled: list[dict[str, Any]] = []
    asked: asyncio.Task[Status]

    async def run() -> None:
        nonlocal asked
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: unhandled.append(context))
        async with Control(place) as control:
            with control.answered_by(Answering()):
                asked = asyncio.create_task(ask_wait(tmp_path, b"source", None))
                await control.waiters.asked.wait()

    with asyncio.Runner() as runner:
        runner.run(run())
    assert not unhandled
    assert asked.cancelled() or isinstance(asked.exception(), NotRunningError)


async def test_a_client_that_begins_anew_while_it_is_asked(tmp_path: Path) -> None:
    """Its status is what it was; a verification breaks off; a release is heard by the next one."""
    place = place_of(tmp_path, b"source")
    place.folder.mkdir(parents=True)
    async with Control(place) as control, asyncio.timeout(30):
        verifying: asyncio.Task[Verified]
        has_begun = asyncio.Event()
        with control.answered_by(Answering()):
            verifying = asyncio.create_task(
                ask_verify(tmp_path, b"source", lambda _line: has_begun.set())
            )
            await has_begun.wait()
        with pytest.raises(TwinfoldError, match="verify again"):
            await verifying
        assert await ask_status(place) == STATUS
        releasing = asyncio.create_task(ask_release(tmp_path, b"source", 1))
        await asyncio.sleep(0.05)
        assert not releasing.done()
        with control.answered_by(Answering()):
            assert (await releasing).in_sync


async def test_a_client_that_has_just_been_started(tmp_path: Path) -> None:
    """Who asks before there is anything to say waits for it."""
    place = place_of(tmp_path, b"source")
    place.folder.mkdir(parents=True)
    async with Control(place) as control, asyncio.timeout(30):
        asking = asyncio.create_task(ask_status(place))
        await asyncio.sleep(0.05)
        assert not asking.done()
        with control.answered_by(Answering()):
            assert await asking == STATUS
