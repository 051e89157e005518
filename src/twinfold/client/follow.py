"""Following the folder while there is nothing to send: drift, take-over, a server that is away."""

from __future__ import annotations

import asyncio

from twinfold.client.link import Link
from twinfold.errors import ConnectionLostError


class Follower:
    """Asks the server for events for as long as the session lasts; only ever observes.

    The session is opened again by whoever waits for the follower, when nothing is on its way.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._task: asyncio.Task[None] | None = None
        self._generation = 0

    @property
    def task(self) -> asyncio.Task[None]:
        """The task that ends, with an error, when something happened."""
        if self._task is None:
            self._generation = self._link.generation
            self._task = asyncio.create_task(self._follow())
        return self._task

    async def react(self) -> None:
        """Raise what happened, if anything did; return when the server is there again.

        Raises:
            LostPlaceError: the folder moved on without this client.
            RefusedError: it belongs to another client.
            ConnectionLostError: this client does not wait any longer for the server.
        """
        if self._task is None or not self._task.done():
            return
        task, self._task = self._task, None
        try:
            task.result()
        except ConnectionLostError as error:
            await self._link.recover(self._generation, error)

    async def check(self) -> None:
        """Ask now whether something happened.

        Raises:
            LostPlaceError, RefusedError, ConnectionLostError: as `react`.
        """
        while True:
            generation = self._link.generation
            try:
                await self._link.connection.events(self._link.session.epoch, wait=False)
                return
            except ConnectionLostError as error:
                await self._link.recover(generation, error)

    async def stop(self) -> None:
        """Stop asking: the session is about to be another one."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            await self._link.connection.events(self._link.session.epoch)
