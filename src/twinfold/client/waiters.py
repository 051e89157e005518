"""Those who wait until everything that was changed before they asked is durable."""

from __future__ import annotations

import asyncio


class Waiters:
    """Calls that wait; each one is answered by a cycle that began after it.

    Attributes:
        asked: set when somebody asks.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self._new: list[asyncio.Future[bool]] = []
        self._in_cycle: list[asyncio.Future[bool]] = []
        self._settling: list[asyncio.Future[bool]] = []

    def __bool__(self) -> bool:
        """Tell whether somebody asked since the last cycle began."""
        return bool(self._new)

    async def wait(self) -> bool:
        """Return when all is durable; False if it will not be by itself."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._new.append(done)
        self.asked.set()
        return await done

    def begin_cycle(self) -> bool:
        """A cycle begins; return whether somebody waits for it."""
        self._in_cycle, self._new = self._new, []
        return bool(self._in_cycle)

    def fail_cycle(self) -> None:
        """The cycle broke off: the next one is to answer."""
        self._new += self._in_cycle
        self._in_cycle = []

    def end_cycle(self, *, is_settling: bool, is_equal: bool) -> None:
        """Answer, unless some names are still to be looked at again."""
        self._settling += self._in_cycle
        self._in_cycle = []
        if is_settling:
            return
        for waiter in self._settling:
            if not waiter.done():
                waiter.set_result(is_equal)
        self._settling = []
