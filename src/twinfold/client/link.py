"""The session with the server: opened, and opened again for as long as the server is away."""

from __future__ import annotations

import asyncio
import random
import time

from twinfold import protocol
from twinfold.client.connection import Connection, LostPlaceError
from twinfold.client.events import Connected, Connecting, Listener, Waiting
from twinfold.client.identity import Identity
from twinfold.errors import ConnectionLostError, RefusedError, StaleEpochError
from twinfold.protocol import Hello, OpenSession, Session

FIRST_DELAY_S = 0.1
LAST_DELAY_S = 5.0
ONCE_PATIENCE_S = 60.0
"""A client that runs once does not wait longer than this for a server that went away."""

_GREETINGS = 3
"""So often in all is a server asked whose protocol versions this program does not know."""


class Link:
    """One writer's place at the server.

    Attributes:
        session: what the server said when the session was opened last.
        server_id: who the server is.
        generation: counts how often the session was opened.
    """

    def __init__(
        self,
        connection: Connection,
        identity: Identity,
        name: str,
        listener: Listener,
        *,
        take_over: bool,
        patient: bool,
    ) -> None:
        self.connection = connection
        self.session = Session(0, -1, 0, 0)
        self.server_id = b""
        self.generation = 0
        self._identity = identity
        self._name = name
        self._listener = listener
        self._take_over = take_over
        self._patient = patient
        self._instance = b""
        self._earlier: list[bytes] = []
        self._lock = asyncio.Lock()
        self._last_number = 0
        self._acknowledged = -1
        self._failures = 0
        self._failing_since_s: float | None = None

    async def begin(self) -> Session:
        """Open a session of its own: batches of an earlier one are no longer taken.

        Raises:
            RefusedError: the server does not let this client in.
            ConnectionLostError: it cannot be reached, and this client does not wait for it.
        """
        self._instance, self._earlier = self._identity.begin()
        while True:
            try:
                await self._open()
                break
            except ConnectionLostError as error:
                if not self._patient and self.generation == 0:
                    raise
                await self.wait(error)
        self._identity.confirm(self._instance)
        self._last_number = self.session.committed
        self._acknowledged = self.session.revision
        return self.session

    async def recover(self, generation: int, reason: ConnectionLostError) -> None:
        """Return when the session stands again after ``reason`` broke it.

        Args:
            generation: the link's generation when the request that failed was sent.
            reason: how it failed.

        Raises:
            LostPlaceError: the folder has moved on without us.
            ConnectionLostError: this client does not wait any longer.
        """
        async with self._lock:
            if generation != self.generation:
                return
            error = reason
            while True:
                await self.wait(error)
                epoch, server_id = self.session.epoch, self.server_id
                try:
                    await self._open()
                    break
                except ConnectionLostError as again:
                    error = again
            same = (self.session.epoch, self.server_id) == (epoch, server_id)
            if not same or self.session.revision < self._acknowledged:
                raise LostPlaceError("the server has lost this client's session")

    async def reassure(self, error: StaleEpochError) -> None:
        """Return if this client is the writer all the same: then a number was spoilt on its way.

        Raises:
            StaleEpochError: ``error``; another client took over.
            ConnectionLostError: this client does not wait any longer.
        """
        while True:
            try:
                await self._open(goes_on=True)
            except ConnectionLostError as lost:
                await self.wait(lost)
            except RefusedError:
                raise error from None
            else:
                return

    def next_number(self) -> int:
        """Return the number of the next batch in this session."""
        self._last_number += 1
        return self._last_number

    def succeeded(self, revision: int | None) -> None:
        """The server does its work: the next failure is a first one.

        Args:
            revision: of the folder, if the server said so; one that is older than that later
                means an index that was put back.
        """
        self._acknowledged = revision if revision is not None else self._acknowledged
        self._failures = 0
        self._failing_since_s = None

    async def _open(self, *, goes_on: bool = False) -> None:
        """Open a session; one that only ``goes_on`` takes nothing from another client."""
        connection = self.connection
        self._listener(Connecting(connection.url))
        hello, version = await self._greet()
        self.session = await connection.open_session(
            OpenSession(
                version,
                self._identity.client_id,
                self._instance,
                "" if goes_on else self._name,
                self._take_over and not goes_on,
                self._earlier,
            )
        )
        self._take_over = False
        self.server_id = hello.server_id
        self.generation += 1
        self._listener(Connected(connection.url))

    async def _greet(self) -> tuple[Hello, int]:
        """Ask who the server is; return that and the protocol version to speak.

        An answer that would end this client is asked for again: it may have been spoilt.
        """
        for _ in range(_GREETINGS):
            hello = await self.connection.hello()
            common = set(hello.protocols) & set(protocol.PROTOCOL_VERSIONS)
            if common:
                return hello, max(common)
        newest = max(protocol.PROTOCOL_VERSIONS)
        older = "server" if max(hello.protocols, default=0) < newest else "client"
        raise RefusedError(
            "version",
            f"{self.connection.url} speaks no protocol version that this program knows; "
            f"update the {older}",
        )

    async def wait(self, error: ConnectionLostError) -> None:
        """Wait before the next try, longer each time.

        Raises:
            ConnectionLostError: this client has waited long enough.
        """
        now_s = time.monotonic()
        self._failing_since_s = self._failing_since_s or now_s
        if not self._patient and now_s - self._failing_since_s > ONCE_PATIENCE_S:
            raise error
        delay_s = min(LAST_DELAY_S, FIRST_DELAY_S * 2 ** min(self._failures, 10))
        delay_s *= random.uniform(0.75, 1.0)
        self._failures += 1
        self._listener(Waiting(str(error), delay_s))
        await asyncio.sleep(delay_s)
