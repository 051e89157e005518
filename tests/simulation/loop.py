"""An event loop whose time is simulated and whose TCP is `Network`.

Other descriptors (inotify, Unix sockets) are real: they are looked at without waiting.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import asyncio
import contextlib
import selectors
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from tests.simulation.interpreter import Pool
from tests.simulation.network import Network
from tests.simulation.schedule import Process, Scheduler, Thread


class _Numbered:
    """What has a hash that is the same in each run: sets of it keep their order."""

    _number: int

    def __hash__(self) -> int:
        return self._number


class _Task(_Numbered, asyncio.Task[Any]):
    pass


class _Future(_Numbered, asyncio.Future[Any]):
    pass


class _Selector(selectors.DefaultSelector):
    """Waits in simulated time."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__()
        self._scheduler = scheduler

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        now_ns = self._scheduler.now_ns
        due_ns = None if timeout is None else now_ns + int(timeout * 1e9)
        if timeout is not None and timeout <= 0:
            self._scheduler.switch()
        else:
            self._scheduler.block(due_ns, self._has_events)
        return super().select(0) if self.get_map() else []

    def _has_events(self) -> bool:
        return bool(self.get_map()) and bool(super().select(0))


class _Listening:
    """In place of `asyncio.Server`."""

    def __init__(self, network: Network, port: int, loop: Loop) -> None:
        self._network = network
        self._port = port
        self._loop = loop
        self.sockets = [self]

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", self._port

    def close(self) -> None:
        self._network.deafen(self._port, self._loop)


class Loop(asyncio.SelectorEventLoop):
    """The event loop of one thread of a process."""

    def __init__(self, scheduler: Scheduler, network: Network, process: Process) -> None:
        self._scheduler = scheduler
        self._network = network
        self._simulated_thread: Thread | None = None
        self._made = 0
        self._ports: dict[int, int] = {}
        self.process = process
        super().__init__(_Selector(scheduler))
        self.set_default_executor(Pool(8, "default"))
        self.set_task_factory(self._make_task)  # type: ignore[arg-type]

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end."""
        self._simulated_thread = self._scheduler.current
        return self.run_until_complete(work)

    def at(self, when_ns: int, work: Callable[[], object]) -> None:
        """Do something at a time; callable from every thread."""
        self.call_at(self.time() + (when_ns - self._scheduler.now_ns) / 1e9, work)
        self._write_to_self()

    def _make_task(self, loop: Loop, work: Coroutine[Any, Any, Any], **more: Any) -> _Task:
        self._made += 1
        task = _Task.__new__(_Task)
        task._number = self._made
        task.__init__(work, loop=loop, **more)  # type: ignore[misc]
        return task

    def create_future(self) -> asyncio.Future[Any]:
        self._made += 1
        future = _Future.__new__(_Future)
        future._number = self._made
        future.__init__(loop=self)  # type: ignore[misc]
        return future

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep what people would see as a traceback."""
        if self.process.is_alive:
            told = f"{context.get('message')}: {context.get('exception')!r}"
            self._scheduler.note(self.process.name, "traceback", told)
            self.process.tracebacks.append(told)

    # What waking takes is the scheduler's, not a socket.

    def _make_self_pipe(self) -> None:
        pass

    def _close_self_pipe(self) -> None:
        pass

    def _write_to_self(self) -> None:
        if self._simulated_thread is not None:
            self._scheduler.wake(self._simulated_thread)

    def set_default_executor(self, executor: Any) -> None:
        self._default_executor = executor

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        if sock.family == socket.AF_UNIX:
            with contextlib.suppress(BlockingIOError):
                sock.connect(address)
            return
        await self._network.connect(address[1])
        self._ports[sock.fileno()] = address[1]

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.Protocol], *_: Any, sock: Any, **__: Any
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        port = self._ports.pop(sock.fileno())
        sock.close()
        protocol = protocol_factory()
        transport = self._network.join(port, self, protocol)
        protocol.connection_made(transport)
        return transport, protocol

    async def create_server(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.Protocol], host: str, port: int, **_: Any
    ) -> _Listening:
        self._network.listen(port, self, protocol_factory)
        return _Listening(self._network, port, self)
